//! What the engine tells of itself: plain values, no behaviour, no locks.

use blockyard_block::{ContentHash, HashAlgorithm, ImageId, ImageName};
use std::fmt;

/// The pool's unique id, made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub [u8; 16]);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// How a pool is made; fixed for its life except where `OpenOptions` says so.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    pub id: PoolId,
    pub hash: HashAlgorithm,
    /// Log segments: at least 4.
    pub log_segments: u32,
    /// Bytes of one log segment, a multiple of 4096.
    pub log_segment_bytes: u64,
    /// The data lies on a block device of its own.
    pub data_on_device: bool,
    /// Wall clock, seconds since 1970.
    pub now_unix_s: u64,
}

/// How a pool is run this time.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// At most this many bytes of clusters are allocated; `None` is bounded by the storage alone.
    pub capacity_bytes: Option<u64>,
    /// File-system space that data growth leaves alone.
    pub space_reserve_bytes: u64,
    /// The data is a file on another file system than the pool's directory; each has its reserve.
    pub data_elsewhere: bool,
    /// Names this boot of the machine; the journal of another boot is ignored (I15).
    pub boot_id: [u8; 16],
    /// Hashes waiting for their page to be written take at most this much memory.
    pub pending_hashes_bytes_max: u64,
    /// A guest that never flushes is committed this often.
    pub commit_interval_ms: u64,
    /// A region that was not written for this long has its hashes written and its intent cleared.
    pub region_cool_ms: u64,
    /// Regions by which the data file grows at a time.
    pub grow_regions: u32,
    /// Records that a sort of hashes keeps in memory, 24 bytes each; more go to files.
    pub sort_records_max: usize,
    /// Regions kept ready for reuse before freed ones are punched out of the file.
    pub punch_keep_regions: usize,
    /// Whatever a volume reads is compared with its hash, if that is trusted; else only what is changed in part is.
    pub verify_reads: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            capacity_bytes: None,
            space_reserve_bytes: 64 << 20,
            data_elsewhere: false,
            boot_id: [0; 16],
            pending_hashes_bytes_max: 96 << 20,
            commit_interval_ms: 5_000,
            region_cool_ms: 2_000,
            grow_regions: 16,
            sort_records_max: 512 << 10,
            punch_keep_regions: 64,
            verify_reads: false,
        }
    }
}

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// Can be written: a plain image or a clone.
    Writable,
    /// A snapshot: never changes.
    Snapshot,
}

/// Who has an image open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Unique within this run of the daemon.
    pub connection: u64,
    pub pid: Option<i32>,
    pub uid: Option<u32>,
    pub writes: bool,
    /// `nbd`, `import`, `export`, ...
    pub purpose: String,
}

/// One image, as listed.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    pub id: ImageId,
    pub name: ImageName,
    pub kind: ImageKind,
    pub size_bytes: u64,
    /// Clusters the image maps x 4096, shared or not.
    pub bytes_mapped: u64,
    pub created_unix_s: u64,
    pub clients: Vec<Client>,
}

/// The content of one cluster of an image, as far as known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapState {
    /// Reads zero, takes no space.
    Zero,
    /// Reads zero, keeps its place.
    Reserved,
    /// Data with a trusted hash.
    Data(ContentHash),
    /// Data whose hash is not trusted now (after a crash, until hashed again).
    Untrusted,
}

/// A run of clusters of one image in one state; runs of data are one cluster long when hashes are
/// asked for, and carry no hash otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    pub offset: u64,
    pub length: u64,
    pub state: MapState,
}

/// The pool as a whole. Byte counts are clusters x 4096 unless said otherwise.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    pub id: PoolId,
    pub hash: HashAlgorithm,
    pub format_version: u32,
    pub images: u64,
    /// Sum of what all images map.
    pub bytes_logical: u64,
    /// Allocated clusters.
    pub bytes_physical: u64,
    /// What may be allocated in all.
    pub bytes_capacity: u64,
    /// What the pool's files take on disk.
    pub bytes_on_disk: u64,
    /// Allocated clusters whose hash is not trusted now.
    pub clusters_untrusted: u64,
    /// Regions with a write intent.
    pub regions_with_intent: u64,
    /// Set after a failed sync: the reason why only reads are served (I12).
    pub failed: Option<String>,
    /// What is being done in the background, for people: `hashing again 3 of 17 regions`.
    pub activities: Vec<String>,
    /// The last close was clean.
    pub opened_clean: bool,
}

/// What is stored, and how much of it more than once, in clusters of 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Allocated clusters that hold data.
    pub clusters: u64,
    /// Contents among them that differ, by their hash.
    pub distinct: u64,
}

/// What `scrub` or `check --data` found wrong with a cluster.
#[derive(Debug, Clone)]
pub struct Damage {
    /// The image and byte offset, for each image that maps the cluster.
    pub places: Vec<(ImageName, u64)>,
    pub message: String,
}
