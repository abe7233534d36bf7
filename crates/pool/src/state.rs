//! Everything the engine knows, behind one short lock: images, map pages, extents, and what is derived
//! from them. Pure data: no I/O, no waiting.
//!
//! Every record here describes *completed* changes only, so the dirty set can be captured at any
//! moment (I2). Whoever changes records under the lock calls [`State::seal`] before letting go of it:
//! that makes one transaction, appended to the journal as a whole (I15).
//!
//! Maps are trees shared at two levels: a page may be in several images, an extent in several pages.
//! A change copies what is shared on its way down, records only, never data.

use crate::alloc::Allocator;
use crate::damage::Damages;
use crate::epochs::{Epochs, Growth};
use crate::extent::{Extent, Slot};
use crate::frees::{Generation, PendingFrees};
use crate::journal::{Journal, RecordChange};
use crate::lazy::LazyState;
use crate::lost_hashes::LostPage;
use crate::profile::Profile;
use crate::ranges::RangeTable;
use crate::reclaim::Shortage;
use crate::records::{ImageRecord, MapPage, PoolRecord, RecordKey, RegionRecord};
use crate::regions::{HashPage, Regions};
use crate::reserved::ReservedPlaces;
use crate::types::{Client, Contents, OpenOptions};
use blockyard_block::{
    ClusterIndex, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ExtentId, ImageId, ImageName,
    MAP_PAGE_EXTENTS, MapPageId, RegionIndex, Result,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Waker;

/// An image and who uses it.
pub(crate) struct ImageState {
    pub(crate) record: ImageRecord,
    pub(crate) line: RangeTable,
    pub(crate) clients: Vec<Client>,
    /// A shrink to this size is under way: nothing is let in beyond it.
    pub(crate) shrinking_to: Option<u64>,
    /// A request found no space: the passes of reclaim that had begun then.
    pub(crate) short_since: Option<u64>,
    /// A hidden image that nobody has open and that stays: since when, in seconds since 1970, 0 if that is not
    /// known.
    pub(crate) left_unix_s: Option<u64>,
    /// It is used while it is filled; always there if the record says so.
    pub(crate) lazy: Option<Box<LazyState>>,
    /// Where it is read first is recorded.
    pub(crate) profile: Option<Box<Profile>>,
    /// The size as open volumes see it.
    pub(crate) size: Arc<AtomicU64>,
}

pub(crate) struct PageState {
    pub(crate) page: MapPage,
    /// Images that have the page.
    pub(crate) holders: u32,
}

pub(crate) struct ExtentState {
    pub(crate) extent: Extent,
    /// Pages that have the extent.
    pub(crate) holders: u32,
    /// The summary of its hashes, if computed since it last changed.
    pub(crate) summary: Option<Box<ContentHash>>,
    /// Counts changes of its content, in place or not: a summary is kept only if none came meanwhile.
    pub(crate) changes: u64,
}

impl ExtentState {
    pub(crate) fn new(extent: Extent, holders: u32) -> ExtentState {
        ExtentState { extent, holders, summary: None, changes: 0 }
    }

    pub(crate) fn content_changed(&mut self) {
        self.summary = None;
        self.changes += 1;
    }
}

/// What goes to the log, in this order.
pub(crate) enum LogItem {
    Intent(RegionIndex),
    Clear(RegionIndex, RegionRecord),
    Capture(Generation, Vec<RecordChange>),
}

/// A hold to be given up by the sweeper, once the removal that implies it is durable.
pub(crate) enum Sweep {
    Page(MapPageId),
    Extent(ExtentId),
}

/// What the background tasks have been asked for.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) sync: bool,
    pub(crate) space: bool,
    pub(crate) hashes: bool,
    /// What waits in the log's queue is wanted now. Otherwise it waits for the next tick: intents of fresh
    /// clusters and clears delay nobody, and each write of the log costs the disk a flush.
    pub(crate) log: bool,
}

pub(crate) type Extents = HashMap<ExtentId, Box<ExtentState>, BuildHasherDefault<IdHasher>>;

/// Spreads ids, which the pool itself counts out, so that nobody can choose them to collide.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, id: u64) {
        // The golden ratio's fraction; the upper bits choose a hash map's bucket and its tag.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }
}

pub(crate) struct State {
    pub(crate) pool: PoolRecord,
    pub(crate) options: OpenOptions,
    pub(crate) images: BTreeMap<ImageId, ImageState>,
    pub(crate) names: BTreeMap<ImageName, ImageId>,
    pub(crate) pages: BTreeMap<MapPageId, PageState>,
    /// Boxed, because half of a hash map may be empty places.
    pub(crate) extents: Extents,
    pub(crate) next_id: u64,

    pub(crate) allocator: Allocator,
    pub(crate) regions: Regions,
    pub(crate) epochs: Epochs,
    pub(crate) frees: PendingFrees,
    /// Clusters whose count fell but not to zero: shared until that is durable.
    pub(crate) recently_shared: BTreeMap<ClusterIndex, Generation>,
    /// Extents that lost a holder but have others: held until that is durable.
    pub(crate) recently_held: BTreeMap<ExtentId, Generation>,
    pub(crate) sweeps: VecDeque<(Generation, Sweep)>,
    /// Clusters that reclaim counts beside their users.
    pub(crate) holds: BTreeMap<ClusterIndex, u32>,
    /// A change waits for a hold to end.
    pub(crate) hold_awaited: bool,
    /// Room that reclaim keeps for the records of changes planned before it made them longer.
    pub(crate) growth: Growth,
    pub(crate) shortage: Shortage,
    pub(crate) reserved_places: ReservedPlaces,
    /// Runs of the hash index made since the open.
    pub(crate) indexes_made: u64,
    /// Clusters that were to be written and became references.
    pub(crate) references_written: u64,
    /// Passes over the hash table to heal something.
    pub(crate) heal_passes: u64,
    /// The last count of distinct contents, and [`State::content_version`] then.
    pub(crate) counted: Option<(u64, Contents)>,
    /// Numbers the files of sorts.
    pub(crate) sorts: u64,
    pub(crate) sort_files: u64,
    /// How often parts were given up, and the last names with their number. In memory only: who asks was here before a
    /// crash.
    pub(crate) given_up: u64,
    pub(crate) names_given_up: VecDeque<(ImageName, u64)>,

    /// The generation that changes made now belong to.
    pub(crate) generation: Generation,
    pub(crate) durable: Generation,
    /// Durable, and no I/O planned before its capture is in flight.
    pub(crate) settled: Generation,
    touched: Vec<RecordKey>,
    pub(crate) dirty: BTreeSet<RecordKey>,
    pub(crate) dirty_since_ms: u64,
    /// Bytes of data written since the last capture.
    pub(crate) bytes_since_capture: u64,
    pub(crate) journal: Journal,
    /// Bytes of metadata that planned changes may still add.
    pub(crate) reserved: usize,
    pub(crate) metadata_max: usize,
    pub(crate) log_queue: VecDeque<LogItem>,

    pub(crate) now_ms: u64,
    pub(crate) failed: Option<String>,
    pub(crate) closing: bool,
    pub(crate) opened_clean: bool,
    pub(crate) stopped: bool,
    pub(crate) tasks: u32,
    /// Counts steps of the maintenance task as they begin, and the last that found nothing to do.
    pub(crate) maintenance_round: u64,
    pub(crate) idle_round: u64,
    pub(crate) committing: bool,
    /// Why the commit in flight does not get on.
    pub(crate) commit_waits: Option<String>,
    pub(crate) committed_ms: u64,
    /// When clearing intents is worth its syncs again.
    pub(crate) clear_after_ms: u64,
    pub(crate) vouched: bool,
    pub(crate) vouch_due: bool,
    /// The file system had no space when last asked.
    pub(crate) space_exhausted: bool,
    pub(crate) space_retry_s: u64,
    pub(crate) space_available: u64,
    /// Regions of the data file that an earlier daemon took space for, as far as not looked at yet.
    pub(crate) regions_kept: std::ops::Range<u32>,
    pub(crate) punched_ms: u64,
    pub(crate) punching_off: bool,
    /// Hash pages that did not match their checksum.
    pub(crate) lost_pages: BTreeMap<HashPage, LostPage>,
    /// Regions that could not be read to be hashed again: reported, and left alone.
    pub(crate) unreadable_regions: BTreeSet<RegionIndex>,
    pub(crate) damage: Damages,
    /// When the last checkpoint failed, in milliseconds of the clock, and why; until one succeeds.
    pub(crate) checkpoint_trouble: Option<(u64, String)>,
    /// Waiters of removed images, to be woken once the lock is free.
    pub(crate) wakers: Vec<Waker>,
    pub(crate) reused_clusters: u64,
    /// Counts wake-ups of waiting requests, so that none is missed.
    pub(crate) progress: u64,
    /// The count was raised and nobody told yet.
    pub(crate) progressed: bool,
    pub(crate) wanted: Wanted,
    pub(crate) enospc_answers: u64,
}

impl State {
    pub(crate) fn new(pool: PoolRecord, options: OpenOptions, journal: Journal) -> State {
        State {
            pool,
            options,
            images: BTreeMap::new(),
            names: BTreeMap::new(),
            pages: BTreeMap::new(),
            extents: HashMap::default(),
            next_id: 1,
            allocator: Allocator::new(0, 0),
            regions: Regions::new(),
            epochs: Epochs::default(),
            frees: PendingFrees::default(),
            recently_shared: BTreeMap::new(),
            recently_held: BTreeMap::new(),
            sweeps: VecDeque::new(),
            holds: BTreeMap::new(),
            hold_awaited: false,
            growth: Growth::default(),
            shortage: Shortage::default(),
            reserved_places: ReservedPlaces::default(),
            indexes_made: 0,
            references_written: 0,
            heal_passes: 0,
            counted: None,
            sorts: 0,
            sort_files: 0,
            given_up: 0,
            names_given_up: VecDeque::new(),
            generation: Generation(1),
            durable: Generation(0),
            settled: Generation(0),
            touched: Vec::new(),
            dirty: BTreeSet::new(),
            dirty_since_ms: 0,
            bytes_since_capture: 0,
            journal,
            reserved: 0,
            metadata_max: usize::MAX,
            log_queue: VecDeque::new(),
            now_ms: 0,
            failed: None,
            closing: false,
            opened_clean: true,
            stopped: false,
            tasks: 0,
            maintenance_round: 0,
            idle_round: 0,
            committing: false,
            commit_waits: None,
            committed_ms: 0,
            clear_after_ms: 0,
            vouched: true,
            vouch_due: false,
            space_exhausted: false,
            space_retry_s: 0,
            space_available: 0,
            regions_kept: 0..0,
            punched_ms: 0,
            punching_off: false,
            lost_pages: BTreeMap::new(),
            unreadable_regions: BTreeSet::new(),
            damage: Damages::default(),
            checkpoint_trouble: None,
            wakers: Vec::new(),
            reused_clusters: 0,
            progress: 0,
            progressed: false,
            wanted: Wanted::default(),
            enospc_answers: 0,
        }
    }

    /// The same as long as the same clusters hold the same, as far as is known.
    pub(crate) fn content_version(&self) -> u64 {
        let by_hash = self.regions.published + self.regions.distrusted;
        by_hash + self.allocator.turnover() + self.reserved_places.changes()
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(crate) fn new_image_id(&mut self) -> ImageId {
        ImageId(self.new_id())
    }

    /// The record of `key` changed or is gone.
    pub(crate) fn touch(&mut self, key: RecordKey) {
        if self.touched.last() != Some(&key) {
            self.touched.push(key);
        }
    }

    /// Ends a transaction: journals what it touched, in one entry, and makes it dirty.
    pub(crate) fn seal(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let mut keys = std::mem::take(&mut self.touched);
        keys.sort_unstable();
        keys.dedup();
        let changes: Vec<RecordChange> =
            keys.iter().map(|key| (*key, self.encode_record(*key))).collect();
        if !blockyard_io::broken("I15-no-journal") {
            self.journal.append(self.generation, &changes);
        }
        if self.dirty.is_empty() {
            self.dirty_since_ms = self.now_ms;
        }
        self.dirty.extend(keys);
    }

    /// The record as it goes to the log; `None` if it does not exist any more.
    fn encode_record(&self, key: RecordKey) -> Option<Vec<u8>> {
        match key {
            RecordKey::Pool => Some(self.pool.encode()),
            RecordKey::Image(id) => self.images.get(&id).map(|image| image.record.encode()),
            RecordKey::Page(id) => self.pages.get(&id).map(|page| page.page.encode()),
            RecordKey::Extent(id) => self.extents.get(&id).map(|state| {
                let mut out = Vec::with_capacity(state.extent.encoded_length());
                state.extent.encode(&mut out);
                out
            }),
            RecordKey::Region(_) => None,
        }
    }

    /// Records that were only loaded are not changes.
    pub(crate) fn discard_loaded_changes(&mut self) {
        self.touched.clear();
    }

    /// One atomic cut of everything completed and not captured yet; starts the next generation.
    pub(crate) fn capture(&mut self) -> (Generation, Vec<RecordChange>) {
        let generation = self.generation;
        let changes = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|key| (key, self.encode_record(key)))
            .collect();
        self.frees.capture(generation, self.epochs.advance());
        self.generation = generation.next();
        self.bytes_since_capture = 0;
        (generation, changes)
    }

    /// The capture of `generation` is durable.
    pub(crate) fn captured_is_durable(&mut self, generation: Generation) {
        assert!(generation == self.durable.next(), "captures become durable in order");
        self.durable = generation;
        self.journal.reset(generation);
        self.release_frees();
    }

    /// Makes freed clusters available whose commit and readers are done; true if there were any.
    pub(crate) fn release_frees(&mut self) -> bool {
        self.growth.release(&self.epochs);
        let (settled, released) = self.frees.release(self.durable, &self.epochs);
        if let Some(settled) = settled {
            self.settled = settled;
            // A read planned while a cluster was shared must not see its last user's next write.
            self.recently_shared.retain(|_, since| *since > settled);
            self.recently_held.retain(|_, since| *since > settled);
        }
        for cluster in &released {
            self.allocator.unblock(*cluster);
        }
        self.reused_clusters += released.len() as u64;
        !released.is_empty()
    }

    /// Bytes of metadata that may still be planned before a capture must come between.
    pub(crate) fn metadata_room(&self) -> usize {
        let used = self.journal.used(self.generation) + self.reserved + self.growth.bytes();
        self.metadata_max.saturating_sub(used)
    }

    pub(crate) fn image(&self, id: ImageId) -> Result<&ImageState> {
        self.images.get(&id).ok_or_else(removed)
    }

    pub(crate) fn image_mut(&mut self, id: ImageId) -> Result<&mut ImageState> {
        self.images.get_mut(&id).ok_or_else(removed)
    }

    pub(crate) fn find(&self, name: &ImageName) -> Result<ImageId> {
        self.names.get(name).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("no image is called {name}: `blockyard image list` shows those there are"),
            )
        })
    }

    /// Something happened that requests may be waiting for.
    pub(crate) fn note_progress(&mut self) {
        self.progress += 1;
        self.progressed = true;
    }

    pub(crate) fn check_not_failed(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(Error::new(
                ErrorKind::Io,
                format!("the pool serves reads only until it is reopened: {reason}"),
            )),
            None => Ok(()),
        }
    }

    /// Refuses changes while the pool cannot make them durable or is closing.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_not_failed()?;
        if self.closing {
            return Err(Error::new(ErrorKind::ShutDown, "the daemon is shutting down"));
        }
        Ok(())
    }

    /// After a failed or unknown sync: nothing is committed any more, no hash of this run is believed.
    pub(crate) fn fail(&mut self, reason: String) {
        if self.failed.is_none() {
            self.failed = Some(reason);
            self.regions.distrust_written();
            for extent in self.extents.values_mut() {
                extent.summary = None;
            }
        }
    }

    /// The extent at a place in an image's address space.
    pub(crate) fn extent_at(&self, image: &ImageRecord, index: u64) -> Option<ExtentId> {
        let page = (*image.pages.get((index / MAP_PAGE_EXTENTS as u64) as usize)?)?;
        self.pages[&page].page.get((index % MAP_PAGE_EXTENTS as u64) as usize)
    }

    /// The run of slots at a cluster of an image, at most to the end of its extent.
    pub(crate) fn run_at(&self, image: &ImageRecord, cluster: u64, length: usize) -> (Slot, usize) {
        let slot = (cluster % EXTENT_CLUSTERS as u64) as usize;
        match self.extent_at(image, cluster / EXTENT_CLUSTERS as u64) {
            Some(id) => self.extents[&id].extent.run(slot, length),
            None => (Slot::Zero, length.min(EXTENT_CLUSTERS - slot)),
        }
    }
}

/// The clusters a run counts for.
pub(crate) fn run_clusters(target: Slot, length: usize) -> impl Iterator<Item = ClusterIndex> {
    let first = target.cluster();
    (0..length as u64).filter_map(move |step| Some(first?.offset_by(step)))
}

fn removed() -> Error {
    Error::new(ErrorKind::NotFound, "the image was removed")
}
