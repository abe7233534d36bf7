//! Clearing ranges of an image: discards and zeroes, whole extents, and what a shrink cuts off.

use crate::extent::Slot;
use crate::plan::{Content, Planned, Stored};
use crate::pool::Pool;
use crate::write::{Piece, Unfinished};
use blockyard_block::{BufferMut, CLUSTER_SIZE, EXTENT_CLUSTERS, EXTENT_SIZE, ImageId, Result};
use blockyard_io::Directory;

impl<D: Directory> Pool<D> {
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
        if !blockyard_io::broken("I11-keep-cut-bytes") {
            data[kept..].fill(0);
        }
        let pieces = [Piece { data: data.freeze() }];
        let contents: Vec<Content> = self
            .contents(&pieces)
            .await
            .into_iter()
            .map(|content| match content {
                Content::Data(hash) => Content::DataAnew(hash),
                other => other,
            })
            .collect();
        let plan = match self.plan(image, &(cluster..cluster + 1), &contents, Stored::NotAsked)? {
            Planned::Go(plan) => plan,
            Planned::Wait(seen) => return Ok(Err(seen)),
            Planned::Short(_) => unreachable!("only who looks contents up is told"),
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
            match self.plan(image, &clusters, &contents, Stored::NotAsked)? {
                Planned::Go(plan) => {
                    self.complete(&plan, &contents, true);
                    drop(ticket);
                    return Ok(());
                }
                Planned::Short(_) => unreachable!("only who looks contents up is told"),
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
        let lazy = state.image(image)?.lazy.as_deref();
        if lazy.is_some_and(|lazy| lazy.lists_any(index)) && !blockyard_io::broken("I16-zero") {
            return Ok(false);
        }
        let growth = state.metadata_growth(image, index, 0);
        if growth > state.metadata_room() || state.frees.are_many() {
            return Ok(false);
        }
        state.drop_extent(image, index);
        state.seal();
        self.wake_wanted(state);
        Ok(true)
    }
}
