//! Putting what was fetched into the image, and the end of being lazy.
//!
//! The put takes the image's turn for its place. Changes in front have completed then and those behind are not planned, so
//! what is absent under the lock stays absent until the put is done; what is not absent is left alone.

use super::{REFUSED_MS, manifest};
use crate::plan::{Content, Planned, Stored};
use crate::pool::Pool;
use crate::records::RecordKey;
use crate::write::{Piece, Unfinished};
use blockyard_block::{
    Buffer, CLUSTER_SIZE, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ImageId, Result,
};
use blockyard_io::Directory;
use std::ops::Range;

impl<D: Directory> Pool<D> {
    /// Keeps consecutive clusters of an extent that came from the origin: those whose bytes have the hash that was
    /// listed, and that are absent still. Returns how many did not have their hash; they are asked for again later, and
    /// reads of them fail until then. `data` is whole clusters; what lies behind the image's end must be zero.
    pub async fn keep_fetched(
        &self,
        image: ImageId,
        index: u64,
        first_slot: usize,
        hashes: &[ContentHash],
        data: &Buffer,
    ) -> Result<usize> {
        let fits = first_slot + hashes.len() <= EXTENT_CLUSTERS;
        if !fits || data.len() != hashes.len() * CLUSTER_SIZE {
            return Err(Error::new(ErrorKind::InvalidArgument, "clusters do not fit their place"));
        }
        let first = index * EXTENT_CLUSTERS as u64 + first_slot as u64;
        // Zeros are promised behind the end that it had, wherever it is now (I11).
        let Some(size) = self.lock().lazy_mut(image).map(|lazy| lazy.size) else { return Ok(0) };
        let sound: Vec<bool> = self
            .hashes_of(data)
            .iter()
            .zip(hashes)
            .enumerate()
            .map(|(step, (found, expected))| {
                let at = (first + step as u64) * CLUSTER_SIZE as u64;
                let inside = size.saturating_sub(at).min(CLUSTER_SIZE as u64) as usize;
                let bytes = &data[step * CLUSTER_SIZE..(step + 1) * CLUSTER_SIZE];
                let behind_end = bytes[inside..].iter().any(|byte| *byte != 0);
                let has_hash = found == expected || blockyard_io::broken("I16-keep-unchecked");
                has_hash && !behind_end
            })
            .collect();
        let mut at = 0;
        for run in sound.chunk_by(|one, next| one == next) {
            let steps = at..at + run.len();
            at = steps.end;
            if run[0] {
                let clusters = first + steps.start as u64..first + steps.end as u64;
                let bytes = data.slice(steps.start * CLUSTER_SIZE..steps.end * CLUSTER_SIZE);
                let put = self.put_absent(image, clusters.clone(), &hashes[steps], &bytes).await;
                if let Err(error) = put {
                    // Without space, say: who waits is not let wait for what comes in vain.
                    self.end_fetch(image, 0..0, &clusters.collect::<Vec<u64>>());
                    return Err(error);
                }
            }
        }
        let bad = (first..).zip(&sound).filter(|(_, sound)| !**sound).map(|(at, _)| at);
        let bad: Vec<u64> = bad.collect();
        self.end_fetch(image, first..first + hashes.len() as u64, &bad);
        Ok(bad.len())
    }

    /// The origin cannot give these slots now.
    pub fn refuse_fetched(&self, image: ImageId, index: u64, slots: &[usize]) {
        let base = index * EXTENT_CLUSTERS as u64;
        let bad: Vec<u64> = slots.iter().map(|slot| base + *slot as u64).collect();
        self.end_fetch(image, 0..0, &bad);
    }

    fn end_fetch(&self, image: ImageId, came: Range<u64>, bad: &[u64]) {
        {
            let mut state = self.lock();
            let now = state.now_ms;
            let Some(lazy) = state.lazy_mut(image) else { return };
            lazy.heard_ms = now;
            for cluster in came.chain(bad.iter().copied()) {
                lazy.fetching.remove(&cluster);
                lazy.wanted.remove(&cluster);
                lazy.refused.remove(cluster);
            }
            for cluster in bad {
                lazy.refused.insert(*cluster, now + REFUSED_MS, now);
            }
        }
        self.fetched_event.notify(usize::MAX);
    }

    /// Writes those of consecutive clusters that are absent.
    async fn put_absent(
        &self,
        image: ImageId,
        clusters: Range<u64>,
        hashes: &[ContentHash],
        data: &Buffer,
    ) -> Result<()> {
        let mut from = clusters.start;
        while from < clusters.end {
            let turn = match blockyard_io::broken("I16-no-turn") {
                true => None,
                false => Some(self.take_turn(image, from..clusters.end).await?),
            };
            let Some(run) = self.first_absent(image, from..clusters.end)? else { return Ok(()) };
            let steps = (run.start - clusters.start) as usize..(run.end - clusters.start) as usize;
            let bytes = data.slice(steps.start * CLUSTER_SIZE..steps.end * CLUSTER_SIZE);
            let contents: Vec<Content> =
                hashes[steps].iter().map(|hash| Content::Data(*hash)).collect();
            let pieces = [Piece { data: bytes }];
            match self.plan(image, &run, &contents, Stored::NotAsked)? {
                Planned::Go(plan) => {
                    let unfinished = Unfinished { pool: self, plan: &plan, contents: &contents };
                    let result = self.write_targets(&plan, &pieces).await;
                    unfinished.finish(result.is_ok());
                    result?;
                    if let Some(lazy) = self.lock().lazy_mut(image) {
                        lazy.fetched += run.end - run.start;
                    }
                    from = run.end;
                    drop(turn);
                }
                Planned::Wait(seen) => {
                    drop(turn);
                    self.wait_for_progress(seen).await;
                }
                Planned::Short(_) => unreachable!("only who looks contents up is told"),
            }
        }
        Ok(())
    }

    /// The first run of absent clusters in a range within one extent.
    fn first_absent(&self, image: ImageId, clusters: Range<u64>) -> Result<Option<Range<u64>>> {
        let mut absent: Vec<u64> = clusters.clone().collect();
        if blockyard_io::broken("I16-overwrite") {
            return Ok(Some(clusters));
        }
        self.lock().retain_absent(image, &mut absent)?;
        let Some(first) = absent.first().copied() else { return Ok(None) };
        let length = (first..).zip(&absent).take_while(|(at, absent)| at == *absent).count();
        Ok(Some(first..first + length as u64))
    }

    /// Makes an image that has everything an image like others, durably, and removes its list. `Busy` if
    /// something is absent.
    pub async fn end_lazy(&self, image: ImageId) -> Result<()> {
        let length = self.lock().image(image)?.record.encoded_length();
        while self.lock().look_filled(image).is_none() {}
        let ended = {
            let mut state = self.lock_with_room(2 * length + 64).await?;
            if state.look_filled(image) != Some(true) {
                let message = "clusters of the image are absent still";
                return Err(Error::new(ErrorKind::Busy, message));
            }
            let found = state.image_mut(image)?;
            found.record.lazy = false;
            let ended = found.lazy.take();
            state.touch(RecordKey::Image(image));
            state.seal();
            self.wake_wanted(state);
            ended
        };
        drop(ended); // not under the lock: it may be large
        self.fetched_event.notify(usize::MAX);
        self.commit_now().await?;
        self.remove_list(image).await;
        Ok(())
    }

    /// Removes the list of an image that needs it no more; what cannot be removed goes at the next open.
    pub(crate) async fn remove_list(&self, image: ImageId) {
        if self.lazy_disks().remove(&image).is_some() {
            let _ = self.directory.remove(&manifest::path(image)).await;
        }
    }
}
