//! Planning a change and completing it, under the lock.
//!
//! Planning decides for every cluster where its new content goes and touches nothing that a commit could
//! see; completion makes it visible. A change that must wait (for an intent, for space, for room in the
//! journal) has taken nothing when it is told so.

use crate::epochs::Epoch;
use crate::extent::Slot;
use crate::frees::User;
use crate::regions::Intent;
use crate::state::State;
use crate::stored::Offer;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ExtentId, ImageId,
    Result,
};

/// What a cluster shall hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Data with this hash.
    Data(ContentHash),
    /// The same, but what is there stays until the change is committed.
    DataAnew(ContentHash),
    /// All zero: the space is given back, except a reserved slot's, which keeps its place.
    Zero,
    /// All zero, and the space is given back even of a reserved slot.
    Hole,
    /// All zero, and a place is kept for it.
    Reserved,
}

/// Where the new content of one cluster goes.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// Over the old content, pinned meanwhile.
    InPlace(ClusterIndex),
    /// To a cluster blocked for it, or the slot's own reserved one.
    Fresh(ClusterIndex),
    /// Nowhere: this cluster has it, and who plans holds it until the change is completed.
    Refer(ClusterIndex),
    /// A free place becomes reserved.
    Reserve(ClusterIndex),
    /// The slot becomes zero.
    Zero,
    /// Nothing changes.
    Keep,
}

impl Target {
    /// Where data is to be written, if any is.
    pub(crate) fn written(self) -> Option<ClusterIndex> {
        match self {
            Target::InPlace(cluster) | Target::Fresh(cluster) => Some(cluster),
            Target::Refer(_) | Target::Reserve(_) | Target::Zero | Target::Keep => None,
        }
    }
}

/// Stands for a cluster that is still to be found; the header region is never allocated from.
const NOWHERE: ClusterIndex = ClusterIndex(0);

/// A planned change of consecutive slots of one extent.
pub(crate) struct Plan {
    image: ImageId,
    extent_index: u64,
    first_slot: usize,
    pub(crate) targets: Vec<Target>,
    epoch: Epoch,
    reserved: usize,
}

pub(crate) enum Planned {
    Go(Plan),
    /// For an intent, a commit, space, or waiting hashes to be written: plan again when the progress
    /// count differs from this one.
    Wait(u64),
    /// There is no space for these clusters of the change: look up whether what they are to hold is stored.
    Short(Vec<usize>),
}

/// What is known of where the contents of a change are stored.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// Who plans does not look them up.
    NotAsked,
    /// What was found when so many indexes had been made; `None` if they were not looked up yet.
    Looked(Option<u64>, &'a [Offer]),
}

impl<'a> Stored<'a> {
    fn offers(self) -> &'a [Offer] {
        match self {
            Stored::NotAsked => &[],
            Stored::Looked(_, offers) => offers,
        }
    }
}

/// What came of looking for places.
enum Allocation {
    Done,
    /// The change must wait for space.
    Wait,
    Short(Vec<usize>),
}

impl State {
    /// Plans new contents for clusters of one extent, that start at any place of the image.
    pub(crate) fn plan_at(
        &mut self,
        image: ImageId,
        clusters: &std::ops::Range<u64>,
        contents: &[Content],
        stored: Stored<'_>,
    ) -> Result<Planned> {
        let extent_index = clusters.start / EXTENT_CLUSTERS as u64;
        let first_slot = (clusters.start % EXTENT_CLUSTERS as u64) as usize;
        self.plan_change(image, extent_index, first_slot, contents, stored)
    }

    /// Plans new contents for the slots from `first_slot` on of one extent.
    fn plan_change(
        &mut self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
        stored: Stored<'_>,
    ) -> Result<Planned> {
        self.check_writable()?;
        self.check_within(image, extent_index, first_slot + contents.len())?;
        let of_lazy = self.contents_of_lazy(image, extent_index, first_slot, contents)?;
        let contents = of_lazy.as_deref().unwrap_or(contents);
        if self.regions.pending_bytes() > self.options.pending_hashes_bytes_max {
            self.wanted.hashes = true;
            return Ok(Planned::Wait(self.progress));
        }
        let mut targets = match self.targets_in_place(image, extent_index, first_slot, contents)? {
            Some(targets) => targets,
            None => return Ok(Planned::Wait(self.progress)),
        };
        let mut reserved = 0;
        if !targets.iter().all(|target| matches!(target, Target::InPlace(_) | Target::Keep)) {
            reserved = self.metadata_growth(image, extent_index, contents.len());
            if reserved > self.metadata_room() || self.frees.are_many() {
                self.wanted.sync = true;
                return Ok(Planned::Wait(self.progress));
            }
            match self.allocate(image, extent_index, first_slot, contents, stored, &mut targets)? {
                Allocation::Done => {}
                Allocation::Wait => return Ok(Planned::Wait(self.progress)),
                Allocation::Short(steps) => return Ok(Planned::Short(steps)),
            }
        }
        self.note_planned(&targets);
        self.reserved += reserved;
        let epoch = self.epochs.enter();
        Ok(Planned::Go(Plan { image, extent_index, first_slot, targets, epoch, reserved }))
    }

    /// Zeros in a lazy image are reserved where something is listed to come: a slot that is zero there is absent.
    fn contents_of_lazy(
        &self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
    ) -> Result<Option<Vec<Content>>> {
        let Some(lazy) = &self.image(image)?.lazy else { return Ok(None) };
        if !lazy.lists_any(extent_index) || blockyard_io::broken("I16-zero") {
            return Ok(None);
        }
        let of_slot = |(content, slot): (&Content, usize)| match *content {
            Content::Zero | Content::Hole if lazy.lists(extent_index, slot) => Content::Reserved,
            other => other,
        };
        Ok(Some(contents.iter().zip(first_slot..).map(of_slot).collect()))
    }

    /// Pins what is overwritten, and sees to intents, watches and the regions' counts of writes.
    fn note_planned(&mut self, targets: &[Target]) {
        let mut at = 0;
        while at < targets.len() {
            let (first, count) = match targets[at] {
                Target::InPlace(first) => {
                    let count = in_place_run(&targets[at..]);
                    self.regions.pin_run(first, count);
                    (first, count)
                }
                // A reserved place may be watched, and may come to be while it is written.
                Target::Fresh(cluster) => {
                    self.regions.break_watch(cluster);
                    self.request_intent(cluster.region());
                    (cluster, 1)
                }
                // Until it is reserved, nobody may take it for data that stays.
                Target::Reserve(cluster) => {
                    self.regions.pin_run(cluster, 1);
                    at += 1;
                    continue;
                }
                Target::Refer(_) | Target::Zero | Target::Keep => {
                    at += 1;
                    continue;
                }
            };
            self.regions.write_planned(first.region(), self.now_ms);
            at += count;
        }
    }

    /// The image may have been cut shorter since the change was let in.
    pub(crate) fn check_within(
        &self,
        image: ImageId,
        extent_index: u64,
        end_slot: usize,
    ) -> Result<()> {
        let size = self.image(image)?.record.size;
        let end = extent_index * EXTENT_CLUSTERS as u64 + end_slot as u64;
        if end <= size.div_ceil(CLUSTER_SIZE as u64) {
            return Ok(());
        }
        let message = format!("the image was cut to {size} bytes meanwhile");
        Err(Error::new(ErrorKind::OutOfRange, message))
    }

    /// Bytes the records of one change take at most: image, page, and the extent with a reference for
    /// each changed slot and each split run.
    pub(crate) fn metadata_growth(
        &self,
        image: ImageId,
        extent_index: u64,
        length: usize,
    ) -> usize {
        let Some(image) = self.images.get(&image) else { return 0 };
        let extent = self.extent_at(&image.record, extent_index);
        let extent = extent.map_or(300, |id| {
            let extent = &self.extents[&id].extent;
            300 + extent.encoded_length() + 8 * extent.runs().count().min(EXTENT_CLUSTERS)
        });
        let page = 2 + 10 * 512;
        2 * (extent + 16 * length) + page + image.record.encoded_length() + 200
    }

    /// Decides everything that needs no allocation. `None` if an intent must be durable first; all
    /// that are missing are then requested.
    fn targets_in_place(
        &mut self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
    ) -> Result<Option<Vec<Target>>> {
        let record = &self.image(image)?.record;
        let exclusive = self.is_exclusive(record, extent_index);
        let first_cluster = extent_index * EXTENT_CLUSTERS as u64 + first_slot as u64;
        let mut targets = Vec::with_capacity(contents.len());
        let mut missing = Vec::new();
        let mut seen = None;
        while targets.len() < contents.len() {
            let at = targets.len();
            let (run, length) = self.run_at(record, first_cluster + at as u64, contents.len() - at);
            for (step, content) in contents[at..at + length].iter().enumerate() {
                let slot = run.further(step);
                let sole = |cluster| exclusive && self.is_sole(cluster);
                let mut needs_intent = |cluster: ClusterIndex| {
                    let region = cluster.region();
                    if seen != Some(region) && self.regions.intent(region) != Intent::Durable {
                        missing.push(region);
                    }
                    seen = Some(region);
                };
                targets.push(match (*content, slot) {
                    (Content::Data(_), Slot::Data(old)) if sole(old) => {
                        needs_intent(old);
                        Target::InPlace(old)
                    }
                    // The durable state may show data here, if it became reserved only now.
                    (Content::Data(_), Slot::Reserved(place)) if sole(place) => {
                        needs_intent(place);
                        Target::Fresh(place)
                    }
                    (Content::Zero | Content::Hole, Slot::Zero) => Target::Keep,
                    (Content::Zero | Content::Reserved, Slot::Reserved(_)) => Target::Keep,
                    (Content::Reserved, Slot::Data(old)) if sole(old) => Target::Reserve(old),
                    (Content::Zero | Content::Hole, _) => Target::Zero,
                    (Content::Data(_) | Content::DataAnew(_) | Content::Reserved, _) => {
                        Target::Fresh(NOWHERE)
                    }
                });
            }
        }
        if blockyard_io::broken("I1-intent-late") {
            return Ok(Some(targets));
        }
        let wait = !missing.is_empty();
        for region in missing {
            self.request_intent(region);
        }
        self.wanted.log |= wait;
        Ok(if wait { None } else { Some(targets) })
    }

    /// Finds a cluster for every target that has none yet (`Fresh(NOWHERE)`), or undoes what it found.
    fn allocate(
        &mut self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
        stored: Stored<'_>,
        targets: &mut [Target],
    ) -> Result<Allocation> {
        let extent = self.own_extent(image, extent_index);
        let (mut fresh, mut taken_back) = (Vec::new(), Vec::new());
        for (step, target) in targets.iter_mut().enumerate() {
            if !matches!(target, Target::Fresh(NOWHERE)) {
                continue;
            }
            if let Some(cluster) = self.take_offer(stored.offers(), step) {
                *target = Target::Refer(cluster);
                continue;
            }
            let slot = first_slot + step;
            let keep_only = contents[step] == Content::Reserved;
            let home = self.extents[&extent].extent.home.map(|home| home.cluster(slot));
            if let Some(place) = home
                && !matches!(contents[step], Content::DataAnew(_))
                && self.regions.intent(place.region()) == Intent::Durable
                && let Some(freed) = self.frees.take_back(place, (image, extent, slot))
            {
                taken_back.push((place, freed));
                *target = if keep_only { Target::Reserve(place) } else { Target::Fresh(place) };
                continue;
            }
            let at_home = home.filter(|place| self.allocator.allocate_at(*place));
            let Some(cluster) = at_home.or_else(|| self.allocator.allocate_anywhere()) else {
                for cluster in fresh {
                    self.allocator.unblock(cluster);
                }
                for (cluster, freed) in taken_back {
                    self.frees.put_back(cluster, freed);
                }
                let slots = first_slot..first_slot + targets.len();
                return match self.steps_to_look_up(contents, targets, stored) {
                    steps if !steps.is_empty() => Ok(Allocation::Short(steps)),
                    _ if stored.offers().is_empty() && self.await_holds(extent, slots) => {
                        Ok(Allocation::Wait)
                    }
                    _ => self.wait_for_space(image).map(|()| Allocation::Wait),
                };
            };
            fresh.push(cluster);
            *target = if keep_only { Target::Reserve(cluster) } else { Target::Fresh(cluster) };
        }
        if let Some(image) = self.images.get_mut(&image) {
            image.short_since = None;
        }
        if self.allocator.free_region_count() < 2 {
            self.wanted.space = true;
        }
        Ok(Allocation::Done)
    }

    /// The clusters of a change that found no space, if what they are to hold was not looked up since the
    /// last index was made, and no space can simply be had.
    fn steps_to_look_up(
        &self,
        contents: &[Content],
        targets: &[Target],
        stored: Stored<'_>,
    ) -> Vec<usize> {
        let looked = match stored {
            Stored::NotAsked => true,
            Stored::Looked(indexes_made, _) => indexes_made == Some(self.indexes_made),
        };
        if looked || self.may_grow() {
            return Vec::new();
        }
        let steps = contents.iter().zip(targets).enumerate();
        let fresh = steps.filter(|(_, pair)| {
            matches!(pair, (Content::Data(_), Target::Fresh(_) | Target::Refer(_)))
        });
        fresh.map(|(step, _)| step).collect()
    }

    /// Whether a cluster of these slots would be overwritten in place, but for somebody who holds it to compare it: the
    /// change then waits for that, since it may need no space.
    fn await_holds(&mut self, extent: ExtentId, mut slots: std::ops::Range<usize>) -> bool {
        let found = slots.any(|slot| match self.extents[&extent].extent.slot(slot) {
            Slot::Data(cluster) => self.is_sole_but_held(cluster),
            _ => false,
        });
        self.hold_awaited |= found;
        found
    }

    /// The file system may have space that was not taken yet.
    fn may_grow(&self) -> bool {
        !self.space_exhausted && self.allocator.unprovisioned_run(1).is_some()
    }

    /// A write to a fresh cluster failed. If it was taken back, the durable state may still show it,
    /// so it is freed like one that was in use, and its hash is not believed.
    fn give_up_fresh(&mut self, cluster: ClusterIndex) {
        self.regions.mark_untrusted(cluster);
        self.frees.push(cluster, self.generation, None);
        self.wanted.sync = true;
    }

    /// Nothing is free now: grow, or force a commit of pending frees, or reclaim, or fail (I10).
    fn wait_for_space(&mut self, image: ImageId) -> Result<()> {
        if self.may_grow() {
            self.wanted.space = true;
            return Ok(());
        }
        let freeing = !self.frees.is_empty() || !self.sweeps.is_empty();
        if freeing && !blockyard_io::broken("I10-enospc-early") {
            self.wanted.sync = true;
            return Ok(());
        }
        if self.reclaim_may_help(image) {
            return Ok(());
        }
        self.enospc_answers += 1;
        Err(Error::new(
            ErrorKind::NoSpace,
            "the pool has no free space: discard or remove something, or give it more",
        ))
    }

    /// Makes a planned change visible, or takes it back if the write failed. The caller seals.
    pub(crate) fn complete_change(&mut self, plan: &Plan, contents: &[Content], written: bool) {
        let extent = self
            .images
            .get(&plan.image)
            .and_then(|image| self.extent_at(&image.record, plan.extent_index));
        let mut at = 0;
        while at < plan.targets.len() {
            let (step, slot) = (at, plan.first_slot + at);
            at += 1;
            match (plan.targets[step], contents[step]) {
                (Target::InPlace(first), _) => {
                    let count = in_place_run(&plan.targets[step..]);
                    at = step + count;
                    self.complete_in_place(first, &contents[step..at], written);
                    if let Some(extent) = extent {
                        self.extent_mut(extent).content_changed();
                    }
                }
                (Target::Fresh(cluster), content) => {
                    self.regions.break_watch(cluster);
                    self.regions.write_ended(cluster.region());
                    let user = extent.map(|extent| (plan.image, extent, slot));
                    self.complete_fresh(user, cluster, content, written);
                }
                (Target::Refer(cluster), _) => {
                    if let Some(extent) = extent.filter(|_| written) {
                        self.set_reference((plan.image, extent, slot), cluster);
                        self.references_written += 1;
                    }
                }
                (Target::Reserve(cluster), _) => {
                    self.regions.unpin_run(cluster, 1);
                    if let Some(extent) = extent {
                        self.regions.break_watch(cluster);
                        self.set_slot((plan.image, extent, slot), Slot::Reserved(cluster));
                    }
                }
                (Target::Zero, _) => {
                    if let Some(extent) = extent {
                        self.set_slot((plan.image, extent, slot), Slot::Zero);
                    }
                }
                (Target::Keep, _) => {}
            }
        }
        self.reserved -= plan.reserved;
        if self.epochs.leave(plan.epoch) && self.release_frees() {
            self.note_progress();
        }
    }

    /// A run that was overwritten, within one region.
    fn complete_in_place(&mut self, first: ClusterIndex, contents: &[Content], written: bool) {
        self.regions.unpin_run(first, contents.len());
        self.regions.write_ended(first.region());
        let hashes: Vec<ContentHash> = contents
            .iter()
            .filter_map(|content| match content {
                Content::Data(hash) => Some(*hash),
                _ => None,
            })
            .collect();
        if written && hashes.len() == contents.len() {
            return self.publish(first, &hashes);
        }
        for step in 0..contents.len() as u64 {
            self.regions.mark_untrusted(first.offset_by(step));
        }
    }

    /// Consecutive clusters of one region hold what has these hashes.
    fn publish(&mut self, first: ClusterIndex, hashes: &[ContentHash]) {
        if blockyard_io::broken("I1-intent-late") {
            self.request_intent(first.region());
        }
        match self.failed {
            None => self.regions.publish_run(first, hashes),
            Some(_) => {
                for step in 0..hashes.len() as u64 {
                    self.regions.mark_untrusted(first.offset_by(step));
                }
            }
        }
        self.bytes_since_capture += (hashes.len() * CLUSTER_SIZE) as u64;
    }

    fn complete_fresh(
        &mut self,
        user: Option<User>,
        cluster: ClusterIndex,
        content: Content,
        written: bool,
    ) {
        let was_reserved = user.is_some_and(|(_, extent, slot)| {
            self.extents[&extent].extent.slot(slot) == Slot::Reserved(cluster)
        });
        match (user, content) {
            (Some(user), Content::Data(hash) | Content::DataAnew(hash)) if written => {
                self.set_slot(user, Slot::Data(cluster));
                self.publish(cluster, &[hash]);
            }
            _ if was_reserved => self.regions.mark_untrusted(cluster),
            _ => self.give_up_fresh(cluster),
        }
    }
}

/// How many targets at the front overwrite consecutive clusters of one region.
fn in_place_run(targets: &[Target]) -> usize {
    let Some(Target::InPlace(first)) = targets.first() else { return 0 };
    let continues = |(step, target): &(usize, &Target)| match target {
        Target::InPlace(cluster) => {
            *cluster == first.offset_by(*step as u64) && cluster.region() == first.region()
        }
        _ => false,
    };
    targets.iter().enumerate().take_while(continues).count()
}
