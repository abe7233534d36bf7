//! Making references to what another image has: hold, check, refer (I2, I6, I8).
//!
//! A whole extent is shared by its id, like a snapshot does: in the turn of the image that has it, so that no
//! change of it is planned and not completed, and only if every cluster of it is trusted.
//!
//! A single cluster is first *held*, so that writers go elsewhere and nobody frees it, and *watched*. It must be
//! shown as data by an extent then (a place that is reserved may be written without a pin) and be trusted (no
//! write to it is in flight). Then its hash is looked up, outside the lock; if it is the wanted one and no
//! watch was broken, the slot gets the reference and the hold is given up, in one transaction. The cluster
//! is never written again while the reference counts. Dropped anywhere, the holds are given back.
//!
//! Nothing here syncs: the references are records like any others, captured by the next commit, which makes
//! the data durable first.

use super::lookup::Place;
use crate::extent::Slot;
use crate::hashes::{HashCopies, Known};
use crate::pool::{Pool, Turn};
use crate::reclaim::users::User;
use crate::regions::Watch;
use crate::state::{State, run_clusters};
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, ExtentId, ImageId,
    MAP_PAGE_EXTENTS, Result, keyed_hash,
};
use blockyard_io::{Directory, Disk};
use std::ops::Range;

/// A slot that shall refer to a cluster that seems to have its content, which `user` shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) slot: usize,
    pub(super) hash: ContentHash,
    pub(super) cluster: ClusterIndex,
    pub(super) user: User,
    /// What its content must prove to have besides the hash, if the hash alone is not believed.
    pub(super) proof: Option<Proof>,
}

/// The keyed BLAKE3 of a cluster, under a key that nobody knew when its content was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    pub(super) key: [u8; 32],
    pub(super) hash: ContentHash,
}

struct HeldCandidate {
    candidate: Candidate,
    watch: Watch,
    equal: bool,
}

/// Clusters held and watched; what is left when it is dropped is given up.
struct Held<'a, D: Directory> {
    pool: &'a Pool<D>,
    list: Vec<HeldCandidate>,
}

impl<D: Directory> Drop for Held<'_, D> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        for held in self.list.drain(..) {
            state.give_up_candidate(&held);
        }
        state.seal();
        self.pool.wake_wanted(state);
    }
}

/// References made in one transaction.
const BATCH: usize = 256;

fn clusters_of(index: u64) -> Range<u64> {
    let first = index * EXTENT_CLUSTERS as u64;
    first..first + EXTENT_CLUSTERS as u64
}

impl<D: Directory> Pool<D> {
    /// Lets the image have the extent at `place`, too, if it still has that summary and nothing in it lies
    /// behind the first `in_image` clusters. The image has nothing at `index`.
    pub(super) async fn take_extent(
        &self,
        image: ImageId,
        index: u64,
        place: Place,
        summary: ContentHash,
        in_image: usize,
    ) -> Result<bool> {
        // The source may have been removed, or cut.
        let turn = match blockyard_io::broken("I6-receive-no-turn") {
            true => None,
            false => Some(self.take_turn(place.image, clusters_of(place.index)).await),
        };
        if matches!(turn, Some(Err(_))) {
            return Ok(false);
        }
        match self.summary(place.extent).await {
            Ok(found) if found == summary => {}
            _ => return Ok(false),
        }
        let growth = self.lock().metadata_growth(image, index, 0);
        let mut state = self.lock_with_room(growth).await?;
        state.check_within(image, index, in_image)?;
        let taken = state.may_share(place, summary, in_image)
            && state.share_extent(image, index, place.extent);
        state.seal();
        self.wake_wanted(state);
        Ok(taken)
    }

    /// Lets slots of the image's extent refer to these clusters; returns those that did get one.
    pub(super) async fn take_clusters(
        &self,
        image: ImageId,
        index: u64,
        candidates: &[Candidate],
    ) -> Result<Vec<usize>> {
        let mut taken = Vec::with_capacity(candidates.len());
        for batch in candidates.chunks(BATCH) {
            let turn = self.take_turn(image, clusters_of(index)).await?;
            self.take_batch(&turn, image, index, batch, &mut taken).await?;
        }
        Ok(taken)
    }

    /// In the image's turn, so that no change of the extent is planned that reserved room for a shorter record.
    async fn take_batch(
        &self,
        _turn: &Turn<'_, D>,
        image: ImageId,
        index: u64,
        batch: &[Candidate],
        taken: &mut Vec<usize>,
    ) -> Result<()> {
        let mut held = self.hold_candidates(batch)?;
        let mut copies = HashCopies::default();
        for held in &mut held.list {
            let candidate = &held.candidate;
            // Damage of the hash table is told where it is scrubbed or read; here it is no hit.
            let known = self.known_in_order(candidate.cluster, &mut copies).await;
            held.equal = matches!(known, Ok(Known::Hash(hash)) if hash == candidate.hash);
            if held.equal
                && let Some(proof) = candidate.proof
            {
                held.equal = self.proves(candidate.cluster, proof).await;
            }
        }
        let growth = self.lock().metadata_growth(image, index, batch.len());
        let mut state = self.lock_with_room(growth).await?;
        state.check_within(image, index, 0)?;
        let extent = state.own_extent(image, index);
        for held in held.list.drain(..) {
            if state.may_refer(&held, extent) {
                let user = (image, extent, held.candidate.slot);
                state.set_reference(user, held.candidate.cluster);
                taken.push(held.candidate.slot);
            }
            state.give_up_candidate(&held);
        }
        state.seal();
        self.wake_wanted(state);
        Ok(())
    }

    /// A cluster that cannot be read proves nothing.
    async fn proves(&self, cluster: ClusterIndex, proof: Proof) -> bool {
        let place = cluster.data_offset();
        let (result, bytes) = self.data.read(place, BufferMut::zeroed(CLUSTER_SIZE)).await;
        result.is_ok() && keyed_hash(&proof.key, &bytes) == proof.hash
    }

    fn hold_candidates(&self, batch: &[Candidate]) -> Result<Held<'_, D>> {
        let mut state = self.lock();
        state.check_writable()?;
        let list = batch.iter().filter_map(|candidate| state.hold_candidate(*candidate)).collect();
        Ok(Held { pool: self, list })
    }
}

impl State {
    fn hold_candidate(&mut self, candidate: Candidate) -> Option<HeldCandidate> {
        let cluster = candidate.cluster;
        if !self.shows(candidate.user, cluster) || !self.is_candidate(cluster) {
            return None;
        }
        if !blockyard_io::broken("I6-receive-no-hold") {
            self.hold_cluster(cluster);
        }
        let watch = self.regions.watch(cluster);
        Some(HeldCandidate { candidate, watch, equal: false })
    }

    /// Nothing happened to the cluster since it was held and found to have the hash, and the slot is empty.
    fn may_refer(&self, held: &HeldCandidate, extent: ExtentId) -> bool {
        let cluster = held.candidate.cluster;
        let unchanged = self.regions.is_watched(cluster, held.watch) && self.is_candidate(cluster);
        held.equal
            && (unchanged || self.is_counted_and_broken(cluster))
            && self.extents[&extent].extent.slot(held.candidate.slot) == Slot::Zero
    }

    /// For the deliberate break only: a cluster that is free now could not be counted at all.
    fn is_counted_and_broken(&self, cluster: ClusterIndex) -> bool {
        blockyard_io::broken("I6-receive-no-hold") && self.allocator.count(cluster) > 0
    }

    fn give_up_candidate(&mut self, held: &HeldCandidate) {
        self.regions.unwatch(held.candidate.cluster, held.watch);
        if !blockyard_io::broken("I6-receive-no-hold") {
            self.release_cluster(held.candidate.cluster);
        }
    }

    /// Whether the extent is still at its place, has this content, all of it believed, and nothing that would lie
    /// behind the end of its new image.
    fn may_share(&self, place: Place, summary: ContentHash, in_image: usize) -> bool {
        let Ok(source) = self.image(place.image) else { return false };
        if self.extent_at(&source.record, place.index) != Some(place.extent) {
            return false;
        }
        let found = &self.extents[&place.extent];
        found.summary.as_deref() == Some(&summary)
            && found.extent.runs().all(|(slot, length, target)| {
                slot + length <= in_image && self.is_believed(target, length)
            })
    }

    fn is_believed(&self, target: Slot, length: usize) -> bool {
        match target {
            Slot::Data(_) => {
                run_clusters(target, length).all(|cluster| self.regions.is_trusted(cluster))
            }
            Slot::Zero | Slot::Reserved(_) => true,
        }
    }

    /// The image has the extent from now on, too; who changes it copies its record first. False if it has
    /// another there.
    fn share_extent(&mut self, image: ImageId, index: u64, extent: ExtentId) -> bool {
        let page = self.own_page(image, (index / MAP_PAGE_EXTENTS as u64) as usize);
        let within = (index % MAP_PAGE_EXTENTS as u64) as usize;
        if self.pages[&page].page.get(within).is_some() {
            return false;
        }
        self.set_page_entry(page, within, Some(extent));
        self.extent_mut(extent).holders += 1;
        true
    }
}
