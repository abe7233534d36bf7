//! The source's side: what an image is made of, told without reading its data.
//!
//! Ask of a snapshot: of an image that is being written the answers are those of no single moment.

use super::ExtentHashes;
use crate::hashes::Known;
use crate::query::EXTENTS_AT_ONCE;
use crate::volume::Volume;
use blockyard_block::{ContentHash, Result};
use blockyard_io::Directory;

impl<D: Directory> Volume<D> {
    /// Number and summary of each extent from `first` on that does not read zero, at most `count_max`. Reads
    /// hashes, no data. `Busy` while clusters are still to be hashed again after a crash (I8).
    pub async fn extent_summaries(
        &self,
        first: u64,
        count_max: usize,
    ) -> Result<Vec<(u64, ContentHash)>> {
        let pool = self.pool();
        let empty = ExtentHashes::empty_summary(pool.hash_algorithm());
        let mut summaries = Vec::new();
        let mut next = first;
        loop {
            let extents = {
                let state = pool.lock();
                state.check_not_lazy(self.id(), "told of")?;
                state.image_extents_from(self.id(), next, EXTENTS_AT_ONCE)
            };
            let Some((last, _)) = extents.last() else { return Ok(summaries) };
            next = last + 1;
            for (index, extent) in extents {
                if summaries.len() == count_max {
                    return Ok(summaries);
                }
                let summary = pool.summary(extent).await?;
                if summary != empty {
                    summaries.push((index, summary));
                }
            }
        }
    }

    /// The hashes of the extent `index`. Reads hashes, no data. `Busy` as for summaries.
    pub async fn extent_hashes(&self, index: u64) -> Result<ExtentHashes> {
        let pool = self.pool();
        let (extent, _in_epoch) = {
            let mut state = pool.lock();
            state.check_not_lazy(self.id(), "told of")?;
            let id = state.extent_at(&state.image(self.id())?.record, index);
            let extent = id.map(|id| state.extents[&id].extent.clone());
            (extent, pool.enter_epoch(&mut state))
        };
        let mut bytes = Vec::with_capacity(ExtentHashes::BYTES);
        if let Some(extent) = extent {
            for known in pool.known_slots(&extent).await? {
                match known {
                    None => bytes.extend_from_slice(&[0; 32]),
                    Some(Known::Hash(hash)) => bytes.extend_from_slice(&hash.0),
                    Some(Known::Untrusted) => return Err(pool.untrusted()),
                }
            }
        }
        bytes.resize(ExtentHashes::BYTES, 0);
        ExtentHashes::from_bytes(bytes).ok_or_else(|| pool.untrusted())
    }

    /// The image's root hash, as [`Pool::digest`] tells it.
    pub async fn digest(&self) -> Result<ContentHash> {
        self.pool().digest_of(self.id()).await
    }
}
