//! One pass over the hash table: every allocated cluster that holds data and whose hash is trusted.

use super::page::Record;
use crate::hashes::hash_in_page;
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::pool::Pool;
use crate::regions::HashPage;
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, ErrorKind, RegionIndex, Result,
};
use blockyard_io::{Directory, Disk};

/// What is known of one region's clusters.
#[derive(Default)]
pub(crate) struct RegionHashes {
    pub(crate) hashes: Vec<(ClusterIndex, ContentHash)>,
    /// Clusters with data whose hash is not trusted, or cannot be read.
    pub(crate) unknown: u64,
}

/// The first 16 bytes of a hash, as they sort.
pub(crate) fn key_of(hash: &ContentHash) -> [u64; 2] {
    let number = u128::from_be_bytes(first_half(&hash.0));
    [(number >> 64) as u64, number as u64]
}

fn first_half(bytes: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&bytes[..16]);
    half
}

pub(crate) fn record_of(cluster: ClusterIndex, hash: &ContentHash) -> Record {
    Record { key: key_of(hash), value: cluster.0 }
}

impl<D: Directory> Pool<D> {
    /// Reads one block of the hash table, no data.
    pub(crate) async fn region_hashes(
        &self,
        region: RegionIndex,
        clusters: &[ClusterIndex],
    ) -> Result<RegionHashes> {
        let mut told = RegionHashes::default();
        if clusters.is_empty() {
            return Ok(told);
        }
        let offset = u64::from(region.0) * HASH_BLOCK_BYTES;
        let block = BufferMut::zeroed(HASH_BLOCK_BYTES as usize);
        let (result, block) = self.hashes.read(offset, block).await;
        for of_page in clusters.chunk_by(|one, other| HashPage::of(*one) == HashPage::of(*other)) {
            let page = HashPage::of(of_page[0]);
            let at = page.within_region() * CLUSTER_SIZE;
            let bytes = &block[at..at + CLUSTER_SIZE];
            if result.is_err() || !self.add_page(page, bytes, of_page, &mut told) {
                self.add_one_by_one(of_page, &mut told).await?;
            }
        }
        Ok(told)
    }

    /// False if the bytes are not those of the page as it is now.
    fn add_page(
        &self,
        page: HashPage,
        bytes: &[u8],
        clusters: &[ClusterIndex],
        told: &mut RegionHashes,
    ) -> bool {
        let checksum = crc32c::crc32c(bytes);
        let state = self.lock();
        if !state.regions.page_checksums(page).contains(&checksum) {
            return false;
        }
        for cluster in clusters {
            if state.allocator.count(*cluster) == 0 {
                continue;
            }
            if !state.regions.is_trusted(*cluster) {
                told.unknown += 1;
                continue;
            }
            let waiting = state.regions.pending(*cluster);
            told.hashes.push((*cluster, waiting.unwrap_or_else(|| hash_in_page(bytes, *cluster))));
        }
        true
    }

    async fn add_one_by_one(
        &self,
        clusters: &[ClusterIndex],
        told: &mut RegionHashes,
    ) -> Result<()> {
        for cluster in clusters {
            match self.hash_of(*cluster).await {
                Ok(Some(hash)) => told.hashes.push((*cluster, hash)),
                Ok(None) => told.unknown += 1,
                Err(error) if error.kind() == ErrorKind::Corrupt => told.unknown += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
