//! Showing a received image before everything has come.
//!
//! The list of what is missing is durable before the image shows, and says all that a later run needs. In between a
//! crash leaves a hidden part, as of any transfer, and a list that nobody names.

use super::receive::Receive;
use super::sort::check_room;
use crate::lazy::LazyState;
use crate::lazy::manifest::{Contents, ENTRY_BYTES, Writer, path};
use blockyard_block::{BlockDevice, ContentHash, Error, ErrorKind, ImageId, Result};
use blockyard_io::Directory;
use std::sync::Arc;

/// Bytes of a list for which room is looked for at once: more than an extent takes.
const ROOM_BYTES: u64 = 1 << 20;

/// The list of what is missing of an image, durable: for [`Receive::show_lazily`], at once.
#[must_use = "its file stays until the next open if the image is not shown"]
pub struct Listed<D: Directory> {
    contents: Contents,
    disk: D::Disk,
}

impl<D: Directory> Receive<D> {
    /// Writes down what is missing. To be called when everything that was found is taken; with `verify` that is read and
    /// compared first, and what differs is missing. `summaries` are those of all extents; the image must have this `digest`
    /// once all has come. `origin` is told back by [`crate::Pool::lazy_images`]. If it fails no list is left, and what was
    /// received is still there: [`Receive::leave`] it or [`Receive::abandon`] it.
    pub async fn list_missing(
        &mut self,
        digest: ContentHash,
        summaries: &[(u64, ContentHash)],
        origin: Vec<u8>,
        verify: bool,
        mut working: impl FnMut() -> Result<()>,
    ) -> Result<Listed<D>> {
        let size = self.volume.size();
        let found = crate::query::root_hash(self.pool.hash_algorithm(), size, summaries);
        if found != digest {
            let message = format!("the lists have the digest {found}, the source's image {digest}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let listed = self.write_list(size, origin, verify, &mut working).await;
        if listed.is_err() {
            let _ = self.pool.directory.remove(&path(self.volume.id())).await; // or the next open does
        }
        listed
    }

    /// Shows the image. `Exists` if the name was taken meanwhile: then nothing is left.
    pub async fn show_lazily(mut self, listed: Listed<D>) -> Result<ImageId> {
        let (pool, id) = (Arc::clone(&self.pool), self.volume.id());
        self.lookup().remove_files().await;
        self.remove_parts();
        let now_ms = pool.lock().now_ms;
        let lazy = LazyState::new(listed.contents, now_ms);
        pool.lazy_disks().insert(id, Arc::new(listed.disk));
        let shown = pool.reveal(self.volume, Some(Box::new(lazy))).await;
        // If only its commit failed, it is shown, and may be durable.
        if shown.is_err() && !pool.is_lazy(id) {
            pool.remove_list(id).await;
        }
        shown
    }

    async fn write_list(
        &mut self,
        size: u64,
        origin: Vec<u8>,
        verify: bool,
        working: &mut impl FnMut() -> Result<()>,
    ) -> Result<Listed<D>> {
        let directory = Arc::clone(&self.pool.directory);
        let mut writer = Writer::create(&*directory, self.volume.id()).await?;
        let mut room = 0;
        while let Some(missing) = self.next_absent(verify).await? {
            working()?;
            let bytes = (missing.slots.len() * size_of::<ContentHash>() + ENTRY_BYTES) as u64;
            if room < bytes {
                check_room(&self.pool, ROOM_BYTES).await?;
                room = ROOM_BYTES;
            }
            room -= bytes;
            writer.push(missing.index, &missing.slots).await?;
        }
        let (contents, disk) = writer.finish(&*directory, size, origin).await?;
        Ok(Listed { contents, disk })
    }
}
