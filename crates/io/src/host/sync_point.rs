//! The one serial sync point of a file (I5).
//!
//! The kernel reports a write-back error once for each open description. So a caller may only rely
//! on a sync that started after it arrived, at most one runs at a time, and after a failure no
//! later one is believed: the failed pages may be gone, and the next fdatasync would say success
//! (I12). What to do about the failure is the engine's business.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct SyncPoint {
    state: Mutex<State>,
    changed: Condvar,
}

/// Syncs are numbered from 1 in the order they start.
#[derive(Default)]
struct State {
    started: u64,
    /// The last sync that returned success; every one before it did, too.
    succeeded: u64,
    running: bool,
    failure: Option<Failure>,
}

/// What is kept of the first error, to tell everybody after it.
#[derive(Clone, Copy)]
enum Failure {
    Code(i32),
    Kind(io::ErrorKind),
}

impl SyncPoint {
    /// Returns when a sync that started after this call has ended. One of the waiting callers runs
    /// `sync` for all of them; the others' closures are dropped unused.
    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let wanted = state.started + 1;
        loop {
            if state.succeeded >= wanted {
                return Ok(());
            }
            if let Some(failure) = state.failure {
                return Err(failure.into());
            }
            if !state.running {
                return self.lead(state, sync);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lead(
        &self,
        mut state: MutexGuard<'_, State>,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        state.started += 1;
        state.running = true;
        drop(state);
        let result = sync();
        let mut state = self.lock();
        state.running = false;
        match &result {
            Ok(()) => state.succeeded = state.started,
            Err(error) => state.failure = Some(error.into()),
        }
        self.changed.notify_all();
        result
    }

    /// No code that can panic runs under this lock, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Failure {
        error.raw_os_error().map_or(Failure::Kind(error.kind()), Failure::Code)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::Code(code) => io::Error::from_raw_os_error(code),
            Failure::Kind(kind) => io::Error::from(kind),
        }
    }
}

#[cfg(test)]
mod tests;
