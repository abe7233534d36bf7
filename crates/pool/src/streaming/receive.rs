//! Filling a hidden image with what another pool's image holds.

use super::ExtentHashes;
use super::lookup::{Lookup, Working, hit_of, lie};
use super::take::Candidate;
use crate::index::sorter::Merge;
use crate::pool::Pool;
use crate::reclaim::users::Users;
use crate::volume::Volume;
use blockyard_block::{
    Buffer, CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, Error,
    ErrorKind, ImageId, ImageName, Result,
};
use blockyard_io::Directory;
use std::collections::VecDeque;
use std::sync::Arc;

/// Hits whose users are looked for with one walk over all extents.
const WINDOW_HITS: usize = 32 << 10;

/// What the pool does not have of one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub index: u64,
    /// Slots whose bytes are still to come, ascending, and their hashes.
    pub slots: Vec<(usize, ContentHash)>,
    /// Slots that refer to what the pool has now.
    pub taken: usize,
}

/// An image that is being received: hidden like an import, gone if this is dropped or after a crash, until
/// [`Receive::finish`]. The order is: [`Receive::take_whole`] for all summaries, [`Lookup::add`] for what that
/// left, [`Receive::search`], then [`Receive::take`] until there is no more extent, [`Receive::write`] for what it
/// tells to be missing, and the end.
pub struct Receive<D: Directory> {
    pool: Arc<Pool<D>>,
    volume: Volume<D>,
    lookup: Lookup<D>,
    /// How many of the added extents [`Receive::take`] went through.
    taken_through: usize,
    /// Hits that were read, in order of their place.
    window: VecDeque<(u64, ClusterIndex)>,
    users: Option<Users>,
    /// Where reading them stands.
    hits: Option<Merge<D>>,
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
        let volume = self.begin_import(name, size, now_unix_s).await?;
        Ok(Receive {
            pool: Arc::clone(self),
            volume,
            lookup: Lookup::new(self, size),
            taken_through: 0,
            window: VecDeque::new(),
            users: None,
            hits: None,
        })
    }
}

impl<D: Directory> Receive<D> {
    pub fn lookup(&mut self) -> &mut Lookup<D> {
        &mut self.lookup
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
            taken.push(match place {
                Some(place) => {
                    let image = self.volume.id();
                    self.pool.take_extent(image, *index, place, *summary, in_image).await?
                }
                None => false,
            });
        }
        Ok(taken)
    }

    /// Looks all added hashes up. No data.
    pub async fn search(&mut self, working: Working<'_>) -> Result<()> {
        self.lookup.search(working).await?;
        self.hits = self.lookup.hits();
        Ok(())
    }

    /// Takes what the pool has of the next extent that was added, and tells what is missing; `None` after the
    /// last. No data.
    pub async fn take(&mut self) -> Result<Option<Missing>> {
        let number = self.taken_through;
        let Some(index) = self.lookup.indices.get(number).copied() else { return Ok(None) };
        self.taken_through += 1;
        let hashes = self.lookup.list(number).await?;
        let candidates = self.candidates(index, &hashes).await?;
        let taken = self.pool.take_clusters(self.volume.id(), index, &candidates).await?;
        let slots = hashes.iter().filter(|(slot, _)| taken.binary_search(slot).is_err()).collect();
        Ok(Some(Missing { index, slots, taken: taken.len() }))
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
                candidates.push(Candidate { slot, hash, cluster, user });
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

    /// Writes consecutive clusters of an extent, to its home if there is room, after each was compared with its
    /// hash: `Corrupt` names the first that does not match, and nothing of them is written. `data` is as many
    /// whole clusters as there are hashes; of the image's last, bytes behind its end must be zero.
    pub async fn write(
        &self,
        index: u64,
        slot: usize,
        hashes: &[ContentHash],
        data: &Buffer,
    ) -> Result<()> {
        let fits = slot + hashes.len() <= self.lookup.clusters_in(index);
        if !fits || data.len() != hashes.len() * CLUSTER_SIZE {
            return Err(lie("clusters do not fit their place"));
        }
        let offset = index * EXTENT_SIZE + (slot * CLUSTER_SIZE) as u64;
        for (at, (found, expected)) in self.pool.hashes_of(data).iter().zip(hashes).enumerate() {
            if found != expected {
                let place = offset + (at * CLUSTER_SIZE) as u64;
                let message = format!(
                    "the cluster that came for {place} does not have the hash that was told for it"
                );
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        let in_image = self.lookup.bytes_in(offset, data.len());
        if data[in_image..].iter().any(|byte| *byte != 0) {
            return Err(lie("there is data behind the end of the image"));
        }
        match in_image == data.len() {
            true => self.pool.write_hashed(self.volume.id(), offset, data, hashes).await,
            false => {
                let whole = in_image / CLUSTER_SIZE * CLUSTER_SIZE;
                let hashes = &hashes[..whole / CLUSTER_SIZE];
                let image = self.volume.id();
                if whole > 0 {
                    self.pool.write_hashed(image, offset, &data.slice(0..whole), hashes).await?;
                }
                let rest = data.slice(whole..in_image);
                self.pool.write_image(image, offset + whole as u64, &rest).await
            }
        }
    }

    /// Compares the image's root hash with the source's, makes all of it durable and shows it, in one
    /// step. `Corrupt` if they differ, `Exists` if the name was taken meanwhile: then nothing is left.
    pub async fn finish(mut self, digest: ContentHash) -> Result<ImageId> {
        self.lookup.remove_files().await;
        let found = self.pool.digest_of(self.volume.id()).await?;
        if found != digest {
            let message = format!(
                "what arrived has the digest {found}, the source's image {digest}: it is not kept"
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.pool.reveal_import(self.volume).await
    }

    /// Gives it up: the image is gone, and what lies in the index.
    pub async fn abandon(mut self) {
        self.lookup.remove_files().await;
    }
}
