//! Reading what is compared with its hash: all that a volume reads, if that was asked for when the pool was opened.
//!
//! First all is read as usual, and compared with the hashes that are trusted then. A cluster that differs, or is being
//! overwritten, is only in doubt: bytes and hash may be of two moments. It is read once more in its turn, when no write
//! to it is in flight, so that the hash belongs to the bytes (I7). If it still differs, it is healed from an equal one,
//! or the read fails (I14). A cluster without a trusted hash is returned as it is.

use crate::extent::Slot;
use crate::hashes::Known;
use crate::hashing::{PART, let_others_go_ahead};
use crate::pool::Pool;
use crate::read::push_zeroes;
use blockyard_block::{Buffer, BufferMut, CLUSTER_SIZE, ClusterIndex, ImageId, Result, Segment};
use blockyard_io::Directory;

/// What was read: zeros, or whole clusters of the image from one on.
enum Part {
    Zeroes(u64),
    Data { first: u64, bytes: BufferMut },
}

impl<D: Directory> Pool<D> {
    /// One whole cluster, compared with its hash in its turn.
    pub(crate) async fn read_compared(&self, image: ImageId, cluster: u64) -> Result<Buffer> {
        let _turn = self.take_turn(image, cluster..cluster + 1).await?;
        Ok(self.read_for_update(image, cluster).await?.freeze())
    }

    /// The bytes of a range as segments in order. `Corrupt` if one of its clusters does not match its hash and no equal
    /// one heals it.
    pub(crate) async fn read_image_verified(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
    ) -> Result<Vec<Segment>> {
        let (mut parts, doubtful) = self.read_and_doubt(image, offset, length).await?;
        // No epoch is held here: a turn is waited for.
        for cluster in doubtful {
            let right = self.read_compared(image, cluster).await?;
            put(&mut parts, cluster, &right);
        }
        let end = offset + length;
        let mut segments = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Zeroes(count) => push_zeroes(&mut segments, count),
                Part::Data { first, bytes } => {
                    let start = first * CLUSTER_SIZE as u64;
                    let from = offset.saturating_sub(start) as usize;
                    let to = bytes.len().min((end - start) as usize);
                    segments.push(Segment::Data(bytes.freeze().slice(from..to)));
                }
            }
        }
        Ok(segments)
    }

    /// What a plain read finds, and the image's clusters that are in doubt.
    async fn read_and_doubt(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<Part>, Vec<u64>)> {
        let (runs, _in_epoch) = self.look_up_present(image, offset, length).await?;
        let size = CLUSTER_SIZE as u64;
        let (mut parts, mut doubtful) = (Vec::with_capacity(runs.len()), Vec::new());
        let mut cluster = offset / size;
        for (slot, count) in runs {
            let first = cluster;
            cluster += count as u64;
            let Slot::Data(place) = slot else {
                let end = (cluster * size).min(offset + length);
                parts.push(Part::Zeroes(end - (first * size).max(offset)));
                continue;
            };
            let bytes = self.read_clusters(place, count).await.map_err(|error| {
                error.at(format_args!("image bytes {} to {}", first * size, cluster * size))
            })?;
            doubtful
                .extend(self.doubtful(place, &bytes).await.into_iter().map(|step| first + step));
            parts.push(Part::Data { first, bytes });
        }
        Ok((parts, doubtful))
    }

    /// Which of consecutive clusters, counted from the first, do not have the hash that is trusted now.
    async fn doubtful(&self, first: ClusterIndex, bytes: &[u8]) -> Vec<u64> {
        let mut doubtful = Vec::new();
        let mut copy = None;
        let mut step = 0;
        for part in bytes.chunks(PART * CLUSTER_SIZE) {
            for found in self.hashes_of(part) {
                let cluster = first.offset_by(step);
                let in_doubt = match self.known_cluster(cluster, &mut copy).await {
                    Ok(Known::Hash(expected)) => expected != found,
                    Ok(Known::Untrusted) => self.lock().regions.is_pinned(cluster),
                    // A hash that cannot be had accuses nobody.
                    Err(_) => false,
                };
                if in_doubt {
                    doubtful.push(step);
                }
                step += 1;
            }
            if blockyard_io::on_ring() && bytes.len() > PART * CLUSTER_SIZE {
                let_others_go_ahead().await;
            }
        }
        doubtful
    }
}

/// Puts a cluster of the image where it belongs.
fn put(parts: &mut [Part], cluster: u64, right: &[u8]) {
    for part in parts {
        let Part::Data { first, bytes } = part else { continue };
        let Some(step) = cluster.checked_sub(*first) else { continue };
        let at = step as usize * CLUSTER_SIZE;
        if at < bytes.len() {
            bytes[at..at + CLUSTER_SIZE].copy_from_slice(right);
        }
    }
}
