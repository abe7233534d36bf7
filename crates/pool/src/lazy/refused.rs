//! Clusters that the origin could not give when they were last asked for. For a while they are not asked for again.
//!
//! No step takes longer the more there are. Those whose time is over stay to be told of, but only so many: the oldest
//! are forgotten, and asked for like others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Refused clusters that are remembered when their time is over: some MiB.
const REMEMBERED_MAX: usize = 64 << 10;

/// Clusters, and until when each is left alone, in ms.
#[derive(Default)]
pub(super) struct Refused {
    until: BTreeMap<u64, u64>,
    /// The same pairs, by time.
    by_time: BTreeSet<(u64, u64)>,
}

impl Refused {
    pub(super) fn insert(&mut self, cluster: u64, until_ms: u64, now_ms: u64) {
        self.remove(cluster);
        self.until.insert(cluster, until_ms);
        self.by_time.insert((until_ms, cluster));
        // Two at most, so that the number shrinks while each step stays short.
        for _ in 0..2 {
            let oldest = self.by_time.first().copied();
            let Some((_, cluster)) = oldest.filter(|(until, _)| *until <= now_ms) else { return };
            if self.until.len() <= REMEMBERED_MAX {
                return;
            }
            self.remove(cluster);
        }
    }

    pub(super) fn remove(&mut self, cluster: u64) {
        if let Some(until) = self.until.remove(&cluster) {
            self.by_time.remove(&(until, cluster));
        }
    }

    /// Whether it is not to be asked for now.
    pub(super) fn rests(&self, cluster: u64, now_ms: u64) -> bool {
        self.until.get(&cluster).is_some_and(|until| *until > now_ms)
    }

    /// Those within a range, in order, with their times.
    pub(super) fn within(&self, clusters: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.until.range(clusters).map(|(cluster, until)| (*cluster, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::{REMEMBERED_MAX, Refused};

    #[test]
    fn of_those_whose_time_is_over_only_the_latest_are_remembered() {
        let mut refused = Refused::default();
        let many = 2 * REMEMBERED_MAX as u64;
        for cluster in 0..many {
            refused.insert(cluster, 5_000, 0);
        }
        assert_eq!(refused.within(0..many).count(), 2 * REMEMBERED_MAX, "none asked for too early");
        assert!(refused.rests(0, 4_999) && !refused.rests(0, 5_000));
        // Once more, and others.
        for cluster in many / 2..3 * many / 2 {
            refused.insert(cluster, 11_000, 6_000);
        }
        assert_eq!(refused.within(0..many / 2).count(), 0);
        assert_eq!(refused.within(0..2 * many).count(), 2 * REMEMBERED_MAX);
        refused.remove(many);
        assert_eq!(refused.within(many - 1..many + 2).count(), 2);
        assert_eq!(refused.until.len(), refused.by_time.len());
    }
}
