//! Pages of the hash table that do not match their checksum and have no intent that explains it: damage (I8).
//!
//! Nothing on such a page is believed: its hashes are lost, and their clusters untrusted. So what needs no hash goes on, a
//! partial write too, as after a crash. But they are not hashed again by themselves, for that would bless rot: a scrub
//! restores what it can prove (`scrub/restore.rs`), makes them anew if it is told to, and a whole overwrite brings its own.
//! See docs/decisions/0018-lost-hashes.md.

use crate::regions::{HashPage, PAGE_HASHES};
use crate::state::State;
use blockyard_block::{ClusterIndex, RegionIndex};

/// Pages whose bytes are kept, 4 KiB each.
const COPIES_MAX: usize = 1024;

/// A damaged page.
pub(crate) struct LostPage {
    /// What it matched when it was written last.
    pub(crate) checksum: u32,
    /// As it was found, unless too many are kept.
    pub(crate) found: Option<Vec<u8>>,
    /// A scrub could not prove it.
    pub(crate) is_tried: bool,
}

impl State {
    /// The page was read, and these bytes are not what was written.
    pub(crate) fn lose_hash_page(&mut self, page: HashPage, found: &[u8]) {
        let Some(checksum) = self.regions.lose_page(page) else { return };
        let found = (self.lost_pages.len() < COPIES_MAX).then(|| found.to_vec());
        self.lost_pages.insert(page, LostPage { checksum, found, is_tried: false });
        let lost: Vec<ClusterIndex> = self.lost_clusters(page).collect();
        if let Some(first) = lost.first() {
            let message = format!(
                "the hash table at {} does not match its checksum: the hashes of {} clusters from here on are lost, and their data can still be read and written: run `blockyard scrub`",
                page.offset(),
                lost.len()
            );
            self.tell_damage(*first, message);
        }
    }

    /// Clusters in use whose hash was lost with the page.
    pub(crate) fn lost_clusters(&self, page: HashPage) -> impl Iterator<Item = ClusterIndex> + '_ {
        let clusters =
            (0..PAGE_HASHES as u64).map(move |step| page.first_cluster().offset_by(step));
        clusters.filter(|cluster| self.is_lost(*cluster))
    }

    /// Of a cluster on a damaged page: whether it is in use and has no hash yet.
    pub(crate) fn is_lost(&self, cluster: ClusterIndex) -> bool {
        self.allocator.count(cluster) > 0 && self.regions.is_marked_untrusted(cluster)
    }

    /// How many hashes are lost, and whether a scrub has tried to restore all of them.
    pub(crate) fn lost_hashes(&mut self) -> (u64, bool) {
        self.forget_found_pages();
        let count =
            self.lost_pages.keys().map(|page| self.lost_clusters(*page).count() as u64).sum();
        (count, self.lost_pages.values().all(|page| page.is_tried))
    }

    /// Damaged pages of a region.
    pub(crate) fn lost_pages_of(&self, region: RegionIndex) -> Vec<HashPage> {
        let pages = HashPage::of_region(region);
        pages.filter(|page| self.lost_pages.contains_key(page)).collect()
    }

    /// Those whose clusters all have hashes again, or are free.
    pub(crate) fn forget_found_pages(&mut self) {
        let mut pages = std::mem::take(&mut self.lost_pages);
        pages.retain(|page, _| self.lost_clusters(*page).next().is_some());
        self.lost_pages = pages;
    }
}
