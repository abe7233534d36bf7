//! Handles for threads that read or write an image beside whoever sends or receives it. They keep nothing open: when the
//! image is gone they say that it is not found.

use super::lookup::{clusters_in, lie};
use super::receive::Receive;
use crate::pool::Pool;
use crate::volume::Volume;
use blockyard_block::{
    Buffer, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, Error, ErrorKind, ImageId, Result, Segment,
};
use blockyard_io::Directory;
use std::sync::Arc;

/// Reads an image.
pub struct Reader<D: Directory> {
    pool: Arc<Pool<D>>,
    image: ImageId,
    size: u64,
}

impl<D: Directory> Volume<D> {
    pub fn reader(&self) -> Reader<D> {
        let size = blockyard_block::BlockDevice::size(self);
        Reader { pool: Arc::clone(self.pool()), image: self.id(), size }
    }
}

impl<D: Directory> Reader<D> {
    /// Of the image, when this was made.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub async fn read(&self, offset: u64, length: u64) -> Result<Vec<Segment>> {
        self.pool.read_image(self.image, offset, length).await
    }
}

/// Writes what is missing of an image that is being received.
pub struct Writer<D: Directory> {
    pool: Arc<Pool<D>>,
    image: ImageId,
    size: u64,
}

impl<D: Directory> Receive<D> {
    pub fn writer(&self) -> Writer<D> {
        let size = blockyard_block::BlockDevice::size(&self.volume);
        Writer { pool: Arc::clone(&self.pool), image: self.volume.id(), size }
    }
}

impl<D: Directory> Writer<D> {
    /// Writes consecutive clusters of an extent, to its home if there is room, after each was compared with its
    /// hash: `Corrupt` names the first that does not match, and nothing of them is written. `data` is as many
    /// whole clusters as there are hashes; of the image's last, bytes behind its end must be zero.
    pub async fn write(
        &self,
        index: u64,
        slot: usize,
        hashes: &[ContentHash],
        data: &Buffer,
    ) -> Result<()> {
        let fits = slot + hashes.len() <= clusters_in(self.size, index);
        if !fits || data.len() != hashes.len() * CLUSTER_SIZE {
            return Err(lie("clusters do not fit their place"));
        }
        let offset = index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64;
        for (at, (found, expected)) in self.pool.hashes_of(data).iter().zip(hashes).enumerate() {
            if found != expected && !blockyard_io::broken("I9-receive-unchecked") {
                let place = offset + (at * CLUSTER_SIZE) as u64;
                let message = format!(
                    "the cluster that came for {place} does not have the hash that was told for it"
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        let in_image = self.size.saturating_sub(offset).min(data.len() as u64) as usize;
        if data[in_image..].iter().any(|byte| *byte != 0) {
            return Err(lie("there is data behind the end of the image"));
        }
        match in_image == data.len() {
            true => self.pool.write_hashed(self.image, offset, data, hashes).await,
            false => {
                let whole = in_image / CLUSTER_SIZE * CLUSTER_SIZE;
                let hashes = &hashes[..whole / CLUSTER_SIZE];
                let image = self.image;
                if whole > 0 {
                    self.pool.write_hashed(image, offset, &data.slice(0..whole), hashes).await?;
                }
                let rest = data.slice(whole..in_image);
                self.pool.write_image(image, offset + whole as u64, &rest).await
            }
        }
    }
}
