//! The open pool: the state behind its lock, the files, and the events that tasks wait on.
//!
//! Background work is four futures that the caller runs ([`Pool::run_sync`], [`Pool::run_commit`],
//! [`Pool::run_maintenance`], [`Pool::run_reclaim`]) and a clock it passes in ([`Pool::tick`]). What is on disk if any future is
//! dropped is what a crash at that moment would leave: everything durable, nothing half.

use crate::frees::Generation;
use crate::index::kept::Kept;
use crate::lazy::Disks;
use crate::ranges::Ticket;
use crate::state::State;
use crate::store::Store;
use crate::types::PoolId;
use blockyard_block::{Error, ErrorKind, HashAlgorithm, ImageId, Result};
use blockyard_io::Directory;
use event_listener::Event;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

/// An open pool. Made by [`Pool::open`]; the caller runs [`Pool::run_sync`], [`Pool::run_commit`],
/// [`Pool::run_maintenance`] and [`Pool::run_reclaim`] each on a thread (or task) of its own, and calls [`Pool::tick`]
/// every 50 ms or so.
pub struct Pool<D: Directory> {
    state: Mutex<State>,
    pub(crate) data: D::Disk,
    pub(crate) hashes: D::Disk,
    pub(crate) store: Store<D>,
    pub(crate) directory: Arc<D>,
    hash: HashAlgorithm,
    pub(crate) verify_reads: bool,
    pub(crate) index: Mutex<Kept<D>>,
    /// Bytes of `index/` that lists of images being received take.
    pub(crate) list_bytes: AtomicU64,
    /// A capture is wanted.
    pub(crate) sync_event: Event,
    /// Something is in the log queue.
    pub(crate) log_event: Event,
    /// Space, hash pages or another background step is wanted.
    pub(crate) maintenance_event: Event,
    /// A write found no space.
    pub(crate) reclaim_event: Event,
    /// Something that requests wait for has happened.
    progress_event: Event,
    /// Something came of a lazy image, or does not come.
    pub(crate) fetched_event: Event,
    /// Something absent is waited for.
    pub(crate) demand_event: Event,
    /// The lists of lazy images.
    pub(crate) lists: Mutex<Disks<D::Disk>>,
    /// The background tasks shall return.
    pub(crate) stop_event: Event,
}

impl<D: Directory> Pool<D> {
    pub(crate) fn assemble(
        state: State,
        directory: Arc<D>,
        data: D::Disk,
        hashes: D::Disk,
        store: Store<D>,
    ) -> Pool<D> {
        Pool {
            hash: state.pool.hash,
            verify_reads: state.options.verify_reads,
            state: Mutex::new(state),
            data,
            hashes,
            store,
            directory,
            index: Mutex::new(None),
            list_bytes: AtomicU64::new(0),
            sync_event: Event::new(),
            log_event: Event::new(),
            maintenance_event: Event::new(),
            reclaim_event: Event::new(),
            progress_event: Event::new(),
            fetched_event: Event::new(),
            demand_event: Event::new(),
            lists: Mutex::default(),
            stop_event: Event::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that was reported where it happened; serving on with what
        // asserts left consistent beats taking every image down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool's id and how it hashes: fixed for its life.
    pub fn identity(&self) -> (PoolId, HashAlgorithm) {
        (self.lock().pool.id, self.hash)
    }

    pub(crate) fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    /// Lets go of the lock and wakes whoever the change concerns.
    pub(crate) fn wake_wanted(&self, mut state: MutexGuard<'_, State>) {
        let commit_due = state.bytes_since_capture >= COMMIT_BYTES;
        if commit_due && !state.dirty.is_empty() {
            state.wanted.sync = true;
        }
        let sync = state.wanted.sync;
        // A failed pool does no background work: asked again it would only wake itself for ever.
        let maintenance = state.failed.is_none() && (state.wanted.space || state.wanted.hashes);
        state.wanted.log |= state.wanted.hashes || state.closing;
        let log = state.wanted.log && !state.log_queue.is_empty();
        let reclaim = state.shortage.wanted;
        let progress = std::mem::take(&mut state.progressed);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        for waker in wakers {
            waker.wake();
        }
        if sync {
            self.sync_event.notify(usize::MAX);
        }
        if maintenance {
            self.maintenance_event.notify(usize::MAX);
        }
        if reclaim {
            self.reclaim_event.notify(usize::MAX);
        }
        if log {
            self.log_event.notify(usize::MAX);
        }
        if progress {
            self.progress_event.notify(usize::MAX);
        }
    }

    /// Waits until something has happened since `seen` was read from the state.
    pub(crate) async fn wait_for_progress(&self, seen: u64) {
        let listener = self.progress_event.listen();
        if self.lock().progress == seen {
            listener.await;
        }
    }

    /// Waits until the capture of `generation` is durable, or will never be.
    pub(crate) async fn wait_durable(&self, generation: Generation) -> Result<()> {
        loop {
            let listener = self.progress_event.listen();
            {
                let state = self.lock();
                if state.durable >= generation {
                    return Ok(());
                }
                state.check_not_failed()?;
                if state.stopped {
                    return Err(Error::new(ErrorKind::ShutDown, "the daemon has shut down"));
                }
            }
            listener.await;
        }
    }

    /// Commits everything completed before the call.
    pub(crate) async fn commit_now(&self) -> Result<()> {
        let generation = {
            let mut state = self.lock();
            state.check_not_failed()?;
            let generation = state.last_changed_generation();
            state.wanted.sync |= generation == state.generation;
            self.wake_wanted(state);
            generation
        };
        self.wait_durable(generation).await
    }

    /// The lock, once `bytes` of metadata may be added without a commit in between: whoever checks the
    /// room and whoever uses it must be one.
    pub(crate) async fn lock_with_room(&self, bytes: usize) -> Result<MutexGuard<'_, State>> {
        loop {
            let seen = {
                let mut state = self.lock();
                state.check_writable()?;
                if state.metadata_room() >= bytes {
                    return Ok(state);
                }
                state.wanted.sync = true;
                let seen = state.progress;
                self.wake_wanted(state);
                seen
            };
            self.wait_for_progress(seen).await;
        }
    }

    /// Takes a place in the image's line for a range of clusters and waits for its turn.
    pub(crate) async fn take_turn(
        &self,
        image: ImageId,
        clusters: Range<u64>,
    ) -> Result<Turn<'_, D>> {
        let ticket = self.lock().image_mut(image)?.line.enqueue(clusters);
        let turn = Turn { pool: self, image, ticket };
        turn.wait().await?;
        Ok(turn)
    }
}

/// A guest that never flushes is committed each time it has written this much.
const COMMIT_BYTES: u64 = 64 << 20;

/// A place in an image's line; dropping it lets those behind go ahead.
pub(crate) struct Turn<'a, D: Directory> {
    pool: &'a Pool<D>,
    image: ImageId,
    ticket: Ticket,
}

impl<'a, D: Directory> Turn<'a, D> {
    /// For a ticket that was taken under the lock.
    pub(crate) fn of_ticket(pool: &'a Pool<D>, image: ImageId, ticket: Ticket) -> Turn<'a, D> {
        Turn { pool, image, ticket }
    }

    /// Returns when nobody in front is in the way.
    pub(crate) async fn wait(&self) -> Result<()> {
        poll_fn(|context| {
            let mut state = self.pool.lock();
            match state.image_mut(self.image) {
                Ok(image) => match image.line.poll(self.ticket, context.waker()) {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                },
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    /// Leaves the line under a lock that is held; those to be woken are added to the state's.
    pub(crate) fn leave(self, state: &mut State) {
        let this = std::mem::ManuallyDrop::new(self);
        if let Ok(image) = state.image_mut(this.image) {
            let wakers = image.line.leave(this.ticket);
            state.wakers.extend(wakers);
        }
    }
}

impl<D: Directory> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        let wakers = match self.pool.lock().image_mut(self.image) {
            Ok(image) => image.line.leave(self.ticket),
            Err(_) => Vec::new(),
        };
        for waker in wakers {
            waker.wake();
        }
    }
}
