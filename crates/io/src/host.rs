//! The host's storage: [`Disk`](crate::Disk), [`Directory`](crate::Directory) and
//! [`Mapped`](crate::Mapped) over Linux system calls.
//!
//! Every call blocks, and every future is ready at its first poll, so any thread can drive them
//! with [`block_on`](crate::block_on). Each file has exactly one open description, close-on-exec,
//! which carries the fence (I13) and the one sync point (I5). Errors of reads, writes and syncs are
//! the system's own, without a place: the engine names the place. Errors of opening, locking and
//! mapping name the path.

mod directory;
mod disk;
mod fence;
mod mapped;
mod open;
mod pool_lock;
mod space;
mod sync_point;
mod transfer;

#[cfg(test)]
mod test_support;

pub use directory::HostDirectory;
pub use disk::HostDisk;
pub use fence::Fence;
pub use mapped::{MappedFile, boot_id};
pub use open::HostOptions;
pub use pool_lock::PoolLock;

use std::fmt;
use std::io;

/// The same kind of error, with the place in front.
fn at(place: impl fmt::Display, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// Whether the system does not know the operation here, rather than failed at it.
fn is_unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY].contains(&error)
}
