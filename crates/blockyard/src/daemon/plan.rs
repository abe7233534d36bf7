//! What the daemon will do, with every setting decided.

use crate::config::{Config, IoMode, LogFormat, ServeSettings, SocketMode};
use blockyard_block::{Error, HashAlgorithm, Result};
use std::path::{Path, PathBuf};

/// Paths are absolute.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pool: PathBuf,
    /// If named: the file or block device for the data.
    pub(crate) data: Option<PathBuf>,
    /// If named: a pool made with another one is refused.
    pub(crate) hash: Option<HashAlgorithm>,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) io: IoMode,
    pub(crate) nbd_socket: PathBuf,
    pub(crate) api_socket: PathBuf,
    pub(crate) socket_owner: Option<String>,
    pub(crate) socket_group: Option<String>,
    pub(crate) socket_mode: u32,
    pub(crate) journal_folder: PathBuf,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
}

impl Plan {
    pub(crate) fn new(config: &Config) -> Result<Plan> {
        let pool = absolute(&config.pool()?)?;
        let settings: ServeSettings = config.serve();
        let nbd_socket = settings.nbd_socket.unwrap_or_else(|| pool.join("nbd.sock"));
        Ok(Plan {
            data: settings.data.as_deref().map(absolute).transpose()?,
            hash: settings.hash.map(HashAlgorithm::from),
            capacity_bytes: settings.capacity.map(|size| size.0),
            io: settings.io.unwrap_or_default(),
            nbd_socket: absolute(&nbd_socket)?,
            api_socket: absolute(&config.api_socket()?)?,
            socket_owner: settings.socket_owner,
            socket_group: settings.socket_group,
            socket_mode: settings.socket_mode.map_or(0o660, |SocketMode(mode)| mode),
            journal_folder: settings.journal_dir.unwrap_or_else(|| PathBuf::from("/dev/shm")),
            log_format: settings.log_format.unwrap_or_default(),
            log_filter: settings.log.unwrap_or_else(|| "info".to_owned()),
            pool,
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path.display(), error))
}
