//! What is known of each region's hashes: write intents, trust, checksums of hash pages, and the
//! hashes that are not in the hash table on disk yet.
//!
//! A hash waits here only while its region's intent is requested or durable, and a hash page is
//! written only while it is durable (I1, I4); so a page on disk that does not match its checksum and
//! has no intent is damage, never work in progress.

use crate::bitmap::Bitmap;
use crate::index::delta::Delta;
use crate::index::scan::key_of;
use crate::pending::{PendingHashes, PendingPage};
use crate::reclaim::InVain;
use crate::records::{HASH_PAGES, RegionRecord};
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, RegionIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Hashes in one 4 KiB page of the hash table.
pub(crate) const PAGE_HASHES: usize = EXTENT_CLUSTERS / HASH_PAGES;

/// A hash page is written when this many of its hashes changed (docs/decisions/0010).
const HASHES_PER_WRITE: usize = 64;

/// The checksum of a page that was never written: 4096 zeros.
static ZERO_PAGE_CHECKSUM: LazyLock<u32> = LazyLock::new(|| crc32c::crc32c(&[0; CLUSTER_SIZE]));

/// The checksum of a page of the hash table that was never written.
#[cfg(any(test, feature = "synthetic"))]
pub(crate) fn zero_page_checksum() -> u32 {
    *ZERO_PAGE_CHECKSUM
}

/// A page of the hash table: the hashes of 128 clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HashPage(pub(crate) u64);

impl HashPage {
    pub(crate) fn of(cluster: ClusterIndex) -> HashPage {
        HashPage(cluster.0 / PAGE_HASHES as u64)
    }

    pub(crate) fn region(self) -> RegionIndex {
        RegionIndex((self.0 / HASH_PAGES as u64) as u32)
    }

    pub(crate) fn within_region(self) -> usize {
        (self.0 % HASH_PAGES as u64) as usize
    }

    pub(crate) fn offset_by(self, pages: usize) -> HashPage {
        HashPage(self.0 + pages as u64)
    }

    pub(crate) fn first_cluster(self) -> ClusterIndex {
        ClusterIndex(self.0 * PAGE_HASHES as u64)
    }

    /// Byte offset in the hash table.
    pub(crate) fn offset(self) -> u64 {
        self.0 * CLUSTER_SIZE as u64
    }

    pub(crate) fn of_region(region: RegionIndex) -> impl Iterator<Item = HashPage> {
        (0..HASH_PAGES as u64)
            .map(move |page| HashPage(u64::from(region.0) * HASH_PAGES as u64 + page))
    }
}

/// A region's write intent, from this run's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Not there, or decided to be cleared.
    None,
    /// In the commit queue, ahead of everything that will depend on it.
    Requested,
    Durable,
}

#[derive(Clone, Copy)]
struct RegionState {
    checksums: [u32; HASH_PAGES],
    /// Bit per page: the checksum is that of the page on disk.
    known: u8,
    intent: Intent,
}

/// What is kept only for regions that were written lately or are not trusted.
#[derive(Default)]
struct Hot {
    /// Clusters whose hash is not known to be true.
    untrusted: Option<Box<Bitmap>>,
    /// Writes planned and not completed.
    in_flight: u32,
    /// Counts planned writes, so that clearing notices them.
    changes: u64,
    changed_ms: u64,
}

/// One observation of one cluster, from [`Regions::watch`] to [`Regions::unwatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watch(u64);

/// All regions.
pub(crate) struct Regions {
    regions: Vec<RegionState>,
    /// Regions whose intent is not `None`.
    with_intent: BTreeSet<RegionIndex>,
    hot: BTreeMap<RegionIndex, Hot>,
    pending: PendingHashes,
    /// Pages being written now and the checksum they will have.
    writing: BTreeMap<HashPage, u32>,
    /// Clusters being overwritten in place: untrusted, and never given as a reference (I6).
    /// By the first of each run, its length; runs do not overlap.
    pins: BTreeMap<ClusterIndex, usize>,
    /// Who observes which cluster from outside; a write planned or completed there breaks all its
    /// watches (I6). Several may watch one cluster, so each has its own.
    watches: BTreeMap<ClusterIndex, Vec<Watch>>,
    next_watch: u64,
    pub(crate) intents_cleared: u64,
    /// Counts hashes as they become trusted, and clusters as they lose trust.
    pub(crate) published: u64,
    pub(crate) distrusted: u64,
    /// Clusters whose hash became trusted lately, for look-ups.
    pub(crate) delta: Delta,
    /// Contents that no cluster had to heal others from.
    pub(crate) in_vain: InVain,
}

impl Regions {
    pub(crate) fn new() -> Regions {
        Regions {
            regions: Vec::new(),
            with_intent: BTreeSet::new(),
            hot: BTreeMap::new(),
            pending: PendingHashes::new(HASHES_PER_WRITE),
            writing: BTreeMap::new(),
            pins: BTreeMap::new(),
            watches: BTreeMap::new(),
            next_watch: 0,
            intents_cleared: 0,
            published: 0,
            distrusted: 0,
            delta: Delta::default(),
            in_vain: InVain::default(),
        }
    }

    fn entry(&mut self, region: RegionIndex) -> &mut RegionState {
        let needed = region.0 as usize + 1;
        if self.regions.len() < needed {
            let zero = *ZERO_PAGE_CHECKSUM;
            let fresh =
                RegionState { checksums: [zero; HASH_PAGES], known: u8::MAX, intent: Intent::None };
            self.regions.resize(needed, fresh);
        }
        &mut self.regions[region.0 as usize]
    }

    /// Takes over what the metadata says of a region at open. Behind an intent nothing is trusted.
    pub(crate) fn load(&mut self, region: RegionIndex, record: RegionRecord) {
        match record {
            RegionRecord::Clear(checksums) => self.entry(region).checksums = checksums,
            RegionRecord::Intent if blockyard_io::broken("I8-trust-all") => {
                self.set_intent(region, Intent::Durable);
            }
            RegionRecord::Intent => self.distrust_region(region, Intent::Durable),
        }
    }

    /// Nothing is known of the region's hashes any more.
    pub(crate) fn distrust_region(&mut self, region: RegionIndex, intent: Intent) {
        let entry = self.entry(region);
        entry.known = 0;
        self.set_intent(region, intent);
        self.hot.entry(region).or_default().untrusted = Some(Box::new(Bitmap::FULL));
    }

    pub(crate) fn intent(&self, region: RegionIndex) -> Intent {
        self.regions.get(region.0 as usize).map_or(Intent::None, |entry| entry.intent)
    }

    pub(crate) fn set_intent(&mut self, region: RegionIndex, intent: Intent) {
        self.entry(region).intent = intent;
        if intent == Intent::None {
            self.with_intent.remove(&region);
        } else {
            self.with_intent.insert(region);
        }
    }

    pub(crate) fn regions_with_intent(&self) -> impl Iterator<Item = RegionIndex> + '_ {
        self.with_intent.iter().copied()
    }

    /// Whether the hash of this (allocated) cluster is true.
    pub(crate) fn is_trusted(&self, cluster: ClusterIndex) -> bool {
        !self.is_pinned(cluster) && !self.is_marked_untrusted(cluster)
    }

    /// Whether it is not trusted for another reason than a write in flight.
    pub(crate) fn is_marked_untrusted(&self, cluster: ClusterIndex) -> bool {
        let bits = self.hot.get(&cluster.region()).and_then(|hot| hot.untrusted.as_ref());
        bits.is_some_and(|bits| bits.get(cluster.within_region()))
    }

    pub(crate) fn mark_untrusted(&mut self, cluster: ClusterIndex) {
        self.pending.remove(cluster);
        self.distrusted += 1;
        let hot = self.hot.entry(cluster.region()).or_default();
        let bits = hot.untrusted.get_or_insert_with(|| Box::new(Bitmap::EMPTY));
        bits.set(cluster.within_region(), true);
    }

    /// Regions with clusters that are not trusted, and which.
    pub(crate) fn untrusted(&self) -> impl Iterator<Item = (RegionIndex, &Bitmap)> + '_ {
        self.hot.iter().filter_map(|(region, hot)| Some((*region, hot.untrusted.as_deref()?)))
    }

    /// A write to the region is planned. Pair with [`Regions::write_ended`].
    pub(crate) fn write_planned(&mut self, region: RegionIndex, now_ms: u64) {
        let hot = self.hot.entry(region).or_default();
        hot.in_flight += 1;
        hot.changes += 1;
        hot.changed_ms = now_ms;
    }

    pub(crate) fn write_ended(&mut self, region: RegionIndex) {
        let hot = self.hot.get_mut(&region).expect("a planned write keeps its region hot");
        hot.in_flight -= 1;
    }

    /// Consecutive clusters of one region are about to be overwritten: pins them, and breaks their
    /// watches. Nobody else overwrites them meanwhile. Pair with [`Regions::unpin_run`].
    pub(crate) fn pin_run(&mut self, first: ClusterIndex, count: usize) {
        self.break_watches(first, count);
        let before = self.pins.insert(first, count);
        debug_assert!(before.is_none(), "I7: overlapping writes go one after the other");
    }

    pub(crate) fn unpin_run(&mut self, first: ClusterIndex, count: usize) {
        let pinned = self.pins.remove(&first);
        assert!(pinned == Some(count), "a pinned run is unpinned");
        self.break_watches(first, count);
    }

    fn break_watches(&mut self, first: ClusterIndex, count: usize) {
        if self.watches.is_empty() {
            return;
        }
        for step in 0..count as u64 {
            self.watches.remove(&first.offset_by(step));
        }
    }

    pub(crate) fn watch(&mut self, cluster: ClusterIndex) -> Watch {
        let watch = Watch(self.next_watch);
        self.next_watch += 1;
        self.watches.entry(cluster).or_default().push(watch);
        watch
    }

    /// The cluster is changed or given up: whoever watches it must not publish.
    pub(crate) fn break_watch(&mut self, cluster: ClusterIndex) {
        self.watches.remove(&cluster);
    }

    /// Whether nothing has happened to the cluster since it is watched.
    pub(crate) fn is_watched(&self, cluster: ClusterIndex, watch: Watch) -> bool {
        self.watches.get(&cluster).is_some_and(|watches| watches.binary_search(&watch).is_ok())
    }

    /// Ends a watch; true if nothing happened to the cluster meanwhile.
    pub(crate) fn unwatch(&mut self, cluster: ClusterIndex, watch: Watch) -> bool {
        let Some(watches) = self.watches.get_mut(&cluster) else { return false };
        // They are numbered in order.
        let found = watches.binary_search(&watch);
        let unbroken = found.map(|at| watches.remove(at)).is_ok();
        if watches.is_empty() {
            self.watches.remove(&cluster);
        }
        unbroken
    }

    /// The cluster's content has this hash from now on.
    pub(crate) fn publish(&mut self, cluster: ClusterIndex, hash: ContentHash) {
        self.publish_run(cluster, &[hash]);
    }

    /// The same for consecutive clusters of one region.
    pub(crate) fn publish_run(&mut self, first: ClusterIndex, hashes: &[ContentHash]) {
        let region = first.region();
        assert!(
            self.intent(region) != Intent::None,
            "I1: a hash is published only behind an intent"
        );
        if let Some(hot) = self.hot.get_mut(&region)
            && let Some(bits) = &mut hot.untrusted
        {
            for within in first.within_region()..first.within_region() + hashes.len() {
                bits.set(within, false);
            }
            if bits.is_empty() {
                hot.untrusted = None;
            }
        }
        self.published += hashes.len() as u64;
        self.in_vain.forget(hashes);
        if self.delta.is_kept() {
            for (hash, step) in hashes.iter().zip(0..) {
                self.delta.insert(key_of(hash)[0], first.offset_by(step));
            }
        }
        self.pending.insert_run(first, hashes);
    }

    pub(crate) fn pending(&self, cluster: ClusterIndex) -> Option<ContentHash> {
        self.pending.get(cluster)
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending.bytes()
    }

    /// Pages to write now, whose intents are durable: those that are due, or if `pressed` those that
    /// free most memory.
    pub(crate) fn pages_due(&self, pressed: bool) -> impl Iterator<Item = HashPage> + '_ {
        let fullest = pressed.then(|| self.pending.fullest()).into_iter().flatten();
        let due = (!pressed).then(|| self.pending.due()).into_iter().flatten();
        fullest.chain(due).filter(|page| self.intent(page.region()) == Intent::Durable)
    }

    /// The waiting hashes of a page.
    pub(crate) fn pending_of(&self, page: HashPage) -> PendingPage {
        self.pending.of_page(page)
    }

    pub(crate) fn has_pending(&self, page: HashPage) -> bool {
        self.pending.has_page(page)
    }

    /// Checksums the page on disk may have now: two while it is being written, none if unknown.
    pub(crate) fn page_checksums(&self, page: HashPage) -> Vec<u32> {
        let known = match self.regions.get(page.region().0 as usize) {
            Some(entry) if entry.known >> page.within_region() & 1 == 1 => {
                Some(entry.checksums[page.within_region()])
            }
            Some(_) => None,
            None => Some(*ZERO_PAGE_CHECKSUM),
        };
        known.into_iter().chain(self.writing.get(&page).copied()).collect()
    }

    /// The page on disk is not what was written: no hash on it counts any more, but those that wait. Returns the
    /// checksum it had, if one was known.
    pub(crate) fn lose_page(&mut self, page: HashPage) -> Option<u32> {
        let checksum = *self.page_checksums(page).first()?;
        self.entry(page.region()).known &= !(1 << page.within_region());
        for step in 0..PAGE_HASHES as u64 {
            let cluster = page.first_cluster().offset_by(step);
            if self.pending.get(cluster).is_none() {
                self.mark_untrusted(cluster);
            }
        }
        Some(checksum)
    }

    pub(crate) fn is_being_written(&self, page: HashPage) -> bool {
        self.writing.contains_key(&page)
    }

    pub(crate) fn page_write_started(&mut self, page: HashPage, checksum: u32) {
        assert!(
            self.intent(page.region()) == Intent::Durable,
            "I4: a hash page is written only behind a durable intent"
        );
        self.writing.insert(page, checksum);
    }

    /// The page holds what was waiting when the write began; hashes that changed since still wait.
    pub(crate) fn page_written(&mut self, page: HashPage, written: &PendingPage) {
        let checksum = self.writing.remove(&page).expect("a page write that started ends");
        let entry = self.entry(page.region());
        entry.checksums[page.within_region()] = checksum;
        entry.known |= 1 << page.within_region();
        self.pending.written(page, written);
    }

    /// Regions with an intent whose last write is `cool_ms` old, that nobody writes, and all of whose
    /// clusters are trusted: their intents can be cleared (I4).
    pub(crate) fn cool(&self, now_ms: u64, cool_ms: u64) -> Vec<RegionIndex> {
        self.regions_with_intent()
            .filter(|region| self.intent(*region) == Intent::Durable)
            .filter(|region| {
                self.hot.get(region).is_none_or(|hot| {
                    hot.in_flight == 0
                        && hot.untrusted.is_none()
                        && hot.changed_ms.saturating_add(cool_ms) <= now_ms
                })
            })
            .collect()
    }

    /// A number that differs once another write to the region was planned.
    pub(crate) fn change_count(&self, region: RegionIndex) -> u64 {
        self.hot.get(&region).map_or(0, |hot| hot.changes)
    }

    /// Decides to clear the intent: `None` if a write came since `changes`, or hashes still wait.
    pub(crate) fn clear(&mut self, region: RegionIndex, changes: u64) -> Option<RegionRecord> {
        let waiting = self.pending.has_region(region);
        let quiet = self.hot.get(&region).is_none_or(|hot| {
            let broken = blockyard_io::broken("I4-clear-while-written");
            hot.in_flight == 0 && (hot.changes == changes || broken) && hot.untrusted.is_none()
        });
        let waiting = waiting && !blockyard_io::broken("I4-clear-while-written");
        let entry = *self.entry(region);
        if waiting || !quiet || entry.intent != Intent::Durable {
            return None;
        }
        if entry.known != u8::MAX {
            return None;
        }
        self.set_intent(region, Intent::None);
        self.hot.remove(&region);
        self.intents_cleared += 1;
        Some(RegionRecord::Clear(entry.checksums))
    }

    /// Pages of the region whose content on disk is not known and must be written whole.
    pub(crate) fn unknown_pages(&self, region: RegionIndex) -> Vec<HashPage> {
        let known = self.regions.get(region.0 as usize).map_or(u8::MAX, |entry| entry.known);
        HashPage::of_region(region).filter(|page| known >> page.within_region() & 1 == 0).collect()
    }

    /// No free cluster needs to be trusted: drops their marks, so that the region can be cleared.
    pub(crate) fn settle_free(
        &mut self,
        region: RegionIndex,
        in_use: impl Fn(ClusterIndex) -> bool,
    ) {
        let Some(hot) = self.hot.get_mut(&region) else { return };
        let Some(bits) = &mut hot.untrusted else { return };
        let free: Vec<usize> =
            bits.ones().filter(|within| !in_use(region.cluster(*within))).collect();
        for within in free {
            bits.set(within, false);
        }
        if bits.is_empty() {
            hot.untrusted = None;
        }
    }

    /// After a failed sync no hash of a region with an intent is believed any more (I12): what was
    /// written since the last good sync lies in these regions, and its hashes may be on disk already.
    pub(crate) fn distrust_written(&mut self) {
        self.pending.clear();
        self.distrusted += 1;
        for region in &self.with_intent {
            let hot = self.hot.entry(*region).or_default();
            hot.untrusted = Some(Box::new(Bitmap::FULL));
        }
    }

    pub(crate) fn is_pinned(&self, cluster: ClusterIndex) -> bool {
        let before = self.pins.range(..=cluster).next_back();
        before.is_some_and(|(first, count)| cluster.0 - first.0 < *count as u64)
    }
}
