//! Questions that read no data: digest, map, status; and scrub, which reads all of it.

use crate::extent::{Extent, Slot};
use crate::hashes::Known;
use crate::pool::Pool;
use crate::records::FORMAT_VERSION;
use crate::types::{Damage, MapRun, MapState, PoolStatus};
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind,
    ExtentId, ImageId, ImageName, RegionIndex, Result,
};
use blockyard_io::Directory;

/// Progress and findings of a scrub so far.
#[derive(Debug, Clone, Default)]
pub struct Scrub {
    pub clusters_done: u64,
    pub clusters_total: u64,
    pub clusters_skipped_untrusted: u64,
    pub damage: Vec<Damage>,
}

impl<D: Directory> Pool<D> {
    /// The image's root hash over size, algorithm and content; the same for the same content,
    /// wherever it lies. Reads hashes, no data. `Busy` naming the count while clusters are untrusted.
    /// Of an image that is being written it is that of no single moment: take a snapshot first.
    pub async fn digest(&self, name: &ImageName) -> Result<ContentHash> {
        let (size, extents) = {
            let state = self.lock();
            let id = state.find(name)?;
            (state.image(id)?.record.size, state.image_extents(id))
        };
        let algorithm = self.hash_algorithm();
        let empty = algorithm.hash(&[0; 32 * EXTENT_CLUSTERS]);
        let count = size.div_ceil(EXTENT_SIZE);
        let mut summaries = Vec::with_capacity(count as usize * 32 + 32);
        summaries.extend_from_slice(&size.to_le_bytes());
        summaries.extend_from_slice(algorithm.name().as_bytes());
        let mut present = extents.into_iter().peekable();
        for index in 0..count {
            let summary = match present.next_if(|(at, _)| *at == index) {
                Some((_, extent)) => self.summary(extent).await.map_err(|error| {
                    error.at(format_args!("image {name} at {}", index * EXTENT_SIZE))
                })?,
                None => empty,
            };
            summaries.extend_from_slice(&summary.0);
        }
        Ok(algorithm.hash(&summaries))
    }

    /// The hash over the hashes of an extent's slots, kept until it changes.
    async fn summary(&self, id: ExtentId) -> Result<ContentHash> {
        let (extent, changes) = {
            let state = self.lock();
            let Some(found) = state.extents.get(&id) else {
                return Err(Error::new(ErrorKind::Busy, "the image changed meanwhile: try again"));
            };
            if let Some(summary) = &found.summary {
                return Ok(**summary);
            }
            (found.extent.clone(), found.changes)
        };
        let mut bytes = Vec::with_capacity(32 * EXTENT_CLUSTERS);
        for known in self.known_slots(&extent).await? {
            match known {
                None => bytes.extend_from_slice(&[0; 32]),
                Some(Known::Hash(hash)) => bytes.extend_from_slice(&hash.0),
                Some(Known::Untrusted) => {
                    let untrusted = self.status()?.clusters_untrusted;
                    return Err(Error::new(
                        ErrorKind::Busy,
                        format!(
                            "{untrusted} clusters are still to be hashed again after a crash: try again soon"
                        ),
                    ));
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

    /// What is known of each slot's content; each hash page is read once.
    async fn known_slots(&self, extent: &Extent) -> Result<Vec<Option<Known>>> {
        let mut known = vec![None; EXTENT_CLUSTERS];
        let mut copy = None;
        for (slot, length, target) in extent.runs() {
            let Slot::Data(first) = target else { continue };
            for step in 0..length {
                let cluster = first.offset_by(step as u64);
                known[slot + step] = Some(self.known_cluster(cluster, &mut copy).await?);
            }
        }
        Ok(known)
    }

    /// The map from `offset` (rounded down to a cluster) to the end of its extent: at most 1024
    /// clusters. Continue where the last run ended, until the end of the image. Reads no data.
    pub async fn map(&self, name: &ImageName, offset: u64, hashes: bool) -> Result<Vec<MapRun>> {
        let size = CLUSTER_SIZE as u64;
        let first = offset / size;
        let (extent, image_size) = {
            let state = self.lock();
            let record = &state.image(state.find(name)?)?.record;
            let id = state.extent_at(record, first / EXTENT_CLUSTERS as u64);
            (id.map(|id| state.extents[&id].extent.clone()), record.size)
        };
        if offset >= image_size {
            return Ok(Vec::new());
        }
        let end = ((first / EXTENT_CLUSTERS as u64 + 1) * EXTENT_CLUSTERS as u64)
            .min(image_size.div_ceil(size));
        let known = match &extent {
            Some(extent) if hashes => Some(self.known_slots(extent).await?),
            _ => None,
        };
        let mut runs: Vec<MapRun> = Vec::new();
        for cluster in first..end {
            let slot = (cluster % EXTENT_CLUSTERS as u64) as usize;
            let state = match (&extent, &known) {
                (None, _) => MapState::Zero,
                (Some(extent), known) => {
                    map_state(extent.slot(slot), known.as_ref().and_then(|known| known[slot]))
                }
            };
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

    /// The pool as a whole. Never waits on I/O.
    pub fn status(&self) -> Result<PoolStatus> {
        let images: Vec<ImageId> = self.lock().names.values().copied().collect();
        let bytes_logical = images.into_iter().map(|id| self.bytes_mapped(id)).sum();
        let state = self.lock();
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
        let mut activities = state.damage.clone();
        if let Some((_, trouble)) = &state.checkpoint_trouble {
            activities.push(format!("a checkpoint failed and is tried again: {trouble}"));
        }
        activities.extend(state.commit_waits.clone());
        if untrusted > 0 {
            activities.push(format!("hashing again {untrusted} clusters after a crash"));
        }
        if !state.sweeps.is_empty() {
            activities.push("giving back the space of removed images".to_owned());
        }
        let free = state.allocator.clusters_free() * size;
        let used = state.allocator.clusters_used() * size;
        let capacity = match state.allocator.clusters_max() {
            u64::MAX if state.pool.data_on_device => {
                u64::from(state.allocator.regions_max()) * EXTENT_SIZE
            }
            u64::MAX => used + free + state.space_available / EXTENT_SIZE * EXTENT_SIZE,
            clusters => clusters * size,
        };
        Ok(PoolStatus {
            id: state.pool.id,
            hash: state.pool.hash,
            format_version: FORMAT_VERSION,
            images: state.names.len() as u64,
            bytes_logical,
            bytes_physical: used,
            bytes_unique: None,
            bytes_capacity: capacity,
            bytes_on_disk: 0,
            clusters_untrusted: untrusted,
            regions_with_intent: state.regions.regions_with_intent().count() as u64,
            failed: state.failed.clone(),
            activities,
            opened_clean: state.opened_clean,
        })
    }

    /// Distinct contents among the allocated clusters x 4096, counted from the hash table: one pass
    /// over all hashes, no data. `None` while clusters are untrusted.
    pub async fn bytes_unique(&self) -> Result<Option<u64>> {
        let mut seen = std::collections::HashSet::new();
        let reserved = self.reserved_clusters();
        for region in 1..self.region_count() {
            let region = RegionIndex(region);
            let mut copy = None;
            for cluster in self.clusters_with_data(region, &reserved) {
                match self.known_cluster(cluster, &mut copy).await? {
                    Known::Hash(hash) => drop(seen.insert(hash)),
                    Known::Untrusted => return Ok(None),
                }
            }
        }
        Ok(Some(seen.len() as u64 * CLUSTER_SIZE as u64))
    }

    pub(crate) fn region_count(&self) -> u32 {
        self.lock().allocator.region_count()
    }

    /// The runs of clusters that slots keep without data, sorted: they count, but have no content. Walked
    /// some extents at a time, so that requests go on.
    fn reserved_clusters(&self) -> Vec<(ClusterIndex, u64)> {
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
        runs
    }

    fn clusters_with_data(
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

    /// Reads every trusted cluster and compares it with its hash, calling `progress` after each
    /// region; return false from it to stop.
    pub async fn scrub(&self, mut progress: impl FnMut(&Scrub) -> bool) -> Result<Scrub> {
        let mut scrub =
            Scrub { clusters_total: self.lock().allocator.clusters_used(), ..Scrub::default() };
        let reserved = self.reserved_clusters();
        for region in 1..self.region_count() {
            let clusters = self.clusters_with_data(RegionIndex(region), &reserved);
            if clusters.is_empty() {
                continue;
            }
            for cluster in clusters {
                self.scrub_cluster(cluster, &mut scrub).await?;
                scrub.clusters_done += 1;
            }
            if !progress(&scrub) {
                break;
            }
        }
        Ok(scrub)
    }

    /// A cluster that changes meanwhile is not judged: its watch is broken (I6).
    async fn scrub_cluster(&self, cluster: ClusterIndex, scrub: &mut Scrub) -> Result<()> {
        let watch = {
            let mut state = self.lock();
            if state.allocator.count(cluster) == 0 {
                return Ok(());
            }
            state.regions.watch(cluster)
        };
        let expected = match self.hash_of(cluster).await {
            Ok(expected) => expected,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.lock().regions.unwatch(cluster, watch);
                scrub.damage.push(self.damage_at(cluster, error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(expected) = expected else {
            self.lock().regions.unwatch(cluster, watch);
            scrub.clusters_skipped_untrusted += 1;
            return Ok(());
        };
        let problem = match self.read_clusters(cluster, 1).await {
            Ok(bytes) if self.hash_algorithm().hash(&bytes) == expected => None,
            Ok(_) => Some(format!("data at {} does not match its hash", cluster.data_offset())),
            Err(error) => Some(error.to_string()),
        };
        let unchanged = self.lock().regions.unwatch(cluster, watch);
        if let Some(problem) = problem.filter(|_| unchanged) {
            scrub.damage.push(self.damage_at(cluster, problem));
        }
        Ok(())
    }

    /// Which images show the cluster, and where: found by walking all maps.
    fn damage_at(&self, cluster: ClusterIndex, message: String) -> Damage {
        let state = self.lock();
        let mut places = Vec::new();
        for (name, id) in &state.names {
            for (index, extent) in state.image_extents(*id) {
                for (slot, length, target) in state.extents[&extent].extent.runs() {
                    let Some(first) = target.cluster() else { continue };
                    if first <= cluster && cluster < first.offset_by(length as u64) {
                        let at = slot as u64 + (cluster.0 - first.0);
                        places.push((name.clone(), index * EXTENT_SIZE + at * CLUSTER_SIZE as u64));
                    }
                }
            }
        }
        Damage { places, message }
    }
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
