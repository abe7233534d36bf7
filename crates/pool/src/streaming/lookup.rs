//! Finding what a list of hashes names among what the pool stores: extents by summary, clusters by one
//! pass over the hash table, joined with the list by sorting. Memory is bounded by the sorters; lists wait in a
//! file of `index/`.
//!
//! The index of decision 14 could replace the pass where the list is very short, and nothing else here.

use super::ExtentHashes;
use super::sort::{Sort, check_room};
use crate::index::page::Record;
use crate::index::scan::{key_of, record_of};
use crate::index::sorter::{Merge, Sorted, create_file, failed};
use crate::pool::Pool;
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind,
    ExtentId, HashAlgorithm, ImageId, MapPageId, RegionIndex, Result,
};
use blockyard_io::{Directory, Disk};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Lists of all images being received take at most this part of the pool's capacity, and may always take
/// [`LIST_BYTES_MIN`]: an image whose lists take more claims to hold four times what the pool may hold.
const LIST_SHARE: u64 = 32;
const LIST_BYTES_MIN: u64 = 8 << 20;
/// Lists for whose bytes room is looked for at once.
const LISTS_AT_ONCE: usize = 32;

/// Called again and again during long work; its error ends the work.
pub type Working<'a> = &'a mut dyn FnMut() -> Result<()>;

/// An image that has an extent with a certain summary, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) image: ImageId,
    pub(super) index: u64,
    pub(super) extent: ExtentId,
}

/// What an image of another pool is made of, looked up in this one. Nothing is changed by it. Call
/// [`Lookup::close`] at the end: it removes the file of lists.
pub struct Lookup<D: Directory> {
    pub(super) pool: Arc<Pool<D>>,
    size: u64,
    lists: Option<D::Disk>,
    lists_name: String,
    /// What the list takes, as accounted for.
    list_bytes: u64,
    /// Of the pool, in bytes.
    capacity: u64,
    /// The extents whose lists were added, in order.
    pub(super) indices: Vec<u64>,
    wanted: Option<Sort<D>>,
    wanted_count: u64,
    found: Option<Sorted<D>>,
    found_count: u64,
    /// What is stored nowhere and comes once: its later places in the image.
    repeated: Option<Sorted<D>>,
    repeated_count: u64,
}

impl<D: Directory> Lookup<D> {
    /// For an image of `size` bytes.
    pub fn new(pool: &Arc<Pool<D>>, size: u64) -> Lookup<D> {
        let wanted = Sort::new(pool);
        let lists_name = format!("index/{}-lists", wanted.prefix());
        Lookup {
            pool: Arc::clone(pool),
            size,
            lists: None,
            lists_name,
            list_bytes: 0,
            capacity: 0,
            indices: Vec::new(),
            wanted: Some(wanted),
            wanted_count: 0,
            found: None,
            found_count: 0,
            repeated: None,
            repeated_count: 0,
        }
    }

    pub(super) fn algorithm(&self) -> HashAlgorithm {
        self.pool.hash_algorithm()
    }

    /// A SHA-1 pool believes no hash that another made: chosen-prefix collisions are practical (I9).
    pub(super) fn believes_hashes(&self) -> bool {
        self.algorithm() != HashAlgorithm::Sha1
    }

    pub(super) fn clusters_in(&self, index: u64) -> usize {
        clusters_in(self.size, index)
    }

    /// Whether the image ends within this cluster of an extent: no other image's cluster is taken for it,
    /// because nobody knows what lies behind the end there (I11).
    pub(super) fn is_cut(&self, index: u64, slot: usize) -> bool {
        let cluster = index * EXTENT_CLUSTERS as u64 + slot as u64;
        (cluster + 1) * CLUSTER_SIZE as u64 > self.size
    }

    /// For each summary, whether the pool has an extent of that content.
    pub async fn find_whole(
        &self,
        summaries: &[(u64, ContentHash)],
        working: Working<'_>,
    ) -> Result<Vec<bool>> {
        let places = self.places(summaries, working).await?;
        Ok(places.iter().map(Option::is_some).collect())
    }

    /// The same with places. One walk over all maps; an extent's summary is computed if it is not known.
    pub(super) async fn places(
        &self,
        summaries: &[(u64, ContentHash)],
        working: Working<'_>,
    ) -> Result<Vec<Option<Place>>> {
        let mut places: Vec<Option<Place>> = vec![None; summaries.len()];
        // One place is looked for, and serves all that want the same content with as many clusters in front of the end.
        let mut wanted: BTreeMap<(ContentHash, usize), Vec<usize>> = BTreeMap::new();
        for (at, (index, summary)) in summaries.iter().enumerate() {
            self.check_index(*index)?;
            let in_image = self.clusters_in(*index);
            if self.believes_hashes() && !self.is_cut(*index, in_image - 1) {
                wanted.entry((*summary, in_image)).or_default().push(at);
            }
        }
        if wanted.is_empty() {
            return Ok(places);
        }
        let mut seen: HashSet<MapPageId> = HashSet::new();
        for (image, number, page) in self.pool.all_pages() {
            if !seen.insert(page) {
                continue;
            }
            for (index, extent) in self.pool.extents_in(page, number) {
                working()?;
                // An extent that changed meanwhile, or is damaged, is not one to be found.
                let Ok(summary) = self.pool.summary(extent).await else { continue };
                let alike = wanted.range((summary, 0)..=(summary, EXTENT_CLUSTERS));
                let fits = |key: &(ContentHash, usize)| self.pool.ends_within(extent, key.1);
                let fitting: Vec<_> = alike.map(|(key, _)| *key).filter(fits).collect();
                for at in fitting.iter().filter_map(|key| wanted.remove(key)).flatten() {
                    places[at] = Some(Place { image, index, extent });
                }
                if wanted.is_empty() {
                    return Ok(places);
                }
            }
        }
        Ok(places)
    }

    fn check_index(&self, index: u64) -> Result<()> {
        match index < ExtentHashes::extents_of(self.size) {
            true => Ok(()),
            false => Err(lie(&format!("extent {index} lies behind the end of the image"))),
        }
    }

    /// Adds the hashes of an extent that the pool does not have whole; they must have the summary that was
    /// told. Extents come in ascending order.
    pub async fn add(
        &mut self,
        index: u64,
        summary: ContentHash,
        hashes: ExtentHashes,
    ) -> Result<()> {
        self.check_index(index)?;
        if self.indices.last().is_some_and(|last| *last >= index) {
            return Err(lie("extents are out of order"));
        }
        if hashes.summary(self.algorithm()) != summary {
            return Err(lie(&format!("the hashes of extent {index} do not have its summary")));
        }
        self.account_list().await?;
        let in_image = self.clusters_in(index);
        for (slot, hash) in hashes.iter() {
            if slot >= in_image {
                return Err(lie(&format!("extent {index} has data behind the end of the image")));
            }
            self.wanted_count += 1;
            if !self.is_cut(index, slot) {
                let value = index * EXTENT_CLUSTERS as u64 + slot as u64;
                let record = Record { key: key_of(&hash), value };
                match &mut self.wanted {
                    Some(wanted) => wanted.push(record).await?,
                    None => return Err(lie("hashes after the last extent")),
                }
            }
        }
        self.append(&hashes).await?;
        self.indices.push(index);
        Ok(())
    }

    /// Another list, if there may be one. Only the few that anybody may have take of what is set aside (I10).
    async fn account_list(&mut self) -> Result<()> {
        let bytes = ExtentHashes::BYTES as u64;
        if self.list_bytes == 0 {
            self.capacity = self.pool.status()?.bytes_capacity;
        }
        let capacity = self.capacity;
        let most = (capacity / LIST_SHARE).max(LIST_BYTES_MIN);
        let before = self.pool.list_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.list_bytes += bytes;
        if before + bytes > most {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the lists of images being received would take more than {most} bytes: the image is too large for a pool that may hold {capacity} bytes"
                ),
            ));
        }
        match before + bytes > LIST_BYTES_MIN && self.indices.len().is_multiple_of(LISTS_AT_ONCE) {
            true => check_room(&self.pool, bytes * LISTS_AT_ONCE as u64).await,
            false => Ok(()),
        }
    }

    async fn append(&mut self, hashes: &ExtentHashes) -> Result<()> {
        let lists = match self.lists.take() {
            Some(lists) => lists,
            None => create_file(&*self.pool.directory, &self.lists_name).await?,
        };
        let offset = (self.indices.len() * ExtentHashes::BYTES) as u64;
        let bytes = BufferMut::copy_of(hashes.as_bytes()).freeze();
        let written = lists.write(offset, bytes).await.map_err(failed);
        self.lists = Some(lists);
        written
    }

    /// The list that was added as the `number`th.
    pub(super) async fn list(&self, number: usize) -> Result<ExtentHashes> {
        let Some(lists) = &self.lists else { return Err(lost()) };
        let offset = (number * ExtentHashes::BYTES) as u64;
        let (result, bytes) = lists.read(offset, BufferMut::zeroed(ExtentHashes::BYTES)).await;
        result.map_err(failed)?;
        ExtentHashes::from_bytes(bytes.to_vec()).ok_or_else(lost)
    }

    /// Looks all added hashes up: one pass over the pool's hash table, no data. To be called once, after
    /// the last extent.
    pub async fn search(&mut self, working: Working<'_>) -> Result<()> {
        let Some(wanted) = self.wanted.take() else { return Ok(()) };
        let wanted = wanted.finish();
        let mut stored = Sort::new(&self.pool);
        let mut found = Sort::new(&self.pool);
        let mut repeated = Sort::new(&self.pool);
        let mut result = match self.wanted_count {
            0 => Ok(()),
            _ => self.scan(&wanted, &mut stored, working).await,
        };
        let stored = stored.finish();
        if result.is_ok() {
            let believed = self.believes_hashes().then_some(&mut repeated);
            result = join(&wanted, &stored, (&mut found, believed), working)
                .await
                .map(|counts| (self.found_count, self.repeated_count) = counts);
        }
        stored.discard().await;
        wanted.discard().await;
        self.found = Some(found.finish());
        self.repeated = Some(repeated.finish());
        result
    }

    /// Sorts what the pool stores; only what is wanted, if the list is in memory.
    async fn scan(
        &self,
        wanted: &Sorted<D>,
        stored: &mut Sort<D>,
        working: Working<'_>,
    ) -> Result<()> {
        let pool = &self.pool;
        let reserved = pool.reserved_clusters();
        for region in (1..pool.region_count()).map(RegionIndex) {
            working()?;
            let clusters = pool.clusters_with_data(region, &reserved);
            for (cluster, hash) in pool.region_hashes(region, &clusters).await?.hashes {
                let record = record_of(cluster, &hash);
                if wanted.may_have(&record.key) {
                    stored.push(record).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn hits(&self) -> Option<Merge<D>> {
        self.found.as_ref().map(Sorted::merge)
    }

    pub(super) fn repeats(&self) -> Option<Merge<D>> {
        self.repeated.as_ref().map(Sorted::merge)
    }

    /// Clusters with data in the extents that were added.
    pub fn wanted_count(&self) -> u64 {
        self.wanted_count
    }

    /// Of these, those that the pool stores somewhere.
    pub fn found_count(&self) -> u64 {
        self.found_count
    }

    /// Of those that it does not, the ones whose content an earlier one has: they need not come.
    pub fn repeated_count(&self) -> u64 {
        self.repeated_count
    }

    /// Removes what lies on disk.
    pub async fn close(mut self) {
        self.remove_files().await;
    }

    pub(super) async fn remove_files(&mut self) {
        if let Some(wanted) = self.wanted.take() {
            wanted.discard().await;
        }
        if let Some(found) = self.found.take() {
            found.discard().await;
        }
        if let Some(repeated) = self.repeated.take() {
            repeated.discard().await;
        }
        if self.lists.take().is_some() {
            let _ = self.pool.directory.remove(&self.lists_name).await;
        }
    }
}

impl<D: Directory> Drop for Lookup<D> {
    fn drop(&mut self) {
        self.pool.list_bytes.fetch_sub(self.list_bytes, Ordering::Relaxed);
    }
}

/// Records merged between two looks at whether the work goes on.
const STEPS: u64 = 16 << 10;

/// For each wanted hash that is stored, its place in the image and the first cluster that has it; for each other
/// that was wanted before, its place and the first one. Returns how many of both.
async fn join<D: Directory>(
    wanted: &Sorted<D>,
    stored: &Sorted<D>,
    (found, mut repeated): (&mut Sort<D>, Option<&mut Sort<D>>),
    working: Working<'_>,
) -> Result<(u64, u64)> {
    let mut counts = (0, 0);
    let mut steps = 0u64;
    let mut step = || {
        steps += 1;
        if steps.is_multiple_of(STEPS) { working() } else { Ok(()) }
    };
    let mut missing: Option<Record> = None;
    let (mut wanted, mut stored) = (wanted.merge(), stored.merge());
    let mut head = stored.next().await?;
    while let Some(want) = wanted.next().await? {
        step()?;
        while head.is_some_and(|stored| stored.key < want.key) {
            step()?;
            head = stored.next().await?;
        }
        if let Some(stored) = head.filter(|stored| stored.key == want.key) {
            found.push(Record { key: [want.value, stored.value], value: 0 }).await?;
            counts.0 += 1;
            continue;
        }
        match (missing.filter(|first| first.key == want.key), &mut repeated) {
            (Some(first), Some(repeated)) => {
                repeated.push(Record { key: [want.value, first.value], value: 0 }).await?;
                counts.1 += 1;
            }
            _ => missing = Some(want),
        }
    }
    Ok(counts)
}

/// Place in the image, in clusters, and the cluster that seems to have that content.
pub(super) fn hit_of(record: &Record) -> (u64, ClusterIndex) {
    (record.key[0], ClusterIndex(record.key[1]))
}

impl<D: Directory> Pool<D> {
    /// The map pages of all images, hidden ones too, with their number in the image.
    fn all_pages(&self) -> Vec<(ImageId, u64, MapPageId)> {
        let state = self.lock();
        let mut pages = Vec::new();
        for (image, found) in &state.images {
            let numbered = found.record.pages.iter().zip(0u64..);
            pages.extend(numbered.filter_map(|(page, number)| Some((*image, number, (*page)?))));
        }
        pages
    }

    /// Whether an extent has nothing behind its first `clusters` slots.
    fn ends_within(&self, extent: ExtentId, clusters: usize) -> bool {
        let state = self.lock();
        state.extents.get(&extent).is_some_and(|found| {
            found.extent.runs().last().is_none_or(|(slot, length, _)| slot + length <= clusters)
        })
    }

    fn extents_in(&self, page: MapPageId, number: u64) -> Vec<(u64, ExtentId)> {
        let state = self.lock();
        let Some(found) = state.pages.get(&page) else { return Vec::new() };
        let first = number * blockyard_block::MAP_PAGE_EXTENTS as u64;
        found.page.iter().map(|(within, id)| (first + within as u64, id)).collect()
    }
}

/// Clusters of an extent that belong to an image of `size` bytes. What lies behind must read zero (I11).
pub(super) fn clusters_in(size: u64, index: u64) -> usize {
    let first = index.saturating_mul(EXTENT_CLUSTERS as u64);
    let clusters = size.div_ceil(CLUSTER_SIZE as u64);
    clusters.saturating_sub(first).min(EXTENT_CLUSTERS as u64) as usize
}

/// The error for a list that contradicts itself.
pub(super) fn lie(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidArgument,
        format!("the list of the image's content is wrong: {what}"),
    )
}

fn lost() -> Error {
    Error::new(ErrorKind::Corrupt, "a list of hashes that was kept in the index is gone")
}
