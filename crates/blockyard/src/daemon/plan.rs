//! What the daemon will do, with every setting decided.

use crate::config::{Config, IoMode, IoThreads, LogFormat, ServeSettings, SocketMode, Switch};
use crate::size::Size;
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, HashAlgorithm, Result};
use std::path::{Path, PathBuf};

/// Room in the kernel's `sockaddr_un`, without the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Paths are absolute.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pool: PathBuf,
    /// If named: the file or block device for the data.
    pub(crate) data: Option<PathBuf>,
    /// If named: a pool made with another one is refused.
    pub(crate) hash: Option<HashAlgorithm>,
    pub(crate) capacity_bytes: Option<u64>,
    /// If set: share runs of equal clusters when more than this is allocated.
    pub(crate) reclaim_above_bytes: Option<u64>,
    pub(crate) io: IoMode,
    /// If set: how many threads serve NBD on rings.
    pub(crate) io_threads: Option<usize>,
    pub(crate) verify_reads: bool,
    pub(crate) nbd_socket: PathBuf,
    pub(crate) api_socket: PathBuf,
    /// If set: where to listen for peers.
    pub(crate) peer: Option<String>,
    /// If peers are known by names in certificates.
    pub(crate) peer_authority: Option<PeerAuthority>,
    pub(crate) socket_owner: Option<String>,
    pub(crate) socket_group: Option<String>,
    pub(crate) socket_mode: u32,
    pub(crate) journal_folder: PathBuf,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
}

/// Files of an authority, and of what it has signed for this daemon.
#[derive(Debug)]
pub(crate) struct PeerAuthority {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl PeerAuthority {
    fn of(
        authority: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<PeerAuthority>> {
        match (authority, certificate, key) {
            (None, None, None) => Ok(None),
            (Some(authority), Some(certificate), Some(key)) => Ok(Some(PeerAuthority {
                authority: absolute(&authority)?,
                certificate: absolute(&certificate)?,
                key: absolute(&key)?,
            })),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                "--peer-ca, --peer-cert and --peer-key go together: name all of them or none",
            )),
        }
    }
}

impl Plan {
    pub(crate) fn new(config: &Config) -> Result<Plan> {
        let pool = absolute(&config.pool()?)?;
        let settings: ServeSettings = config.serve();
        let nbd_socket = settings.nbd_socket.unwrap_or_else(|| pool.join("nbd.sock"));
        Ok(Plan {
            data: settings.data.as_deref().map(absolute).transpose()?,
            hash: settings.hash.map(HashAlgorithm::from),
            capacity_bytes: settings.capacity.map(capacity).transpose()?,
            reclaim_above_bytes: settings.reclaim_above.map(|size| size.0),
            io: settings.io.unwrap_or_default(),
            io_threads: settings.io_threads.map(|IoThreads(count)| count),
            verify_reads: settings.verify_reads.is_some_and(|Switch(on)| on),
            nbd_socket: socket(&nbd_socket, "--nbd-socket")?,
            api_socket: socket(&config.api_socket()?, "--api-socket")?,
            peer_authority: PeerAuthority::of(
                settings.peer_ca,
                settings.peer_cert,
                settings.peer_key,
            )?,
            peer: settings.peer,
            socket_owner: settings.socket_owner,
            socket_group: settings.socket_group,
            socket_mode: settings.socket_mode.map_or(0o660, |SocketMode(mode)| mode),
            journal_folder: journal_folder(settings.journal_dir),
            log_format: settings.log_format.unwrap_or_default(),
            log_filter: settings.log.unwrap_or_else(|| "info".to_owned()),
            pool,
        })
    }
}

/// Found out before anything is made, because the kernel tells only when the socket is bound.
fn socket(path: &Path, flag: &str) -> Result<PathBuf> {
    let path = absolute(path)?;
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let message =
            format!("{} is too long for a socket; name another with {flag}", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(path)
}

/// A pool that can never hold anything is a slip of the pen.
fn capacity(Size(bytes): Size) -> Result<u64> {
    if bytes < CLUSTER_SIZE as u64 {
        let message = format!("a capacity of {bytes} bytes is less than one cluster (4096)");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(bytes)
}

/// Where the journal is unless another folder in memory is named.
pub(crate) fn journal_folder(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| PathBuf::from("/dev/shm"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io(path.display(), error))
}
