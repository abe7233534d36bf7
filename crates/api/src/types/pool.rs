//! The pool as a whole, and the daemon that serves it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of the pool. Byte counts are clusters x 4096 unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// 32 hexadecimal digits, made once.
    pub id: String,
    /// The pool's directory.
    pub path: String,
    /// The content hash: `blake3`, `sha256` or `sha1`.
    pub hash: String,
    pub format_version: u32,
    pub images: u64,
    /// Sum of what all images map.
    pub bytes_logical: u64,
    /// Allocated clusters x 4096. Those that read zero and keep their place are neither unique nor reclaimable.
    pub bytes_physical: u64,
    /// Distinct contents among the allocated clusters x 4096; null while not known. Of a pool with more than
    /// 256 MiB it is counted in the background and is that of the last count.
    pub bytes_unique: Option<u64>,
    /// What sharing every duplicate would free: data stored more than once, by its hash. Null while not known.
    pub bytes_reclaimable: Option<u64>,
    /// Whether the two are exact: nothing was written or freed since they were counted.
    pub reclaimable_is_exact: bool,
    /// When the two were counted, seconds since 1970; if they are exact, now. Null while they are not known.
    #[serde(default)]
    pub counted_unix_s: Option<u64>,
    /// What may be allocated in all.
    pub bytes_capacity: u64,
    /// What the pool's files take on disk.
    pub bytes_on_disk: u64,
    /// Allocated clusters whose hash is not trusted now.
    pub clusters_untrusted: u64,
    pub regions_with_intent: u64,
    /// Why only reads are served; null in a healthy pool.
    pub failed: Option<String>,
    /// What is being done in the background, for people.
    pub activities: Vec<String>,
    /// The last daemon closed the pool in order.
    pub opened_clean: bool,
    pub daemon: DaemonStatus,
}

/// The daemon that serves the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub nbd_socket: String,
    pub api_socket: String,
    /// `direct` or `buffered`.
    pub io: String,
}
