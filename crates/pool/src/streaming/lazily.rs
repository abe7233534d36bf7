//! Showing a received image before everything has come.
//!
//! The list of what is missing is durable before the image shows, and says all that a later run needs. In between a
//! crash leaves a hidden part, as of any transfer, and a list that nobody names.

use super::receive::Receive;
use crate::lazy::LazyState;
use crate::lazy::manifest::{Contents, Writer};
use blockyard_block::{ContentHash, Error, ErrorKind, ImageId, Result};
use blockyard_io::Directory;
use std::sync::Arc;

impl<D: Directory> Receive<D> {
    /// Writes down what is missing and shows the image. To be called when everything that was found is taken; with
    /// `verify` that is read and compared first, and what differs is missing. `summaries` are those of all extents;
    /// the image must have this `digest` once all has come. `origin` is told back by [`crate::Pool::lazy_images`].
    pub async fn finish_lazy(
        mut self,
        digest: ContentHash,
        summaries: &[(u64, ContentHash)],
        origin: Vec<u8>,
        verify: bool,
        mut working: impl FnMut() -> Result<()>,
    ) -> Result<ImageId> {
        let (pool, id) = (Arc::clone(&self.pool), self.volume.id());
        let size = blockyard_block::BlockDevice::size(&self.volume);
        let found = crate::query::root_hash(pool.hash_algorithm(), size, summaries);
        if found != digest {
            let message = format!("the lists have the digest {found}, the source's image {digest}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let listed = self.list_missing(size, origin, verify, &mut working).await;
        let (contents, disk) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                let _ = pool.directory.remove(&crate::lazy::manifest::path(id)).await;
                return Err(error);
            }
        };
        self.lookup().remove_files().await;
        self.remove_parts();
        let now_ms = pool.lock().now_ms;
        let lazy = LazyState::new(contents, now_ms);
        pool.lazy_disks().insert(id, Arc::new(disk));
        let shown = pool.reveal(self.volume, Some(Box::new(lazy))).await;
        // If only its commit failed, it is shown, and may be durable.
        if shown.is_err() && !pool.is_lazy(id) {
            pool.remove_list(id).await;
        }
        shown
    }

    async fn list_missing(
        &mut self,
        size: u64,
        origin: Vec<u8>,
        verify: bool,
        working: &mut impl FnMut() -> Result<()>,
    ) -> Result<(Contents, D::Disk)> {
        let directory = Arc::clone(&self.pool.directory);
        let mut writer = Writer::create(&*directory, self.volume.id()).await?;
        while let Some(missing) = self.next_absent(verify).await? {
            working()?;
            writer.push(missing.index, &missing.slots).await?;
        }
        writer.finish(&*directory, size, origin).await
    }
}
