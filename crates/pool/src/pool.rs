//! The pool as the program sees it. SIGNATURES FIRST: bodies land with the engine.

use crate::types::*;
use blockyard_block::{
    AllocationRun, BlockDevice, Buffer, ContentHash, Error, ErrorKind, ImageId, ImageName, Result,
    Segment, ZeroOptions,
};
use blockyard_io::{Directory, Mapped};
use std::sync::Arc;

/// An open pool. Made by [`Pool::open`]; the caller runs [`Pool::run_sync`], [`Pool::run_commit`]
/// and [`Pool::run_maintenance`] each on a thread (or task) of its own, and calls [`Pool::tick`]
/// every 50 ms or so.
pub struct Pool<D: Directory> {
    _directory: D,
}

/// An image held open by one client; dropping it closes it. Serves as the [`BlockDevice`].
pub struct Volume<D: Directory> {
    _pool: Arc<Pool<D>>,
}

/// Progress and findings of a scrub so far.
#[derive(Debug, Clone, Default)]
pub struct Scrub {
    pub clusters_done: u64,
    pub clusters_total: u64,
    pub clusters_skipped_untrusted: u64,
    pub damage: Vec<Damage>,
}

fn pending<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the engine is not here yet"))
}

impl<D: Directory> Pool<D> {
    /// Makes a pool in an empty directory. `data` is a new file of length 0 or a block device.
    pub async fn create(_directory: &D, _data: &D::Disk, _options: &CreateOptions) -> Result<()> {
        pending()
    }

    /// Whether the directory holds a (completely made) pool.
    pub async fn exists(_directory: &D) -> Result<bool> {
        pending()
    }

    /// Opens: recovers log, checkpoint and journal, derives counts and free space.
    pub async fn open(
        _directory: D,
        _data: D::Disk,
        _journal: Box<dyn Mapped>,
        _options: OpenOptions,
    ) -> Result<Arc<Pool<D>>> {
        pending()
    }

    /// Bytes the journal memory must have.
    pub const JOURNAL_BYTES: usize = 16 << 20;

    /// Captures and syncs data for commits; returns after `shutdown`.
    pub async fn run_sync(&self) {}
    /// Writes the log; returns after `shutdown`.
    pub async fn run_commit(&self) {}
    /// Hash pages, clearing of intents, re-hash, checkpoints, punching, sweeping of removed images.
    pub async fn run_maintenance(&self) {}

    /// Tells the engine the time (monotonic). Nothing in the engine waits on a clock of its own.
    pub fn tick(&self, _now_ms: u64) {}

    /// Waits for requests in flight, commits, writes hashes, clears intents as far as five seconds
    /// of ticks allow, and marks the pool clean. New requests are refused with `ShutDown`.
    pub async fn shutdown(&self) -> Result<()> {
        pending()
    }

    pub async fn create_image(
        &self,
        _name: &ImageName,
        _size: u64,
        _now_unix_s: u64,
    ) -> Result<ImageId> {
        pending()
    }

    /// A hidden image, not listed and gone after a crash, until [`Pool::reveal_import`]. Write to
    /// the volume, then reveal it; dropping the volume unrevealed removes it.
    pub async fn begin_import(
        self: &Arc<Self>,
        _name: &ImageName,
        _size: u64,
        _now_unix_s: u64,
    ) -> Result<Volume<D>> {
        pending()
    }

    /// Makes everything written durable and the image visible in one step. `Exists` if the name was
    /// taken meanwhile.
    pub async fn reveal_import(&self, _volume: Volume<D>) -> Result<ImageId> {
        pending()
    }

    /// `Busy` while clients exist unless `force`; forced, their requests fail from now on.
    pub async fn remove_image(&self, _name: &ImageName, _force: bool) -> Result<()> {
        pending()
    }

    /// `Busy` while clients exist unless `force`.
    pub async fn rename_image(
        &self,
        _name: &ImageName,
        _new: &ImageName,
        _force: bool,
    ) -> Result<()> {
        pending()
    }

    /// Growing is always allowed; shrinking is `Busy` while clients exist unless `force`.
    pub async fn resize_image(&self, _name: &ImageName, _size: u64, _force: bool) -> Result<()> {
        pending()
    }

    /// A read-only image of the content at this moment.
    pub async fn snapshot_image(
        &self,
        _source: &ImageName,
        _name: &ImageName,
        _now_unix_s: u64,
    ) -> Result<ImageId> {
        pending()
    }

    /// A writable image that starts with the content of `source` (an image or a snapshot).
    pub async fn clone_image(
        &self,
        _source: &ImageName,
        _name: &ImageName,
        _now_unix_s: u64,
    ) -> Result<ImageId> {
        pending()
    }

    /// All visible images by name.
    pub fn images(&self) -> Vec<ImageInfo> {
        Vec::new()
    }

    pub fn image(&self, _name: &ImageName) -> Result<ImageInfo> {
        pending()
    }

    /// Opens an image for a client. `ReadOnly` for `client.writes` on a snapshot.
    pub fn open_image(self: &Arc<Self>, _name: &ImageName, _client: Client) -> Result<Volume<D>> {
        pending()
    }

    /// The image's root hash over size, algorithm and content; the same for the same content,
    /// wherever it lies. Reads hashes, no data. `Busy` naming the count while clusters are untrusted.
    pub async fn digest(&self, _name: &ImageName) -> Result<ContentHash> {
        pending()
    }

    /// The map of `[offset, offset + length)`, rounded out to clusters; at most 1024 clusters'
    /// worth of runs a call: continue where the last run ended. Reads no data.
    pub async fn map(&self, _name: &ImageName, _offset: u64, _hashes: bool) -> Result<Vec<MapRun>> {
        pending()
    }

    /// Never waits on I/O.
    pub fn status(&self) -> Result<PoolStatus> {
        pending()
    }

    /// Reads every trusted cluster and compares it with its hash, calling `progress` after each
    /// region; return false from it to stop.
    pub async fn scrub(&self, _progress: impl FnMut(&Scrub) -> bool) -> Result<Scrub> {
        pending()
    }
}

impl<D: Directory> Volume<D> {
    pub fn id(&self) -> Result<ImageId> {
        pending()
    }
}

impl<D: Directory> BlockDevice for Volume<D> {
    fn size(&self) -> u64 {
        0
    }
    fn read_only(&self) -> bool {
        true
    }
    async fn read(&self, _offset: u64, _length: u64) -> Result<Vec<Segment>> {
        pending()
    }
    async fn write(&self, _offset: u64, _data: Buffer, _fua: bool) -> Result<()> {
        pending()
    }
    async fn flush(&self) -> Result<()> {
        pending()
    }
    async fn discard(&self, _offset: u64, _length: u64, _fua: bool) -> Result<()> {
        pending()
    }
    async fn write_zeroes(&self, _offset: u64, _length: u64, _options: ZeroOptions) -> Result<()> {
        pending()
    }
    async fn allocation(
        &self,
        _offset: u64,
        _length: u64,
        _runs_max: usize,
    ) -> Result<Vec<AllocationRun>> {
        pending()
    }
}
