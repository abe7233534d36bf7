//! Changing an image: plan under the lock, write outside it, complete under the lock.
//!
//! A change is cut at extent boundaries; each piece is ordered against overlapping pieces by its
//! ticket. Planning decides for every cluster where its new content goes and touches nothing that a
//! commit could see; completion makes it visible. A piece that must wait (for an intent, for space, for
//! room in the journal) gives up its ticket, holds nothing, and plans again when woken.

use crate::epochs::Epoch;
use crate::extent::Slot;
use crate::pool::Pool;
use crate::regions::Intent;
use crate::state::{ImageState, State};
use blockyard_block::{
    Buffer, BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE,
    Error, ErrorKind, ImageId, Result,
};
use blockyard_io::{Directory, Disk};
use std::mem::ManuallyDrop;

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
enum Target {
    /// Over the old content, pinned meanwhile.
    InPlace(ClusterIndex),
    /// To a cluster blocked for it, or the slot's own reserved one.
    Fresh(ClusterIndex),
    /// A free place becomes reserved.
    Reserve(ClusterIndex),
    /// The slot becomes zero.
    Zero,
    /// Nothing changes.
    Keep,
}

/// Stands for a cluster that is still to be found; the header region is never allocated from.
const NOWHERE: ClusterIndex = ClusterIndex(0);

/// A planned change of consecutive slots of one extent.
pub(crate) struct Plan {
    image: ImageId,
    extent_index: u64,
    first_slot: usize,
    targets: Vec<Target>,
    epoch: Epoch,
    reserved: usize,
}

pub(crate) enum Planned {
    Go(Plan),
    /// For an intent, a commit, space, or waiting hashes to be written: plan again when the progress
    /// count differs from this one.
    Wait(u64),
}

impl State {
    /// Plans new contents for the slots from `first_slot` on of one extent.
    pub(crate) fn plan_change(
        &mut self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
    ) -> Result<Planned> {
        self.check_writable()?;
        self.check_within(image, extent_index, first_slot + contents.len())?;
        if self.change_must_wait(image, extent_index, contents.len())? {
            return Ok(Planned::Wait(self.progress));
        }
        let mut targets = match self.targets_in_place(image, extent_index, first_slot, contents)? {
            Some(targets) => targets,
            None => return Ok(Planned::Wait(self.progress)),
        };
        if !self.allocate(image, extent_index, first_slot, contents, &mut targets)? {
            return Ok(Planned::Wait(self.progress));
        }
        for target in &targets {
            match *target {
                Target::InPlace(cluster) => {
                    self.regions.pin(cluster);
                    self.regions.write_planned(cluster.region(), self.now_ms);
                }
                // A reserved place may be watched, and may come to be while it is written.
                Target::Fresh(cluster) => {
                    self.regions.break_watch(cluster);
                    self.request_intent(cluster.region());
                    self.regions.write_planned(cluster.region(), self.now_ms);
                }
                Target::Reserve(_) | Target::Zero | Target::Keep => {}
            }
        }
        let reserved = self.metadata_growth(image, extent_index, contents.len());
        self.reserved += reserved;
        let epoch = self.epochs.enter();
        Ok(Planned::Go(Plan { image, extent_index, first_slot, targets, epoch, reserved }))
    }

    /// The image may have been cut shorter since the change was let in.
    fn check_within(&self, image: ImageId, extent_index: u64, end_slot: usize) -> Result<()> {
        let size = self.image(image)?.record.size;
        let end = extent_index * EXTENT_CLUSTERS as u64 + end_slot as u64;
        if end <= size.div_ceil(CLUSTER_SIZE as u64) {
            return Ok(());
        }
        let message = format!("the image was cut to {size} bytes meanwhile");
        Err(Error::new(ErrorKind::OutOfRange, message))
    }

    fn change_must_wait(
        &mut self,
        image: ImageId,
        extent_index: u64,
        length: usize,
    ) -> Result<bool> {
        self.image(image)?;
        let growth = self.metadata_growth(image, extent_index, length);
        if growth > self.metadata_room() || self.frees.are_many() {
            self.wanted.sync = true;
            return Ok(true);
        }
        if self.regions.pending_bytes() > self.options.pending_hashes_bytes_max {
            self.wanted.hashes = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// Bytes the records of one change take at most: image, page, and the extent with a reference for
    /// each changed slot and each split run.
    fn metadata_growth(&self, image: ImageId, extent_index: u64, length: usize) -> usize {
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
        let mut targets = Vec::with_capacity(contents.len());
        let mut missing = Vec::new();
        for (step, content) in contents.iter().enumerate() {
            let cluster = extent_index * EXTENT_CLUSTERS as u64 + (first_slot + step) as u64;
            let (slot, _) = self.run_at(record, cluster, 1);
            let sole = |cluster| exclusive && self.is_sole(cluster);
            let mut needs_intent = |cluster: ClusterIndex| {
                if self.regions.intent(cluster.region()) != Intent::Durable {
                    missing.push(cluster.region());
                }
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
        if crate::breaks::broken("I1-intent-late") {
            return Ok(Some(targets));
        }
        let wait = !missing.is_empty();
        for region in missing {
            self.request_intent(region);
        }
        Ok(if wait { None } else { Some(targets) })
    }

    /// Finds a cluster for every target that has none yet (`Fresh(NOWHERE)`), or undoes what it found: false
    /// if the change must wait for space.
    fn allocate(
        &mut self,
        image: ImageId,
        extent_index: u64,
        first_slot: usize,
        contents: &[Content],
        targets: &mut [Target],
    ) -> Result<bool> {
        if targets.iter().all(|target| matches!(target, Target::InPlace(_) | Target::Keep)) {
            return Ok(true);
        }
        let extent = self.own_extent(image, extent_index);
        let (mut fresh, mut taken_back) = (Vec::new(), Vec::new());
        for (step, target) in targets.iter_mut().enumerate() {
            if !matches!(target, Target::Fresh(NOWHERE)) {
                continue;
            }
            let slot = first_slot + step;
            let keep_only = contents[step] == Content::Reserved;
            let home = self.extents[&extent].extent.home.map(|home| home.cluster(slot));
            if let Some(place) = home
                && !matches!(contents[step], Content::DataAnew(_))
                && self.regions.intent(place.region()) == Intent::Durable
                && let Some(freed) = self.frees.take_back(place, (extent, slot))
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
                return self.wait_for_space().map(|()| false);
            };
            fresh.push(cluster);
            *target = if keep_only { Target::Reserve(cluster) } else { Target::Fresh(cluster) };
        }
        if self.allocator.free_region_count() < 2 {
            self.wanted.space = true;
        }
        Ok(true)
    }

    /// A write to a fresh cluster failed. If it was taken back, the durable state may still show it,
    /// so it is freed like one that was in use, and its hash is not believed.
    fn give_up_fresh(&mut self, cluster: ClusterIndex) {
        self.regions.mark_untrusted(cluster);
        self.frees.push(cluster, self.generation, None);
        self.wanted.sync = true;
    }

    /// Nothing is free now: grow, or force a commit of pending frees, or fail (I10).
    fn wait_for_space(&mut self) -> Result<()> {
        if !self.space_exhausted && self.allocator.unprovisioned_run(1).is_some() {
            self.wanted.space = true;
            return Ok(());
        }
        let freeing = !self.frees.is_empty() || !self.sweeps.is_empty();
        if freeing && !crate::breaks::broken("I10-enospc-early") {
            self.wanted.sync = true;
            return Ok(());
        }
        self.enospc_answers += 1;
        Err(Error::new(
            ErrorKind::NoSpace,
            "the pool has no free space: discard or remove something, or give it more",
        ))
    }

    /// Makes a planned change visible, or takes it back if the write failed. The caller seals.
    fn complete_change(&mut self, plan: &Plan, contents: &[Content], written: bool) {
        let extent = self
            .images
            .get(&plan.image)
            .and_then(|image| self.extent_at(&image.record, plan.extent_index));
        for (step, target) in plan.targets.iter().enumerate() {
            let slot = plan.first_slot + step;
            match (*target, contents[step]) {
                (Target::InPlace(cluster), content) => {
                    self.regions.unpin(cluster);
                    self.regions.write_ended(cluster.region());
                    match content {
                        Content::Data(hash) if written => self.publish(cluster, hash),
                        _ => self.regions.mark_untrusted(cluster),
                    }
                    if let Some(extent) = extent {
                        self.extent_mut(extent).content_changed();
                    }
                }
                (Target::Fresh(cluster), content) => {
                    self.regions.break_watch(cluster);
                    self.regions.write_ended(cluster.region());
                    self.complete_fresh(extent, slot, cluster, content, written);
                }
                (Target::Reserve(cluster), _) => {
                    if let Some(extent) = extent {
                        self.regions.break_watch(cluster);
                        self.set_slot(extent, slot, Slot::Reserved(cluster));
                    }
                }
                (Target::Zero, _) => {
                    if let Some(extent) = extent {
                        self.set_slot(extent, slot, Slot::Zero);
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

    fn publish(&mut self, cluster: ClusterIndex, hash: ContentHash) {
        if crate::breaks::broken("I1-intent-late") {
            self.request_intent(cluster.region());
        }
        match self.failed {
            None => self.regions.publish(cluster, hash),
            Some(_) => self.regions.mark_untrusted(cluster),
        }
        self.bytes_since_capture += CLUSTER_SIZE as u64;
    }

    fn complete_fresh(
        &mut self,
        extent: Option<blockyard_block::ExtentId>,
        slot: usize,
        cluster: ClusterIndex,
        content: Content,
        written: bool,
    ) {
        let was_reserved =
            extent.is_some_and(|id| self.extents[&id].extent.slot(slot) == Slot::Reserved(cluster));
        match (extent, content) {
            (Some(extent), Content::Data(hash) | Content::DataAnew(hash)) if written => {
                self.set_slot(extent, slot, Slot::Data(cluster));
                self.publish(cluster, hash);
            }
            _ if was_reserved => self.regions.mark_untrusted(cluster),
            _ => self.give_up_fresh(cluster),
        }
    }
}

impl ImageState {
    /// Refuses bytes beyond the end, or beyond the end there will be once a shrink is done.
    pub(crate) fn check_range(&self, offset: u64, length: u64) -> Result<()> {
        let size = self.shrinking_to.map_or(self.record.size, |size| size.min(self.record.size));
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{length} bytes at {offset} reach beyond the end of the image at {size}"),
            )),
        }
    }
}

/// Clusters `[offset, offset + length)` touches.
pub(crate) fn cluster_range(offset: u64, length: u64) -> std::ops::Range<u64> {
    let size = CLUSTER_SIZE as u64;
    offset / size..(offset + length).div_ceil(size)
}

/// Consecutive whole clusters of new data: a part of the guest's buffer or a merged edge.
struct Piece {
    data: Buffer,
}

/// A planned change whose data is being written. Dropped (the client went away), it ends like a
/// failed one, so that pins, places and the epoch are given back.
struct Unfinished<'a, D: Directory> {
    pool: &'a Pool<D>,
    plan: &'a Plan,
    contents: &'a [Content],
}

impl<D: Directory> Unfinished<'_, D> {
    fn finish(self, written: bool) {
        let this = ManuallyDrop::new(self);
        this.pool.complete(this.plan, this.contents, written);
    }

    /// Makes the written change visible together with another one.
    fn finish_with(self, other: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let this = ManuallyDrop::new(self);
        let mut state = this.pool.lock();
        state.complete_change(this.plan, this.contents, true);
        let result = other(&mut state);
        state.seal();
        this.pool.wake_wanted(state);
        result
    }
}

impl<D: Directory> Drop for Unfinished<'_, D> {
    fn drop(&mut self) {
        self.pool.complete(self.plan, self.contents, false);
    }
}

impl<D: Directory> Pool<D> {
    /// Writes `data` at `offset`, piece by piece.
    pub(crate) async fn write_image(
        &self,
        image: ImageId,
        offset: u64,
        data: &Buffer,
    ) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let rest_of_extent = (EXTENT_SIZE - position % EXTENT_SIZE) as usize;
            let length = rest_of_extent.min(data.len() - at);
            self.write_piece(image, position, data.slice(at..at + length)).await?;
            at += length;
        }
        Ok(())
    }

    async fn write_piece(&self, image: ImageId, offset: u64, data: Buffer) -> Result<()> {
        let clusters = cluster_range(offset, data.len() as u64);
        let mut hashed: Option<Vec<Content>> = None;
        let aligned =
            offset.is_multiple_of(CLUSTER_SIZE as u64) && data.len().is_multiple_of(CLUSTER_SIZE);
        loop {
            let ticket = self.take_turn(image, clusters.clone()).await?;
            // The image may have been shrunk while this waited.
            self.lock().image(image)?.check_range(offset, data.len() as u64)?;
            let pieces = self.whole_clusters(image, offset, &data).await?;
            let contents = match hashed.take().filter(|_| aligned) {
                Some(contents) => contents,
                None => self.contents(&pieces),
            };
            let planned = self.plan(image, &clusters, &contents)?;
            match planned {
                Planned::Go(plan) => {
                    let unfinished = Unfinished { pool: self, plan: &plan, contents: &contents };
                    let result = self.write_targets(&plan, &pieces).await;
                    unfinished.finish(result.is_ok());
                    drop(ticket);
                    return result;
                }
                Planned::Wait(seen) => {
                    hashed = Some(contents);
                    drop(ticket);
                    self.wait_for_progress(seen).await;
                }
            }
        }
    }

    fn plan(
        &self,
        image: ImageId,
        clusters: &std::ops::Range<u64>,
        contents: &[Content],
    ) -> Result<Planned> {
        let extent_index = clusters.start / EXTENT_CLUSTERS as u64;
        let first_slot = (clusters.start % EXTENT_CLUSTERS as u64) as usize;
        let mut state = self.lock();
        let planned = state.plan_change(image, extent_index, first_slot, contents);
        state.seal();
        self.wake_wanted(state);
        planned
    }

    fn complete(&self, plan: &Plan, contents: &[Content], written: bool) {
        let mut state = self.lock();
        state.complete_change(plan, contents, written);
        state.seal();
        self.wake_wanted(state);
    }

    /// Writes the cluster that a new end of the image cuts to another place, zeros beyond the end,
    /// and changes the map in the same transaction (I11). The caller has the turn for the image.
    /// `Err(seen)` of the inner result: nothing was done, something must be waited for.
    pub(crate) async fn cut_image(&self, image: ImageId, size: u64) -> Result<Result<(), u64>> {
        let (cluster, kept) = (size / CLUSTER_SIZE as u64, (size % CLUSTER_SIZE as u64) as usize);
        let has_data = kept > 0 && {
            let state = self.lock();
            matches!(state.run_at(&state.image(image)?.record, cluster, 1).0, Slot::Data(_))
        };
        if !has_data {
            let mut state = self.lock();
            state.check_writable()?;
            if state.metadata_growth(image, cluster / EXTENT_CLUSTERS as u64, 1)
                > state.metadata_room()
            {
                state.wanted.sync = true;
                let seen = state.progress;
                self.wake_wanted(state);
                return Ok(Err(seen));
            }
            state.cut_map(image, size)?;
            state.seal();
            self.wake_wanted(state);
            return Ok(Ok(()));
        }
        let mut data = self.read_for_update(image, cluster).await?;
        if !crate::breaks::broken("I11-keep-cut-bytes") {
            data[kept..].fill(0);
        }
        let pieces = [Piece { data: data.freeze() }];
        let contents: Vec<Content> = self
            .contents(&pieces)
            .into_iter()
            .map(|content| match content {
                Content::Data(hash) => Content::DataAnew(hash),
                other => other,
            })
            .collect();
        let plan = match self.plan(image, &(cluster..cluster + 1), &contents)? {
            Planned::Go(plan) => plan,
            Planned::Wait(seen) => return Ok(Err(seen)),
        };
        let unfinished = Unfinished { pool: self, plan: &plan, contents: &contents };
        if let Err(error) = self.write_targets(&plan, &pieces).await {
            unfinished.finish(false);
            return Err(error);
        }
        unfinished.finish_with(|state| state.cut_map(image, size))?;
        Ok(Ok(()))
    }

    /// Zeroes or frees a range: whole clusters become `whole`, edges are written as zeros.
    pub(crate) async fn clear_image(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
        whole: Content,
    ) -> Result<()> {
        let size = CLUSTER_SIZE as u64;
        let end = offset + length;
        let image_size = self.lock().image(image)?.record.size;
        // The last cluster of an image may be cut by its end: it is whole if nothing follows.
        let whole_end =
            if end == image_size { end.next_multiple_of(size) } else { end / size * size };
        let whole_start = offset.next_multiple_of(size);
        if whole_start >= whole_end {
            return self.write_zero_bytes(image, offset, length).await;
        }
        self.write_zero_bytes(image, offset, whole_start - offset).await?;
        let mut at = whole_start;
        while at < whole_end {
            let piece_end = (at / EXTENT_SIZE + 1) * EXTENT_SIZE;
            let piece_end = piece_end.min(whole_end);
            self.clear_piece(image, at / size..piece_end / size, whole).await?;
            at = piece_end;
        }
        if end > whole_end {
            self.write_zero_bytes(image, whole_end, end - whole_end).await?;
        }
        Ok(())
    }

    async fn write_zero_bytes(&self, image: ImageId, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let zeros = BufferMut::zeroed_at_phase(length as usize, offset as usize % CLUSTER_SIZE);
        self.write_image(image, offset, &zeros.freeze()).await
    }

    async fn clear_piece(
        &self,
        image: ImageId,
        clusters: std::ops::Range<u64>,
        whole: Content,
    ) -> Result<()> {
        let length = (clusters.end - clusters.start) as usize;
        let contents = vec![whole; length];
        loop {
            let ticket = self.take_turn(image, clusters.clone()).await?;
            if length == EXTENT_CLUSTERS
                && whole == Content::Hole
                && self.drop_whole_extent(image, clusters.start / EXTENT_CLUSTERS as u64)?
            {
                drop(ticket);
                return Ok(());
            }
            match self.plan(image, &clusters, &contents)? {
                Planned::Go(plan) => {
                    self.complete(&plan, &contents, true);
                    drop(ticket);
                    return Ok(());
                }
                Planned::Wait(seen) => {
                    drop(ticket);
                    self.wait_for_progress(seen).await;
                }
            }
        }
    }

    /// Takes a whole extent out of the map; false if metadata must be committed first.
    fn drop_whole_extent(&self, image: ImageId, index: u64) -> Result<bool> {
        let mut state = self.lock();
        state.check_writable()?;
        state.check_within(image, index, 1)?;
        let growth = state.metadata_growth(image, index, 0);
        if growth > state.metadata_room() || state.frees.are_many() {
            return Ok(false);
        }
        state.drop_extent(image, index);
        state.seal();
        self.wake_wanted(state);
        Ok(true)
    }

    /// The data as whole clusters: edges are completed from what is there (read, modify, write).
    async fn whole_clusters(
        &self,
        image: ImageId,
        offset: u64,
        data: &Buffer,
    ) -> Result<Vec<Piece>> {
        let size = CLUSTER_SIZE as u64;
        let end = offset + data.len() as u64;
        let mut pieces = Vec::with_capacity(3);
        let mut at = offset;
        while at < end {
            let from = (at - offset) as usize;
            if at.is_multiple_of(size) && end - at >= size {
                let whole = ((end - at) / size * size) as usize;
                pieces.push(Piece { data: data.slice(from..from + whole) });
                at += whole as u64;
                continue;
            }
            let cluster_start = at / size * size;
            let length = (size - (at - cluster_start)).min(end - at) as usize;
            let mut cluster = self.read_for_update(image, cluster_start / size).await?;
            let within = (at - cluster_start) as usize;
            cluster[within..within + length].copy_from_slice(&data[from..from + length]);
            pieces.push(Piece { data: cluster.freeze() });
            at += length as u64;
        }
        Ok(pieces)
    }

    /// Zero detection and hashing, outside any lock, of bytes nobody can change (I7).
    fn contents(&self, pieces: &[Piece]) -> Vec<Content> {
        pieces
            .iter()
            .flat_map(|piece| piece.data.chunks_exact(CLUSTER_SIZE))
            .map(|cluster| match is_zero(cluster) {
                true => Content::Zero,
                false => Content::Data(self.hash_algorithm().hash(cluster)),
            })
            .collect()
    }

    /// Writes each run of consecutive clusters at once.
    async fn write_targets(&self, plan: &Plan, pieces: &[Piece]) -> Result<()> {
        let mut step = 0;
        for piece in pieces {
            let count = piece.data.len() / CLUSTER_SIZE;
            let targets = &plan.targets[step..step + count];
            let mut at = 0;
            while at < count {
                let Some(first) = data_target(targets[at]) else {
                    at += 1;
                    continue;
                };
                let run = (1..count - at)
                    .take_while(|next| {
                        data_target(targets[at + next]) == Some(first.offset_by(*next as u64))
                    })
                    .count()
                    + 1;
                let bytes = piece.data.slice(at * CLUSTER_SIZE..(at + run) * CLUSTER_SIZE);
                self.data.write(first.data_offset(), bytes).await.map_err(|error| {
                    Error::io(format!("write to data at {}", first.data_offset()), error)
                })?;
                at += run;
            }
            step += count;
        }
        Ok(())
    }
}

fn data_target(target: Target) -> Option<ClusterIndex> {
    match target {
        Target::InPlace(cluster) | Target::Fresh(cluster) => Some(cluster),
        Target::Reserve(_) | Target::Zero | Target::Keep => None,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.as_chunks::<16>().0.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
}
