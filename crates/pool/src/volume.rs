//! An image held open by one client, as the exports see it.

use crate::plan::Content;
use crate::pool::Pool;
use crate::types::Client;
use blockyard_block::{
    AllocationRun, BlockDevice, Buffer, Error, ErrorKind, ImageId, Result, Segment, ZeroOptions,
};
use blockyard_io::Directory;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An image held open by one client; dropping it closes it. Serves as the [`BlockDevice`].
pub struct Volume<D: Directory> {
    pool: Arc<Pool<D>>,
    image: ImageId,
    client: Client,
    size: Arc<AtomicU64>,
}

impl<D: Directory> Volume<D> {
    pub(crate) fn new(
        pool: Arc<Pool<D>>,
        image: ImageId,
        client: Client,
        size: Arc<AtomicU64>,
    ) -> Volume<D> {
        Volume { pool, image, client, size }
    }

    pub(crate) fn pool(&self) -> &Arc<Pool<D>> {
        &self.pool
    }

    pub(crate) fn image(&self) -> ImageId {
        self.image
    }

    /// The image's id.
    pub fn id(&self) -> ImageId {
        self.image
    }

    /// Clusters with data x 4096.
    pub fn bytes_mapped(&self) -> u64 {
        self.pool.bytes_mapped(self.image)
    }

    /// One whole cluster, compared with its hash: `Corrupt` if it does not match and no equal cluster heals it.
    /// Waits for writes to it; of an untrusted cluster nothing is known to compare it with.
    pub async fn read_compared(&self, cluster: u64) -> Result<Buffer> {
        self.pool.read_compared(self.image, cluster).await
    }

    fn check_writes(&self) -> Result<()> {
        match self.client.writes {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::ReadOnly, "the image is open read-only")),
        }
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<()> {
        self.pool.lock().image(self.image)?.check_range(offset, length)
    }

    async fn flush_if(&self, fua: bool) -> Result<()> {
        if fua { self.pool.flush_all().await } else { Ok(()) }
    }

    async fn clear(&self, offset: u64, length: u64, whole: Content, fua: bool) -> Result<()> {
        self.check_writes()?;
        self.check_range(offset, length)?;
        if length > 0 {
            self.pool.clear_image(self.image, offset, length, whole).await?;
        }
        self.flush_if(fua).await
    }
}

impl<D: Directory> Drop for Volume<D> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let Ok(image) = state.image_mut(self.image) else { return };
        if let Some(at) = image.clients.iter().position(|client| *client == self.client) {
            image.clients.swap_remove(at);
        }
        // An import that was not revealed leaves nothing.
        if image.record.hidden && image.left_unix_s.is_none() {
            state.remove_image(self.image);
            state.seal();
        }
        self.pool.wake_wanted(state);
    }
}

impl<D: Directory> BlockDevice for Volume<D> {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        !self.client.writes
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<Segment>> {
        match self.pool.verify_reads {
            false => self.pool.read_image(self.image, offset, length).await,
            // Boxed, so that a plain read is no larger for it.
            true => Box::pin(self.pool.read_image_verified(self.image, offset, length)).await,
        }
    }

    async fn write(&self, offset: u64, data: Buffer, fua: bool) -> Result<()> {
        self.check_writes()?;
        self.pool.write_image(self.image, offset, &data).await?;
        self.flush_if(fua).await
    }

    async fn flush(&self) -> Result<()> {
        self.pool.flush_all().await
    }

    async fn discard(&self, offset: u64, length: u64, fua: bool) -> Result<()> {
        self.clear(offset, length, Content::Hole, fua).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64, options: ZeroOptions) -> Result<()> {
        let whole = if options.keep_place { Content::Reserved } else { Content::Hole };
        self.clear(offset, length, whole, options.fua).await
    }

    async fn allocation(
        &self,
        offset: u64,
        length: u64,
        runs_max: usize,
    ) -> Result<Vec<AllocationRun>> {
        self.pool.allocation_runs(self.image, offset, length, runs_max)
    }
}
