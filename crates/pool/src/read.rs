//! Reading an image: look up under the lock, read outside it. The epoch entered at the look-up keeps
//! the clusters from being reused until the read is done (I3).

use crate::damage::{Remedy, mismatch};
use crate::epochs::Epoch;
use crate::extent::Slot;
use crate::pool::Pool;
use crate::state::State;
use crate::write::cluster_range;
use blockyard_block::{
    AllocationRun, AllocationState, BufferMut, CLUSTER_SIZE, ClusterIndex, ContentHash, Error,
    ErrorKind, ImageId, Result, Segment,
};
use blockyard_io::{Directory, Disk};

/// A slot and how many clusters continue it.
pub(crate) type SlotRun = (Slot, usize);

/// A place in the current epoch; dropping it lets frees go on.
pub(crate) struct InEpoch<'a, D: Directory> {
    pool: &'a Pool<D>,
    epoch: Epoch,
}

impl<D: Directory> Drop for InEpoch<'_, D> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if state.epochs.leave(self.epoch) && (state.release_frees() || state.closing) {
            state.note_progress();
        }
        self.pool.wake_wanted(state);
    }
}

/// What a look-up found.
enum LookedUp<'a, D: Directory> {
    Here(Vec<SlotRun>, InEpoch<'a, D>),
    /// These clusters of a lazy image must come first.
    Absent(Vec<u64>),
}

/// A cluster that was compared with its hash.
enum Verified {
    Bytes(BufferMut),
    Mismatch { place: ClusterIndex, expected: ContentHash, error: Error },
}

impl<D: Directory> Pool<D> {
    /// A place in the current epoch: what the state shows now stays as it is until it is dropped (I3).
    pub(crate) fn enter_epoch(&self, state: &mut State) -> InEpoch<'_, D> {
        InEpoch { pool: self, epoch: state.epochs.enter() }
    }

    /// The bytes of a range as segments in order.
    pub(crate) async fn read_image(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
    ) -> Result<Vec<Segment>> {
        let (runs, _in_epoch) = self.look_up_present(image, offset, length).await?;
        let size = CLUSTER_SIZE as u64;
        let mut segments = Vec::with_capacity(runs.len());
        let mut cluster = offset / size;
        for (slot, count) in runs {
            let run_start = (cluster * size).max(offset);
            cluster += count as u64;
            let run_end = (cluster * size).min(offset + length);
            match slot {
                Slot::Zero | Slot::Reserved(_) => push_zeroes(&mut segments, run_end - run_start),
                Slot::Data(first) => {
                    let buffer = self.read_clusters(first, count).await.map_err(|error| {
                        error.at(format_args!("image bytes {run_start} to {run_end}"))
                    })?;
                    let skipped = (run_start % size) as usize;
                    let taken = (run_end - run_start) as usize;
                    segments.push(Segment::Data(buffer.freeze().slice(skipped..skipped + taken)));
                }
            }
        }
        Ok(segments)
    }

    /// Looks a range up; what is absent of it is waited for.
    pub(crate) async fn look_up_present(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
    ) -> Result<(Vec<SlotRun>, InEpoch<'_, D>)> {
        loop {
            match self.look_up(image, offset, length)? {
                LookedUp::Here(runs, in_epoch) => return Ok((runs, in_epoch)),
                LookedUp::Absent(clusters) => self.wait_fetched(image, clusters).await?,
            }
        }
    }

    /// The runs of a range, joined where they continue each other, and a place in the epoch.
    fn look_up(&self, image: ImageId, offset: u64, length: u64) -> Result<LookedUp<'_, D>> {
        let mut state = self.lock();
        let mut found = state.image(image)?;
        found.check_range(offset, length)?;
        let clusters = cluster_range(offset, length);
        if found.profile.is_some() {
            if let Some(profile) = &mut state.image_mut(image)?.profile {
                profile.note(&clusters);
            }
            found = state.image(image)?;
        }
        let mut runs: Vec<SlotRun> = Vec::new();
        let mut absent = Vec::new();
        let mut at = clusters.start;
        while at < clusters.end {
            let (slot, count) = state.run_at(&found.record, at, (clusters.end - at) as usize);
            if let (Some(lazy), Slot::Zero) = (&found.lazy, slot) {
                lazy.absent_in(at, count, &mut absent);
            }
            at += count as u64;
            match (runs.last_mut(), slot) {
                (Some((Slot::Data(first), length)), Slot::Data(next))
                    if first.offset_by(*length as u64) == next =>
                {
                    *length += count;
                }
                _ => runs.push((slot, count)),
            }
        }
        if !absent.is_empty() && !blockyard_io::broken("I16-tell-absent") {
            return Ok(LookedUp::Absent(absent));
        }
        let epoch = state.epochs.enter();
        Ok(LookedUp::Here(runs, InEpoch { pool: self, epoch }))
    }

    /// Reads consecutive clusters. The caller holds an epoch or knows that they stay.
    pub(crate) async fn read_clusters(
        &self,
        first: ClusterIndex,
        count: usize,
    ) -> Result<BufferMut> {
        let buffer = BufferMut::to_be_filled(count * CLUSTER_SIZE);
        let (result, buffer) = self.data.read(first.data_offset(), buffer).await;
        match result {
            Ok(()) => Ok(buffer),
            Err(error) => Err(Error::io(format!("read of data at {}", first.data_offset()), error)),
        }
    }

    /// One cluster's bytes, to be changed and written whole. A trusted cluster is verified first, so
    /// that rot is not given a fresh hash (I7). The caller has the cluster's turn.
    /// One that does not match is healed from an equal one, if there is one (I14).
    pub(crate) async fn read_for_update(&self, image: ImageId, cluster: u64) -> Result<BufferMut> {
        let (place, expected) = match self.read_verified(image, cluster).await? {
            Verified::Bytes(bytes) => return Ok(bytes),
            Verified::Mismatch { place, expected, .. } => (place, expected),
        };
        let in_vain = self.lock().regions.in_vain.is_so(&expected);
        let healed = match in_vain {
            true => Vec::new(),
            false => self.heal(&[(place, expected)]).await.unwrap_or_default(),
        };
        let again = self.read_verified(image, cluster).await?;
        let mut state = self.lock();
        match again {
            Verified::Bytes(bytes) => {
                // Else the medium has returned it right this time.
                if healed.contains(&place)
                    && let Ok(found) = state.image(image)
                {
                    let (name, offset) = (&found.record.name, cluster * CLUSTER_SIZE as u64);
                    let message = format!(
                        "{name} at {offset} did not match its hash; it was healed from an equal cluster"
                    );
                    state.note_healed(place, (image, cluster), message);
                }
                Ok(bytes)
            }
            Verified::Mismatch { place, error, .. } => {
                state.note_damaged(place, mismatch(place), Remedy::None, &[(image, cluster)]);
                Err(error)
            }
        }
    }

    async fn read_verified(&self, image: ImageId, cluster: u64) -> Result<Verified> {
        let offset = cluster * CLUSTER_SIZE as u64;
        let (slot, _in_epoch) = {
            let mut state = self.lock();
            let slot = state.run_at(&state.image(image)?.record, cluster, 1).0;
            (slot, self.enter_epoch(&mut state))
        };
        let Slot::Data(place) = slot else {
            // Waited for before the caller took its turn: what is present stays so.
            self.check_present(image, cluster)?;
            return Ok(Verified::Bytes(BufferMut::zeroed(CLUSTER_SIZE)));
        };
        let expected = self.hash_of(place).await?;
        let buffer = self.read_clusters(place, 1).await?;
        match expected.filter(|expected| *expected != self.hash_algorithm().hash(&buffer)) {
            None => Ok(Verified::Bytes(buffer)),
            Some(expected) => {
                let error = Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the 4096 bytes at {offset} do not match their hash (data at {}): overwrite them whole, or restore the image",
                        place.data_offset()
                    ),
                );
                Ok(Verified::Mismatch { place, expected, error })
            }
        }
    }

    /// What a range is made of, from the map alone.
    pub(crate) fn allocation_runs(
        &self,
        image: ImageId,
        offset: u64,
        length: u64,
        runs_max: usize,
    ) -> Result<Vec<AllocationRun>> {
        let state = self.lock();
        let found = state.image(image)?;
        found.check_range(offset, length)?;
        let clusters = cluster_range(offset, length);
        let size = CLUSTER_SIZE as u64;
        let mut runs: Vec<AllocationRun> = Vec::new();
        let mut at = clusters.start;
        // A bound on the work under the lock: a caller asks again for the rest.
        for _ in 0..4096 {
            if at >= clusters.end {
                break;
            }
            let (slot, count) = state.run_at(&found.record, at, (clusters.end - at) as usize);
            let mut absent = Vec::new();
            if let (Some(lazy), Slot::Zero) = (&found.lazy, slot) {
                lazy.absent_in(at, count, &mut absent);
            }
            let run_start = (at * size).max(offset);
            at += count as u64;
            let length = (at * size).min(offset + length) - run_start;
            // A lazy image's runs are not told more finely than this: what is absent is data, and what is zero beside it
            // may be told as data.
            let kind = match slot {
                Slot::Zero if !absent.is_empty() => AllocationState::Data,
                Slot::Zero => AllocationState::Hole,
                Slot::Reserved(_) => AllocationState::ReservedZero,
                Slot::Data(_) => AllocationState::Data,
            };
            let full = runs.len() == runs_max;
            match runs.last_mut().filter(|last| last.state == kind) {
                Some(last) => last.length += length,
                None if full => break,
                None => runs.push(AllocationRun { length, state: kind }),
            }
        }
        Ok(runs)
    }
}

pub(crate) fn push_zeroes(segments: &mut Vec<Segment>, length: u64) {
    match segments.last_mut() {
        Some(Segment::Zeroes(before)) => *before += length,
        _ => segments.push(Segment::Zeroes(length)),
    }
}
