//! Healing: the users of a cluster that does not match its hash get an equal one, if there is one (I14).
//!
//! Nothing is overwritten: the damaged cluster is given up like a loser of reclaim, and its place is free
//! only once that is durable. What is taken instead is read and hashed first.

use super::Work;
use super::merge::Pair;
use super::{Reclaim, ReclaimOptions};
use crate::pool::Pool;
use blockyard_block::{ClusterIndex, ContentHash, RegionIndex, Result};
use blockyard_io::Directory;
use std::collections::HashMap;

impl<D: Directory> Pool<D> {
    /// Tries to heal clusters that were found not to match these hashes; returns those that were. One
    /// pass over the hash table looks for equal ones.
    pub(crate) async fn heal(
        &self,
        damaged: &[(ClusterIndex, ContentHash)],
    ) -> Result<Vec<ClusterIndex>> {
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let mut pairs = self.equals_of(damaged).await?;
        pairs.sort_unstable_by_key(|pair| pair.loser);
        let mut healed = Vec::new();
        let mut going_on = |_: &Reclaim| true;
        for pair in pairs {
            let mut work = Work {
                options: ReclaimOptions::default(),
                account: Reclaim::default(),
                progress: &mut going_on,
            };
            if healed.last() != Some(&pair.loser) {
                self.apply_healing(pair, &mut work).await?;
                if work.account.freed > 0 {
                    healed.push(pair.loser);
                }
            }
        }
        if !healed.is_empty() {
            self.commit_now().await?;
        }
        Ok(healed)
    }

    /// For each damaged cluster, those that the hash table says are equal.
    async fn equals_of(&self, damaged: &[(ClusterIndex, ContentHash)]) -> Result<Vec<Pair>> {
        let mut wanted: HashMap<ContentHash, Vec<ClusterIndex>> = HashMap::new();
        for (cluster, hash) in damaged {
            wanted.entry(*hash).or_default().push(*cluster);
        }
        let reserved = self.reserved_clusters();
        let mut pairs = Vec::new();
        for region in (1..self.region_count()).map(RegionIndex) {
            let clusters = self.clusters_with_data(region, &reserved);
            for (survivor, hash) in self.region_hashes(region, &clusters).await?.hashes {
                let losers = wanted.get(&hash).into_iter().flatten();
                pairs.extend(
                    losers
                        .filter(|loser| **loser != survivor)
                        .map(|loser| Pair { loser: *loser, survivor }),
                );
            }
        }
        Ok(pairs)
    }
}
