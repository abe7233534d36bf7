//! Making two equal clusters one: hold, watch, compare, repoint (I6, I9).
//!
//! The survivor is *held*: counted once more in memory, so that writers go elsewhere and nobody frees it.
//! The loser is *watched*, and the survivor too, because a place that is reserved may be written without
//! being shared. Both are trusted, so no write to either is in flight. The survivor's data is made durable,
//! then both are read and compared, outside any lock. Only if no watch was broken, and every user of the
//! loser is known, do all of them get the survivor instead, in one transaction; the loser is then free by
//! the rules for every freed cluster (I3). Dropped anywhere, the holds are given back.

use super::Work;
use super::users::{User, Users};
use crate::damage::{Remedy, mismatch};
use crate::pool::Pool;
use crate::records::RecordKey;
use crate::regions::{Intent, Watch};
use crate::state::State;
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ErrorKind, ExtentId, Result};
use blockyard_io::{Directory, Disk};
use std::collections::BTreeSet;

/// Two clusters of equal hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) loser: ClusterIndex,
    pub(super) survivor: ClusterIndex,
}

impl Pair {
    /// Whether `next` continues a run of this one.
    pub(super) fn leads_to(self, next: Pair) -> bool {
        next.loser == self.loser.offset_by(1) && next.survivor == self.survivor.offset_by(1)
    }
}

/// Pairs held at a time: 1 MiB each of losers and survivors.
const BATCH_PAIRS: usize = 256;

/// Pairs held, and repointed, under one lock: a pair takes a microsecond, and guests wait for it.
const HELD_AT_ONCE: usize = 32;
const REPOINTED_AT_ONCE: usize = 64;

/// Clusters read at once, 64 KiB: a guest's request waits behind no larger read.
const COMPARED_AT_ONCE: usize = 16;

/// A change of an extent record beside one reference, at most: a bitmap that was not needed before.
const RECORD_GROWTH_BYTES: usize = 200;
/// What one repointed slot adds to its extent's record at most: its run is split in three.
const SLOT_GROWTH_BYTES: usize = 24;

struct HeldPair {
    pair: Pair,
    watches: Option<(Watch, Watch)>,
    equal: bool,
}

/// Pairs being compared; dropping it gives up what is still held and watched.
struct Held<'a, D: Directory> {
    pool: &'a Pool<D>,
    pairs: Vec<HeldPair>,
}

impl<D: Directory> Drop for Held<'_, D> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        for held in self.pairs.drain(..) {
            state.give_up_pair(held);
        }
        state.seal();
        self.pool.wake_wanted(state);
    }
}

impl<D: Directory> Pool<D> {
    /// Shares what is equal among the pairs; false if stopped.
    pub(super) async fn apply_window(&self, pairs: &[Pair], work: &mut Work<'_>) -> Result<bool> {
        if pairs.is_empty() {
            return Ok(work.goes_on());
        }
        let users = self.find_users(pairs);
        for batch in pairs.chunks(BATCH_PAIRS) {
            self.apply_batch(batch, &users, work).await?;
            if !work.looked_at(batch) || work.has_enough() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn apply_batch(&self, pairs: &[Pair], users: &Users, work: &mut Work<'_>) -> Result<()> {
        let mut held = self.hold(pairs, users, work)?;
        self.make_survivors_durable(&held).await?;
        self.compare(&mut held, work).await?;
        while !held.pairs.is_empty() {
            if let Some(seen) = self.publish(&mut held, users, work)? {
                self.wait_for_progress(seen).await;
            }
        }
        Ok(())
    }

    /// Gives a damaged cluster's users an equal one, if its bytes have the hash that the damaged ones lost.
    pub(super) async fn apply_healing(&self, pair: Pair, work: &mut Work<'_>) -> Result<()> {
        let users = self.find_users(&[pair]);
        let mut held = self.hold(&[pair], &users, work)?;
        self.make_survivors_durable(&held).await?;
        for held in &mut held.pairs {
            let expected = self.hash_of(held.pair.loser).await?;
            let survivor = self.read_clusters(held.pair.survivor, 1).await;
            let found = survivor.ok().map(|bytes| self.hash_algorithm().hash(&bytes));
            held.equal = expected.is_some() && found == expected;
            if held.equal && blockyard_io::broken("I14-heal-in-place") {
                let bytes = self.read_clusters(held.pair.survivor, 1).await?.freeze();
                let written = self.data.write(held.pair.loser.data_offset(), bytes).await;
                work.account.freed += u64::from(written.is_ok());
                held.equal = false;
            }
        }
        while !held.pairs.is_empty() {
            if let Some(seen) = self.publish(&mut held, &users, work)? {
                self.wait_for_progress(seen).await;
            }
        }
        Ok(())
    }

    /// Holds and watches the pairs that may be shared now.
    fn hold(&self, pairs: &[Pair], users: &Users, work: &mut Work<'_>) -> Result<Held<'_, D>> {
        let mut held = Held { pool: self, pairs: Vec::with_capacity(pairs.len()) };
        for some in pairs.chunks(HELD_AT_ONCE) {
            let mut state = self.lock();
            state.check_writable()?;
            for pair in some {
                match state.hold_pair(*pair, users) {
                    Some(pair) => held.pairs.push(pair),
                    // Freed since, maybe by this very reclaim.
                    None if state.allocator.count(pair.loser) == 0 => {}
                    None => work.account.busy += 1,
                }
            }
        }
        Ok(held)
    }

    /// A failed sync must never turn a loser's durable data into a survivor's lost data (I12). A region
    /// without an intent was synced when its intent was cleared (I4).
    async fn make_survivors_durable(&self, held: &Held<'_, D>) -> Result<()> {
        let durable = {
            let state = self.lock();
            held.pairs
                .iter()
                .all(|held| state.regions.intent(held.pair.survivor.region()) == Intent::None)
        };
        if durable { Ok(()) } else { self.sync_data().await }
    }

    async fn compare(&self, held: &mut Held<'_, D>, work: &mut Work<'_>) -> Result<()> {
        let mut at = 0;
        while at < held.pairs.len() {
            let run = run_length(&held.pairs[at..]).min(COMPARED_AT_ONCE);
            let pairs = &mut held.pairs[at..at + run];
            if !self.compare_run(pairs, work).await? {
                // One that cannot be read hides the others.
                for pair in pairs.chunks_mut(1) {
                    let readable = self.compare_run(pair, work).await?;
                    work.account.unreadable += u64::from(!readable);
                }
            }
            at += run;
        }
        Ok(())
    }

    /// False if they cannot be read.
    async fn compare_run(&self, run: &mut [HeldPair], work: &mut Work<'_>) -> Result<bool> {
        let Pair { loser, survivor } = run[0].pair;
        let losers = self.read_clusters(loser, run.len()).await;
        let survivors = self.read_clusters(survivor, run.len()).await;
        let (Ok(losers), Ok(survivors)) = (losers, survivors) else {
            return Ok(false);
        };
        let contents = losers.chunks_exact(CLUSTER_SIZE).zip(survivors.chunks_exact(CLUSTER_SIZE));
        for (held, (of_loser, of_survivor)) in run.iter_mut().zip(contents) {
            held.equal = of_loser == of_survivor || blockyard_io::broken("I9-hash-is-enough");
            if !held.equal {
                self.judge_difference(held.pair, of_loser, of_survivor, work).await?;
            }
        }
        Ok(true)
    }

    /// Of equal hash when they were found: now as well?
    async fn judge_difference(
        &self,
        pair: Pair,
        of_loser: &[u8],
        of_survivor: &[u8],
        work: &mut Work<'_>,
    ) -> Result<()> {
        let known = |told: Result<_>| match told {
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            other => other,
        };
        let hash_of_loser = known(self.hash_of(pair.loser).await)?;
        let hash_of_survivor = known(self.hash_of(pair.survivor).await)?;
        if hash_of_loser != hash_of_survivor || hash_of_loser.is_none() {
            work.account.busy += 1;
            return Ok(());
        }
        work.account.differed += 1;
        for (cluster, bytes) in [(pair.loser, of_loser), (pair.survivor, of_survivor)] {
            if Some(self.hash_algorithm().hash(bytes)) != hash_of_loser {
                self.lock().note_damaged(cluster, mismatch(cluster), Remedy::Scrub, &[]);
            }
        }
        Ok(())
    }

    /// Repoints some, as many as there is room for; a progress count to wait beyond if there is none.
    fn publish(
        &self,
        held: &mut Held<'_, D>,
        users: &Users,
        work: &mut Work<'_>,
    ) -> Result<Option<u64>> {
        let mut state = self.lock();
        let mut touched = BTreeSet::new();
        let mut room = state.metadata_room();
        let left = held.pairs.len().saturating_sub(REPOINTED_AT_ONCE);
        let done = loop {
            let Some(last) = held.pairs.last() else { break true };
            if held.pairs.len() == left || state.failed.is_some() || state.closing {
                break true;
            }
            let users_of_loser = users.of_loser(last.pair.loser);
            let growth = state.repoint_growth(users_of_loser, &touched);
            if last.equal && growth > room && growth <= state.metadata_max / 2
                || state.frees.are_many()
            {
                break false;
            }
            let Some(next) = held.pairs.pop() else { break true };
            if next.equal && growth <= room && state.may_repoint(&next, users_of_loser) {
                for (cluster, user) in users_of_loser {
                    state.repoint(*user, *cluster, next.pair.survivor);
                    touched.insert(user.extent);
                }
                state.note_growth(users_of_loser.len() * SLOT_GROWTH_BYTES);
                room = room.saturating_sub(growth);
                work.account.freed += 1;
            } else if next.equal {
                work.account.busy += 1;
            }
            state.give_up_pair(next);
        };
        state.wanted.sync |= !done;
        state.seal();
        let seen = state.progress;
        let may_go_on = state.check_writable();
        self.wake_wanted(state);
        may_go_on.map(|()| (!done).then_some(seen))
    }
}

impl State {
    /// Trusted, so that no write to it is in flight, and used.
    pub(crate) fn is_candidate(&self, cluster: ClusterIndex) -> bool {
        self.allocator.count(cluster) > 0 && self.regions.is_trusted(cluster)
    }

    fn hold_pair(&mut self, pair: Pair, users: &Users) -> Option<HeldPair> {
        let Pair { loser, survivor } = pair;
        let shown = users.of_survivor(survivor).is_some_and(|user| self.shows(user, survivor));
        if loser == survivor || !shown || !self.is_candidate(loser) || !self.is_candidate(survivor)
        {
            return None;
        }
        if !blockyard_io::broken("I6-reclaim-no-hold") {
            self.hold_cluster(survivor);
        }
        let watches = (self.regions.watch(loser), self.regions.watch(survivor));
        Some(HeldPair { pair, watches: Some(watches), equal: false })
    }

    fn give_up_pair(&mut self, held: HeldPair) {
        if let Some((of_loser, of_survivor)) = held.watches {
            self.regions.unwatch(held.pair.loser, of_loser);
            self.regions.unwatch(held.pair.survivor, of_survivor);
        }
        if !blockyard_io::broken("I6-reclaim-no-hold") {
            self.release_cluster(held.pair.survivor);
        }
    }

    /// Nothing has happened to either since they were held, and all users of the loser are known.
    fn may_repoint(&mut self, held: &HeldPair, users: &[(ClusterIndex, User)]) -> bool {
        let Pair { loser, survivor } = held.pair;
        let Some((of_loser, of_survivor)) = held.watches else { return false };
        let same_survivor = self.regions.is_watched(survivor, of_survivor)
            || blockyard_io::broken("I6-reclaim-no-hold");
        let same_loser =
            self.regions.is_watched(loser, of_loser) || blockyard_io::broken("I6-reclaim-no-watch");
        same_survivor
            && same_loser
            && self.is_candidate(survivor)
            && (self.is_candidate(loser) || blockyard_io::broken("I6-reclaim-no-watch"))
            && self.allocator.count(loser) as usize == users.len()
            && users.iter().all(|(cluster, user)| self.shows(*user, *cluster))
    }

    /// What repointing these slots adds to the journal at most, and to what changes in flight on the
    /// same extents have reserved.
    fn repoint_growth(
        &self,
        users: &[(ClusterIndex, User)],
        touched: &BTreeSet<ExtentId>,
    ) -> usize {
        let mut fresh: Vec<ExtentId> =
            users.iter().map(|(_, user)| user.extent).filter(|id| !touched.contains(id)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        let lengths = fresh.into_iter().filter_map(|id| self.extents.get(&id));
        let records: usize =
            lengths.map(|found| found.extent.encoded_length() + RECORD_GROWTH_BYTES).sum();
        let slots = users.len() * SLOT_GROWTH_BYTES;
        records + slots * (1 + self.epochs.in_flight())
    }

    /// Changes planned before will write longer records than they reserved room for: keeps that room for
    /// them until they have ended.
    fn note_growth(&mut self, bytes: usize) {
        let for_others = bytes * self.epochs.in_flight();
        if for_others > 0 {
            self.growth.push(self.epochs.current(), for_others);
        }
    }

    /// The slot gets another cluster of the same content. Its summary stays true; who reads hashes by
    /// an older copy of the record must notice.
    fn repoint(&mut self, user: User, from: ClusterIndex, to: ClusterIndex) {
        self.repoint_slot(user.extent, user.slot, from, to);
        self.touch(RecordKey::Extent(user.extent));
    }
}

/// How many of the pairs at the front follow each other.
fn run_length(pairs: &[HeldPair]) -> usize {
    1 + pairs.windows(2).take_while(|two| two[0].pair.leads_to(two[1].pair)).count()
}
