//! Free clusters, homes and counts. Everything here is derived from extent records, in memory only.
//!
//! A cluster is free when its count is zero and it is not *blocked*; blocked clusters belong to a
//! write that is planned but not completed, or were freed and wait for commit and epochs (I3). A
//! region is handed out as a home only when all of it is free, unowned and provisioned, that is, has
//! space on the file system, so that a data write never meets ENOSPC (I10).

use crate::bitmap::Bitmap;
use crate::counts::Counts;
use blockyard_block::{ClusterIndex, EXTENT_CLUSTERS, ExtentId, RegionIndex};
use std::collections::BTreeSet;

/// Which of the allocator's sets a region is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Nothing to be had: full, not provisioned, or the header.
    Closed,
    /// All free and unowned: a home for the asking.
    Free,
    /// Some free clusters, nobody's home.
    Unowned,
    /// Some free clusters in somebody's home.
    Owned,
}

const NOBODY: ExtentId = ExtentId(0);

struct RegionUse {
    /// Whose home it is: 0 for nobody's, which is no extent's id.
    owner: ExtentId,
    used: u16,
    blocked: u16,
    provisioned: bool,
    class: Class,
    counts: Counts,
    blocked_bits: Option<Box<Bitmap>>,
}

impl RegionUse {
    fn new() -> RegionUse {
        RegionUse {
            owner: NOBODY,
            used: 0,
            blocked: 0,
            provisioned: false,
            class: Class::Closed,
            counts: Counts::Zero,
            blocked_bits: None,
        }
    }

    /// A cluster on its way from counted to free is both counted and blocked for a moment.
    fn free_count(&self) -> usize {
        EXTENT_CLUSTERS.saturating_sub(usize::from(self.used) + usize::from(self.blocked))
    }

    fn is_free(&self, within: usize) -> bool {
        self.provisioned
            && self.counts.get(within) == 0
            && !self.blocked_bits.as_ref().is_some_and(|bits| bits.get(within))
    }

    fn wanted_class(&self) -> Class {
        match (self.provisioned, self.free_count(), self.owner) {
            (false, _, _) | (_, 0, _) => Class::Closed,
            (true, EXTENT_CLUSTERS, NOBODY) => Class::Free,
            (true, _, NOBODY) => Class::Unowned,
            (true, _, _) => Class::Owned,
        }
    }
}

/// The clusters of the pool's data.
pub(crate) struct Allocator {
    regions: Vec<RegionUse>,
    free: BTreeSet<u32>,
    unowned: BTreeSet<u32>,
    owned: BTreeSet<u32>,
    clusters_used: u64,
    clusters_blocked: u64,
    clusters_max: u64,
    regions_max: u32,
    /// Regions that the file system has given space for.
    provisioned_count: u64,
    turnover: u64,
}

/// So many clusters may be free in regions in use before copies of extents have to do without homes.
const COPIES_FREELY: u64 = 16 * EXTENT_CLUSTERS as u64;

impl Allocator {
    /// At most `clusters_max` clusters in regions 1 to `regions_max`.
    pub(crate) fn new(clusters_max: u64, regions_max: u32) -> Allocator {
        let mut allocator = Allocator {
            regions: Vec::new(),
            free: BTreeSet::new(),
            unowned: BTreeSet::new(),
            owned: BTreeSet::new(),
            clusters_used: 0,
            clusters_blocked: 0,
            clusters_max,
            regions_max,
            provisioned_count: 0,
            turnover: 0,
        };
        allocator.cover(RegionIndex(0));
        allocator
    }

    /// Makes entries up to and including `region`.
    fn cover(&mut self, region: RegionIndex) {
        let needed = region.0 as usize + 1;
        if self.regions.len() < needed {
            self.regions.resize_with(needed, RegionUse::new);
        }
    }

    fn reclassify(&mut self, region: RegionIndex) {
        let entry = &mut self.regions[region.0 as usize];
        let wanted = entry.wanted_class();
        if wanted == entry.class {
            return;
        }
        let old = std::mem::replace(&mut entry.class, wanted);
        if let Some(set) = self.set_of(old) {
            set.remove(&region.0);
        }
        if let Some(set) = self.set_of(wanted) {
            set.insert(region.0);
        }
    }

    fn set_of(&mut self, class: Class) -> Option<&mut BTreeSet<u32>> {
        match class {
            Class::Closed => None,
            Class::Free => Some(&mut self.free),
            Class::Unowned => Some(&mut self.unowned),
            Class::Owned => Some(&mut self.owned),
        }
    }

    /// How often the cluster is counted by extent records.
    pub(crate) fn count(&self, cluster: ClusterIndex) -> u32 {
        self.regions
            .get(cluster.region().0 as usize)
            .map_or(0, |region| region.counts.get(cluster.within_region()))
    }

    /// Counts the cluster once more.
    pub(crate) fn add_reference(&mut self, cluster: ClusterIndex) {
        self.cover(cluster.region());
        let entry = &mut self.regions[cluster.region().0 as usize];
        let count = entry.counts.get(cluster.within_region()) + 1;
        entry.counts.set(cluster.within_region(), count);
        if count == 1 {
            entry.used += 1;
            if usize::from(entry.used) == EXTENT_CLUSTERS {
                entry.counts.narrow();
            }
            self.clusters_used += 1;
            self.turnover += 1;
            self.reclassify(cluster.region());
        }
    }

    /// Counts a whole region at once, for an extent read at open: before any reference into it.
    pub(crate) fn add_home(&mut self, region: RegionIndex, counts: Counts) {
        self.cover(region);
        let entry = &mut self.regions[region.0 as usize];
        assert!(entry.used == 0, "homes are counted before references, each once");
        let used = counts.used();
        entry.used = used as u16;
        entry.counts = counts;
        self.clusters_used += used as u64;
        self.reclassify(region);
    }

    /// Counts the cluster once less and returns what is left. At zero the cluster becomes free:
    /// callers that must wait (I3) block it first.
    pub(crate) fn drop_reference(&mut self, cluster: ClusterIndex) -> u32 {
        let entry = &mut self.regions[cluster.region().0 as usize];
        let count = entry.counts.get(cluster.within_region());
        assert!(count > 0, "a reference that was counted is dropped");
        entry.counts.set(cluster.within_region(), count - 1);
        if count == 1 {
            entry.used -= 1;
            if entry.used == 0 {
                entry.counts.narrow();
            }
            self.clusters_used -= 1;
            self.turnover += 1;
            self.reclassify(cluster.region());
        }
        count - 1
    }

    /// Keeps a cluster from being handed out.
    pub(crate) fn block(&mut self, cluster: ClusterIndex) {
        let entry = &mut self.regions[cluster.region().0 as usize];
        let bits = entry.blocked_bits.get_or_insert_with(|| Box::new(Bitmap::EMPTY));
        assert!(!bits.get(cluster.within_region()), "a cluster is blocked by one party");
        bits.set(cluster.within_region(), true);
        entry.blocked += 1;
        self.clusters_blocked += 1;
        self.reclassify(cluster.region());
    }

    /// The inverse of [`Allocator::block`].
    pub(crate) fn unblock(&mut self, cluster: ClusterIndex) {
        let entry = &mut self.regions[cluster.region().0 as usize];
        let bits = entry.blocked_bits.as_mut().expect("a blocked cluster has its region's bits");
        assert!(bits.get(cluster.within_region()), "a blocked cluster is unblocked");
        bits.set(cluster.within_region(), false);
        entry.blocked -= 1;
        if entry.blocked == 0 {
            entry.blocked_bits = None;
        }
        self.clusters_blocked -= 1;
        self.reclassify(cluster.region());
    }

    /// Whether the cluster is neither counted nor blocked.
    pub(crate) fn is_idle(&self, cluster: ClusterIndex) -> bool {
        self.regions.get(cluster.region().0 as usize).is_none_or(|entry| {
            let within = cluster.within_region();
            entry.counts.get(within) == 0
                && !entry.blocked_bits.as_ref().is_some_and(|bits| bits.get(within))
        })
    }

    fn at_capacity(&self) -> bool {
        self.clusters_used + self.clusters_blocked >= self.clusters_max
    }

    /// Blocks this very cluster if it is free.
    pub(crate) fn allocate_at(&mut self, cluster: ClusterIndex) -> bool {
        let Some(entry) = self.regions.get(cluster.region().0 as usize) else { return false };
        if self.at_capacity() || !entry.is_free(cluster.within_region()) {
            return false;
        }
        self.block(cluster);
        true
    }

    /// Blocks some free cluster: of nobody's region first, of a whole free region next, of somebody's
    /// home last. `None` when there is none now.
    pub(crate) fn allocate_anywhere(&mut self) -> Option<ClusterIndex> {
        if self.at_capacity() {
            return None;
        }
        let region = [&self.unowned, &self.free, &self.owned]
            .into_iter()
            .find_map(|set| set.first().copied())
            .map(RegionIndex)?;
        let entry = &self.regions[region.0 as usize];
        let within = (0..EXTENT_CLUSTERS)
            .find(|within| entry.is_free(*within))
            .expect("a region in a set has a free cluster");
        let cluster = region.cluster(within);
        self.block(cluster);
        Some(cluster)
    }

    /// A whole free region as the home of `extent`, if there is one.
    pub(crate) fn claim_home(&mut self, extent: ExtentId) -> Option<RegionIndex> {
        if self.at_capacity() {
            return None;
        }
        let region = RegionIndex(self.free.first().copied()?);
        self.set_owner(region, extent);
        Some(region)
    }

    /// Records who prefers the region; used for records read at open, too.
    pub(crate) fn set_owner(&mut self, region: RegionIndex, extent: ExtentId) {
        self.cover(region);
        self.regions[region.0 as usize].owner = extent;
        self.reclassify(region);
    }

    pub(crate) fn owner(&self, region: RegionIndex) -> Option<ExtentId> {
        let owner = self.regions.get(region.0 as usize)?.owner;
        (owner != NOBODY).then_some(owner)
    }

    /// The extent that had this home is gone.
    pub(crate) fn release_home(&mut self, region: RegionIndex, extent: ExtentId) {
        let entry = &mut self.regions[region.0 as usize];
        if entry.owner == extent {
            entry.owner = NOBODY;
            self.reclassify(region);
        }
    }

    /// Whether the copy of a shared extent may claim a home. A copy fills little of one: many snapshots under
    /// scattered writes would take 4 MiB for each cluster that is written. So copies claim none while
    /// regions in use hold as much free space as data; what they write is then packed into regions of nobody's.
    pub(crate) fn copies_may_claim(&self) -> bool {
        let taken = self.provisioned_count - self.free.len() as u64;
        taken * EXTENT_CLUSTERS as u64 <= 2 * self.clusters_used + COPIES_FREELY
    }

    /// The file system has given space for the region.
    pub(crate) fn provision(&mut self, region: RegionIndex) {
        assert!(region.0 > 0, "the header region is never allocated from");
        self.cover(region);
        let entry = &mut self.regions[region.0 as usize];
        self.provisioned_count += u64::from(!std::mem::replace(&mut entry.provisioned, true));
        self.reclassify(region);
    }

    pub(crate) fn is_provisioned(&self, region: RegionIndex) -> bool {
        self.regions.get(region.0 as usize).is_some_and(|entry| entry.provisioned)
    }

    /// Takes a free region out of use, to be punched. False if it is not all free and unowned.
    pub(crate) fn withdraw(&mut self, region: RegionIndex) -> bool {
        let entry = &mut self.regions[region.0 as usize];
        if entry.class != Class::Free {
            return false;
        }
        entry.provisioned = false;
        self.provisioned_count -= 1;
        self.reclassify(region);
        true
    }

    /// Provisioned regions that are all free, lowest first.
    pub(crate) fn free_regions(&self) -> impl DoubleEndedIterator<Item = RegionIndex> + '_ {
        self.free.iter().map(|region| RegionIndex(*region))
    }

    pub(crate) fn free_region_count(&self) -> usize {
        self.free.len()
    }

    /// The lowest run of regions, at most `length_max`, that could be provisioned next.
    pub(crate) fn unprovisioned_run(&self, length_max: u32) -> Option<(RegionIndex, u32)> {
        if self.at_capacity() {
            return None;
        }
        let provisioned =
            |region: u32| self.regions.get(region as usize).is_some_and(|entry| entry.provisioned);
        let first = (1..=self.regions_max).find(|region| !provisioned(*region))?;
        let length = (first..=self.regions_max)
            .take(length_max as usize)
            .take_while(|region| !provisioned(*region))
            .count() as u32;
        Some((RegionIndex(first), length))
    }

    /// Regions that have an entry, used or not.
    pub(crate) fn region_count(&self) -> u32 {
        self.regions.len() as u32
    }

    /// Clusters in use in a region.
    pub(crate) fn used_in(&self, region: RegionIndex) -> usize {
        self.regions.get(region.0 as usize).map_or(0, |entry| usize::from(entry.used))
    }

    pub(crate) fn clusters_used(&self) -> u64 {
        self.clusters_used
    }

    /// Differs once another cluster came into use or went out of it.
    pub(crate) fn turnover(&self) -> u64 {
        self.turnover
    }

    pub(crate) fn clusters_max(&self) -> u64 {
        self.clusters_max
    }

    pub(crate) fn regions_max(&self) -> u32 {
        self.regions_max
    }

    /// Clusters that are neither used nor blocked, in provisioned regions.
    pub(crate) fn clusters_free(&self) -> u64 {
        self.free
            .iter()
            .chain(&self.unowned)
            .chain(&self.owned)
            .map(|region| self.regions[*region as usize].free_count() as u64)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Allocator;
    use blockyard_block::{ExtentId, RegionIndex};

    #[test]
    fn homes_are_preferred_and_their_unused_slots_are_free_space() {
        let mut allocator = Allocator::new(1 << 20, 2);
        assert_eq!(allocator.claim_home(ExtentId(1)), None);
        assert_eq!(allocator.unprovisioned_run(16), Some((RegionIndex(1), 2)));
        allocator.provision(RegionIndex(1));
        allocator.provision(RegionIndex(2));
        assert_eq!(allocator.claim_home(ExtentId(1)), Some(RegionIndex(1)));
        assert!(allocator.allocate_at(RegionIndex(1).cluster(5)));
        assert!(!allocator.allocate_at(RegionIndex(1).cluster(5)));
        let mut handed_out = 0;
        while let Some(cluster) = allocator.allocate_anywhere() {
            assert_ne!(cluster, RegionIndex(1).cluster(5));
            handed_out += 1;
        }
        assert_eq!(handed_out, 2 * 1024 - 1);
    }

    #[test]
    fn copies_claim_homes_only_while_the_free_part_of_regions_in_use_is_small() {
        let mut allocator = Allocator::new(1 << 20, 64);
        (1..=64).for_each(|region| allocator.provision(RegionIndex(region)));
        let mut copies = 0;
        while allocator.copies_may_claim() {
            copies += 1;
            let home = allocator.claim_home(ExtentId(copies)).unwrap();
            assert!(allocator.allocate_at(home.cluster(7)));
            allocator.add_reference(home.cluster(7));
            allocator.unblock(home.cluster(7));
        }
        assert_eq!(copies, 17);
        (1..=copies).for_each(|copy| {
            let region = RegionIndex(copy as u32);
            allocator.release_home(region, ExtentId(copy));
            allocator.drop_reference(region.cluster(7));
            assert!(allocator.withdraw(region));
        });
        assert!(allocator.copies_may_claim());
    }

    #[test]
    fn a_blocked_cluster_is_free_only_when_unblocked() {
        let mut allocator = Allocator::new(1 << 20, 1);
        allocator.provision(RegionIndex(1));
        let cluster = RegionIndex(1).cluster(0);
        assert!(allocator.allocate_at(cluster));
        allocator.add_reference(cluster);
        allocator.unblock(cluster);
        assert_eq!(allocator.count(cluster), 1);
        allocator.block(cluster);
        assert_eq!(allocator.drop_reference(cluster), 0);
        assert!(!allocator.allocate_at(cluster));
        assert!(!allocator.withdraw(RegionIndex(1)));
        allocator.unblock(cluster);
        assert!(allocator.withdraw(RegionIndex(1)));
        assert!(!allocator.allocate_at(cluster));
    }

    #[test]
    fn capacity_counts_clusters_in_use_and_blocked() {
        let mut allocator = Allocator::new(3, 1);
        allocator.provision(RegionIndex(1));
        assert!((0..3).all(|_| allocator.allocate_anywhere().is_some()));
        assert_eq!(allocator.allocate_anywhere(), None);
    }
}
