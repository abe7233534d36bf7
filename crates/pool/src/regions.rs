//! What is known of each region's hashes: write intents, trust, checksums of hash pages, and the
//! hashes that are not in the hash table on disk yet.
//!
//! A hash waits here only while its region's intent is requested or durable, and a hash page is
//! written only while it is durable (I1, I4); so a page on disk that does not match its checksum and
//! has no intent is damage, never work in progress.

use crate::bitmap::Bitmap;
use crate::records::{HASH_PAGES, RegionRecord};
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, RegionIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Hashes in one 4 KiB page of the hash table.
pub(crate) const PAGE_HASHES: usize = EXTENT_CLUSTERS / HASH_PAGES;

/// Memory one waiting hash takes, tree included (measured: 32 + 8 bytes in nodes two thirds full).
pub(crate) const PENDING_HASH_BYTES: u64 = 64;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Watch(u64);

/// All regions.
pub(crate) struct Regions {
    regions: Vec<RegionState>,
    /// Regions whose intent is not `None`.
    with_intent: BTreeSet<RegionIndex>,
    hot: BTreeMap<RegionIndex, Hot>,
    pending: BTreeMap<ClusterIndex, ContentHash>,
    /// Pages with waiting hashes, and how many.
    dirty_pages: BTreeMap<HashPage, u16>,
    /// Pages being written now and the checksum they will have.
    writing: BTreeMap<HashPage, u32>,
    /// Clusters being overwritten in place: untrusted, and never given as a reference (I6).
    pins: BTreeMap<ClusterIndex, u32>,
    /// Who observes which cluster from outside; a write planned or completed there breaks all its
    /// watches (I6). Several may watch one cluster, so each has its own.
    watches: BTreeMap<ClusterIndex, Vec<Watch>>,
    next_watch: u64,
    pub(crate) intents_cleared: u64,
}

impl Regions {
    pub(crate) fn new() -> Regions {
        Regions {
            regions: Vec::new(),
            with_intent: BTreeSet::new(),
            hot: BTreeMap::new(),
            pending: BTreeMap::new(),
            dirty_pages: BTreeMap::new(),
            writing: BTreeMap::new(),
            pins: BTreeMap::new(),
            watches: BTreeMap::new(),
            next_watch: 0,
            intents_cleared: 0,
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
            RegionRecord::Intent if crate::breaks::broken("I8-trust-all") => {
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
        !self.pins.contains_key(&cluster) && !self.is_marked_untrusted(cluster)
    }

    fn is_marked_untrusted(&self, cluster: ClusterIndex) -> bool {
        let bits = self.hot.get(&cluster.region()).and_then(|hot| hot.untrusted.as_ref());
        bits.is_some_and(|bits| bits.get(cluster.within_region()))
    }

    pub(crate) fn mark_untrusted(&mut self, cluster: ClusterIndex) {
        self.forget_pending(cluster);
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

    pub(crate) fn pin(&mut self, cluster: ClusterIndex) {
        self.watches.remove(&cluster);
        *self.pins.entry(cluster).or_insert(0) += 1;
    }

    pub(crate) fn unpin(&mut self, cluster: ClusterIndex) {
        let pins = self.pins.get_mut(&cluster).expect("a pinned cluster is unpinned");
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&cluster);
        }
        self.watches.remove(&cluster);
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

    /// Ends a watch; true if nothing happened to the cluster meanwhile.
    pub(crate) fn unwatch(&mut self, cluster: ClusterIndex, watch: Watch) -> bool {
        let Some(watches) = self.watches.get_mut(&cluster) else { return false };
        let before = watches.len();
        watches.retain(|other| *other != watch);
        let unbroken = watches.len() < before;
        if watches.is_empty() {
            self.watches.remove(&cluster);
        }
        unbroken
    }

    /// The cluster's content has this hash from now on.
    pub(crate) fn publish(&mut self, cluster: ClusterIndex, hash: ContentHash) {
        assert!(
            self.intent(cluster.region()) != Intent::None,
            "I1: a hash is published only behind an intent"
        );
        if let Some(hot) = self.hot.get_mut(&cluster.region())
            && let Some(bits) = &mut hot.untrusted
        {
            bits.set(cluster.within_region(), false);
            if bits.is_empty() {
                hot.untrusted = None;
            }
        }
        if self.pending.insert(cluster, hash).is_none() {
            *self.dirty_pages.entry(HashPage::of(cluster)).or_insert(0) += 1;
        }
    }

    fn forget_pending(&mut self, cluster: ClusterIndex) {
        if self.pending.remove(&cluster).is_some() {
            let page = HashPage::of(cluster);
            let count = self.dirty_pages.get_mut(&page).expect("a waiting hash is counted");
            *count -= 1;
            if *count == 0 {
                self.dirty_pages.remove(&page);
            }
        }
    }

    pub(crate) fn pending(&self, cluster: ClusterIndex) -> Option<ContentHash> {
        self.pending.get(&cluster).copied()
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending.len() as u64 * PENDING_HASH_BYTES
    }

    /// Pages with at least `hashes_min` waiting hashes whose intent is durable.
    pub(crate) fn dirty_pages(&self, hashes_min: u16) -> Vec<HashPage> {
        self.dirty_pages
            .iter()
            .filter(|(page, count)| {
                **count >= hashes_min && self.intent(page.region()) == Intent::Durable
            })
            .map(|(page, _)| *page)
            .collect()
    }

    /// The waiting hashes of a page.
    pub(crate) fn pending_of(&self, page: HashPage) -> Vec<(ClusterIndex, ContentHash)> {
        let first = page.first_cluster();
        self.pending
            .range(first..first.offset_by(PAGE_HASHES as u64))
            .map(|(cluster, hash)| (*cluster, *hash))
            .collect()
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
    pub(crate) fn page_written(&mut self, page: HashPage, written: &[(ClusterIndex, ContentHash)]) {
        let checksum = self.writing.remove(&page).expect("a page write that started ends");
        let entry = self.entry(page.region());
        entry.checksums[page.within_region()] = checksum;
        entry.known |= 1 << page.within_region();
        for (cluster, hash) in written {
            if self.pending(*cluster) == Some(*hash) {
                self.forget_pending(*cluster);
            }
        }
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
        let first = region.first_cluster();
        let waiting =
            self.pending.range(first..first.offset_by(EXTENT_CLUSTERS as u64)).next().is_some();
        let quiet = self.hot.get(&region).is_none_or(|hot| {
            let broken = crate::breaks::broken("I4-clear-while-written");
            hot.in_flight == 0 && (hot.changes == changes || broken) && hot.untrusted.is_none()
        });
        let waiting = waiting && !crate::breaks::broken("I4-clear-while-written");
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
        self.dirty_pages.clear();
        for region in &self.with_intent {
            let hot = self.hot.entry(*region).or_default();
            hot.untrusted = Some(Box::new(Bitmap::FULL));
        }
    }

    pub(crate) fn is_pinned(&self, cluster: ClusterIndex) -> bool {
        self.pins.contains_key(&cluster)
    }
}
