//! An NBD client that sends in batches: it takes all replies that the sockets hold, then sends as many
//! new requests with one call. So its own cost hides as little as may be of the server's.
//!
//! Nothing is believed: every reply must answer a request in flight without an error, and each
//! cluster that is read must bear the stamp of its place, which [`stamp`] put there.

mod connection;
mod load;
mod shape;
pub(crate) mod stamp;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use load::{Outcome, run, run_on};
pub(crate) use shape::{Load, Operation, Pattern, offsets};

/// Where a server is reached.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) socket: std::path::PathBuf,
    pub(crate) export: String,
}

impl Address {
    /// As libnbd's programs and fio take it.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }
}
