//! What the daemon can be told. One definition feeds flags, environment and the `[serve]` table of
//! the config file: every value can be written as text.

use crate::size::Size;
use blockyard_block::HashAlgorithm;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use std::path::PathBuf;
use std::str::FromStr;

/// Each setting, if it was set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServeSettings {
    /// The content hash of a new pool [env: BLOCKYARD_HASH; default: blake3]
    #[arg(long, value_enum)]
    pub(crate) hash: Option<HashName>,

    /// Keep the data in this file or on this block device [env: BLOCKYARD_DATA; default: the file
    /// data in the pool's directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// Allocate at most this much [env: BLOCKYARD_CAPACITY; default: what the storage has]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<Size>,

    /// When more than this is allocated, share runs of equal clusters in the background [env:
    /// BLOCKYARD_RECLAIM_ABOVE; default: only on request, or when a write finds no space]
    #[arg(long, value_name = "SIZE")]
    pub(crate) reclaim_above: Option<Size>,

    /// Whether data goes through the page cache [env: BLOCKYARD_IO; default: direct]
    #[arg(long, value_enum)]
    pub(crate) io: Option<IoMode>,

    /// Threads that serve NBD, each with an io_uring [env: BLOCKYARD_IO_THREADS; default: one a core,
    /// at most 4]. 0: without io_uring, some threads for each client
    #[arg(long, value_name = "COUNT")]
    pub(crate) io_threads: Option<IoThreads>,

    /// Compare whatever is read with its hash, and heal or refuse what does not match; costs the hashing of all
    /// that is read [env: BLOCKYARD_VERIFY_READS; default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) verify_reads: Option<Switch>,

    /// Serve NBD here [env: BLOCKYARD_NBD_SOCKET; default: nbd.sock in the pool's directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) nbd_socket: Option<PathBuf>,

    /// Serve the control API here, for the owner alone [env: BLOCKYARD_API_SOCKET; default: api.sock
    /// in the pool's directory]
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,

    /// Listen for other daemons here, HOST:PORT [env: BLOCKYARD_PEER; default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Option<String>,

    /// Certificates of the authority that signs those of peers, as PEM; with --peer-cert and --peer-key [env:
    /// BLOCKYARD_PEER_CA; default: no authority, peers are known by their fingerprints]
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_ca: Option<PathBuf>,

    /// This daemon's certificate for peers, and those between it and the authority, as PEM [env:
    /// BLOCKYARD_PEER_CERT; default: a self-made one]
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_cert: Option<PathBuf>,

    /// The key of that certificate, as PEM [env: BLOCKYARD_PEER_KEY]
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_key: Option<PathBuf>,

    /// Owner of the NBD socket, by name or number [env: BLOCKYARD_SOCKET_OWNER]
    #[arg(long, value_name = "USER")]
    pub(crate) socket_owner: Option<String>,

    /// Group of the NBD socket, by name or number [env: BLOCKYARD_SOCKET_GROUP]
    #[arg(long, value_name = "GROUP")]
    pub(crate) socket_group: Option<String>,

    /// Permissions of the NBD socket, octal [env: BLOCKYARD_SOCKET_MODE; default: 0660]
    #[arg(long, value_name = "MODE")]
    pub(crate) socket_mode: Option<SocketMode>,

    /// Folder in memory (tmpfs) for the 16 MiB that outlive a killed daemon [env:
    /// BLOCKYARD_JOURNAL_DIR; default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    pub(crate) journal_dir: Option<PathBuf>,

    /// Form of the log on standard error [env: BLOCKYARD_LOG_FORMAT; default: text]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,

    /// What to log: error, warn, info, debug, or a filter by module [env: BLOCKYARD_LOG; default:
    /// info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

impl ServeSettings {
    /// The names of all settings, as in the config file.
    pub(crate) const KEYS: [&str; 19] = [
        "hash",
        "data",
        "capacity",
        "reclaim_above",
        "io",
        "io_threads",
        "verify_reads",
        "nbd_socket",
        "api_socket",
        "peer",
        "peer_ca",
        "peer_cert",
        "peer_key",
        "socket_owner",
        "socket_group",
        "socket_mode",
        "journal_dir",
        "log_format",
        "log",
    ];

    /// These settings, and those of `lower` where these say nothing.
    pub(crate) fn over(self, lower: &ServeSettings) -> ServeSettings {
        let lower = lower.clone();
        ServeSettings {
            hash: self.hash.or(lower.hash),
            data: self.data.or(lower.data),
            capacity: self.capacity.or(lower.capacity),
            reclaim_above: self.reclaim_above.or(lower.reclaim_above),
            io: self.io.or(lower.io),
            io_threads: self.io_threads.or(lower.io_threads),
            verify_reads: self.verify_reads.or(lower.verify_reads),
            nbd_socket: self.nbd_socket.or(lower.nbd_socket),
            api_socket: self.api_socket.or(lower.api_socket),
            peer: self.peer.or(lower.peer),
            peer_ca: self.peer_ca.or(lower.peer_ca),
            peer_cert: self.peer_cert.or(lower.peer_cert),
            peer_key: self.peer_key.or(lower.peer_key),
            socket_owner: self.socket_owner.or(lower.socket_owner),
            socket_group: self.socket_group.or(lower.socket_group),
            socket_mode: self.socket_mode.or(lower.socket_mode),
            journal_dir: self.journal_dir.or(lower.journal_dir),
            log_format: self.log_format.or(lower.log_format),
            log: self.log.or(lower.log),
        }
    }
}

/// A content hash, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HashName {
    Blake3,
    Sha256,
    Sha1,
}

impl From<HashName> for HashAlgorithm {
    fn from(name: HashName) -> HashAlgorithm {
        match name {
            HashName::Blake3 => HashAlgorithm::Blake3,
            HashName::Sha256 => HashAlgorithm::Sha256,
            HashName::Sha1 => HashAlgorithm::Sha1,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IoMode {
    #[default]
    Direct,
    Buffered,
}

/// A file may give a number, or say true; the environment has only text.
#[derive(Deserialize)]
#[serde(untagged)]
enum OrText<T> {
    Value(T),
    Text(String),
}

impl<T: ToString> OrText<T> {
    fn parse<V: FromStr>(self) -> Result<V, V::Err> {
        match self {
            OrText::Value(value) => value.to_string().parse(),
            OrText::Text(text) => text.parse(),
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OrText<bool>")]
pub(crate) struct Switch(pub(crate) bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Switch, String> {
        let value = text.parse().map_err(|_| format!("{text:?} is neither true nor false"))?;
        Ok(Switch(value))
    }
}

impl TryFrom<OrText<bool>> for Switch {
    type Error = String;

    fn try_from(said: OrText<bool>) -> Result<Switch, String> {
        said.parse()
    }
}

/// How many threads serve NBD with a ring each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OrText<u64>")]
pub(crate) struct IoThreads(pub(crate) usize);

const IO_THREADS_MAX: usize = 256;

impl FromStr for IoThreads {
    type Err = String;

    fn from_str(text: &str) -> Result<IoThreads, String> {
        match text.parse() {
            Ok(count) if count <= IO_THREADS_MAX => Ok(IoThreads(count)),
            _ => Err(format!("{text:?} is no number of threads: say 0 to {IO_THREADS_MAX}")),
        }
    }
}

impl TryFrom<OrText<u64>> for IoThreads {
    type Error = String;

    fn try_from(said: OrText<u64>) -> Result<IoThreads, String> {
        said.parse()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Permissions of a socket, such as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct SocketMode(pub(crate) u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<SocketMode, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(SocketMode(mode)),
            _ => Err(format!("{text:?} is no file mode: write it in octal, as in 0660")),
        }
    }
}

impl TryFrom<String> for SocketMode {
    type Error = String;

    fn try_from(text: String) -> Result<SocketMode, String> {
        text.parse()
    }
}
