//! What an image shares with others, and how two images differ: from maps and hashes, no data is read.

use crate::extent::Slot;
use crate::hashes::Known;
use crate::pool::Pool;
use crate::state::run_clusters;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, EXTENT_SIZE, ExtentId, ImageName, MapPageId,
    Result,
};
use blockyard_io::Directory;
use std::collections::HashMap;

/// How much of what an image maps others have, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Mapped, but would stay if the image were removed.
    pub bytes_shared: u64,
    /// What its removal would free, exactly, if nothing changes meanwhile.
    pub bytes_exclusive: u64,
}

/// How a range of two images compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffState {
    Differs,
    /// A hash is not trusted now, so nobody knows without reading.
    Unknown,
}

/// A range in which two images are not known to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffRun {
    pub offset: u64,
    pub length: u64,
    pub state: DiffState,
}

impl<D: Directory> Pool<D> {
    /// Walks the image's map, page by page, so that requests go on.
    pub fn sharing(&self, name: &ImageName) -> Result<Sharing> {
        let pages = {
            let state = self.lock();
            state.image(state.find(name)?)?.record.pages.clone()
        };
        let (mut shared, mut exclusive) = (0, 0);
        // Of clusters that count more than once, how often extents that would go count them.
        let mut going: HashMap<ClusterIndex, u32> = HashMap::new();
        for page in pages.into_iter().flatten() {
            for (extent, goes) in self.extents_of_page(page) {
                let state = self.lock();
                let Some(found) = state.extents.get(&extent) else { continue };
                if !goes {
                    shared += found.extent.cluster_count() as u64;
                    continue;
                }
                for (_, length, target) in found.extent.runs() {
                    for cluster in run_clusters(target, length) {
                        match state.allocator.count(cluster) {
                            0 | 1 => exclusive += 1,
                            _ => *going.entry(cluster).or_insert(0) += 1,
                        }
                    }
                }
            }
        }
        for (cluster, count) in going {
            match self.lock().allocator.count(cluster) > count {
                true => shared += u64::from(count),
                false => exclusive += 1,
            }
        }
        let size = CLUSTER_SIZE as u64;
        Ok(Sharing { bytes_shared: shared * size, bytes_exclusive: exclusive * size })
    }

    /// The extents of a page, and whether each would go with the one image.
    fn extents_of_page(&self, page: MapPageId) -> Vec<(ExtentId, bool)> {
        let state = self.lock();
        let Some(found) = state.pages.get(&page) else { return Vec::new() };
        let goes = |id: ExtentId| {
            found.holders == 1 && state.extents.get(&id).is_some_and(|held| held.holders == 1)
        };
        found.page.iter().map(|(_, id)| (id, goes(id))).collect()
    }

    /// The ranges from `offset` (rounded down to an extent) to the end of its extent in which the images
    /// are not known to be equal. What only one of them reaches counts as zeros of the other.
    pub async fn diff(
        &self,
        one: &ImageName,
        other: &ImageName,
        offset: u64,
    ) -> Result<Vec<DiffRun>> {
        let index = offset / EXTENT_SIZE;
        let (ids, extents, _in_epoch) = {
            let mut state = self.lock();
            let mut ids = Vec::with_capacity(2);
            for name in [one, other] {
                state.check_not_lazy(state.find(name)?, "compared")?;
                let record = &state.image(state.find(name)?)?.record;
                ids.push(state.extent_at(record, index));
            }
            let extent = |id: &Option<ExtentId>| id.map(|id| state.extents[&id].extent.clone());
            let extents: Vec<_> = ids.iter().map(extent).collect();
            (ids, extents, self.enter_epoch(&mut state))
        };
        if ids[0] == ids[1] {
            return Ok(Vec::new());
        }
        let mut known = Vec::with_capacity(2);
        for extent in &extents {
            known.push(match extent {
                Some(extent) => self.known_slots(extent).await?,
                None => vec![None; EXTENT_CLUSTERS],
            });
        }
        let cluster = |which: usize, slot: usize| {
            extents[which].as_ref().and_then(|extent| match extent.slot(slot) {
                Slot::Data(cluster) => Some(cluster),
                Slot::Zero | Slot::Reserved(_) => None,
            })
        };
        let mut runs: Vec<DiffRun> = Vec::new();
        for (slot, pair) in known[0].iter().zip(&known[1]).enumerate() {
            let state = match (*pair.0, *pair.1) {
                _ if cluster(0, slot) == cluster(1, slot) => continue,
                (one, other) if one == other && one != Some(Known::Untrusted) => continue,
                (Some(Known::Untrusted), _) | (_, Some(Known::Untrusted)) => DiffState::Unknown,
                _ => DiffState::Differs,
            };
            let offset = index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64;
            let length = CLUSTER_SIZE as u64;
            match runs.last_mut() {
                Some(last) if last.state == state && last.offset + last.length == offset => {
                    last.length += length;
                }
                _ => runs.push(DiffRun { offset, length, state }),
            }
        }
        Ok(runs)
    }
}
