//! Healing: the users of a cluster that does not match its hash get an equal one, if there is one (I14).
//!
//! Nothing is overwritten: the damaged cluster is given up like a loser of reclaim, and its place is free
//! only once that is durable. What is taken instead is read and hashed first.
//!
//! Equal ones are looked for in the index of decision 14 first. It knows only what it knows; so one pass over the hash
//! table follows. What that has not found is remembered for a while ([`InVain`]): a guest tries again and again, and holds
//! its image's place meanwhile.

use super::Work;
use super::merge::Pair;
use super::{Reclaim, ReclaimOptions};
use crate::pool::Pool;
use blockyard_block::{ClusterIndex, ContentHash, RegionIndex, Result};
use blockyard_io::Directory;
use std::collections::HashMap;

/// A content that was looked for in vain is not looked for again before so many milliseconds.
const REMEMBERED_MS: u64 = 60_000;
/// Contents that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// Contents of which a pass over the hash table has found no sound cluster. One that is hashed anew is forgotten at
/// once, also while the pass goes on.
#[derive(Default)]
pub(crate) struct InVain {
    /// When the pass began, in milliseconds of the clock, and whether it has ended.
    contents: HashMap<ContentHash, (u64, bool)>,
}

impl InVain {
    fn begin(&mut self, hash: ContentHash, now_ms: u64) {
        if self.contents.len() >= REMEMBERED_MAX {
            self.expire(now_ms);
        }
        if self.contents.len() < REMEMBERED_MAX {
            self.contents.insert(hash, (now_ms, false));
        }
    }

    fn end(&mut self, hash: &ContentHash, in_vain: bool) {
        match self.contents.get_mut(hash) {
            Some((_, ended)) if in_vain => *ended = true,
            _ => {
                self.contents.remove(hash);
            }
        }
    }

    /// Forgets what is not to be remembered any more: at each tick.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        if !self.contents.is_empty() {
            let is_young = |since_ms: &u64| now_ms.saturating_sub(*since_ms) < REMEMBERED_MS;
            self.contents.retain(|_, (since_ms, ended)| !*ended || is_young(since_ms));
        }
    }

    /// Clusters with these hashes were stored.
    pub(crate) fn forget(&mut self, hashes: &[ContentHash]) {
        if self.contents.is_empty() {
            return;
        }
        for hash in hashes {
            self.contents.remove(hash);
        }
    }

    pub(crate) fn is_so(&self, hash: &ContentHash) -> bool {
        self.contents.get(hash).is_some_and(|(_, ended)| *ended)
    }
}

/// What came of healing some clusters.
#[derive(Default)]
struct Healing {
    healed: Vec<ClusterIndex>,
    /// An equal one was in use just then.
    busy: Vec<ClusterIndex>,
}

impl<D: Directory> Pool<D> {
    /// Tries to heal clusters that were found not to match these hashes; returns those that were.
    pub(crate) async fn heal(
        &self,
        damaged: &[(ClusterIndex, ContentHash)],
    ) -> Result<Vec<ClusterIndex>> {
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let hinted = self.hinted_equals_of(damaged).await;
        let mut healed = self.heal_with(hinted).await?.healed;
        let mut left = damaged.to_vec();
        left.retain(|(cluster, _)| !healed.contains(cluster));
        if !left.is_empty() {
            healed.extend(self.heal_by_pass(&left).await?);
        }
        if !healed.is_empty() {
            self.commit_now().await?;
        }
        Ok(healed)
    }

    async fn heal_by_pass(
        &self,
        damaged: &[(ClusterIndex, ContentHash)],
    ) -> Result<Vec<ClusterIndex>> {
        {
            let mut state = self.lock();
            let now_ms = state.now_ms;
            state.heal_passes += 1;
            damaged.iter().for_each(|(_, hash)| state.regions.in_vain.begin(*hash, now_ms));
        }
        let healing = match self.equals_of(damaged).await {
            Ok(pairs) => self.heal_with(pairs).await,
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        for (cluster, hash) in damaged {
            let in_vain = healing.as_ref().is_ok_and(|healing| {
                !healing.healed.contains(cluster) && !healing.busy.contains(cluster)
            });
            state.regions.in_vain.end(hash, in_vain);
        }
        healing.map(|healing| healing.healed)
    }

    async fn heal_with(&self, mut pairs: Vec<Pair>) -> Result<Healing> {
        pairs.sort_by_key(|pair| pair.loser);
        let mut done = Healing::default();
        let mut going_on = |_: &Reclaim| true;
        for pair in pairs {
            let mut work = Work {
                options: ReclaimOptions::default(),
                account: Reclaim::default(),
                progress: &mut going_on,
            };
            if done.healed.last() != Some(&pair.loser) {
                self.apply_healing(pair, &mut work).await?;
                if work.account.freed > 0 {
                    done.healed.push(pair.loser);
                } else if work.account.busy > 0 {
                    done.busy.push(pair.loser);
                }
            }
        }
        Ok(done)
    }

    /// For each damaged cluster, those that the index says are equal, if the hash table agrees.
    async fn hinted_equals_of(&self, damaged: &[(ClusterIndex, ContentHash)]) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for (loser, hash) in damaged {
            for survivor in self.candidates(hash).await {
                if survivor == *loser || !self.lock().is_candidate(survivor) {
                    continue;
                }
                // What cannot be told is no hint.
                if self.hash_of(survivor).await.is_ok_and(|found| found == Some(*hash)) {
                    pairs.push(Pair { loser: *loser, survivor });
                }
            }
        }
        pairs
    }

    /// For each damaged cluster, those that the hash table says are equal: one pass over it.
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
