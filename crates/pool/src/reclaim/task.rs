//! Reclaim inside an allocation that finds no space (I10), as a task of its own.
//!
//! A write that finds no space asks for a pass and waits. It fails only if a pass that began after it came
//! has found nothing to free, or if nothing was written since one that found nothing began.

use super::{Reclaim, ReclaimOptions};
use crate::pool::Pool;
use crate::state::State;
use blockyard_block::ImageId;
use blockyard_io::Directory;

/// What is known of a lack of space.
#[derive(Default)]
pub(crate) struct Shortage {
    /// A pass is wanted.
    pub(crate) wanted: bool,
    /// Passes begun, the last of them that found nothing, and the hashes published when it began.
    begun: u64,
    fruitless: u64,
    fruitless_since: Option<u64>,
    /// Hashes published when a write was refused for lack of space, if nothing equal can have been left.
    refused_at: Option<u64>,
    /// Hashes published when a write wished for an index last.
    index_wanted_at: Option<u64>,
}

/// What came of a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Something,
    /// No two equal clusters among those hashed when so many hashes had been published.
    Nothing {
        since: u64,
    },
    /// It failed, or all that is equal stays in use: who waits has waited long enough.
    NothingUsable,
}

/// Freed at a time, so that who waits goes on soon.
const TARGET_BYTES: u64 = 64 << 20;
/// So many passes in vain because all that is equal was in use: it will not get better.
const BUSY_PASSES_MAX: u32 = 8;

impl<D: Directory> Pool<D> {
    /// Frees duplicates when a write finds no space; returns after [`Pool::shutdown`].
    pub async fn run_reclaim(&self) {
        self.task_started();
        self.remove_old_sorts().await;
        self.adopt_index().await;
        let mut busy_passes = 0;
        loop {
            let listener = self.reclaim_event.listen();
            let stop = self.stop_event.listen();
            if self.is_stopped() {
                break;
            }
            let begun = self.lock().begin_shortage_pass();
            let Some(published) = begun else {
                futures_lite::future::or(listener, stop).await;
                continue;
            };
            let options =
                ReclaimOptions { target_bytes: Some(TARGET_BYTES), ..ReclaimOptions::default() };
            // A stop must not wait for it.
            let outcome = self.reclaim(options, |_| !self.lock().closing).await;
            busy_passes = match outcome {
                Ok(Reclaim { freed: 0, busy: 1.., .. }) => busy_passes + 1,
                _ => 0,
            };
            let found = match outcome {
                Ok(Reclaim { freed: 0, busy: 0, .. }) => Found::Nothing { since: published },
                Ok(_) if busy_passes <= BUSY_PASSES_MAX => Found::Something,
                _ => Found::NothingUsable,
            };
            let mut state = self.lock();
            state.end_shortage_pass(found);
            self.wake_wanted(state);
        }
        self.task_ended();
    }
}

impl Shortage {
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    pub(crate) fn refused_at(&self) -> Option<u64> {
        self.refused_at
    }
}

impl State {
    /// A pass leaves an index. If it could not, another try is not worth while before more was written than
    /// the delta can keep.
    pub(crate) fn want_index(&mut self) {
        let published = self.regions.published;
        let places = 2 * self.options.sort_records_max as u64;
        let lately =
            self.shortage.index_wanted_at.is_some_and(|wanted| published - wanted < places);
        if !lately && !self.closing && self.failed.is_none() {
            self.shortage.index_wanted_at = Some(published);
            self.shortage.wanted = true;
        }
    }

    /// The index was found damaged.
    pub(crate) fn lose_index(&mut self) {
        self.shortage.index_wanted_at = None;
    }

    fn begin_shortage_pass(&mut self) -> Option<u64> {
        if !self.shortage.wanted || self.failed.is_some() || self.closing {
            return None;
        }
        self.shortage.wanted = false;
        self.shortage.begun += 1;
        Some(self.regions.published)
    }

    fn end_shortage_pass(&mut self, found: Found) {
        if found != Found::Something {
            self.shortage.fruitless = self.shortage.begun;
        }
        if let Found::Nothing { since } = found {
            self.shortage.fruitless_since = Some(since);
        }
        self.note_progress();
    }

    /// A write found no space and nothing is on its way to be free: true if reclaim may help and is under
    /// way, so that it must wait (I10).
    pub(crate) fn reclaim_may_help(&mut self, image: ImageId) -> bool {
        if self.closing || blockyard_io::broken("I10-no-reclaim") {
            self.shortage.refused_at = Some(self.regions.published);
            return false;
        }
        let nothing_new = self.shortage.fruitless_since == Some(self.regions.published);
        let (begun, fruitless) = (self.shortage.begun, self.shortage.fruitless);
        let Some(image) = self.images.get_mut(&image) else { return false };
        let since = *image.short_since.get_or_insert(begun);
        if nothing_new || fruitless > since {
            image.short_since = None;
            self.shortage.refused_at = nothing_new.then_some(self.regions.published);
            return false;
        }
        self.shortage.wanted = true;
        true
    }
}
