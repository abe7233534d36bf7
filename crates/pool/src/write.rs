//! Changing an image: plan under the lock, write outside it, complete under the lock.
//!
//! A change is cut at extent boundaries; each piece is ordered against overlapping pieces by its
//! ticket. Planning decides for every cluster where its new content goes and touches nothing that a
//! commit could see; completion makes it visible. A piece that must wait (for an intent, for space, for
//! room in the journal) gives up its ticket, holds nothing, and plans again when woken.

use crate::plan::{Content, Plan, Planned};
use crate::pool::Pool;
use crate::state::{ImageState, State};
use blockyard_block::{
    Buffer, CLUSTER_SIZE, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, ImageId, Result,
};
use blockyard_io::{Directory, Disk};
use std::mem::ManuallyDrop;

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
pub(crate) struct Piece {
    pub(crate) data: Buffer,
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
        while at < data.len() {
            let position = offset + at as u64;
            let rest_of_extent = (EXTENT_SIZE - position % EXTENT_SIZE) as usize;
            let length = rest_of_extent.min(data.len() - at);
            self.write_piece(image, position, data.slice(at..at + length)).await?;
            at += length;
        }
        Ok(())
    }

    pub(crate) async fn write_piece(
        &self,
        image: ImageId,
        offset: u64,
        data: Buffer,
    ) -> Result<()> {
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

    pub(crate) fn plan(
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

    /// Zero detection and hashing, outside any lock, of bytes nobody can change (I7).
    pub(crate) fn contents(&self, pieces: &[Piece]) -> Vec<Content> {
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
    pub(crate) async fn write_targets(&self, plan: &Plan, pieces: &[Piece]) -> Result<()> {
        let mut step = 0;
        for piece in pieces {
            let count = piece.data.len() / CLUSTER_SIZE;
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

fn is_zero(bytes: &[u8]) -> bool {
    bytes.as_chunks::<16>().0.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
}
