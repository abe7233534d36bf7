//! Filling a hidden image with what another pool's image holds.

use super::ExtentHashes;
use super::lookup::{Lookup, Working, hit_of, lie};
use super::take::{Candidate, Proof};
use crate::index::page::Record;
use crate::index::sorter::Merge;
use crate::pool::Pool;
use crate::query::EXTENTS_AT_ONCE;
use crate::reclaim::users::Users;
use crate::volume::Volume;
use blockyard_block::{
    ClusterIndex, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ImageId, ImageName, Result,
};
use blockyard_io::Directory;
use std::collections::VecDeque;
use std::sync::Arc;

/// Hits whose users are looked for with one walk over all extents.
const WINDOW_HITS: usize = 32 << 10;

/// What the pool seems to have of one extent.
pub struct FoundHere {
    pub index: u64,
    candidates: Vec<Candidate>,
}

impl FoundHere {
    /// Slots in ascending order.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.candidates.iter().map(|candidate| candidate.slot)
    }
}

/// What the pool does not have of one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub index: u64,
    /// Slots whose bytes are still to come, ascending, and their hashes.
    pub slots: Vec<(usize, ContentHash)>,
}

/// An image that is being received: hidden like an import until [`Receive::finish`], gone if this is dropped; what a
/// crash leaves of it is one of [`Pool::left_images`]. The order is: [`Receive::take_whole`] for all summaries,
/// [`Lookup::add`] for what that left, [`Receive::search`], [`Receive::next_found`] and [`Receive::take`] until there
/// is no more, then [`Receive::next_missing`] and [`Receive::write`] for what it tells, then the same with
/// [`Receive::next_repeat`], and the end.
pub struct Receive<D: Directory> {
    pub(super) pool: Arc<Pool<D>>,
    pub(super) volume: Volume<D>,
    name: ImageName,
    lookup: Lookup<D>,
    /// Extents taken whole: a bit for each.
    whole: Vec<u64>,
    /// How many of the added extents were gone through for what is here, and for what is missing.
    taken_through: usize,
    asked_through: usize,
    /// Of those taken whole, the ones before this were verified.
    whole_through: u64,
    /// Hits that were read, in order of their place.
    window: VecDeque<(u64, ClusterIndex)>,
    users: Option<Users>,
    /// Where reading them stands.
    hits: Option<Merge<D>>,
    /// Places whose content comes at another: to leave them out, and to fill them.
    left_out: Repeats<D>,
    refilled: Repeats<D>,
    pub(super) verified: u64,
    pub(super) damaged: u64,
}

/// Places of the image in ascending order, each with the one whose content it has.
struct Repeats<D: Directory> {
    merge: Option<Merge<D>>,
    head: Option<Record>,
}

impl<D: Directory> Repeats<D> {
    async fn new(mut merge: Option<Merge<D>>) -> Result<Repeats<D>> {
        let head = match &mut merge {
            Some(merge) => merge.next().await?,
            None => None,
        };
        Ok(Repeats { merge, head })
    }

    /// Slots of the extent `index`, and the place that has the content of each.
    async fn of_extent(&mut self, index: u64) -> Result<Vec<(usize, u64)>> {
        let end = (index + 1) * EXTENT_CLUSTERS as u64;
        let mut slots = Vec::new();
        while let (Some(head), Some(merge)) = (self.head, &mut self.merge) {
            if head.key[0] >= end {
                break;
            }
            slots.push(((head.key[0] % EXTENT_CLUSTERS as u64) as usize, head.key[1]));
            self.head = merge.next().await?;
        }
        Ok(slots)
    }
}

impl<D: Directory> Pool<D> {
    /// A hidden image of `size` bytes to be filled. Errors as for an import.
    pub async fn begin_receive(
        self: &Arc<Self>,
        name: &ImageName,
        size: u64,
        now_unix_s: u64,
    ) -> Result<Receive<D>> {
        if self.image(name).is_ok() {
            let message = format!("there is an image called {name} already");
            return Err(Error::new(ErrorKind::Exists, message));
        }
        let volume = self.begin_hidden(name, size, true, now_unix_s).await?;
        Ok(Receive {
            pool: Arc::clone(self),
            volume,
            name: name.clone(),
            lookup: Lookup::new(self, size),
            whole: Vec::new(),
            taken_through: 0,
            asked_through: 0,
            whole_through: 0,
            window: VecDeque::new(),
            users: None,
            hits: None,
            left_out: Repeats { merge: None, head: None },
            refilled: Repeats { merge: None, head: None },
            verified: 0,
            damaged: 0,
        })
    }
}

impl<D: Directory> Receive<D> {
    pub fn lookup(&mut self) -> &mut Lookup<D> {
        &mut self.lookup
    }

    /// Whether a part of this image was received before and lies there to be found, but may not be yet: its
    /// clusters, or others, are still to be hashed again after a crash.
    pub fn waits_for_hashes(&self) -> Result<bool> {
        Ok(self.pool.has_left(&self.name) && self.pool.status()?.clusters_untrusted > 0)
    }

    /// Takes whole extents that the pool has, with these summaries; for each, whether it was taken. One walk
    /// over all maps, no data.
    pub async fn take_whole(
        &mut self,
        summaries: &[(u64, ContentHash)],
        working: Working<'_>,
    ) -> Result<Vec<bool>> {
        let mut taken = Vec::with_capacity(summaries.len());
        let places = self.lookup.places(summaries, working).await?;
        for ((index, summary), place) in summaries.iter().zip(places) {
            let in_image = self.lookup.clusters_in(*index);
            let shared = match place {
                Some(place) => {
                    let image = self.volume.id();
                    self.pool.take_extent(image, *index, place, *summary, in_image).await?
                }
                None => false,
            };
            if shared {
                self.note_whole(*index);
            }
            taken.push(shared);
        }
        Ok(taken)
    }

    /// Looks all added hashes up. No data.
    pub async fn search(&mut self, working: Working<'_>) -> Result<()> {
        self.lookup.search(working).await?;
        self.hits = self.lookup.hits();
        self.left_out = Repeats::new(self.lookup.repeats()).await?;
        self.refilled = Repeats::new(self.lookup.repeats()).await?;
        Ok(())
    }

    /// Whether [`Receive::take`] needs a proof for each slot: in a SHA-1 pool (I9).
    pub fn needs_proof(&self) -> bool {
        !self.lookup.believes_hashes()
    }

    /// What the pool seems to have of the next extent that was added; `None` after the last. No data.
    pub async fn next_found(&mut self) -> Result<Option<FoundHere>> {
        let number = self.taken_through;
        let Some(index) = self.lookup.indices.get(number).copied() else { return Ok(None) };
        self.taken_through += 1;
        let hashes = self.lookup.list(number).await?;
        let candidates = self.candidates(index, &hashes).await?;
        Ok(Some(FoundHere { index, candidates }))
    }

    /// Takes it; returns how many clusters that were. Reads no data, unless there are proofs: for each slot the
    /// [`blockyard_block::keyed_hash`] of the source's cluster under `key`, which was not known before.
    pub async fn take(
        &mut self,
        mut found: FoundHere,
        proofs: Option<(&[u8; 32], &[ContentHash])>,
    ) -> Result<usize> {
        if let Some((key, hashes)) = proofs {
            for (candidate, hash) in found.candidates.iter_mut().zip(hashes) {
                candidate.proof = Some(Proof { key: *key, hash: *hash });
            }
        }
        if self.needs_proof() {
            found.candidates.retain(|candidate| candidate.proof.is_some());
        }
        let image = self.volume.id();
        Ok(self.pool.take_clusters(image, found.index, &found.candidates).await?.len())
    }

    /// Removes what was received before of this image. To be called when everything that was found is taken: all
    /// of it that is of use is here, too.
    pub fn remove_parts(&self) {
        self.pool.remove_parts(&self.name);
    }

    /// What is missing of the next extent; `None` after the last. With `verify`, what was taken of it is read and
    /// compared with its hash first, and is missing if it differs (I9); then extents that were taken whole are
    /// told, too.
    pub async fn next_missing(&mut self, verify: bool) -> Result<Option<Missing>> {
        let Some(missing) = self.next_absent(verify).await? else { return Ok(None) };
        let later = self.left_out.of_extent(missing.index).await?;
        let comes = |slot: &usize| later.binary_search_by_key(slot, |(later, _)| *later).is_ok();
        let Missing { index, mut slots } = missing;
        slots.retain(|(slot, _)| !comes(slot));
        Ok(Some(Missing { index, slots }))
    }

    /// The same with those whose content comes at another place.
    pub(super) async fn next_absent(&mut self, verify: bool) -> Result<Option<Missing>> {
        let listed = self.lookup.indices.get(self.asked_through).copied();
        let whole = verify.then(|| self.next_whole()).flatten();
        let (index, hashes) = match (listed, whole) {
            (None, None) => return Ok(None),
            (Some(listed), whole) if whole.is_none_or(|whole| listed < whole) => {
                self.asked_through += 1;
                (listed, self.lookup.list(self.asked_through - 1).await?)
            }
            (_, Some(whole)) => {
                self.whole_through = whole + 1;
                (whole, self.hashes_of_whole(whole).await?)
            }
            (Some(_), None) => return Ok(None),
        };
        // What was proved has been read and compared.
        if verify && !self.needs_proof() {
            self.verify(index, &hashes).await?;
        }
        let here = self.pool.data_slots(self.volume.id(), index)?;
        let is_missing = |(slot, _): &(usize, _)| here.binary_search(slot).is_err();
        Ok(Some(Missing { index, slots: hashes.iter().filter(is_missing).collect() }))
    }

    fn note_whole(&mut self, index: u64) {
        let word = (index / 64) as usize;
        if self.whole.len() <= word {
            self.whole.resize(word + 1, 0);
        }
        self.whole[word] |= 1 << (index % 64);
    }

    /// The next extent that was taken whole and not verified.
    fn next_whole(&self) -> Option<u64> {
        let first = self.whole_through;
        let words = self.whole.iter().zip(0u64..).skip((first / 64) as usize);
        let left = words.map(|(word, at)| {
            let done = if at == first / 64 { (1 << (first % 64)) - 1 } else { 0 };
            (word & !done, at)
        });
        left.filter(|(word, _)| *word != 0)
            .map(|(word, at)| at * 64 + u64::from(word.trailing_zeros()))
            .next()
    }

    /// Fills places of the next extent with what came at others. To be called when everything that was missing
    /// is written; tells what is missing still.
    pub async fn next_repeat(&mut self) -> Result<Option<Missing>> {
        let Some(head) = self.refilled.head else { return Ok(None) };
        let index = head.key[0] / EXTENT_CLUSTERS as u64;
        let places = self.refilled.of_extent(index).await?;
        let number = self.lookup.indices.binary_search(&index);
        let hashes = self.lookup.list(number.map_err(|_| lie("a place in no extent"))?).await?;
        let image = self.volume.id();
        let candidates: Vec<Candidate> = places
            .iter()
            .filter_map(|(slot, first)| {
                let (user, cluster) = self.pool.shown_at(image, *first)?;
                Some(Candidate {
                    slot: *slot,
                    hash: hashes.get(*slot)?,
                    cluster,
                    user,
                    proof: None,
                })
            })
            .collect();
        let taken = self.pool.take_clusters(image, index, &candidates).await?;
        let missing = places.iter().map(|(slot, _)| *slot);
        let missing = missing.filter(|slot| taken.binary_search(slot).is_err());
        let slots = missing.filter_map(|slot| Some((slot, hashes.get(slot)?))).collect();
        Ok(Some(Missing { index, slots }))
    }

    /// Hits in one extent, in slot order.
    async fn candidates(&mut self, index: u64, hashes: &ExtentHashes) -> Result<Vec<Candidate>> {
        let end = (index + 1) * EXTENT_CLUSTERS as u64;
        let mut candidates = Vec::new();
        loop {
            if self.window.is_empty() && !self.read_window().await? {
                return Ok(candidates);
            }
            let Some((place, cluster)) = self.window.pop_front_if(|(place, _)| *place < end) else {
                return Ok(candidates);
            };
            let slot = (place % EXTENT_CLUSTERS as u64) as usize;
            let user = self.users.as_ref().and_then(|users| users.of_survivor(cluster));
            if let (Some(hash), Some(user)) = (hashes.get(slot), user) {
                candidates.push(Candidate { slot, hash, cluster, user, proof: None });
            }
        }
    }

    /// Reads more hits and finds a user of each; false if there are no more.
    async fn read_window(&mut self) -> Result<bool> {
        let Some(hits) = &mut self.hits else { return Ok(false) };
        while self.window.len() < WINDOW_HITS
            && let Some(hit) = hits.next().await?
        {
            self.window.push_back(hit_of(&hit));
        }
        if self.window.is_empty() {
            return Ok(false);
        }
        let mut clusters: Vec<ClusterIndex> =
            self.window.iter().map(|(_, cluster)| *cluster).collect();
        clusters.sort_unstable();
        clusters.dedup();
        self.users = Some(self.pool.find_any_users(&clusters));
        Ok(true)
    }

    /// Makes the summaries that [`Receive::finish`] needs and that are not known: it says nothing while it works.
    pub async fn make_summaries(&self, working: Working<'_>) -> Result<()> {
        let (image, mut first) = (self.volume.id(), 0);
        loop {
            let extents = self.pool.lock().image_extents_from(image, first, EXTENTS_AT_ONCE);
            let Some((last, _)) = extents.last() else { return Ok(()) };
            first = last + 1;
            for (_, extent) in extents {
                working()?;
                // What is wrong with it is told by the end.
                let _ = self.pool.summary(extent).await;
            }
        }
    }

    /// Compares the image's root hash with the source's, makes all of it durable and shows it, in one
    /// step. `Corrupt` if they differ, `Exists` if the name was taken meanwhile: then nothing is left.
    pub async fn finish(mut self, digest: ContentHash) -> Result<ImageId> {
        self.lookup.remove_files().await;
        self.remove_parts();
        let found = self.pool.digest_of(self.volume.id()).await?;
        if found != digest {
            let message = format!(
                "what arrived has the digest {found}, the source's image {digest}: it is not kept"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.pool.reveal_import(self.volume).await
    }

    /// Clusters taken that were read and compared, and those of them that were not what they should be.
    pub fn verified(&self) -> (u64, u64) {
        (self.verified, self.damaged)
    }

    /// Gives it up: the image is gone, and what lies in the index, and what was received of it before.
    pub async fn abandon(mut self) {
        self.lookup.remove_files().await;
        self.remove_parts();
    }

    /// Leaves what was received to be found when it is asked for again. If what was there before is not all taken,
    /// that is kept in its place.
    pub async fn leave(mut self, now_unix_s: u64) {
        self.lookup.remove_files().await;
        let took_all = self.taken_through == self.lookup.indices.len() && self.hits.is_some();
        // Asked for again it has come by another call, while this one waited for a peer that was gone: nobody asks once more.
        let has_come = self.pool.image(&self.name).is_ok();
        if has_come || !took_all && self.pool.has_left(&self.name) {
            return;
        }
        self.remove_parts();
        self.volume.leave(now_unix_s);
    }
}
