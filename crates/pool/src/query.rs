//! Questions that read no data: digest, map, status.

use crate::extent::{Extent, Slot};
use crate::hashes::{HashCopies, Known};
use crate::index::scan::record_of;
use crate::index::sorter::{Sorted, Sorter};
use crate::pool::Pool;
use crate::records::{FORMAT_VERSION, ImageRecord};
use crate::state::State;
use crate::types::{Contents, MapRun, MapState, PoolStatus};
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind,
    ExtentId, HashAlgorithm, Hasher, ImageId, ImageName, MAP_PAGE_EXTENTS, RegionIndex, Result,
};
use blockyard_io::Directory;

/// Extents that are listed at once.
pub(crate) const EXTENTS_AT_ONCE: usize = 4096;

impl<D: Directory> Pool<D> {
    /// The image's root hash over size, algorithm and content; the same for the same content,
    /// wherever it lies. Reads hashes, no data. `Busy` naming the count while clusters are untrusted.
    /// Of an image that is being written it is that of no single moment: take a snapshot first.
    pub async fn digest(&self, name: &ImageName) -> Result<ContentHash> {
        let id = self.lock().find(name)?;
        self.digest_of(id).await
    }

    pub(crate) async fn digest_of(&self, id: ImageId) -> Result<ContentHash> {
        let size = self.lock().image(id)?.record.size;
        let mut root = RootHasher::new(self.hash_algorithm(), size);
        let mut first = 0;
        loop {
            let extents = {
                let state = self.lock();
                state.check_not_lazy(id, "compared")?;
                state.image(id)?;
                state.image_extents_from(id, first, EXTENTS_AT_ONCE)
            };
            let Some((last, _)) = extents.last() else { return Ok(root.finish()) };
            first = last + 1;
            for (index, extent) in extents {
                let summary = self.summary(extent).await.map_err(|error| {
                    let name = self.lock().image(id).map(|image| image.record.name.to_string());
                    let name = name.unwrap_or_else(|_| id.0.to_string());
                    error.at(format_args!("image {name} at {}", index * EXTENT_SIZE))
                })?;
                root.add(index, &summary);
            }
        }
    }

    /// The hash over the hashes of an extent's slots, kept until it changes.
    pub(crate) async fn summary(&self, id: ExtentId) -> Result<ContentHash> {
        // Reclaim may repoint the extent meanwhile: its clusters stay what they are until this is done.
        let (extent, changes, _in_epoch) = {
            let mut state = self.lock();
            let Some(found) = state.extents.get(&id) else {
                return Err(Error::new(ErrorKind::Busy, "the image changed meanwhile: try again"));
            };
            if let Some(summary) = &found.summary {
                return Ok(**summary);
            }
            let (extent, changes) = (found.extent.clone(), found.changes);
            (extent, changes, self.enter_epoch(&mut state))
        };
        let mut bytes = Vec::with_capacity(32 * EXTENT_CLUSTERS);
        for known in self.known_slots(&extent).await? {
            match known {
                None => bytes.extend_from_slice(&[0; 32]),
                Some(Known::Hash(hash)) => bytes.extend_from_slice(&hash.0),
                Some(Known::Untrusted) => {
                    return Err(self.untrusted());
                }
            }
        }
        let summary = self.hash_algorithm().hash(&bytes);
        let mut state = self.lock();
        if let Some(found) = state.extents.get_mut(&id)
            && found.changes == changes
        {
            found.summary = Some(Box::new(summary));
        }
        Ok(summary)
    }

    /// Why a hash is not there.
    pub(crate) fn untrusted(&self) -> Error {
        let lost = self.lock().lost_hashes().0;
        let untrusted = self.status().map_or(0, |status| status.clusters_untrusted);
        let untrusted = untrusted.saturating_sub(lost);
        if untrusted == 0 && lost > 0 {
            let message = format!("the hashes of {lost} clusters are lost: run `blockyard scrub`");
            return Error::new(ErrorKind::Corrupt, message);
        }
        Error::new(
            ErrorKind::Busy,
            format!(
                "{untrusted} clusters are still to be hashed again after a crash: try again soon"
            ),
        )
    }

    /// What is known of each slot's content.
    pub(crate) async fn known_slots(&self, extent: &Extent) -> Result<Vec<Option<Known>>> {
        let mut known = vec![None; EXTENT_CLUSTERS];
        let mut copies = HashCopies::default();
        let mut runs: Vec<_> = extent.runs().collect();
        // Each block of the hash table is read once, however often references go to and fro.
        runs.sort_unstable_by_key(|(_, _, target)| match target {
            Slot::Data(first) => first.0,
            Slot::Zero | Slot::Reserved(_) => 0,
        });
        for (slot, length, target) in runs {
            let Slot::Data(first) = target else { continue };
            for step in 0..length {
                let cluster = first.offset_by(step as u64);
                known[slot + step] = Some(self.known_in_order(cluster, &mut copies).await?);
            }
        }
        Ok(known)
    }

    /// The map from `offset` (rounded down to a cluster) to the end of its extent, at most 1024 clusters;
    /// where there is no extent it is one run up to the next that there is. Continue where the last
    /// run ended, until the end of the image. Reads no data.
    pub async fn map(&self, name: &ImageName, offset: u64, hashes: bool) -> Result<Vec<MapRun>> {
        let size = CLUSTER_SIZE as u64;
        let first = offset / size;
        let (extent, next, image_size, _in_epoch) = {
            let mut state = self.lock();
            state.check_not_lazy(state.find(name)?, "shown as a map")?;
            let record = &state.image(state.find(name)?)?.record;
            let index = first / EXTENT_CLUSTERS as u64;
            let extent = state.extent_at(record, index).map(|id| state.extents[&id].extent.clone());
            let next = if extent.is_some() { index + 1 } else { state.next_extent(record, index) };
            let size = record.size;
            (extent, next, size, self.enter_epoch(&mut state))
        };
        if offset >= image_size {
            return Ok(Vec::new());
        }
        let end = next.saturating_mul(EXTENT_CLUSTERS as u64).min(image_size.div_ceil(size));
        let Some(extent) = extent else {
            let length = (end * size).min(image_size) - first * size;
            return Ok(vec![MapRun { offset: first * size, length, state: MapState::Zero }]);
        };
        let known = if hashes { Some(self.known_slots(&extent).await?) } else { None };
        let mut runs: Vec<MapRun> = Vec::new();
        for cluster in first..end {
            let slot = (cluster % EXTENT_CLUSTERS as u64) as usize;
            let state = map_state(extent.slot(slot), known.as_ref().and_then(|known| known[slot]));
            let length = size.min(image_size - cluster * size);
            match runs.last_mut() {
                Some(last) if last.state == state && !(hashes && is_data(state)) => {
                    last.length += length
                }
                _ => runs.push(MapRun { offset: cluster * size, length, state }),
            }
        }
        Ok(runs)
    }

    /// Allocated clusters x 4096 bytes, without the walk over all maps that [`Pool::status`] is; `None`
    /// once the pool has failed.
    pub fn bytes_physical(&self) -> Option<u64> {
        let state = self.lock();
        let used = state.allocator.clusters_used() * CLUSTER_SIZE as u64;
        state.failed.is_none().then_some(used)
    }

    /// The pool as a whole. Never waits on I/O.
    pub fn status(&self) -> Result<PoolStatus> {
        let images: Vec<ImageId> = self.lock().names.values().copied().collect();
        let bytes_logical = images.into_iter().map(|id| self.bytes_mapped(id)).sum();
        let mut state = self.lock();
        let size = CLUSTER_SIZE as u64;
        let untrusted: u64 = state
            .regions
            .untrusted()
            .map(|(region, bits)| {
                let used =
                    bits.ones().filter(|within| state.allocator.count(region.cluster(*within)) > 0);
                used.count() as u64
            })
            .sum();
        let mut activities = state.damage_lines();
        if let Some((_, trouble)) = &state.checkpoint_trouble {
            activities.push(format!("a checkpoint failed and is tried again: {trouble}"));
        }
        activities.extend(state.commit_waits.clone());
        let (lost, is_tried) = state.lost_hashes();
        if untrusted > lost {
            let due = untrusted - lost;
            activities.push(format!("hashing again {due} clusters after a crash"));
        }
        if lost > 0 {
            let remedy = match is_tried {
                true => "`blockyard scrub --rehash` makes them anew of the data as it is",
                false => "run `blockyard scrub`",
            };
            activities.push(format!(
                "the hashes of {lost} clusters are lost, because the hash table is damaged; their data can be read and written: {remedy}"
            ));
        }
        if !state.sweeps.is_empty() {
            activities.push("giving back the space of removed images".to_owned());
        }
        let free = state.allocator.clusters_free() * size;
        let used = state.allocator.clusters_used() * size;
        let of_storage = match state.pool.data_on_device {
            true => u64::from(state.allocator.regions_max()) * EXTENT_SIZE,
            false => used + free + state.space_available / EXTENT_SIZE * EXTENT_SIZE,
        };
        let capacity = state.allocator.clusters_max().saturating_mul(size).min(of_storage);
        Ok(PoolStatus {
            id: state.pool.id,
            hash: state.pool.hash,
            format_version: FORMAT_VERSION,
            images: state.names.len() as u64,
            bytes_logical,
            bytes_physical: used,
            bytes_capacity: capacity,
            bytes_on_disk: 0,
            clusters_untrusted: untrusted,
            regions_with_intent: state.regions.regions_with_intent().count() as u64,
            failed: state.failed.clone(),
            activities,
            opened_clean: state.opened_clean,
        })
    }

    /// The last count of distinct contents, if nothing was written, freed or distrusted since: it is exact.
    pub fn counted_contents(&self) -> Option<Contents> {
        let state = self.lock();
        let (version, contents) = state.counted?;
        (version == state.content_version()).then_some(contents)
    }

    /// Counts what is stored and what of it is distinct: one pass over all hashes, no data, unless the last
    /// count is exact. They are sorted outside memory if they are many, and leave an index. `None` while
    /// clusters are untrusted, or if there is no space to sort in.
    pub async fn count_contents(&self) -> Result<Option<Contents>> {
        if let Some(exact) = self.counted_contents() {
            return Ok(Some(exact));
        }
        let version = self.lock().content_version();
        let since = self.begin_index();
        let mut sorter = self.new_sorter();
        match self.sort_all_hashes(&mut sorter).await {
            Ok(true) => {}
            incomplete => {
                sorter.discard().await;
                return match incomplete {
                    Err(error) if error.kind() != ErrorKind::NoSpace => Err(error),
                    _ => Ok(None),
                };
            }
        }
        let sorted = sorter.finish();
        self.leave_index(&sorted, since).await;
        let contents = count_distinct(&sorted).await;
        sorted.discard().await;
        let contents = contents?;
        self.lock().counted = Some((version, contents));
        Ok(Some(contents))
    }

    /// False if there are clusters whose hash is not known.
    async fn sort_all_hashes(&self, sorter: &mut Sorter<D>) -> Result<bool> {
        let reserved = self.reserved_clusters();
        for region in (1..self.region_count()).map(RegionIndex) {
            let clusters = self.clusters_with_data(region, &reserved);
            let told = self.region_hashes(region, &clusters).await?;
            if told.unknown > 0 {
                return Ok(false);
            }
            for (cluster, hash) in &told.hashes {
                sorter.push(record_of(*cluster, hash)).await?;
            }
        }
        Ok(true)
    }

    pub(crate) fn region_count(&self) -> u32 {
        self.lock().allocator.region_count()
    }

    /// The runs of clusters that slots keep without data, sorted: they count, but have no content. Walked
    /// some extents at a time, so that requests go on.
    pub(crate) fn reserved_clusters(&self) -> Vec<(ClusterIndex, u64)> {
        let ids: Vec<ExtentId> = self.lock().extents.keys().copied().collect();
        let mut runs = Vec::new();
        for some in ids.chunks(64) {
            let state = self.lock();
            for extent in some.iter().filter_map(|id| state.extents.get(id)) {
                runs.extend(extent.extent.runs().filter_map(|(_, length, target)| match target {
                    Slot::Reserved(first) => Some((first, length as u64)),
                    Slot::Zero | Slot::Data(_) => None,
                }));
            }
        }
        runs.sort_unstable();
        // A snapshot and its source may share a part of theirs.
        runs.dedup_by(|next, run| {
            let overlaps = next.0.0 < run.0.0 + run.1;
            if overlaps {
                run.1 = run.1.max(next.0.0 + next.1 - run.0.0);
            }
            overlaps
        });
        runs
    }

    pub(crate) fn clusters_with_data(
        &self,
        region: RegionIndex,
        reserved: &[(ClusterIndex, u64)],
    ) -> Vec<ClusterIndex> {
        let is_reserved = |cluster: &ClusterIndex| {
            let next = reserved.partition_point(|(first, _)| first <= cluster);
            next > 0 && cluster.0 - reserved[next - 1].0.0 < reserved[next - 1].1
        };
        let mut clusters = self.clusters_in_use(region);
        clusters.retain(|cluster| !is_reserved(cluster));
        clusters
    }

    fn clusters_in_use(&self, region: RegionIndex) -> Vec<ClusterIndex> {
        let state = self.lock();
        if state.allocator.used_in(region) == 0 {
            return Vec::new();
        }
        let clusters = (0..EXTENT_CLUSTERS).map(|within| region.cluster(within));
        clusters.filter(|cluster| state.allocator.count(*cluster) > 0).collect()
    }
}

impl State {
    /// The index of the first extent after `index` that the image has; past its end if none.
    fn next_extent(&self, image: &ImageRecord, index: u64) -> u64 {
        let per_page = MAP_PAGE_EXTENTS as u64;
        let pages = image.pages.iter().zip(0_u64..).skip(((index + 1) / per_page) as usize);
        let mut present = pages.filter_map(|(page, number)| {
            let base = number * per_page;
            let mut within = self.pages[&(*page)?].page.iter().map(|(at, _)| base + at as u64);
            within.find(|at| *at > index)
        });
        present.next().unwrap_or(u64::MAX)
    }
}

/// The root hash of an image of `size` bytes: over its size, the algorithm's name, and the summary of each extent.
/// `summaries` has the extents that do not read zero, and may have others, in ascending order.
pub fn root_hash(
    algorithm: HashAlgorithm,
    size: u64,
    summaries: &[(u64, ContentHash)],
) -> ContentHash {
    let mut root = RootHasher::new(algorithm, size);
    summaries.iter().for_each(|(index, summary)| root.add(*index, summary));
    root.finish()
}

/// A root hash that is being made: the list of a large image's summaries is long.
struct RootHasher {
    hasher: Hasher,
    /// The summary of an extent that reads zero.
    empty: ContentHash,
    next: u64,
    extents: u64,
}

impl RootHasher {
    fn new(algorithm: HashAlgorithm, size: u64) -> RootHasher {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&size.to_le_bytes());
        hasher.update(algorithm.name().as_bytes());
        let empty = algorithm.hash(&[0; 32 * EXTENT_CLUSTERS]);
        RootHasher { hasher, empty, next: 0, extents: size.div_ceil(EXTENT_SIZE) }
    }

    /// Extents come in ascending order; what is beyond the image's size does not count.
    fn add(&mut self, index: u64, summary: &ContentHash) {
        self.fill(index.min(self.extents));
        if index == self.next && index < self.extents {
            self.hasher.update(&summary.0);
            self.next += 1;
        }
    }

    fn fill(&mut self, end: u64) {
        while self.next < end {
            self.hasher.update(&self.empty.0);
            self.next += 1;
        }
    }

    fn finish(mut self) -> ContentHash {
        self.fill(self.extents);
        self.hasher.finish()
    }
}

async fn count_distinct<D: Directory>(sorted: &Sorted<D>) -> Result<Contents> {
    let mut merge = sorted.merge();
    let mut contents = Contents { clusters: 0, distinct: 0 };
    let mut last = None;
    while let Some(record) = merge.next().await? {
        contents.clusters += 1;
        contents.distinct += u64::from(last != Some(record.key));
        last = Some(record.key);
    }
    Ok(contents)
}

fn is_data(state: MapState) -> bool {
    matches!(state, MapState::Data(_) | MapState::Untrusted)
}

fn map_state(slot: Slot, known: Option<Known>) -> MapState {
    match (slot, known) {
        (Slot::Zero, _) => MapState::Zero,
        (Slot::Reserved(_), _) => MapState::Reserved,
        (Slot::Data(_), Some(Known::Hash(hash))) => MapState::Data(hash),
        (Slot::Data(_), Some(Known::Untrusted)) => MapState::Untrusted,
        // Hashes were not asked for.
        (Slot::Data(_), _) => MapState::Data(ContentHash([0; 32])),
    }
}
