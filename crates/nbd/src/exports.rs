//! What the program tells the server (exports, limits) and hears from it (events).

use blockyard_block::{BlockDevice, Error};
use std::sync::Arc;
use std::time::Duration;

/// What can be served, as one client sees it. Implemented by the program.
pub trait Exports: Send + Sync + 'static {
    type Device: BlockDevice;

    /// What `client` may see in a listing.
    fn list(&self, client: &ClientInfo) -> Vec<ExportSummary>;

    /// Opens an export by the name the client sent: any text up to 4096 bytes; "" asks for a default
    /// export. Dropping the `Arc` is closing. Called for a mere enquiry too.
    fn open(&self, name: &str, client: &ClientInfo) -> blockyard_block::Result<Arc<Self::Device>>;
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    pub name: String,
    pub size: u64,
    pub read_only: bool,
    pub description: String,
}

/// Counts up from 1 over the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    pub connection: ConnectionId,
    pub pid: Option<i32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Bounds on what clients can make the server hold. All but the first are per connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections beyond this are closed as soon as they are accepted.
    pub connections: usize,
    /// From accepting to the first request; slower clients are dropped.
    pub handshake_time: Duration,
    /// Requests taken and not yet answered; the server reads no further.
    pub requests: usize,
    /// Payload of such requests, read or written. One request may always be in flight.
    pub bytes: u64,
    /// Threads with an io_uring that serve all connections together. With 0, or where the system
    /// refuses io_uring, each connection has threads of its own.
    pub io_threads: usize,
    /// Threads of a connection without a ring, started when requests have to wait for storage and
    /// ended when idle.
    pub threads: usize,
    /// How long a thread without work waits for some.
    pub thread_idle_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4096,
            handshake_time: Duration::from_secs(10),
            requests: 128,
            bytes: 8 << 20,
            io_threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            threads: 16,
            thread_idle_time: Duration::from_secs(5),
        }
    }
}

/// What a connection was admitted for and has not been answered.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    requests: usize,
    bytes: u64,
}

impl InFlight {
    /// Room for a request of `weight` payload bytes; one may always be in flight.
    pub(crate) fn has_room(&self, weight: u64, limits: &Limits) -> bool {
        self.requests == 0
            || (self.requests < limits.requests
                && self.bytes.saturating_add(weight) <= limits.bytes)
    }

    /// Charges a request, if there is room.
    pub(crate) fn admit(&mut self, weight: u64, limits: &Limits) -> bool {
        let admitted = self.has_room(weight, limits);
        if admitted {
            self.requests += 1;
            self.bytes += weight;
        }
        admitted
    }

    pub(crate) fn release(&mut self, requests: usize, weight: u64) {
        self.requests -= requests;
        self.bytes -= weight;
    }
}

/// What one connection asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub flushes: u64,
    /// Trims and writes of zeros.
    pub trims: u64,
    pub others: u64,
    /// Requests answered with an error, also those refused at the door.
    pub failures: u64,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The client said goodbye: ABORT or DISC.
    Goodbye,
    /// The client closed the socket between two messages without saying so.
    Closed,
    /// The socket failed, or was closed in the middle of a message.
    Broken(String),
    /// The client broke the protocol where it leaves no answer.
    Violation(&'static str),
    /// The handshake took too long.
    TooSlow,
    /// The export could not be opened, in the one dialect that has no error reply for it.
    NoExport(String),
    /// The server is shutting down.
    ShutDown,
    /// Serving the connection panicked: a defect of the server.
    Defect,
}

/// What the program may want to log. Called from connection threads: must not block for long.
#[derive(Debug)]
pub enum Event<'a> {
    Connected {
        client: &'a ClientInfo,
    },
    /// Too many connections, or no thread could be started for this one.
    Rejected {
        client: &'a ClientInfo,
        reason: &'static str,
    },
    Opened {
        client: &'a ClientInfo,
        name: &'a str,
        size: u64,
        read_only: bool,
    },
    /// The device failed a request; the client hears the kind only.
    RequestFailed {
        client: &'a ClientInfo,
        name: &'a str,
        error: &'a Error,
    },
    /// The last event of a connection; its device is closed by now. `name` is the opened export.
    Disconnected {
        client: &'a ClientInfo,
        name: Option<&'a str>,
        reason: &'a EndReason,
        counts: Counts,
    },
    /// The system refuses io_uring, so connections are served by threads of their own.
    NoRing {
        error: &'a std::io::Error,
    },
    /// `accept` failed; the server waits a moment and tries again.
    AcceptFailed {
        error: &'a std::io::Error,
    },
}
