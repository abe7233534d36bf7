//! Background steps: giving the data space to grow, sweeping removed images, writing hash pages,
//! clearing intents, hashing again, checkpoints, punching. Each step is short, so that a writer who
//! waits for space is served between any two.

use crate::pool::Pool;
use crate::regions::Intent;
use crate::state::State;
use blockyard_block::{EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, RegionIndex, Result};
use blockyard_io::{Directory, Disk};

/// Bytes of the hash table for one region.
pub(crate) const HASH_BLOCK_BYTES: u64 = 32 * EXTENT_CLUSTERS as u64;

/// Holds of removed images given up in one step.
const SWEEP_STEPS: usize = 16;

/// Metadata a sweep step may add: a tombstone for each hold.
const SWEEP_BYTES: usize = SWEEP_STEPS * 64;

/// Regions punched in one step.
const PUNCH_REGIONS: u32 = 16;

impl<D: Directory> Pool<D> {
    /// Hash pages, clearing of intents, re-hash, checkpoints, punching, sweeping of removed images;
    /// returns after [`Pool::shutdown`].
    pub async fn run_maintenance(&self) {
        self.task_started();
        loop {
            let listener = self.maintenance_event.listen();
            let stop = self.stop_event.listen();
            if self.is_stopped() {
                break;
            }
            let (round, failed) = {
                let mut state = self.lock();
                state.maintenance_round += 1;
                (state.maintenance_round, state.failed.is_some())
            };
            match if failed { Ok(false) } else { self.maintenance_step().await } {
                Ok(true) => {}
                Ok(false) => {
                    self.note_idle(round);
                    futures_lite::future::or(listener, stop).await;
                }
                // The failure is in the state, or was noted as damage: waiting is all that is left.
                Err(_) => futures_lite::future::or(listener, stop).await,
            }
        }
        self.task_ended();
    }

    fn note_idle(&self, round: u64) {
        let mut state = self.lock();
        state.idle_round = round;
        if state.closing {
            state.note_progress();
        }
        self.wake_wanted(state);
    }

    /// The most urgent thing there is to do; false if there is none.
    async fn maintenance_step(&self) -> Result<bool> {
        if self.lock().wanted.space {
            self.grow().await;
            return Ok(true);
        }
        if self.sweep_step() || self.write_hash_pages().await? {
            return Ok(true);
        }
        if self.lock().may_try_checkpoint()
            && self.store.needs_checkpoint()
            && self.checkpoint().await
        {
            return Ok(true);
        }
        if self.rehash_region().await? || self.clear_intents().await? {
            return Ok(true);
        }
        self.punch_step().await
    }

    /// Takes space for more regions on the file system, or notes that there is none.
    async fn grow(&self) {
        let run = {
            let mut state = self.lock();
            state.wanted.space = false;
            if state.space_exhausted || state.allocator.free_region_count() >= GROW_BELOW {
                None
            } else {
                let length = state.options.grow_regions;
                state.allocator.unprovisioned_run(length)
            }
        };
        let Some((first, length)) = run else {
            let mut state = self.lock();
            state.note_progress();
            self.wake_wanted(state);
            return;
        };
        let grown = self.provision_some(first, length).await;
        let mut state = self.lock();
        match grown {
            Ok(Some((first, length))) => {
                for step in 0..length {
                    state.allocator.provision(RegionIndex(first.0 + step));
                }
            }
            Ok(None) => state.wanted.space = true,
            Err(error) => {
                state.space_exhausted = true;
                if error.kind() != ErrorKind::NoSpace {
                    state.note_damage(error.to_string());
                }
            }
        }
        state.note_progress();
        self.wake_wanted(state);
    }

    /// The run, or its first region, or one that the data file has kept the space of; `None` if that
    /// was looked for in vain and the next step shall look elsewhere.
    async fn provision_some(
        &self,
        first: RegionIndex,
        length: u32,
    ) -> Result<Option<(RegionIndex, u32)>> {
        if self.provision(first, length).await.is_ok() {
            return Ok(Some((first, length)));
        }
        let Err(error) = self.provision(first, 1).await else { return Ok(Some((first, 1))) };
        let kept = self.lock().next_kept_region();
        match kept {
            Some(region) if error.kind() == ErrorKind::NoSpace => {
                Ok(self.provision_kept(region).await?.then_some((region, 1)))
            }
            _ => Err(error),
        }
    }

    /// Takes the space of a region within the data file, but only if the file has it already: what an
    /// earlier daemon freed and did not punch is there even when the file system is full (I10).
    async fn provision_kept(&self, region: RegionIndex) -> Result<bool> {
        let before = self.ask_space_for_data().await?;
        let taken = self.take_space(region, 1).await;
        let after = self.ask_space_for_data().await?;
        // Others use the file system, too: a little less proves nothing.
        let was_kept = taken.is_ok() && before.saturating_sub(after) < EXTENT_SIZE / 16;
        if !was_kept && !self.lock().pool.data_on_device {
            let punched = self.data.punch(region.first_cluster().data_offset(), EXTENT_SIZE).await;
            punched.map_err(|error| Error::io("punching a hole of data again", error))?;
        }
        Ok(was_kept)
    }

    async fn provision(&self, first: RegionIndex, length: u32) -> Result<()> {
        let (hashes, data) =
            (u64::from(length) * HASH_BLOCK_BYTES, u64::from(length) * EXTENT_SIZE);
        let (on_device, elsewhere, reserve) = {
            let state = self.lock();
            let options = &state.options;
            (state.pool.data_on_device, options.data_elsewhere, options.space_reserve_bytes)
        };
        let available = self.ask_space_available().await?;
        let clusters = u64::from(first.0 + length) * EXTENT_CLUSTERS as u64;
        let others = self.metadata_reserve() + self.index_bytes(clusters);
        let beside = available.saturating_sub(reserve + others);
        let mut fits = beside >= hashes + if on_device || elsewhere { 0 } else { data };
        let mut for_data = beside;
        if elsewhere && !on_device {
            let there = self.ask_space_for_data().await?.saturating_sub(reserve);
            fits &= there >= data;
            for_data = there.min(beside.saturating_mul(EXTENT_SIZE / HASH_BLOCK_BYTES));
        }
        self.lock().space_available = for_data;
        if !fits {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "the file system has no space for more data",
            ));
        }
        self.take_space(first, length).await?;
        self.lock().space_available = for_data.saturating_sub(data);
        Ok(())
    }

    /// Whether a file of this size leaves what is set aside for growth of data and for a checkpoint.
    pub(crate) async fn has_room_beside_reserves(&self, bytes: u64) -> Result<bool> {
        let reserve = self.lock().options.space_reserve_bytes + self.metadata_reserve();
        Ok(self.ask_space_available().await?.saturating_sub(reserve) >= bytes)
    }

    async fn ask_space_available(&self) -> Result<u64> {
        let available = self.directory.space_available().await;
        available.map_err(|error| Error::io("asking for free space", error))
    }

    /// What the file system of the data has, were it a file.
    async fn ask_space_for_data(&self) -> Result<u64> {
        if !self.lock().options.data_elsewhere {
            return self.ask_space_available().await;
        }
        let available = self.data.space_available().await;
        available.map_err(|error| Error::io("asking for free space for data", error))
    }

    /// Hashes first: data without room for its hashes would be of no use.
    async fn take_space(&self, first: RegionIndex, length: u32) -> Result<()> {
        let regions = u64::from(length);
        let hashes_at = u64::from(first.0) * HASH_BLOCK_BYTES;
        let failed = |error| Error::io("taking space for more data", error);
        self.hashes.allocate(hashes_at, regions * HASH_BLOCK_BYTES).await.map_err(failed)?;
        let data_at = first.first_cluster().data_offset();
        self.data.allocate(data_at, regions * EXTENT_SIZE).await.map_err(failed)
    }

    /// What the next checkpoint may take (I10): all parts anew, beside the old ones.
    fn metadata_reserve(&self) -> u64 {
        let stats = self.store.stats();
        stats.part_bytes + stats.overlay_bytes
    }

    fn sweep_step(&self) -> bool {
        let mut state = self.lock();
        if state.failed.is_some() || state.sweeps.is_empty() {
            return false;
        }
        let crowded = state.metadata_room() < SWEEP_BYTES || state.frees.are_many();
        let more = !crowded && state.sweep(SWEEP_STEPS);
        let removed_only_now =
            state.sweeps.front().is_some_and(|(removed, _)| *removed > state.durable);
        if crowded || removed_only_now {
            state.wanted.sync = true;
        }
        state.seal();
        self.wake_wanted(state);
        more
    }

    /// True if one was made; a failed one is tried again a second later. Of a small log the segment in
    /// use may be half: then there is nothing to fold.
    async fn checkpoint(&self) -> bool {
        let before = self.store.stats().checkpoints;
        match self.store.checkpoint().await {
            Ok(()) => {
                self.lock().checkpoint_trouble = None;
                self.store.stats().checkpoints > before
            }
            Err(error) => {
                if self.store.failure().is_some() {
                    self.fail(&error);
                } else {
                    let mut state = self.lock();
                    state.checkpoint_trouble = Some((state.now_ms, error.to_string()));
                }
                false
            }
        }
    }

    /// Gives a run of long-free regions back to the file system, beyond those kept for reuse.
    async fn punch_step(&self) -> Result<bool> {
        let run = {
            let mut state = self.lock();
            state.withdraw_run()
        };
        let Some((first, length)) = run else { return Ok(false) };
        let offset = first.first_cluster().data_offset();
        let result = self.data.punch(offset, u64::from(length) * EXTENT_SIZE).await;
        let mut state = self.lock();
        if let Err(error) = result {
            state.punching_off = true;
            if error.kind() != std::io::ErrorKind::Unsupported {
                state.note_damage(Error::io("punching freed data", error).to_string());
            }
        }
        Ok(true)
    }
}

/// Fewer free regions than this call for growth.
const GROW_BELOW: usize = 4;

impl State {
    /// A region within the data file that is not in use, and was not asked for before.
    fn next_kept_region(&mut self) -> Option<RegionIndex> {
        let allocator = &self.allocator;
        self.regions_kept
            .by_ref()
            .map(RegionIndex)
            .find(|region| !allocator.is_provisioned(*region))
    }

    /// The highest run of free regions to punch, taken out of use; at most one run a second.
    fn withdraw_run(&mut self) -> Option<(RegionIndex, u32)> {
        let due = self.now_ms.saturating_sub(self.punched_ms) >= 1000 && !self.punching_off;
        let spare =
            self.allocator.free_region_count().saturating_sub(self.options.punch_keep_regions);
        if !due || spare == 0 {
            return None;
        }
        self.punched_ms = self.now_ms;
        let last = self.allocator.free_regions().next_back()?;
        let mut first = last;
        for region in self.allocator.free_regions().rev().skip(1).take(spare - 1) {
            if region.0 + 1 != first.0 || last.0 - region.0 >= PUNCH_REGIONS {
                break;
            }
            first = region;
        }
        for region in first.0..=last.0 {
            let withdrawn = self.allocator.withdraw(RegionIndex(region));
            assert!(withdrawn, "I3: only free regions are punched");
        }
        Some((first, last.0 - first.0 + 1))
    }

    /// One that fails makes files first: not at each tick.
    fn may_try_checkpoint(&self) -> bool {
        let failed_ms = self.checkpoint_trouble.as_ref().map(|(failed_ms, _)| *failed_ms);
        failed_ms.is_none_or(|failed_ms| self.now_ms.saturating_sub(failed_ms) >= 1000)
    }

    /// Free clusters need not be trusted: they must not keep their region's intent.
    pub(crate) fn settle_free_clusters(&mut self) {
        let untrusted = self.regions.untrusted().map(|(region, _)| region);
        let regions: Vec<RegionIndex> =
            untrusted.filter(|region| self.regions.intent(*region) != Intent::None).collect();
        for region in regions {
            let allocator = &self.allocator;
            self.regions.settle_free(region, |cluster| !allocator.is_idle(cluster));
        }
    }
}
