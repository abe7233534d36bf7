//! Writing without space: a write that finds none refers to what is stored already (I6, I9, I10).
//!
//! What the write wants to store is looked up by its hash. A cluster that seems to have it is *held*, so that
//! writers go elsewhere and nobody frees it, and *watched*. It must be trusted (no write to it is in flight) and
//! nobody's reserved place (which may be written without a pin). Then its hash is looked up, and its bytes are
//! read and compared with those to be written, outside the lock. Only if they are equal and no watch was broken
//! is the reference planned, with the rest of the write: all of it happens or nothing. It becomes visible when
//! the write completes; only then is the hold given up. Dropped anywhere, the holds are given back.
//!
//! Nothing here waits for space, and nothing syncs: the reference is captured like any change, and the commit
//! makes the data durable first (I2).

use crate::damage::{Remedy, mismatch};
use crate::hashes::{Known, PageCopy};
use crate::plan::Content;
use crate::pool::Pool;
use crate::regions::Watch;
use crate::state::State;
use crate::write::Piece;
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ContentHash};
use blockyard_io::Directory;

/// A cluster that has the content of one cluster of a write, held and watched.
pub(crate) struct Offer {
    /// Which of the write's clusters.
    step: usize,
    cluster: ClusterIndex,
    watch: Watch,
}

/// What was found for a write; dropping it gives it up.
pub(crate) struct Offers<'a, D: Directory> {
    pool: &'a Pool<D>,
    pub(crate) list: Vec<Offer>,
}

impl<D: Directory> Drop for Offers<'_, D> {
    fn drop(&mut self) {
        if self.list.is_empty() {
            return;
        }
        let mut state = self.pool.lock();
        for offer in self.list.drain(..) {
            state.give_up_offer(&offer);
        }
        state.seal();
        self.pool.wake_wanted(state);
    }
}

impl<D: Directory> Pool<D> {
    /// Looks up what these clusters of a write are to hold. The caller has the write's turn. Without an index,
    /// or with an old one, another is asked for.
    pub(crate) async fn find_stored(
        &self,
        steps: &[usize],
        pieces: &[Piece],
        contents: &[Content],
    ) -> Offers<'_, D> {
        let mut offers = Offers { pool: self, list: Vec::with_capacity(steps.len()) };
        if self.is_index_due() {
            let mut state = self.lock();
            state.want_index();
            self.wake_wanted(state);
        }
        let mut copy = None;
        for &step in steps {
            let Content::Data(hash) = contents[step] else { continue };
            // What was written in one order often is again.
            let last = offers.list.last().filter(|last| last.step + 1 == step);
            let next = last.map(|last| last.cluster.offset_by(1));
            if let Some(next) = next
                && let Some(offer) = self.offer(step, next, &hash, &mut copy).await
            {
                offers.list.push(offer);
                continue;
            }
            for cluster in self.candidates(&hash).await {
                if let Some(offer) = self.offer(step, cluster, &hash, &mut copy).await {
                    offers.list.push(offer);
                    break;
                }
            }
        }
        self.compare_offers(&mut offers, pieces, contents).await;
        offers
    }

    /// Holds the cluster, if it may be referred to and has the hash.
    async fn offer(
        &self,
        step: usize,
        cluster: ClusterIndex,
        hash: &ContentHash,
        copy: &mut Option<PageCopy>,
    ) -> Option<Offer> {
        let mut held = Offers { pool: self, list: Vec::new() };
        held.list.push(self.lock().hold_offer(step, cluster)?);
        // Damage of the hash table is told where it is scrubbed or read; here it is no hit.
        let known = self.known_cluster(cluster, copy).await;
        let has_hash = matches!(known, Ok(Known::Hash(known)) if known == *hash)
            || blockyard_io::broken("I9-write-reference-no-compare");
        if has_hash { held.list.pop() } else { None }
    }

    /// Gives up what is not the same byte by byte, or cannot be read.
    async fn compare_offers(
        &self,
        offers: &mut Offers<'_, D>,
        pieces: &[Piece],
        contents: &[Content],
    ) {
        let mut at = 0;
        while at < offers.list.len() {
            let run = run_length(&offers.list[at..]);
            let found = self.read_clusters(offers.list[at].cluster, run).await;
            let mut clusters = found.as_deref().unwrap_or_default().chunks_exact(CLUSTER_SIZE);
            let mut unequal = Vec::new();
            for number in at..at + run {
                let offer = &offers.list[number];
                let stored = clusters.next();
                if stored != Some(bytes_of(pieces, offer.step))
                    && !blockyard_io::broken("I9-write-reference-no-compare")
                {
                    self.judge_unequal(offer, stored, contents[offer.step]);
                    unequal.push(number);
                }
            }
            at += run - unequal.len();
            let mut state = self.lock();
            for number in unequal.into_iter().rev() {
                let offer = offers.list.remove(number);
                state.give_up_offer(&offer);
            }
            state.seal();
            self.wake_wanted(state);
        }
    }

    /// Of equal hash but other bytes: damage, or a collision.
    fn judge_unequal(&self, offer: &Offer, stored: Option<&[u8]>, content: Content) {
        let Some(stored) = stored else { return };
        if Content::Data(self.hash_algorithm().hash(stored)) != content {
            let problem = mismatch(offer.cluster);
            let mut state = self.lock();
            if state.regions.is_watched(offer.cluster, offer.watch) {
                state.note_damaged(offer.cluster, problem, Remedy::Scrub, &[]);
            }
        }
    }
}

impl State {
    fn hold_offer(&mut self, step: usize, cluster: ClusterIndex) -> Option<Offer> {
        if !self.may_be_shown(cluster) {
            return None;
        }
        if !blockyard_io::broken("I6-write-reference-no-hold") {
            self.hold_cluster(cluster);
        }
        Some(Offer { step, cluster, watch: self.regions.watch(cluster) })
    }

    /// Used, trusted, so that no write to it is in flight, and nobody's reserved place.
    fn may_be_shown(&self, cluster: ClusterIndex) -> bool {
        self.is_candidate(cluster) && !self.reserved_places.may_be(cluster)
    }

    fn give_up_offer(&mut self, offer: &Offer) {
        self.regions.unwatch(offer.cluster, offer.watch);
        if !blockyard_io::broken("I6-write-reference-no-hold") {
            self.release_cluster(offer.cluster);
        }
    }

    /// What one cluster of a write may refer to, if nothing has happened to it since it was compared.
    pub(crate) fn take_offer(&self, offers: &[Offer], step: usize) -> Option<ClusterIndex> {
        let at = offers.binary_search_by_key(&step, |offer| offer.step).ok()?;
        let offer = &offers[at];
        let unchanged = self.regions.is_watched(offer.cluster, offer.watch)
            && self.may_be_shown(offer.cluster)
            || blockyard_io::broken("I6-write-reference-no-hold")
                && self.allocator.count(offer.cluster) > 0;
        unchanged.then_some(offer.cluster)
    }
}

/// How many offers at the front are for clusters that follow each other, and do so themselves.
fn run_length(offers: &[Offer]) -> usize {
    let follows = |two: &&[Offer]| {
        two[1].step == two[0].step + 1 && two[1].cluster == two[0].cluster.offset_by(1)
    };
    1 + offers.windows(2).take_while(follows).count()
}

/// The bytes of one cluster of a write.
fn bytes_of(pieces: &[Piece], mut step: usize) -> &[u8] {
    for piece in pieces {
        let count = piece.cluster_count();
        if step < count {
            return &piece.data[step * CLUSTER_SIZE..(step + 1) * CLUSTER_SIZE];
        }
        step -= count;
    }
    &[]
}
