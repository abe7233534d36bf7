//! What extents say of clusters, all of them together: which are used and how.
//!
//! Two bits a cluster are kept, as the engine keeps its counts: a check needs no more memory than
//! the pool it judges.

use super::CheckCounts;
use super::findings::Findings;
use super::records::Records;
use crate::bitmap::Bitmap;
use crate::extent::{Extent, Slot};
use crate::records::RegionRecord;
use blockyard_block::{ClusterIndex, ExtentId, RegionIndex};
use std::collections::BTreeMap;

/// How a cluster is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Reserved,
    Data,
    SharedData,
}

/// The clusters of one region: whether they hold data, and whether that is shared; a cluster that is
/// "shared" without data is reserved.
struct RegionUse {
    data: Bitmap,
    shared_or_reserved: Bitmap,
}

impl RegionUse {
    fn get(&self, within: usize) -> Use {
        match (self.data.get(within), self.shared_or_reserved.get(within)) {
            (false, false) => Use::Free,
            (false, true) => Use::Reserved,
            (true, false) => Use::Data,
            (true, true) => Use::SharedData,
        }
    }

    fn set(&mut self, within: usize, usage: Use) {
        self.data.set(within, matches!(usage, Use::Data | Use::SharedData));
        self.shared_or_reserved.set(within, matches!(usage, Use::Reserved | Use::SharedData));
    }
}

/// All clusters that are used and are there.
pub(super) struct Usage {
    regions: BTreeMap<RegionIndex, Box<RegionUse>>,
}

impl Usage {
    /// Adds up what the extents say. Homes that two have, or that are not there, are findings;
    /// clusters that are not there are [`super::maps::show`]'s business unless nobody holds them.
    pub(super) fn derive(
        records: &Records,
        regions_on_disk: u32,
        findings: &mut Findings,
    ) -> Usage {
        let mut usage = Usage { regions: BTreeMap::new() };
        let mut owners = BTreeMap::new();
        for (id, held) in &records.extents {
            judge_home(*id, &held.record, regions_on_disk, &mut owners, findings);
            let mut beyond = 0;
            for (_, length, target) in held.record.runs() {
                for cluster in clusters_of(target, length) {
                    if cluster.region().0 == 0 || cluster.region().0 >= regions_on_disk {
                        beyond += 1;
                    } else {
                        usage.add(cluster, target, held.holders > 1);
                    }
                }
            }
            if beyond > 0 && held.holders == 0 {
                findings.general(format!(
                    "extent {}, which no image holds, refers to {beyond} clusters beyond the end \
                     of the data: was it cut short?",
                    id.0
                ));
            }
        }
        usage
    }

    fn add(&mut self, cluster: ClusterIndex, target: Slot, held_more_than_once: bool) {
        let region = self.regions.entry(cluster.region()).or_insert_with(|| {
            Box::new(RegionUse { data: Bitmap::EMPTY, shared_or_reserved: Bitmap::EMPTY })
        });
        let within = cluster.within_region();
        let usage = match (region.get(within), target) {
            (_, Slot::Zero) => return,
            (Use::Free | Use::Reserved, Slot::Reserved(_)) => Use::Reserved,
            (Use::Free, Slot::Data(_)) if !held_more_than_once => Use::Data,
            _ => Use::SharedData,
        };
        region.set(within, usage);
    }

    pub(super) fn count(
        &self,
        records: &BTreeMap<RegionIndex, RegionRecord>,
        counts: &mut CheckCounts,
    ) {
        for (region, usage) in &self.regions {
            let data = usage.data.count() as u64;
            let mut reserved = 0;
            for within in usage.shared_or_reserved.ones() {
                match usage.get(within) {
                    Use::Reserved => reserved += 1,
                    _ => counts.clusters_shared += 1,
                }
            }
            counts.clusters_used += data + reserved;
            counts.clusters_reserved += reserved;
            if records.get(region) == Some(&RegionRecord::Intent) {
                counts.clusters_untrusted += data;
            }
        }
    }

    /// The clusters of a region that hold data.
    pub(super) fn data_in(&self, region: RegionIndex) -> &Bitmap {
        self.regions.get(&region).map_or(&Bitmap::EMPTY, |usage| &usage.data)
    }

    /// How many clusters hold data.
    pub(super) fn data_clusters(&self) -> u64 {
        self.regions.values().map(|usage| usage.data.count() as u64).sum()
    }

    /// Regions in which clusters are used, in order.
    pub(super) fn regions(&self) -> impl Iterator<Item = RegionIndex> + '_ {
        self.regions.keys().copied()
    }

    /// Gives the memory back.
    pub(super) fn forget(&mut self) {
        self.regions.clear();
    }
}

/// The clusters a run of slots counts for.
fn clusters_of(target: Slot, length: usize) -> impl Iterator<Item = ClusterIndex> {
    let first = target.cluster();
    (0..length as u64).filter_map(move |step| Some(first?.offset_by(step)))
}

fn judge_home(
    id: ExtentId,
    extent: &Extent,
    regions_on_disk: u32,
    owners: &mut BTreeMap<RegionIndex, ExtentId>,
    findings: &mut Findings,
) {
    let Some(home) = extent.home else { return };
    if home.0 >= regions_on_disk {
        findings.general(format!(
            "extent {} has its home at {}, beyond the end of the data: was it cut short?",
            id.0,
            home.first_cluster().data_offset()
        ));
    }
    if let Some(other) = owners.insert(home, id) {
        findings.general(format!(
            "extents {} and {} have the same home at {}",
            other.0,
            id.0,
            home.first_cluster().data_offset()
        ));
    }
}
