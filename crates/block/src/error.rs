//! The one error type of the libraries, and the one table from its kinds to what users see.

use std::fmt;
use std::io;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No image, pool or file of that name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The request itself makes no sense; nothing was done.
    InvalidArgument,
    /// Beyond the end of the image.
    OutOfRange,
    /// The image, export or pool serves reads only.
    ReadOnly,
    /// The pool has no free space; freeing some heals it.
    NoSpace,
    /// In use by a client, another job or another process.
    Busy,
    /// The storage below failed.
    Io,
    /// Stored bytes are not what was stored; nothing was repaired by guessing.
    Corrupt,
    /// A format, version or feature this build does not know.
    Unsupported,
    /// The caller may not do this.
    Denied,
    /// The daemon is going away.
    ShutDown,
}

/// What each kind becomes outside: errno for exports, HTTP status, exit code of the program.
struct Row {
    errno: i32,
    http_status: u16,
    exit_code: u8,
    label: &'static str,
}

impl ErrorKind {
    fn row(self) -> Row {
        let (errno, http_status, exit_code, label) = match self {
            ErrorKind::NotFound => (2, 404, 3, "not found"),
            ErrorKind::Exists => (17, 409, 4, "exists"),
            ErrorKind::InvalidArgument => (22, 400, 2, "invalid argument"),
            ErrorKind::OutOfRange => (22, 400, 2, "out of range"),
            ErrorKind::ReadOnly => (1, 403, 5, "read-only"),
            ErrorKind::NoSpace => (28, 507, 6, "no space"),
            ErrorKind::Busy => (16, 409, 7, "busy"),
            ErrorKind::Io => (5, 500, 1, "I/O error"),
            ErrorKind::Corrupt => (5, 500, 8, "corrupt"),
            ErrorKind::Unsupported => (95, 400, 9, "unsupported"),
            ErrorKind::Denied => (1, 403, 5, "denied"),
            ErrorKind::ShutDown => (108, 503, 10, "shutting down"),
        };
        Row { errno, http_status, exit_code, label }
    }

    /// The Linux errno an export answers with (NBD uses the same numbers for the codes it has).
    pub fn errno(self) -> i32 {
        self.row().errno
    }

    /// The HTTP status of the control API.
    pub fn http_status(self) -> u16 {
        self.row().http_status
    }

    /// The inverse of [`ErrorKind::label`].
    pub fn from_label(label: &str) -> Option<ErrorKind> {
        use ErrorKind::*;
        let kinds = [
            NotFound,
            Exists,
            InvalidArgument,
            OutOfRange,
            ReadOnly,
            NoSpace,
            Busy,
            Io,
            Corrupt,
            Unsupported,
            Denied,
            ShutDown,
        ];
        kinds.into_iter().find(|kind| kind.label() == label)
    }

    /// The exit code of the program.
    pub fn exit_code(self) -> u8 {
        self.row().exit_code
    }

    /// A short stable name, also used in JSON.
    pub fn label(self) -> &'static str {
        self.row().label
    }
}

/// Kind, place, cause and what to do next, in one message.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// An error of our own making.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    /// An error of the operating system at a place: `Error::io("write to data at 8192", e)`.
    pub fn io(place: impl fmt::Display, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            io::ErrorKind::ResourceBusy => ErrorKind::Busy,
            _ => ErrorKind::Io,
        };
        Error { kind, message: format!("{place}: {source}"), source: Some(source) }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts the place in front: `"image web: "`.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The same kind and message once more, for several waiters of one failure.
    pub fn duplicate(&self) -> Error {
        Error::new(self.kind, self.message.clone())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
