//! Making changes durable. Two tasks: one captures completed changes and syncs the data, the other
//! writes the log (I2). Intents that a write waits for go to the log at once; the others, and clears, go with
//! the next of those, the next capture or the next tick. None of them waits for a data sync.
//!
//! One capture is in flight at a time, because the journal has two areas.

use crate::frees::Generation;
use crate::pool::Pool;
use crate::records::RecordKey;
use crate::regions::Intent;
use crate::state::{LogItem, State};
use crate::store::{Change, Key};
use blockyard_block::{ErrorKind, ExtentId, ImageId, Result};
use blockyard_io::Directory;
use std::collections::BTreeMap;

impl<D: Directory> Pool<D> {
    /// Captures and syncs data for commits; returns after [`Pool::shutdown`]. If it is dropped, nothing
    /// is committed any more, and nothing durable is lost.
    pub async fn run_sync(&self) {
        self.task_started();
        loop {
            let listener = self.sync_event.listen();
            let stop = self.stop_event.listen();
            if self.is_stopped() {
                break;
            }
            let captured = {
                let mut state = self.lock();
                let due = state.wanted.sync
                    && state.failed.is_none()
                    && state.durable.next() == state.generation;
                due.then(|| {
                    state.wanted.sync = false;
                    state.capture()
                })
            };
            let Some((generation, changes)) = captured else {
                futures_lite::future::or(listener, stop).await;
                continue;
            };
            if !blockyard_io::broken("I2-commit-without-data") && self.sync_data().await.is_err() {
                continue;
            }
            let mut state = self.lock();
            state.log_queue.push_back(LogItem::Capture(generation, changes));
            state.wanted.log = true;
            self.wake_wanted(state);
        }
        self.task_ended();
    }

    /// Writes the log; returns after [`Pool::shutdown`].
    pub async fn run_commit(&self) {
        self.task_started();
        loop {
            let listener = self.log_event.listen();
            let stop = self.stop_event.listen();
            if self.is_stopped() {
                break;
            }
            let items = self.take_log_items();
            if !items.is_empty() {
                if let Err(error) = self.commit_items(items).await {
                    self.fail(&error);
                }
                continue;
            }
            let vouch = std::mem::take(&mut self.lock().vouch_due);
            if vouch {
                if let Err(error) = self.store.vouch(false).await {
                    self.fail(&error);
                }
                continue;
            }
            futures_lite::future::or(listener, stop).await;
        }
        self.task_ended();
    }

    /// As much of the queue, in its order, as one batch holds; nothing until it is wanted.
    fn take_log_items(&self) -> Vec<LogItem> {
        let mut state = self.lock();
        if state.failed.is_some() {
            state.log_queue.clear();
            return Vec::new();
        }
        if !std::mem::take(&mut state.wanted.log) {
            return Vec::new();
        }
        let bytes_max = self.store.batch_bytes_max();
        let mut bytes = 0;
        let mut items = Vec::new();
        while let Some(item) = state.log_queue.front() {
            bytes += item_bytes(item);
            if bytes > bytes_max && !items.is_empty() {
                break;
            }
            items.extend(state.log_queue.pop_front());
        }
        state.wanted.log = !state.log_queue.is_empty();
        state.committing = !items.is_empty();
        items
    }

    async fn commit_items(&self, items: Vec<LogItem>) -> Result<()> {
        let mut changes: BTreeMap<Key, Option<Vec<u8>>> = BTreeMap::new();
        let mut done = Vec::with_capacity(items.len());
        for item in items {
            match item {
                LogItem::Intent(region) => {
                    let record = crate::records::RegionRecord::Intent.encode();
                    changes.insert(store_key(RecordKey::Region(region)), Some(record));
                    done.push(Done::Intent(region));
                }
                LogItem::Clear(region, record) => {
                    changes.insert(store_key(RecordKey::Region(region)), Some(record.encode()));
                }
                LogItem::Capture(generation, captured) => {
                    for (key, value) in captured {
                        changes.insert(store_key(key), value);
                    }
                    done.push(Done::Capture(generation));
                }
            }
        }
        let changes: Vec<Change> =
            changes.into_iter().map(|(key, value)| Change { key, value }).collect();
        self.commit_when_there_is_room(changes).await?;
        let mut state = self.lock();
        for item in done {
            match item {
                Done::Intent(region) => {
                    if state.regions.intent(region) == Intent::Requested {
                        state.regions.set_intent(region, Intent::Durable);
                    }
                }
                Done::Capture(generation) => {
                    state.captured_is_durable(generation);
                    // The next capture may have been wanted while this one was in flight.
                    self.sync_event.notify(usize::MAX);
                    if !state.sweeps.is_empty() {
                        self.maintenance_event.notify(usize::MAX);
                    }
                }
            }
        }
        state.committing = false;
        state.committed_ms = state.now_ms;
        state.vouched = false;
        state.note_progress();
        self.wake_wanted(state);
        Ok(())
    }

    /// A log that is full and whose checkpoint finds no space is not dead: nothing was written, and it
    /// is tried again with each tick. Any other error is final (I12).
    async fn commit_when_there_is_room(&self, changes: Vec<Change>) -> Result<()> {
        loop {
            let listener = self.log_event.listen();
            let stop = self.stop_event.listen();
            let error = match self.store.commit(changes.clone()).await {
                Ok(_) => {
                    self.lock().commit_waits = None;
                    return Ok(());
                }
                Err(error) => error,
            };
            let may_pass = error.kind() == ErrorKind::NoSpace && self.store.failure().is_none();
            // A shutdown does not wait for space: the journal keeps what is not committed (I15).
            if !may_pass || self.lock().closing {
                return Err(error);
            }
            self.lock().commit_waits = Some(format!("commits wait for space: {error}"));
            futures_lite::future::or(listener, stop).await;
        }
    }

    /// Returns when every write completed before the call is durable (I5).
    pub(crate) async fn flush_all(&self) -> Result<()> {
        let (dirty, target) = {
            let mut state = self.lock();
            state.check_not_failed()?;
            let dirty = !state.dirty.is_empty();
            let target = state.last_changed_generation();
            state.wanted.sync |= dirty;
            self.wake_wanted(state);
            (dirty, target)
        };
        if !dirty {
            if !blockyard_io::broken("I5-flush-without-data") {
                self.sync_data().await?;
            }
            self.lock().check_not_failed()?;
        }
        if blockyard_io::broken("I5-flush-early") {
            return Ok(());
        }
        self.wait_durable(target).await
    }

    /// Tells the engine the time, monotonic milliseconds. Nothing in the engine waits on a clock of
    /// its own; what is due is started here.
    pub fn tick(&self, now_ms: u64) {
        let mut state = self.lock();
        state.now_ms = now_ms;
        state.regions.in_vain.expire(now_ms);
        let interval = state.options.commit_interval_ms;
        let dirty = !state.dirty.is_empty() || state.bytes_since_capture > 0;
        if !dirty {
            state.dirty_since_ms = now_ms;
        } else if state.closing || now_ms.saturating_sub(state.dirty_since_ms) >= interval {
            state.wanted.sync = true;
            state.dirty_since_ms = now_ms;
        }
        if !state.vouched
            && !state.committing
            && now_ms.saturating_sub(state.committed_ms) >= IDLE_MS
        {
            state.vouched = true;
            state.vouch_due = true;
            self.log_event.notify(usize::MAX);
        }
        if state.committing {
            // It may be waiting for space to checkpoint.
            self.log_event.notify(usize::MAX);
        }
        state.wanted.log = true;
        if now_ms / 1000 != state.space_retry_s {
            state.space_retry_s = now_ms / 1000;
            state.space_exhausted = false;
        }
        self.maintenance_event.notify(usize::MAX);
        // Who waits for an origin looks at the clock.
        self.fetched_event.notify(usize::MAX);
        self.wake_wanted(state);
    }
}

/// After this long without a commit the last one is vouched for.
const IDLE_MS: u64 = 100;

enum Done {
    Intent(blockyard_block::RegionIndex),
    Capture(Generation),
}

fn item_bytes(item: &LogItem) -> usize {
    match item {
        LogItem::Intent(_) | LogItem::Clear(..) => 64,
        LogItem::Capture(_, changes) => captured_bytes(changes),
    }
}

/// An upper bound of what a capture takes in a batch.
pub(crate) fn captured_bytes(changes: &[crate::journal::RecordChange]) -> usize {
    changes.iter().map(|(_, value)| 24 + value.as_ref().map_or(0, Vec::len)).sum()
}

pub(crate) fn store_key(key: RecordKey) -> Key {
    let (kind, id) = key.parts();
    Key { kind, id }
}

impl State {
    /// The generation that holds the last completed change of metadata.
    pub(crate) fn last_changed_generation(&self) -> Generation {
        let captured = u64::from(self.dirty.is_empty());
        Generation(self.generation.0 - captured)
    }

    /// For tests and the simulation: whether nothing waits to be committed.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.log_queue.is_empty() && !self.committing
    }

    /// Image ids by visibility; hidden ones are imports that are not finished.
    pub(crate) fn hidden_images(&self) -> Vec<ImageId> {
        self.images.iter().filter(|(_, image)| image.record.hidden).map(|(id, _)| *id).collect()
    }

    /// The extents of an image in order, with their index, from the extent `first` on: at least `count` if there are so
    /// many; all of a large image are not for memory.
    pub(crate) fn image_extents_from(
        &self,
        image: ImageId,
        first: u64,
        count: usize,
    ) -> Vec<(u64, ExtentId)> {
        let Some(image) = self.images.get(&image) else { return Vec::new() };
        let per_page = blockyard_block::MAP_PAGE_EXTENTS as u64;
        let first_page = (first / per_page) as usize;
        let mut extents = Vec::new();
        for (number, page) in image.record.pages.iter().enumerate().skip(first_page) {
            if extents.len() >= count {
                break;
            }
            let Some(page) = page else { continue };
            let base = number as u64 * per_page;
            let of_page = self.pages[page].page.iter().map(|(at, id)| (base + at as u64, id));
            extents.extend(of_page.filter(|(index, _)| *index >= first));
        }
        extents
    }
}
