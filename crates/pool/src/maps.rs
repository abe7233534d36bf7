//! Maps as trees that images share: pages of extents, extents of clusters.
//!
//! A change copies what is shared on its way down, records only, never data. What loses a user but
//! keeps others counts as shared until that is durable, because the durable state still shows it to
//! the one who lost it (I6). What loses its last user waits to be free (I3).

use crate::extent::{Extent, Slot};
use crate::frees::{Generation, User};
use crate::ranges::RangeTable;
use crate::records::{ImageRecord, MapPage, RecordKey};
use crate::regions::Intent;
use crate::state::{ExtentState, ImageState, LogItem, PageState, State, Sweep, run_clusters};
use blockyard_block::{ClusterIndex, ExtentId, ImageId, MAP_PAGE_EXTENTS, MapPageId, RegionIndex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the durable state may still show what is dropped to a user of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drop {
    /// It may, until the current generation is durable.
    Now,
    /// No: the removal of the image is durable already.
    Swept,
}

impl State {
    /// Whether the image alone may change this extent's record and data in place: nobody else holds
    /// it, in memory or in the durable state.
    pub(crate) fn is_exclusive(&self, image: &ImageRecord, index: u64) -> bool {
        let page_index = (index / MAP_PAGE_EXTENTS as u64) as usize;
        let Some(page) = image.pages[page_index].and_then(|id| self.pages.get(&id)) else {
            return true;
        };
        if page.holders > 1 {
            return false;
        }
        page.page.get((index % MAP_PAGE_EXTENTS as u64) as usize).is_none_or(|id| {
            self.extents[&id].holders == 1 && !self.recently_held.contains_key(&id)
        })
    }

    /// Whether a cluster may be overwritten: counted once, in memory and in the durable state.
    pub(crate) fn is_sole(&self, cluster: ClusterIndex) -> bool {
        if blockyard_io::broken("I6-write-shared") {
            return true;
        }
        self.allocator.count(cluster) == 1 && !self.recently_shared.contains_key(&cluster)
    }

    /// Whether only holds keep it from being [sole](State::is_sole).
    pub(crate) fn is_sole_but_held(&self, cluster: ClusterIndex) -> bool {
        let Some(holds) = self.holds.get(&cluster) else { return false };
        self.allocator.count(cluster) == holds + 1 && !self.recently_shared.contains_key(&cluster)
    }

    /// Makes the extent at `index` the image's own: copies the page and the extent record if they are
    /// shared, makes them if they are missing. Changes nobody's content.
    pub(crate) fn own_extent(&mut self, image: ImageId, index: u64) -> ExtentId {
        let page_id = self.own_page(image, (index / MAP_PAGE_EXTENTS as u64) as usize);
        let within = (index % MAP_PAGE_EXTENTS as u64) as usize;
        match self.pages[&page_id].page.get(within) {
            Some(id) if self.extents[&id].holders == 1 && !self.recently_held.contains_key(&id) => {
                id
            }
            shared => {
                let id = ExtentId(self.new_id());
                let may_claim = shared.is_none() || self.allocator.copies_may_claim();
                let home = may_claim.then(|| self.allocator.claim_home(id)).flatten();
                let extent = match shared {
                    Some(shared) => self.extents[&shared].extent.copy_with_home(home),
                    None => Extent::empty(home),
                };
                for (_, length, target) in extent.runs() {
                    for cluster in run_clusters(target, length) {
                        self.allocator.add_reference(cluster);
                    }
                }
                self.extents.insert(id, Box::new(ExtentState::new(extent, 1)));
                self.touch(RecordKey::Extent(id));
                self.set_page_entry(page_id, within, Some(id));
                if let Some(shared) = shared {
                    self.drop_extent_hold(shared);
                }
                id
            }
        }
    }

    pub(crate) fn own_page(&mut self, image: ImageId, page_index: usize) -> MapPageId {
        let current = self.images[&image].record.pages[page_index];
        if let Some(id) = current
            && self.pages[&id].holders == 1
        {
            return id;
        }
        let id = MapPageId(self.new_id());
        let page = match current {
            Some(shared) => {
                let page = self.pages[&shared].page.clone();
                for (_, extent) in page.iter() {
                    self.extent_mut(extent).holders += 1;
                }
                if let Some(shared) = self.pages.get_mut(&shared) {
                    shared.holders -= 1;
                }
                page
            }
            None => MapPage::empty(),
        };
        self.pages.insert(id, PageState { page, holders: 1 });
        if let Some(image) = self.images.get_mut(&image) {
            image.record.pages[page_index] = Some(id);
        }
        self.touch(RecordKey::Page(id));
        self.touch(RecordKey::Image(image));
        id
    }

    pub(crate) fn set_page_entry(
        &mut self,
        page: MapPageId,
        within: usize,
        extent: Option<ExtentId>,
    ) {
        if let Some(state) = self.pages.get_mut(&page) {
            state.page.set(within, extent);
        }
        self.touch(RecordKey::Page(page));
    }

    pub(crate) fn extent_mut(&mut self, id: ExtentId) -> &mut ExtentState {
        self.extents.get_mut(&id).expect("an extent in a page exists")
    }

    /// One holder less; the last one takes the extent and its references along.
    pub(crate) fn drop_extent_hold(&mut self, id: ExtentId) {
        self.give_up_extent(id, Drop::Now);
    }

    fn give_up_extent(&mut self, id: ExtentId, drop: Drop) {
        let state = self.extent_mut(id);
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        let Some(state) = self.extents.remove(&id) else { return };
        for (_, length, target) in state.extent.runs() {
            for cluster in run_clusters(target, length) {
                self.drop_reference(cluster, drop, None);
            }
        }
        if let Some(home) = state.extent.home {
            self.allocator.release_home(home, id);
        }
        self.recently_held.remove(&id);
        self.touch(RecordKey::Extent(id));
    }

    /// Takes the whole extent at `index` out of an image. What others hold of it stays held until
    /// that is durable: until then the durable state still shows it to this image.
    pub(crate) fn drop_extent(&mut self, image: ImageId, index: u64) {
        if self.extent_at(&self.images[&image].record, index).is_none() {
            return;
        }
        let page = self.own_page(image, (index / MAP_PAGE_EXTENTS as u64) as usize);
        let within = (index % MAP_PAGE_EXTENTS as u64) as usize;
        let Some(extent) = self.pages[&page].page.get(within) else { return };
        self.set_page_entry(page, within, None);
        if self.extents[&extent].holders > 1 {
            self.recently_held.insert(extent, self.generation);
        }
        self.drop_extent_hold(extent);
    }

    /// Takes all extents from `index` to the end of its page out of an image. Their holds are given
    /// up by the sweeper, once that is durable.
    pub(crate) fn drop_extents_from(&mut self, image: ImageId, index: u64) {
        let page_index = (index / MAP_PAGE_EXTENTS as u64) as usize;
        let within = (index % MAP_PAGE_EXTENTS as u64) as usize;
        let Some(page) = self.images[&image].record.pages.get(page_index).copied().flatten() else {
            return;
        };
        let dropped: Vec<(usize, ExtentId)> =
            self.pages[&page].page.iter().filter(|(at, _)| *at >= within).collect();
        if within == 0 || dropped.is_empty() {
            return;
        }
        let page = self.own_page(image, page_index);
        for (at, extent) in dropped {
            self.set_page_entry(page, at, None);
            self.sweeps.push_back((self.generation, Sweep::Extent(extent)));
        }
    }

    /// One reference less; at zero the cluster waits to be free (I3).
    fn drop_reference(&mut self, cluster: ClusterIndex, drop: Drop, last_user: Option<User>) {
        if self.allocator.count(cluster) > 1 {
            self.allocator.drop_reference(cluster);
            if drop == Drop::Now {
                self.recently_shared.insert(cluster, self.generation);
            }
            return;
        }
        let sole = !self.recently_shared.contains_key(&cluster);
        self.regions.break_watch(cluster);
        if blockyard_io::broken("I3-free-at-once") {
            self.allocator.drop_reference(cluster);
            return;
        }
        self.allocator.block(cluster);
        self.allocator.drop_reference(cluster);
        self.recently_shared.remove(&cluster);
        self.frees.push(cluster, self.generation, last_user.filter(|_| sole));
    }

    /// Counts a cluster once more than its users do: it is shared from now on, and not freed.
    pub(crate) fn hold_cluster(&mut self, cluster: ClusterIndex) {
        self.allocator.add_reference(cluster);
        *self.holds.entry(cluster).or_insert(0) += 1;
    }

    /// Undoes [`State::hold_cluster`]. No record ever showed the hold, so a sole user may write at once.
    pub(crate) fn release_cluster(&mut self, cluster: ClusterIndex) {
        let holds = self.holds.get_mut(&cluster).expect("a held cluster is released");
        *holds -= 1;
        if *holds == 0 {
            self.holds.remove(&cluster);
            if std::mem::take(&mut self.hold_awaited) {
                self.note_progress();
            }
        }
        if self.allocator.count(cluster) > 1 {
            self.allocator.drop_reference(cluster);
        } else {
            self.drop_reference(cluster, Drop::Now, None);
        }
    }

    /// Gives a slot another cluster of the same content. The caller touches the record.
    pub(crate) fn repoint_slot(
        &mut self,
        id: ExtentId,
        slot: usize,
        from: ClusterIndex,
        to: ClusterIndex,
    ) {
        self.allocator.add_reference(to);
        let state = self.extent_mut(id);
        state.extent.set(slot, Slot::Data(to));
        state.changes += 1;
        self.drop_reference(from, Drop::Now, None);
    }

    /// Changes one slot of an extent that the image owns. A new cluster is one the caller blocked
    /// when planning; it is counted from now on. The old one, if any, is dropped.
    pub(crate) fn set_slot(&mut self, (image, id, slot): User, target: Slot) {
        let old = self.extents[&id].extent.slot(slot);
        if old == target {
            return;
        }
        if let Some(cluster) = target.cluster()
            && old.cluster() != target.cluster()
        {
            self.allocator.unblock(cluster);
            self.allocator.add_reference(cluster);
        }
        match target {
            Slot::Reserved(place) => self.reserved_places.mark(place),
            Slot::Data(place) => self.reserved_places.unmark(place),
            Slot::Zero => {}
        }
        let state = self.extent_mut(id);
        state.extent.set(slot, target);
        state.content_changed();
        if let Some(cluster) = old.cluster()
            && old.cluster() != target.cluster()
        {
            self.drop_reference(cluster, Drop::Now, Some((image, id, slot)));
        }
        self.touch(RecordKey::Extent(id));
    }

    /// A slot of an extent that the image owns shows a cluster that is counted already.
    pub(crate) fn set_reference(&mut self, (image, id, slot): User, cluster: ClusterIndex) {
        let old = self.extents[&id].extent.slot(slot);
        if old == Slot::Data(cluster) {
            return;
        }
        self.allocator.add_reference(cluster);
        let state = self.extent_mut(id);
        state.extent.set(slot, Slot::Data(cluster));
        state.content_changed();
        if let Some(old) = old.cluster() {
            self.drop_reference(old, Drop::Now, Some((image, id, slot)));
        }
        self.touch(RecordKey::Extent(id));
    }

    /// Puts the region's intent into the queue if it has none (I1).
    pub(crate) fn request_intent(&mut self, region: RegionIndex) {
        if self.regions.intent(region) == Intent::None {
            self.regions.set_intent(region, Intent::Requested);
            self.log_queue.push_back(LogItem::Intent(region));
        }
    }

    /// Registers a new image under its record's name (unless hidden) and its pages' holders.
    pub(crate) fn insert_image(&mut self, id: ImageId, record: ImageRecord) {
        for page in record.pages.iter().flatten() {
            if let Some(page) = self.pages.get_mut(page) {
                page.holders += 1;
            }
        }
        if !record.hidden {
            self.names.insert(record.name.clone(), id);
        }
        let size = Arc::new(AtomicU64::new(record.size));
        let (line, clients) = (RangeTable::default(), Vec::new());
        let image = ImageState {
            record,
            line,
            clients,
            shrinking_to: None,
            short_since: None,
            left_unix_s: None,
            lazy: None,
            profile: None,
            size,
        };
        self.images.insert(id, image);
        self.touch(RecordKey::Image(id));
    }

    /// Takes an image out; its pages are swept once that is durable.
    pub(crate) fn remove_image(&mut self, id: ImageId) {
        let Some(mut image) = self.images.remove(&id) else { return };
        self.wakers.extend(image.line.take_wakers());
        if self.names.get(&image.record.name) == Some(&id) {
            self.names.remove(&image.record.name);
        }
        image.size.store(0, Ordering::Release);
        for page in image.record.pages.into_iter().flatten() {
            self.sweeps.push_back((self.generation, Sweep::Page(page)));
        }
        self.touch(RecordKey::Image(id));
    }

    /// Gives up at most `steps_max` holds of removed images; true if more can be done now.
    pub(crate) fn sweep(&mut self, steps_max: usize) -> bool {
        for _ in 0..steps_max {
            match self.sweeps.front() {
                // A reader of the removed image must not see what others write once they are alone.
                Some((generation, _)) if *generation <= self.settled => {}
                _ => return false,
            }
            match self.sweeps.pop_front() {
                Some((generation, Sweep::Page(id))) => self.sweep_page(generation, id),
                Some((_, Sweep::Extent(id))) => self.give_up_extent(id, Drop::Swept),
                None => return false,
            }
        }
        true
    }

    fn sweep_page(&mut self, generation: Generation, id: MapPageId) {
        let Some(state) = self.pages.get_mut(&id) else { return };
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        let Some(state) = self.pages.remove(&id) else { return };
        for (_, extent) in state.page.iter() {
            self.sweeps.push_front((generation, Sweep::Extent(extent)));
        }
        self.touch(RecordKey::Page(id));
    }
}
