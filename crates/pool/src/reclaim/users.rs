//! Who uses a cluster: found by walking extent records, because no reverse map is kept.
//!
//! The walk lets requests go on between some extents, so what it found is a hint, checked where it is used.

use super::merge::Pair;
use crate::extent::Slot;
use crate::pool::Pool;
use crate::state::State;
use blockyard_block::{ClusterIndex, ExtentId};
use blockyard_io::Directory;
use std::collections::HashMap;

/// Extents looked at under one lock.
const EXTENTS_AT_ONCE: usize = 4;

/// A slot that shows a cluster's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct User {
    pub(crate) extent: ExtentId,
    pub(crate) slot: usize,
}

/// The users of some pairs.
pub(crate) struct Users {
    of_losers: Vec<(ClusterIndex, User)>,
    /// One each is enough to know that it holds data.
    of_survivors: HashMap<ClusterIndex, User>,
}

impl Users {
    pub(super) fn of_loser(&self, cluster: ClusterIndex) -> &[(ClusterIndex, User)] {
        let first = self.of_losers.partition_point(|(other, _)| *other < cluster);
        let end = self.of_losers.partition_point(|(other, _)| *other <= cluster);
        &self.of_losers[first..end]
    }

    pub(crate) fn of_survivor(&self, cluster: ClusterIndex) -> Option<User> {
        self.of_survivors.get(&cluster).copied()
    }
}

impl<D: Directory> Pool<D> {
    /// `pairs` are sorted by loser.
    pub(super) fn find_users(&self, pairs: &[Pair]) -> Users {
        let losers: Vec<ClusterIndex> = pairs.iter().map(|pair| pair.loser).collect();
        let mut survivors: Vec<ClusterIndex> = pairs.iter().map(|pair| pair.survivor).collect();
        survivors.sort_unstable();
        survivors.dedup();
        self.find_users_of(&losers, &survivors)
    }

    /// One user of each of these sorted clusters, if it has any.
    pub(crate) fn find_any_users(&self, clusters: &[ClusterIndex]) -> Users {
        self.find_users_of(&[], clusters)
    }

    fn find_users_of(&self, losers: &[ClusterIndex], survivors: &[ClusterIndex]) -> Users {
        let mut users = Users { of_losers: Vec::new(), of_survivors: HashMap::new() };
        let ids: Vec<ExtentId> = self.lock().extents.keys().copied().collect();
        for some in ids.chunks(EXTENTS_AT_ONCE) {
            let state = self.lock();
            for id in some {
                state.add_users(*id, losers, survivors, &mut users);
            }
        }
        users.of_losers.sort_unstable();
        users
    }
}

impl State {
    fn add_users(
        &self,
        id: ExtentId,
        losers: &[ClusterIndex],
        survivors: &[ClusterIndex],
        users: &mut Users,
    ) {
        let Some(found) = self.extents.get(&id) else { return };
        for (slot, length, target) in found.extent.runs() {
            let Slot::Data(first) = target else { continue };
            let user = |cluster: ClusterIndex| User {
                extent: id,
                slot: slot + (cluster.0 - first.0) as usize,
            };
            for cluster in within(losers, first, length) {
                users.of_losers.push((*cluster, user(*cluster)));
            }
            for cluster in within(survivors, first, length) {
                users.of_survivors.entry(*cluster).or_insert_with(|| user(*cluster));
            }
        }
    }

    /// Whether the slot shows this cluster's data now.
    pub(crate) fn shows(&self, user: User, cluster: ClusterIndex) -> bool {
        self.extents
            .get(&user.extent)
            .is_some_and(|found| found.extent.slot(user.slot) == Slot::Data(cluster))
    }
}

/// Those of the sorted clusters that lie in a run.
fn within(sorted: &[ClusterIndex], first: ClusterIndex, length: usize) -> &[ClusterIndex] {
    let start = sorted.partition_point(|cluster| *cluster < first);
    let end =
        start + sorted[start..].partition_point(|cluster| cluster.0 < first.0 + length as u64);
    &sorted[start..end]
}
