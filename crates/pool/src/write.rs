//! Changing an image: plan under the lock, write outside it, complete under the lock.
//!
//! A change is cut at extent boundaries; each piece is ordered against overlapping pieces by its
//! ticket. Planning decides for every cluster where its new content goes and touches nothing that a
//! commit could see; completion makes it visible. A piece that must wait (for an intent, for space, for
//! room in the journal) gives up its ticket, holds nothing, and plans again when woken.

use crate::plan::{Content, Plan, Planned, Stored};
use crate::pool::{Pool, Turn};
use crate::state::{ImageState, State};
use blockyard_block::{
    Buffer, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, Error, ErrorKind, ImageId, Result,
};
use blockyard_io::{Directory, Disk};
use std::mem::ManuallyDrop;
use std::ops::Range;

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
pub(crate) fn cluster_range(offset: u64, length: u64) -> Range<u64> {
    let size = CLUSTER_SIZE as u64;
    offset / size..(offset + length).div_ceil(size)
}

/// A change that has its place in line.
enum Started<'a, D: Directory> {
    Planned(Turn<'a, D>, Planned),
    /// Somebody in front is in the way.
    InLine(Turn<'a, D>),
}

/// Consecutive whole clusters of new data: a part of the guest's buffer or a merged edge.
pub(crate) struct Piece {
    pub(crate) data: Buffer,
}

impl Piece {
    pub(crate) fn cluster_count(&self) -> usize {
        self.data.len() / CLUSTER_SIZE
    }
}

/// New contents for clusters within one extent.
#[derive(Clone, Copy)]
struct Write<'a> {
    image: ImageId,
    clusters: &'a Range<u64>,
    pieces: &'a [Piece],
    contents: &'a [Content],
}

/// What a write that found no space knows of where its contents are stored.
#[derive(Default)]
struct Looked {
    /// Indexes that had been made when they were looked up.
    at: Option<u64>,
    again: bool,
}

impl Looked {
    /// Whether to look them up once more before the write is refused: since it looked it may have waited, and space for
    /// what is stored nowhere may have come.
    fn may_look_again<T>(&mut self, planned: &Result<T>) -> bool {
        let refused = planned.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace);
        let again = refused && self.at.is_some() && !self.again;
        if again {
            (self.at, self.again) = (None, true);
        }
        again
    }
}

/// A planned change whose data is being written. Dropped (the client went away), it ends like a
/// failed one, so that pins, places and the epoch are given back.
pub(crate) struct Unfinished<'a, D: Directory> {
    pub(crate) pool: &'a Pool<D>,
    pub(crate) plan: &'a Plan,
    pub(crate) contents: &'a [Content],
}

impl<D: Directory> Unfinished<'_, D> {
    pub(crate) fn finish(self, written: bool) {
        let this = ManuallyDrop::new(self);
        this.pool.complete(this.plan, this.contents, written);
    }

    /// Ends it and gives up its place in line, under one lock.
    fn finish_and_leave(self, written: bool, turn: Turn<'_, D>) {
        let this = ManuallyDrop::new(self);
        let mut state = this.pool.lock();
        state.complete_change(this.plan, this.contents, written);
        state.seal();
        turn.leave(&mut state);
        this.pool.wake_wanted(state);
    }

    /// Makes the written change visible together with another one.
    pub(crate) fn finish_with(self, other: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
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
        let length = data.len() as u64;
        let last_extent = offset.checked_add(length).map(|end| end.saturating_sub(1) / EXTENT_SIZE);
        // A piece checks its range itself, but must not be written if another cannot be.
        if length == 0 || last_extent != Some(offset / EXTENT_SIZE) {
            self.lock().image(image)?.check_range(offset, length)?;
        }
        while at < data.len() {
            let position = offset + at as u64;
            let rest_of_extent = (EXTENT_SIZE - position % EXTENT_SIZE) as usize;
            let length = rest_of_extent.min(data.len() - at);
            self.write_piece(image, position, data.slice(at..at + length)).await?;
            at += length;
        }
        Ok(())
    }

    /// Writes what lies within one extent.
    async fn write_piece(&self, image: ImageId, offset: u64, data: Buffer) -> Result<()> {
        let clusters = cluster_range(offset, data.len() as u64);
        let aligned =
            offset.is_multiple_of(CLUSTER_SIZE as u64) && data.len().is_multiple_of(CLUSTER_SIZE);
        if !aligned {
            return self.write_merged(image, offset, data, clusters).await;
        }
        let pieces = [Piece { data }];
        let contents = self.contents(&pieces).await;
        self.write_whole(image, &clusters, &pieces, &contents).await
    }

    /// Writes whole clusters within one extent whose hashes are known to be these: they are not hashed
    /// again. What is all zero is stored, too.
    pub(crate) async fn write_hashed(
        &self,
        image: ImageId,
        offset: u64,
        data: &Buffer,
        hashes: &[ContentHash],
    ) -> Result<()> {
        let contents: Vec<Content> = hashes.iter().map(|hash| Content::Data(*hash)).collect();
        let clusters = cluster_range(offset, data.len() as u64);
        self.write_whole(image, &clusters, &[Piece { data: data.clone() }], &contents).await
    }

    async fn write_whole(
        &self,
        image: ImageId,
        clusters: &Range<u64>,
        pieces: &[Piece; 1],
        contents: &[Content],
    ) -> Result<()> {
        let write = Write { image, clusters, pieces, contents };
        let mut looked = Looked::default();
        loop {
            let started = self.start(&write, looked.at);
            if looked.may_look_again(&started) {
                continue;
            }
            let (turn, planned) = match started? {
                Started::Planned(turn, planned) => (turn, planned),
                Started::InLine(turn) => {
                    turn.wait().await?;
                    // The image may have been shrunk while this waited.
                    let offset = clusters.start * CLUSTER_SIZE as u64;
                    self.lock().image(image)?.check_range(offset, pieces[0].data.len() as u64)?;
                    let stored = Stored::Looked(looked.at, &[]);
                    let planned = self.plan(image, clusters, contents, stored);
                    if looked.may_look_again(&planned) {
                        continue;
                    }
                    (turn, planned?)
                }
            };
            if let Some(done) = self.carry_out(turn, planned, &write, &mut looked.at).await {
                return done;
            }
        }
    }

    /// The same for data whose edges are parts of clusters: what they are to be completed with is
    /// only known when it is this write's turn.
    async fn write_merged(
        &self,
        image: ImageId,
        offset: u64,
        data: Buffer,
        clusters: Range<u64>,
    ) -> Result<()> {
        let mut looked = Looked::default();
        self.wait_for_edges(image, offset, data.len() as u64).await?;
        loop {
            let turn = self.take_turn(image, clusters.clone()).await?;
            // The image may have been shrunk while this waited.
            self.lock().image(image)?.check_range(offset, data.len() as u64)?;
            let pieces = self.whole_clusters(image, offset, &data).await?;
            let contents = self.contents(&pieces).await;
            let stored = Stored::Looked(looked.at, &[]);
            let planned = self.plan(image, &clusters, &contents, stored);
            if looked.may_look_again(&planned) {
                continue;
            }
            let write = Write { image, clusters: &clusters, pieces: &pieces, contents: &contents };
            if let Some(done) = self.carry_out(turn, planned?, &write, &mut looked.at).await {
                return done;
            }
        }
    }

    /// Takes a place in the image's line and, if nobody is in the way, plans at once.
    fn start(&self, write: &Write<'_>, looked: Option<u64>) -> Result<Started<'_, D>> {
        let Write { image, clusters, contents, .. } = *write;
        let mut state = self.lock();
        let found = state.image_mut(image)?;
        let size = CLUSTER_SIZE as u64;
        found.check_range(clusters.start * size, (clusters.end - clusters.start) * size)?;
        let line = &mut found.line;
        let ticket = line.enqueue(clusters.clone());
        let may_go = line.may_go(ticket);
        let stored = Stored::Looked(looked, &[]);
        let planned = may_go.then(|| state.plan_at(image, clusters, contents, stored));
        if may_go {
            state.seal();
        }
        self.wake_wanted(state);
        let turn = Turn::of_ticket(self, image, ticket);
        Ok(match planned {
            Some(planned) => Started::Planned(turn, planned?),
            None => Started::InLine(turn),
        })
    }

    /// Does what was planned and completes it; `None` if it must be planned again. Without space, what is
    /// stored already becomes a reference. `looked` keeps how many indexes had been made when that was looked up.
    async fn carry_out(
        &self,
        turn: Turn<'_, D>,
        mut planned: Planned,
        write: &Write<'_>,
        looked: &mut Option<u64>,
    ) -> Option<Result<()>> {
        let Write { image, clusters, pieces, contents } = *write;
        // Held until the references count themselves.
        let mut _offers = None;
        let plan = loop {
            planned = match planned {
                Planned::Go(plan) => break plan,
                Planned::Wait(seen) => {
                    // Who waits holds nothing.
                    drop(_offers);
                    drop(turn);
                    self.wait_for_progress(seen).await;
                    return None;
                }
                Planned::Short(steps) => {
                    *looked = Some(self.lock().indexes_made);
                    let found = self.find_stored(&steps, pieces, contents).await;
                    let stored = Stored::Looked(*looked, &found.list);
                    let planned = self.plan(image, clusters, contents, stored);
                    _offers = Some(found);
                    match planned {
                        Ok(planned) => planned,
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
        };
        let unfinished = Unfinished { pool: self, plan: &plan, contents };
        let result = self.write_targets(&plan, pieces).await;
        unfinished.finish_and_leave(result.is_ok(), turn);
        Some(result)
    }

    pub(crate) fn plan(
        &self,
        image: ImageId,
        clusters: &Range<u64>,
        contents: &[Content],
        stored: Stored<'_>,
    ) -> Result<Planned> {
        let mut state = self.lock();
        let planned = state.plan_at(image, clusters, contents, stored);
        state.seal();
        self.wake_wanted(state);
        planned
    }

    pub(crate) fn complete(&self, plan: &Plan, contents: &[Content], written: bool) {
        let mut state = self.lock();
        state.complete_change(plan, contents, written);
        state.seal();
        self.wake_wanted(state);
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

    /// What each cluster of the pieces holds.
    pub(crate) async fn contents(&self, pieces: &[Piece]) -> Vec<Content> {
        crate::hashing::contents(self.hash_algorithm(), pieces).await
    }

    /// Writes each run of consecutive clusters at once.
    pub(crate) async fn write_targets(&self, plan: &Plan, pieces: &[Piece]) -> Result<()> {
        let mut step = 0;
        for piece in pieces {
            let count = piece.cluster_count();
            let targets = &plan.targets[step..step + count];
            let mut at = 0;
            while at < count {
                let Some(first) = targets[at].written() else {
                    at += 1;
                    continue;
                };
                let run = (1..count - at)
                    .take_while(|next| {
                        targets[at + next].written() == Some(first.offset_by(*next as u64))
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
