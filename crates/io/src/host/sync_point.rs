//! The one serial sync point of a file (I5).
//!
//! The kernel reports a write-back error once for each open description. So a caller may only rely
//! on a sync that started after it arrived, at most one runs at a time, and after a failure no
//! later one is believed: the failed pages may be gone, and the next fdatasync would say success
//! (I12). What to do about the failure is the engine's business.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(super) struct SyncPoint {
    state: Mutex<State>,
}

/// Syncs are numbered from 1 in the order they start.
#[derive(Default)]
struct State {
    started: u64,
    /// The last sync that returned success; every one before it did, too.
    succeeded: u64,
    running: bool,
    failure: Option<Failure>,
    waiting: Vec<Waker>,
}

/// What is kept of the first error, to tell everybody after it.
#[derive(Clone, Copy)]
enum Failure {
    Code(i32),
    Kind(io::ErrorKind),
}

/// What a caller is to do.
enum Turn {
    Lead,
    Done(io::Result<()>),
}

impl SyncPoint {
    /// Returns when a sync that started after this call has ended. One of the waiting callers runs
    /// `sync` for all of them; the others' closures are dropped unused. A leader that is dropped
    /// leaves the result unknown, which is a failure.
    pub(super) async fn sync<F>(&self, sync: impl FnOnce() -> F) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>>,
    {
        let wanted = self.lock().started + 1;
        match poll_fn(|context| self.poll_turn(wanted, context)).await {
            Turn::Done(result) => result,
            Turn::Lead => {
                let lead = Lead { point: self, result: Err(io::ErrorKind::Interrupted.into()) };
                lead.end_with(sync().await)
            }
        }
    }

    fn poll_turn(&self, wanted: u64, context: &mut Context<'_>) -> Poll<Turn> {
        let mut state = self.lock();
        if state.succeeded >= wanted {
            return Poll::Ready(Turn::Done(Ok(())));
        }
        if let Some(failure) = state.failure {
            return Poll::Ready(Turn::Done(Err(failure.into())));
        }
        if state.running {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        state.started += 1;
        state.running = true;
        Poll::Ready(Turn::Lead)
    }

    fn end(&self, result: &io::Result<()>) {
        let mut state = self.lock();
        state.running = false;
        match result {
            Ok(()) => state.succeeded = state.started,
            Err(error) => state.failure = Some(error.into()),
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// No code that can panic runs under this lock, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run the sync that others wait for.
struct Lead<'a> {
    point: &'a SyncPoint,
    result: io::Result<()>,
}

impl Lead<'_> {
    fn end_with(mut self, result: io::Result<()>) -> io::Result<()> {
        self.result = result;
        self.point.end(&self.result);
        let result = std::mem::replace(&mut self.result, Ok(()));
        std::mem::forget(self);
        result
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.point.end(&self.result);
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
