//! Clusters that nothing refers to any more but that must not be reused yet (I3): the commit that
//! drops the last reference is not durable, or I/O planned before is still in flight.

use crate::epochs::{Epoch, Epochs};
use blockyard_block::{ClusterIndex, ExtentId, ImageId};
use std::collections::{BTreeMap, VecDeque};

/// Numbers the captures of dirty metadata; a change made now is durable with its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) u64);

impl Generation {
    pub(crate) fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

/// A slot of an extent, as an image's own.
pub(crate) type User = (ImageId, ExtentId, usize);

/// How a cluster came to wait.
pub(crate) struct Freed {
    generation: Generation,
    /// The slot that was the sole user, if one was: it may take the cluster back. With its image, since
    /// the extent may have gone to a clone meanwhile.
    last_user: Option<User>,
}

/// 1 GiB of clusters, some 15 MiB of memory.
const PENDING_MAX: usize = 256 << 10;

/// Freed clusters in wait. They stay blocked in the allocator until released.
#[derive(Default)]
pub(crate) struct PendingFrees {
    clusters: BTreeMap<ClusterIndex, Freed>,
    /// Per generation, once captured: the last epoch in which its clusters could be looked up.
    captured: VecDeque<(Generation, Epoch)>,
}

impl PendingFrees {
    pub(crate) fn push(
        &mut self,
        cluster: ClusterIndex,
        generation: Generation,
        last_user: Option<User>,
    ) {
        let previous = self.clusters.insert(cluster, Freed { generation, last_user });
        assert!(previous.is_none(), "a pending cluster is not freed again");
    }

    /// Gives the cluster back to the slot that freed it. The durable state knows no other user, and no
    /// other image's I/O was planned there, so no one else can come to see what is written. A commit in
    /// flight will not release it.
    pub(crate) fn take_back(&mut self, cluster: ClusterIndex, user: User) -> Option<Freed> {
        self.clusters.get(&cluster).filter(|freed| freed.last_user == Some(user))?;
        self.clusters.remove(&cluster)
    }

    /// Undoes [`PendingFrees::take_back`]. If its generation was released meanwhile, the next will do.
    pub(crate) fn put_back(&mut self, cluster: ClusterIndex, freed: Freed) {
        self.clusters.insert(cluster, freed);
    }

    pub(crate) fn capture(&mut self, generation: Generation, epoch: Epoch) {
        self.captured.push_back((generation, epoch));
    }

    /// Removes and returns what may be reused now that `durable` is durable.
    pub(crate) fn release(
        &mut self,
        durable: Generation,
        epochs: &Epochs,
    ) -> (Option<Generation>, Vec<ClusterIndex>) {
        let mut last = None;
        while let Some((generation, epoch)) = self.captured.front().copied()
            && generation <= durable
            && epochs.is_over(epoch)
        {
            self.captured.pop_front();
            last = Some(generation);
        }
        let Some(last) = last else { return (None, Vec::new()) };
        let released: Vec<ClusterIndex> = self
            .clusters
            .iter()
            .filter(|(_, freed)| freed.generation <= last)
            .map(|(cluster, _)| *cluster)
            .collect();
        for cluster in &released {
            self.clusters.remove(cluster);
        }
        (Some(last), released)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// So many wait that a commit must come before more are freed: what waits takes memory, and is
    /// released under the engine's lock.
    pub(crate) fn are_many(&self) -> bool {
        self.clusters.len() >= PENDING_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::{Generation, PendingFrees};
    use crate::epochs::Epochs;
    use blockyard_block::{ClusterIndex, ExtentId, ImageId};

    #[test]
    fn release_waits_for_the_commit_and_for_io_planned_before() {
        let mut epochs = Epochs::default();
        let mut frees = PendingFrees::default();
        let read = epochs.enter();
        frees.push(ClusterIndex(2000), Generation(1), None);
        frees.capture(Generation(1), epochs.advance());
        assert!(frees.release(Generation(0), &epochs).1.is_empty(), "not durable");
        assert!(frees.release(Generation(1), &epochs).1.is_empty(), "a read is in flight");
        epochs.leave(read);
        assert_eq!(frees.release(Generation(1), &epochs).1, [ClusterIndex(2000)]);
    }

    #[test]
    fn a_cluster_taken_back_is_not_released_by_the_commit_in_flight() {
        let mut epochs = Epochs::default();
        let mut frees = PendingFrees::default();
        frees.push(ClusterIndex(2000), Generation(1), Some((ImageId(7), ExtentId(9), 4)));
        frees.capture(Generation(1), epochs.advance());
        for other in [(ImageId(7), ExtentId(9), 5), (ImageId(8), ExtentId(9), 4)] {
            assert!(frees.take_back(ClusterIndex(2000), other).is_none());
        }
        assert!(frees.take_back(ClusterIndex(2000), (ImageId(7), ExtentId(9), 4)).is_some());
        assert!(frees.release(Generation(1), &epochs).1.is_empty());
    }
}
