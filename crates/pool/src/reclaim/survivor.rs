//! Which of equal clusters stays: the one whose sharing hurts least.
//!
//! What is shared is written elsewhere from then on, so one that is shared already is best: one counted more than
//! once, or of an extent that several images hold. Of these, and of others, the lowest: a copy that came later then
//! refers to the earlier one in the same order, and runs stay long.

use crate::extent::Slot;
use crate::index::page::Record;
use crate::index::sorter::{Sorted, Sorter};
use crate::pool::Pool;
use crate::state::State;
use blockyard_block::{ClusterIndex, ExtentId, MapPageId, Result};
use blockyard_io::Directory;
use std::collections::HashSet;

/// Of more clusters of one content, only so many are looked at.
const CHOICES_MAX: usize = 32;

/// Records merged between two looks at whether the pool is closing.
const STEPS: u64 = 4096;

/// Extents that several images hold.
type HeldExtents = HashSet<ExtentId>;

impl<D: Directory> Pool<D> {
    /// Pairs each cluster with the one of its hash that stays; false if the pool is closing.
    pub(super) async fn pair_up(&self, hashes: &Sorted<D>, pairs: &mut Sorter<D>) -> Result<bool> {
        let held = self.held_extents();
        let mut merge = hashes.merge();
        let mut group: Vec<Record> = Vec::new();
        // Once the group is larger than what is looked at: the one that stays.
        let mut survivor: Option<Record> = None;
        let mut steps = 0u64;
        loop {
            steps += 1;
            if steps.is_multiple_of(STEPS) && self.lock().closing {
                return Ok(false);
            }
            let next = merge.next().await?;
            let goes_on =
                group.first().zip(next).is_some_and(|(first, next)| first.key == next.key);
            if goes_on && survivor.is_none() && group.len() < CHOICES_MAX {
                group.extend(next);
                continue;
            }
            let chosen = survivor.or_else(|| self.choose(&group, &held));
            if survivor.is_none() {
                pair_all(&group, chosen, pairs).await?;
            }
            let Some(next) = next else { return Ok(true) };
            if goes_on {
                survivor = chosen;
                pair_all(&[next], chosen, pairs).await?;
            } else {
                survivor = None;
                group.clear();
                group.push(next);
            }
        }
    }

    fn choose(&self, group: &[Record], held: &HeldExtents) -> Option<Record> {
        if group.len() < 2 {
            return group.first().copied();
        }
        let state = self.lock();
        let shared = |record: &&Record| state.is_shared(ClusterIndex(record.value), held);
        group.iter().find(shared).or(group.first()).copied()
    }

    /// Walked some pages at a time, so that requests go on.
    fn held_extents(&self) -> HeldExtents {
        let pages: Vec<MapPageId> = self.lock().pages.keys().copied().collect();
        let mut held = HeldExtents::new();
        for some in pages.chunks(16) {
            let state = self.lock();
            for page in some.iter().filter_map(|id| state.pages.get(id)) {
                let extents = page.page.iter().map(|(_, extent)| extent);
                held.extend(extents.filter(|id| {
                    page.holders > 1 || state.extents.get(id).is_some_and(|held| held.holders > 1)
                }));
            }
        }
        held
    }
}

impl State {
    /// Whether a write to it goes elsewhere anyhow. Of clusters away from their extent's home that count once
    /// nobody knows without a walk.
    fn is_shared(&self, cluster: ClusterIndex, held: &HeldExtents) -> bool {
        let at_home = |id: &ExtentId| {
            held.contains(id)
                && self.extents.get(id).is_some_and(|found| {
                    found.extent.slot(cluster.within_region()) == Slot::Data(cluster)
                })
        };
        self.allocator.count(cluster) > 1
            || self.allocator.owner(cluster.region()).as_ref().is_some_and(at_home)
    }
}

async fn pair_all<D: Directory>(
    group: &[Record],
    survivor: Option<Record>,
    pairs: &mut Sorter<D>,
) -> Result<()> {
    let Some(survivor) = survivor else { return Ok(()) };
    for record in group.iter().filter(|record| record.value != survivor.value) {
        pairs.push(Record { key: [record.value, survivor.value], value: 0 }).await?;
    }
    Ok(())
}
