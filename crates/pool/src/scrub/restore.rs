//! Restoring hashes that were lost with a page of the hash table.
//!
//! The metadata has the page's checksum. If the page has it once the hashes of what its clusters hold now stand on it,
//! then these are the hashes that were lost, and the clusters hold what was stored: one that rotted, or was not written,
//! would have another hash. That is a proof but for one chance in 2^32. Else nothing is known, and hashes are made of the
//! data as it is only if that was asked for.

use super::{Scrub, Watching};
use crate::pool::Pool;
use crate::regions::{HashPage, PAGE_HASHES};
use blockyard_block::{ClusterIndex, ContentHash, RegionIndex};
use blockyard_io::Directory;

impl<D: Directory> Pool<D> {
    /// Restores, or counts, what was lost of a region. `with_data` are its clusters that hold content.
    pub(super) async fn restore_hashes(
        &self,
        region: RegionIndex,
        with_data: &[ClusterIndex],
        rehash: bool,
        scrub: &mut Scrub,
    ) {
        let pages = self.lock().lost_pages_of(region);
        for page in pages {
            self.restore_page(page, with_data, rehash, scrub).await;
        }
    }

    async fn restore_page(
        &self,
        page: HashPage,
        with_data: &[ClusterIndex],
        rehash: bool,
        scrub: &mut Scrub,
    ) {
        let lost: Vec<ClusterIndex> = self.lock().lost_clusters(page).collect();
        let watching = self.watch_used(&lost);
        let mut found = Vec::with_capacity(lost.len());
        for (cluster, _) in &watching.watched {
            if let Ok(bytes) = self.read_clusters(*cluster, 1).await {
                found.push((*cluster, self.hash_algorithm().hash(&bytes)));
            }
        }
        let is_proved = self.is_proved(page, &found, with_data);
        let published = match is_proved || rehash {
            true => self.publish_restored(page, watching, &found),
            false => Vec::new(),
        };
        let of_data = |clusters: &[ClusterIndex]| {
            let data = clusters.iter().filter(|cluster| with_data.binary_search(cluster).is_ok());
            data.count() as u64
        };
        let count = if is_proved { &mut scrub.hashes_restored } else { &mut scrub.hashes_made };
        *count += of_data(&published);
        let mut state = self.lock();
        let left: Vec<ClusterIndex> = state.lost_clusters(page).collect();
        scrub.hashes_lost += of_data(&left);
        match state.lost_pages.get_mut(&page) {
            Some(lost) if !left.is_empty() => lost.is_tried = true,
            _ => drop(state.lost_pages.remove(&page)),
        }
    }

    /// Whether the page has its checksum with these hashes on it.
    fn is_proved(
        &self,
        page: HashPage,
        found: &[(ClusterIndex, ContentHash)],
        with_data: &[ClusterIndex],
    ) -> bool {
        let state = self.lock();
        let Some(lost) = state.lost_pages.get(&page) else { return false };
        let Some(mut bytes) = lost.found.clone() else { return false };
        // The hash of a place that is only reserved may be that of anything.
        for (cluster, hash) in found {
            if with_data.binary_search(cluster).is_ok() {
                let at = (cluster.0 % PAGE_HASHES as u64) as usize * 32;
                bytes[at..at + 32].copy_from_slice(&hash.0);
            }
        }
        crc32c::crc32c(&bytes) == lost.checksum
    }

    /// Hashes of clusters to which nothing has happened since they are watched (I6), behind an intent (I1).
    fn publish_restored(
        &self,
        page: HashPage,
        mut watching: Watching<'_, D>,
        found: &[(ClusterIndex, ContentHash)],
    ) -> Vec<ClusterIndex> {
        let watched = std::mem::take(&mut watching.watched);
        let mut published = Vec::with_capacity(found.len());
        let mut state = self.lock();
        let may_publish = state.check_writable().is_ok();
        if may_publish {
            state.request_intent(page.region());
        }
        for (cluster, watch) in watched {
            let unchanged = state.regions.unwatch(cluster, watch);
            let hash = found.iter().find(|(other, _)| *other == cluster);
            if let Some((_, hash)) = hash
                && may_publish
                && unchanged
                && state.is_lost(cluster)
            {
                state.regions.publish(cluster, *hash);
                published.push(cluster);
            }
        }
        state.note_progress();
        self.wake_wanted(state);
        published
    }
}
