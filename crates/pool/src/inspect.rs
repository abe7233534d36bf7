//! The facts behind the engine's derived numbers, for judges that derive them again on their own.
//!
//! Nothing here is computed: images, pages, extents and counts are told as they are kept. It is for
//! tests and the simulation; a large pool's inspection is large.

use crate::extent::Slot;
use crate::pool::Pool;
use crate::state::{Sweep, run_clusters};
use blockyard_block::{
    ClusterIndex, ContentHash, EXTENT_CLUSTERS, ExtentId, ImageId, MapPageId, RegionIndex, Result,
};
use blockyard_io::Directory;

/// Events since the pool was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Reads and writes of images, questions that look at records included.
    pub requests: u64,
    /// Freed clusters that were made available again.
    pub clusters_reused: u64,
    pub intents_cleared: u64,
    pub log_wraps: u64,
    /// Reclaims because a write found no space.
    pub shortage_passes: u64,
    /// Runs of sorted records that went to a file.
    pub sort_files: u64,
    /// Hashes as they became trusted; and that count when a write was refused for lack of space last,
    /// if nothing equal was left then.
    pub hashes_published: u64,
    pub refused_at: Option<u64>,
    /// Runs of the hash index made, and clusters written without space because they were stored already.
    pub indexes_made: u64,
    pub references_written: u64,
    /// Passes over the hash table to heal a damaged cluster.
    pub heal_passes: u64,
    /// Requests that were told that there is no space.
    pub no_space: u64,
}

/// A map page: the extents it names, and how many images are thought to have it.
#[derive(Debug, Clone)]
pub struct InspectedPage {
    pub id: MapPageId,
    pub holders: u32,
    pub extents: Vec<ExtentId>,
}

/// An extent record, and how many pages are thought to have it.
#[derive(Debug, Clone)]
pub struct InspectedExtent {
    pub id: ExtentId,
    pub holders: u32,
    pub home: Option<RegionIndex>,
    /// A cluster for each slot that has one; reserved ones have no content.
    pub clusters: Vec<InspectedSlot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectedSlot {
    pub cluster: ClusterIndex,
    pub reserved: bool,
}

/// One moment of an open pool.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// Of each image, hidden ones too, the pages it has.
    pub images: Vec<(ImageId, Vec<MapPageId>)>,
    pub pages: Vec<InspectedPage>,
    pub extents: Vec<InspectedExtent>,
    /// Pages and extents of removed images that still count as held.
    pub pages_to_sweep: Vec<MapPageId>,
    pub extents_to_sweep: Vec<ExtentId>,
    /// Clusters that reclaim counts beside their users, and how often.
    pub holds: Vec<(ClusterIndex, u32)>,
    /// Clusters in use whose hash is not trusted now.
    pub untrusted: Vec<ClusterIndex>,
    /// Every cluster counted more than zero times.
    pub counts: Vec<(ClusterIndex, u32)>,
    /// Regions that are somebody's home.
    pub owners: Vec<(RegionIndex, ExtentId)>,
    pub clusters_used: u64,
    pub clusters_free: u64,
    /// Clusters that are not counted and yet not free, one by one: freed and waiting, or planned.
    pub clusters_waiting: Vec<ClusterIndex>,
    /// Regions that clusters may be taken from.
    pub regions_provisioned: u64,
}

impl<D: Directory> Pool<D> {
    pub fn counters(&self) -> PoolCounters {
        let log_wraps = self.store.stats().log_wraps;
        let state = self.lock();
        PoolCounters {
            requests: state.epochs.entered(),
            clusters_reused: state.reused_clusters,
            intents_cleared: state.regions.intents_cleared,
            log_wraps,
            shortage_passes: state.shortage.begun(),
            sort_files: state.sort_files,
            hashes_published: state.regions.published,
            refused_at: state.shortage.refused_at(),
            indexes_made: state.indexes_made,
            references_written: state.references_written,
            heal_passes: state.heal_passes,
            no_space: state.enospc_answers,
        }
    }

    /// The trusted hash of a cluster; `None` if it is not trusted. Reads no data.
    pub async fn trusted_hash(&self, cluster: ClusterIndex) -> Result<Option<ContentHash>> {
        self.hash_of(cluster).await
    }

    /// Everything at one moment.
    pub fn inspect(&self) -> Inspection {
        let state = self.lock();
        let mut told = Inspection {
            clusters_used: state.allocator.clusters_used(),
            clusters_free: state.allocator.clusters_free(),
            holds: state.holds.iter().map(|(cluster, count)| (*cluster, *count)).collect(),
            ..Inspection::default()
        };
        for (id, image) in &state.images {
            told.images.push((*id, image.record.pages.iter().flatten().copied().collect()));
        }
        for (id, page) in &state.pages {
            let extents = page.page.iter().map(|(_, extent)| extent).collect();
            told.pages.push(InspectedPage { id: *id, holders: page.holders, extents });
        }
        for (id, found) in &state.extents {
            let slots = found.extent.runs().flat_map(|(_, length, slot)| {
                let reserved = matches!(slot, Slot::Reserved(_));
                run_clusters(slot, length).map(move |cluster| InspectedSlot { cluster, reserved })
            });
            told.extents.push(InspectedExtent {
                id: *id,
                holders: found.holders,
                home: found.extent.home,
                clusters: slots.collect(),
            });
        }
        told.extents.sort_by_key(|extent| extent.id);
        for (_, sweep) in &state.sweeps {
            match sweep {
                Sweep::Page(page) => told.pages_to_sweep.push(*page),
                Sweep::Extent(extent) => told.extents_to_sweep.push(*extent),
            }
        }
        for region in (0..state.allocator.region_count()).map(RegionIndex) {
            told.regions_provisioned += u64::from(state.allocator.is_provisioned(region));
            told.owners.extend(state.allocator.owner(region).map(|owner| (region, owner)));
            for cluster in (0..EXTENT_CLUSTERS).map(|within| region.cluster(within)) {
                match state.allocator.count(cluster) {
                    0 if state.allocator.is_idle(cluster) => {}
                    0 => told.clusters_waiting.push(cluster),
                    count => {
                        told.counts.push((cluster, count));
                        if !state.regions.is_trusted(cluster) {
                            told.untrusted.push(cluster);
                        }
                    }
                }
            }
        }
        told
    }
}
