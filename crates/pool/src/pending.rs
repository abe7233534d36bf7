//! Hashes that are not in the hash table on disk yet, by the page they belong to.
//!
//! Most writes find their page here already, and a page that is full of new hashes is written without
//! being read. When a page is due, and that its intent is durable by then, is up to the caller.

use crate::regions::{HashPage, PAGE_HASHES};
use blockyard_block::{ClusterIndex, ContentHash, RegionIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Memory one waiting hash takes at most: itself, in a list that grows by doubling.
pub(crate) const PENDING_HASH_BYTES: u64 = 64;
/// What a page with waiting hashes takes beside them, its places in trees included.
const PENDING_PAGE_BYTES: u64 = 96;

const _: () = assert!(PAGE_HASHES == u128::BITS as usize);

/// The waiting hashes of one page.
#[derive(Clone, Default)]
pub(crate) struct PendingPage {
    /// A bit for each cluster of the page that has one.
    present: u128,
    /// In the order of the bits.
    hashes: Vec<ContentHash>,
}

impl PendingPage {
    pub(crate) fn count(&self) -> usize {
        self.hashes.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.hashes.len() == PAGE_HASHES
    }

    /// Place within the page, and hash.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, ContentHash)> + '_ {
        let mut left = self.present;
        self.hashes.iter().map(move |hash| {
            let within = left.trailing_zeros() as usize;
            left &= left - 1;
            (within, *hash)
        })
    }

    fn has(&self, within: usize) -> bool {
        self.present >> within & 1 == 1
    }

    /// Where in the list the hash of a cluster is, or would be.
    fn rank(&self, within: usize) -> usize {
        (self.present & ((1 << within) - 1)).count_ones() as usize
    }

    fn get(&self, within: usize) -> Option<ContentHash> {
        self.has(within).then(|| self.hashes[self.rank(within)])
    }

    /// True if there was none yet.
    fn insert(&mut self, within: usize, hash: ContentHash) -> bool {
        let rank = self.rank(within);
        if self.has(within) {
            self.hashes[rank] = hash;
            return false;
        }
        self.present |= 1 << within;
        self.hashes.insert(rank, hash);
        true
    }

    fn remove(&mut self, within: usize) -> bool {
        if !self.has(within) {
            return false;
        }
        self.hashes.remove(self.rank(within));
        self.present &= !(1 << within);
        true
    }
}

/// All waiting hashes.
pub(crate) struct PendingHashes {
    pages: BTreeMap<HashPage, PendingPage>,
    /// Pages that have as many as make a write worth while.
    due: BTreeSet<HashPage>,
    due_count: usize,
    count: u64,
}

fn place(cluster: ClusterIndex) -> (HashPage, usize) {
    (HashPage::of(cluster), (cluster.0 % PAGE_HASHES as u64) as usize)
}

impl PendingHashes {
    /// A page is due with `due_count` hashes.
    pub(crate) fn new(due_count: usize) -> PendingHashes {
        PendingHashes { pages: BTreeMap::new(), due: BTreeSet::new(), due_count, count: 0 }
    }

    /// The hashes of consecutive clusters wait from now on.
    pub(crate) fn insert_run(&mut self, first: ClusterIndex, hashes: &[ContentHash]) {
        let mut at = 0;
        while at < hashes.len() {
            let (page, within) = place(first.offset_by(at as u64));
            let length = (PAGE_HASHES - within).min(hashes.len() - at);
            let pending = self.pages.entry(page).or_default();
            for step in 0..length {
                self.count += u64::from(pending.insert(within + step, hashes[at + step]));
            }
            if pending.count() >= self.due_count {
                self.due.insert(page);
            }
            at += length;
        }
    }

    pub(crate) fn get(&self, cluster: ClusterIndex) -> Option<ContentHash> {
        let (page, within) = place(cluster);
        self.pages.get(&page)?.get(within)
    }

    pub(crate) fn remove(&mut self, cluster: ClusterIndex) {
        let (page, within) = place(cluster);
        let Some(pending) = self.pages.get_mut(&page) else { return };
        self.count -= u64::from(pending.remove(within));
        self.tidy(page);
    }

    /// The waiting hashes of a page.
    pub(crate) fn of_page(&self, page: HashPage) -> PendingPage {
        self.pages.get(&page).cloned().unwrap_or_default()
    }

    pub(crate) fn has_page(&self, page: HashPage) -> bool {
        self.pages.contains_key(&page)
    }

    pub(crate) fn has_region(&self, region: RegionIndex) -> bool {
        HashPage::of_region(region).any(|page| self.has_page(page))
    }

    /// `written` is on disk: what still waits as it was then waits no longer.
    pub(crate) fn written(&mut self, page: HashPage, written: &PendingPage) {
        let Some(pending) = self.pages.get_mut(&page) else { return };
        let before = pending.count();
        for (within, hash) in written.iter() {
            if pending.get(within) == Some(hash) {
                pending.remove(within);
            }
        }
        self.count -= (before - pending.count()) as u64;
        self.tidy(page);
    }

    fn tidy(&mut self, page: HashPage) {
        let count = self.pages.get(&page).map_or(0, PendingPage::count);
        if count == 0 {
            self.pages.remove(&page);
        }
        if count < self.due_count {
            self.due.remove(&page);
        }
    }

    /// Pages that are due.
    pub(crate) fn due(&self) -> impl Iterator<Item = HashPage> + '_ {
        self.due.iter().copied()
    }

    /// Pages that have at least as many hashes as pages have on average.
    pub(crate) fn fullest(&self) -> impl Iterator<Item = HashPage> + '_ {
        let average = self.count.div_ceil(self.pages.len().max(1) as u64) as usize;
        let average = average.min(self.due_count);
        self.pages.iter().filter(move |(_, page)| page.count() >= average).map(|(page, _)| *page)
    }

    pub(crate) fn clear(&mut self) {
        *self = PendingHashes::new(self.due_count);
    }

    /// Memory all of it takes at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.count * PENDING_HASH_BYTES + self.pages.len() as u64 * PENDING_PAGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::PendingHashes;
    use crate::regions::{HashPage, PAGE_HASHES};
    use blockyard_block::{ClusterIndex, ContentHash};
    use std::collections::BTreeMap;

    fn hash(number: u64) -> ContentHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        ContentHash(bytes)
    }

    /// Against a plain map, over runs that cross pages.
    #[test]
    fn it_holds_what_a_map_of_clusters_would() {
        let mut pending = PendingHashes::new(64);
        let mut model = BTreeMap::new();
        let mut random = 88_172_645_463_325_252_u64;
        for round in 0..20_000_u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let first = ClusterIndex(random % 1000);
            match random >> 32 & 3 {
                0 => {
                    pending.remove(first);
                    model.remove(&first);
                }
                1 => {
                    let page = HashPage::of(first);
                    let written = pending.of_page(page);
                    pending.insert_run(first, &[hash(round * 1000)]);
                    model.insert(first, hash(round * 1000));
                    pending.written(page, &written);
                    model.retain(|cluster, _| HashPage::of(*cluster) != page || *cluster == first);
                }
                _ => {
                    let hashes: Vec<_> =
                        (0..random >> 40 & 255).map(|n| hash(round * 1000 + n + 1)).collect();
                    pending.insert_run(first, &hashes);
                    let run = (0_u64..).map(|step| first.offset_by(step));
                    model.extend(run.zip(hashes));
                }
            }
            assert_eq!(pending.count, model.len() as u64, "round {round}");
            let probe = ClusterIndex(random >> 20 & 1023);
            assert_eq!(pending.get(probe), model.get(&probe).copied());
        }
        let mut counts = BTreeMap::new();
        for cluster in model.keys() {
            *counts.entry(HashPage::of(*cluster)).or_insert(0) += 1;
        }
        let due: Vec<_> =
            counts.iter().filter(|(_, count)| **count >= 64).map(|(p, _)| *p).collect();
        assert_eq!(pending.due().collect::<Vec<_>>(), due);
        assert!(counts.keys().all(|page| pending.has_page(*page)));
    }

    #[test]
    fn under_pressure_some_page_is_always_full_enough() {
        let mut pending = PendingHashes::new(64);
        for page in 0..5 {
            for within in 0..=page {
                let cluster = ClusterIndex(page * PAGE_HASHES as u64 + within);
                pending.insert_run(cluster, &[hash(page)]);
            }
        }
        let fullest: Vec<_> = pending.fullest().collect();
        assert_eq!(fullest, [HashPage(2), HashPage(3), HashPage(4)]);
    }
}
