//! The hash table on disk: reading a hash, writing pages, clearing intents, hashing again.
//!
//! Only the maintenance task writes pages. A reader that meets a page while it is being written sees
//! the checksum of neither version, or of either; it reads again.

use crate::bitmap::Bitmap;
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::pending::PendingPage;
use crate::pool::Pool;
use crate::regions::{HashPage, Intent, PAGE_HASHES, Watch};
use crate::state::LogItem;
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind,
    RegionIndex, Result,
};
use blockyard_io::{Directory, Disk};

/// What is known of a cluster's content without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Hash(ContentHash),
    Untrusted,
}

/// A page of the hash table as it was read.
pub(crate) struct PageCopy {
    page: HashPage,
    checksum: u32,
    bytes: BufferMut,
}

/// The pages of one region's hashes, read together, for questions that go on from cluster to cluster.
#[derive(Default)]
pub(crate) struct HashCopies {
    region: Option<RegionIndex>,
    pages: [Option<PageCopy>; PAGES_PER_REGION],
}

/// A page is lost to another reader, found again, and lost: so often, and it is damage.
const TRIES_MAX: usize = 4;
const PAGES_PER_REGION: usize = EXTENT_CLUSTERS / PAGE_HASHES;

/// Regions cleared with one pair of syncs.
const CLEAR_BATCH: usize = 64;

impl<D: Directory> Pool<D> {
    /// The hash of an allocated cluster, if it is trusted. Reads at most a page of hashes.
    pub(crate) async fn hash_of(&self, cluster: ClusterIndex) -> Result<Option<ContentHash>> {
        match self.known_cluster(cluster, &mut None).await? {
            Known::Hash(hash) => Ok(Some(hash)),
            Known::Untrusted => Ok(None),
        }
    }

    /// What is known of an allocated cluster's content. `copy` is the page of hashes that was read last,
    /// kept for the clusters that follow.
    pub(crate) async fn known_cluster(
        &self,
        cluster: ClusterIndex,
        copy: &mut Option<PageCopy>,
    ) -> Result<Known> {
        let page = HashPage::of(cluster);
        for _ in 0..TRIES_MAX {
            if let Some(known) = self.known_from(cluster, copy.as_ref()) {
                return Ok(known);
            }
            // If there is none, the cluster has lost its hash now.
            *copy = self.read_hash_page(page).await?;
        }
        self.known_from(cluster, copy.as_ref()).ok_or_else(|| damaged_page(page))
    }

    /// The same for clusters that are asked for in order: the hashes of a region are read at once.
    pub(crate) async fn known_in_order(
        &self,
        cluster: ClusterIndex,
        copies: &mut HashCopies,
    ) -> Result<Known> {
        if copies.region != Some(cluster.region()) {
            if let Some(known) = self.known_from(cluster, None) {
                return Ok(known);
            }
            *copies = self.read_hashes_of(cluster.region()).await;
        }
        self.known_cluster(cluster, &mut copies.pages[HashPage::of(cluster).within_region()]).await
    }

    /// Copies that nobody has checked yet. A failure shows again, and is told, where the page is wanted.
    async fn read_hashes_of(&self, region: RegionIndex) -> HashCopies {
        let offset = u64::from(region.0) * HASH_BLOCK_BYTES;
        let buffer = BufferMut::zeroed(HASH_BLOCK_BYTES as usize);
        let (result, bytes) = self.hashes.read(offset, buffer).await;
        let mut copies = HashCopies { region: Some(region), ..HashCopies::default() };
        if result.is_ok() {
            let contents = bytes.chunks_exact(CLUSTER_SIZE);
            for ((page, content), copy) in
                HashPage::of_region(region).zip(contents).zip(&mut copies.pages)
            {
                let mut bytes = BufferMut::zeroed(CLUSTER_SIZE);
                bytes.copy_from_slice(content);
                *copy = Some(PageCopy { page, checksum: crc32c::crc32c(content), bytes });
            }
        }
        copies
    }

    /// The same without I/O, if memory and the copy suffice. A copy counts only while its page has that
    /// checksum: once the page is written anew, hashes that waited do so no longer.
    fn known_from(&self, cluster: ClusterIndex, copy: Option<&PageCopy>) -> Option<Known> {
        let state = self.lock();
        if !state.regions.is_trusted(cluster) {
            return Some(Known::Untrusted);
        }
        if let Some(hash) = state.regions.pending(cluster) {
            return Some(Known::Hash(hash));
        }
        let page = HashPage::of(cluster);
        let copy = copy.filter(|copy| copy.page == page)?;
        let current = state.regions.page_checksums(page).contains(&copy.checksum);
        current.then(|| Known::Hash(hash_in_page(&copy.bytes, cluster)))
    }

    /// A page of the hash table that matches its checksum. `None` if it does not, read twice: then its hashes are lost, and
    /// its clusters untrusted.
    async fn read_hash_page(&self, page: HashPage) -> Result<Option<PageCopy>> {
        let mut before = self.lock().regions.page_checksums(page);
        let mut differed = false;
        loop {
            let (result, bytes) =
                self.hashes.read(page.offset(), BufferMut::zeroed(CLUSTER_SIZE)).await;
            result.map_err(|error| {
                Error::io(format!("read of hashes at {}", page.offset()), error)
            })?;
            let checksum = crc32c::crc32c(&bytes);
            let mut state = self.lock();
            let after = state.regions.page_checksums(page);
            if after.contains(&checksum) {
                return Ok(Some(PageCopy { page, checksum, bytes }));
            }
            if after.is_empty() {
                // Somebody else has found it so.
                return Ok(None);
            }
            let differs = before == after && !state.regions.is_being_written(page);
            if differs && differed {
                state.lose_hash_page(page, &bytes);
                return Ok(None);
            }
            (before, differed) = (after, differs);
        }
    }

    /// Writes the waiting hashes of consecutive pages. What is on disk if this is cut off: of each
    /// page either version or a mix, behind a durable intent. Of a page that was damaged, only what waits
    /// is written: its other clusters are untrusted.
    async fn write_hash_run(&self, first: HashPage, count: usize) -> Result<()> {
        let mut bytes = BufferMut::zeroed(count * CLUSTER_SIZE);
        let mut waiting = Vec::with_capacity(count);
        for (step, page_bytes) in bytes.chunks_exact_mut(CLUSTER_SIZE).enumerate() {
            waiting.push(self.merge_hash_page(first.offset_by(step), page_bytes).await?);
        }
        {
            let mut state = self.lock();
            for (step, page_bytes) in bytes.chunks_exact(CLUSTER_SIZE).enumerate() {
                let page = first.offset_by(step);
                state.regions.page_write_started(page, crc32c::crc32c(page_bytes));
            }
        }
        let result = self.hashes.write(first.offset(), bytes.freeze()).await;
        let result = result
            .map_err(|error| Error::io(format!("write to hashes at {}", first.offset()), error));
        let mut state = self.lock();
        match &result {
            Ok(()) => {
                for (step, waiting) in waiting.iter().enumerate() {
                    state.regions.page_written(first.offset_by(step), waiting);
                }
            }
            Err(error) => state.fail(error.to_string()),
        }
        state.note_progress();
        self.wake_wanted(state);
        result
    }

    /// Puts what the page holds on disk, and over it the hashes that wait, into zeroed `bytes`;
    /// returns those that wait.
    async fn merge_hash_page(&self, page: HashPage, bytes: &mut [u8]) -> Result<PendingPage> {
        let (waiting, known) = {
            let state = self.lock();
            (state.regions.pending_of(page), !state.regions.page_checksums(page).is_empty())
        };
        if known
            && !waiting.is_full()
            && let Some(copy) = self.read_hash_page(page).await?
        {
            bytes.copy_from_slice(&copy.bytes);
        }
        for (within, hash) in waiting.iter() {
            bytes[within * 32..within * 32 + 32].copy_from_slice(&hash.0);
        }
        Ok(waiting)
    }

    /// Writes pages with many waiting hashes, or the fullest of all under pressure. True if any was
    /// written.
    pub(crate) async fn write_hash_pages(&self) -> Result<bool> {
        let pages = {
            let mut state = self.lock();
            state.wanted.hashes = false;
            let pressed =
                state.regions.pending_bytes() > state.options.pending_hashes_bytes_max / 2;
            state.regions.pages_due(pressed).take(PAGES_PER_STEP).collect::<Vec<_>>()
        };
        self.write_pages(&pages).await?;
        Ok(!pages.is_empty())
    }

    /// Writes pages in ascending order, those that follow each other at once.
    async fn write_pages(&self, pages: &[HashPage]) -> Result<()> {
        let mut left = pages;
        while let Some(first) = left.first() {
            let steps = left.iter().take(PAGES_PER_WRITE).enumerate();
            let count = steps.take_while(|(step, page)| **page == first.offset_by(*step)).count();
            self.write_hash_run(*first, count).await?;
            left = &left[count..];
        }
        Ok(())
    }

    /// Clears the intents of regions that are not written any more (I4): their hashes, then their
    /// data and the hash table are made durable; only then is clearing decided, if nobody wrote
    /// meanwhile. True if any was cleared.
    pub(crate) async fn clear_intents(&self) -> Result<bool> {
        let regions: Vec<(RegionIndex, u64)> = {
            let mut state = self.lock();
            let cool_ms = if state.closing { 0 } else { state.options.region_cool_ms };
            // Each round syncs data and hashes: regions that cool one after the other share one.
            if state.now_ms < state.clear_after_ms && !state.closing {
                return Ok(false);
            }
            state.settle_free_clusters();
            let cool = state.regions.cool(state.now_ms, cool_ms);
            cool.into_iter()
                .take(CLEAR_BATCH)
                .map(|region| (region, state.regions.change_count(region)))
                .collect()
        };
        if regions.is_empty() {
            return Ok(false);
        }
        if regions.len() < CLEAR_BATCH {
            let mut state = self.lock();
            state.clear_after_ms = state.now_ms + state.options.region_cool_ms / 4;
        }
        for (region, _) in &regions {
            self.write_pages(&self.pages_to_write(*region)).await?;
        }
        self.sync_data().await?;
        if !blockyard_io::broken("sync-hashes") {
            self.sync_hashes().await?;
        }
        let mut state = self.lock();
        let mut cleared = false;
        for (region, changes) in regions {
            if let Some(record) = state.regions.clear(region, changes) {
                state.log_queue.push_back(LogItem::Clear(region, record));
                cleared = true;
            }
        }
        self.wake_wanted(state);
        Ok(cleared)
    }

    fn pages_to_write(&self, region: RegionIndex) -> Vec<HashPage> {
        let state = self.lock();
        let mut pages = state.regions.unknown_pages(region);
        pages.extend(HashPage::of_region(region).filter(|page| state.regions.has_pending(*page)));
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    pub(crate) async fn sync_data(&self) -> Result<()> {
        self.data.sync().await.map_err(|error| {
            // Acknowledged changes refer to clusters whose data may be lost, or another's still.
            self.lock().journal.clear();
            self.sync_failed("data", error)
        })
    }

    async fn sync_hashes(&self) -> Result<()> {
        self.hashes.sync().await.map_err(|error| self.sync_failed("hashes", error))
    }

    /// A failed sync leaves the state of unsynced writes unknown: nothing is retried (I12).
    fn sync_failed(&self, file: &str, error: std::io::Error) -> Error {
        let error = Error::io(format_args!("sync of {file}"), error);
        self.fail(&error);
        error
    }

    /// Stops all changes for good and wakes everyone who waits.
    pub(crate) fn fail(&self, error: &Error) {
        let mut state = self.lock();
        if !blockyard_io::broken("I12-go-on") {
            state.fail(error.to_string());
        }
        state.note_progress();
        self.wake_wanted(state);
    }

    /// Hashes again the untrusted clusters of one region (I8). True if there was something to do.
    pub(crate) async fn rehash_region(&self) -> Result<bool> {
        let Some((region, watched)) = self.next_untrusted() else { return Ok(false) };
        let mut at = 0;
        while at < watched.len() {
            let run = consecutive(&watched[at..]);
            match self.read_clusters(watched[at].0, run).await {
                Ok(bytes) => self.publish_rehashed(&watched[at..at + run], &bytes),
                Err(error) => {
                    let mut state = self.lock();
                    for (cluster, watch) in &watched[at..] {
                        state.regions.unwatch(*cluster, *watch);
                    }
                    state.unreadable_regions.insert(region);
                    state.note_damage(error.to_string());
                    return Ok(true);
                }
            }
            at += run;
        }
        Ok(true)
    }

    /// The hash of each cluster in `bytes`.
    pub(crate) fn hashes_of(&self, bytes: &[u8]) -> Vec<ContentHash> {
        let clusters: Vec<&[u8; CLUSTER_SIZE]> = bytes.as_chunks().0.iter().collect();
        let mut hashes = Vec::with_capacity(clusters.len());
        self.hash_algorithm().hash_clusters(&clusters, &mut hashes);
        hashes
    }

    /// A region with clusters to hash again, watched from now on (I6).
    fn next_untrusted(&self) -> Option<(RegionIndex, Vec<Watched>)> {
        let mut state = self.lock();
        state.settle_free_clusters();
        let state = &mut *state;
        let (region, due) = state
            .regions
            .untrusted()
            .filter(|(region, _)| !state.unreadable_regions.contains(region))
            // Without an intent, what is untrusted has lost its hash.
            .filter(|(region, _)| state.regions.intent(*region) != Intent::None)
            .find_map(|(region, bits)| {
                let due: Vec<ClusterIndex> = due_for_hashing(region, bits)
                    .filter(|cluster| {
                        state.allocator.count(*cluster) > 0
                            && !state.regions.is_pinned(*cluster)
                            && !state.lost_pages.contains_key(&HashPage::of(*cluster))
                    })
                    .collect();
                (!due.is_empty()).then_some((region, due))
            })?;
        let watched =
            due.into_iter().map(|cluster| (cluster, state.regions.watch(cluster))).collect();
        Some((region, watched))
    }

    fn publish_rehashed(&self, watched: &[Watched], bytes: &[u8]) {
        let hashes = self.hashes_of(bytes);
        let mut state = self.lock();
        if state.failed.is_some() {
            return;
        }
        for ((cluster, watch), hash) in watched.iter().zip(hashes) {
            let unchanged =
                state.regions.unwatch(*cluster, *watch) || blockyard_io::broken("I6-no-watch");
            if unchanged && state.allocator.count(*cluster) > 0 {
                state.regions.publish(*cluster, hash);
            }
        }
    }
}

/// A cluster and the watch on it.
type Watched = (ClusterIndex, Watch);

/// Pages written in one step, so that what is more urgent comes between.
const PAGES_PER_STEP: usize = 256;
/// Consecutive pages written at once.
const PAGES_PER_WRITE: usize = 16;

fn due_for_hashing(region: RegionIndex, bits: &Bitmap) -> impl Iterator<Item = ClusterIndex> + '_ {
    bits.ones().map(move |within| region.cluster(within))
}

/// How many of the clusters at the front follow each other.
fn consecutive(watched: &[Watched]) -> usize {
    watched
        .iter()
        .zip(0u64..)
        .take_while(|((cluster, _), step)| *cluster == watched[0].0.offset_by(*step))
        .count()
}

pub(crate) fn hash_in_page(page: &[u8], cluster: ClusterIndex) -> ContentHash {
    let at = (cluster.0 % PAGE_HASHES as u64) as usize * 32;
    let mut hash = [0; 32];
    hash.copy_from_slice(&page[at..at + 32]);
    ContentHash(hash)
}

pub(crate) fn damaged_page(page: HashPage) -> Error {
    let first = page.first_cluster();
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the hash table at {} (hashes of data at {} to {}) does not match its checksum: run `blockyard check --data`",
            page.offset(),
            first.data_offset(),
            first.offset_by(PAGE_HASHES as u64).data_offset()
        ),
    )
}
