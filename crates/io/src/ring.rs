//! The ring: one io_uring that belongs to one thread, and the futures that run on it.
//!
//! A thread that serves exports makes a [`Ring`], which is then that thread's own: reads, writes and
//! syncs of a [`HostDisk`](crate::HostDisk) that are polled there go to the ring instead of blocking.
//! The loop above it polls futures ([`Tasks`]), learns which sockets are ready ([`Ring::watch`]),
//! and calls [`Ring::turn`], which submits everything queued and takes everything completed with
//! one system call. Other threads reach it through its [`Notifier`].
//!
//! What always holds: memory and files that the kernel may touch are owned by the table of operations
//! in flight, from before they are submitted until they have completed. A future that is dropped leaves
//! its operation there; a ring that is dropped waits for all of them.

mod notifier;
mod operation;
mod table;
mod tasks;
#[cfg(test)]
mod tests;

pub use notifier::Notifier;
pub use tasks::{Panicked, Tasks};

use io_uring::IoUring;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use table::{Held, Reaped, Table};

/// Submissions that fit into the queue; more are submitted in between.
const ENTRIES: u32 = 256;
/// So many are submitted before the turn ends, so that the disk works while a large batch is still hashed and planned
/// (4K overwrites at depth 32: 87k instead of 69k a second, for the same CPU; with 16: 82k).
const EARLY: u32 = 8;
/// Completions that fit into theirs; the kernel keeps more until there is room.
const COMPLETIONS: u32 = 4096;
/// IORING_ENTER_GETEVENTS.
const GET_EVENTS: u32 = 1;
/// The token of the notifier's watch.
const NOTIFIED: u64 = u64::MAX;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// The ring of this thread, if it has one.
pub(crate) fn current() -> Option<Rc<Core>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether this thread has a ring, so that whoever keeps it busy keeps others waiting.
pub fn on_ring() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Something with a descriptor that can become readable: a socket.
pub type Source = Arc<dyn AsFd + Send + Sync>;

/// This thread's io_uring. Dropping it waits until nothing is in flight any more.
pub struct Ring {
    core: Rc<Core>,
    notifier: Arc<Notifier>,
}

/// A socket that became readable or writable, or broke (then it is all three).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// The other end sends no more: the end may lie behind what a read brings, and is told once.
    pub ended: bool,
}

/// A watch of [`Ring::watch`].
#[derive(Debug, PartialEq, Eq)]
pub struct WatchId(u32);

/// What the ring and the operations on it share.
pub(crate) struct Core {
    uring: RefCell<IoUring>,
    table: RefCell<Table>,
    /// Kept for its memory.
    reaped: RefCell<Reaped>,
    /// What [`Ring::turn`] has to tell.
    ready: RefCell<Vec<Readiness>>,
    /// Pushed and not submitted yet.
    queued: Cell<u32>,
}

impl Ring {
    /// Makes the ring of this thread. Errors: the thread has one already (`AlreadyExists`), or the
    /// system refuses io_uring or is too old for it (before Linux 6.1).
    pub fn new() -> io::Result<Ring> {
        if current().is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        if !uring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let core = Rc::new(Core {
            uring: RefCell::new(uring),
            table: RefCell::default(),
            reaped: RefCell::default(),
            ready: RefCell::default(),
            queued: Cell::new(0),
        });
        let notifier = Arc::new(Notifier::new()?);
        let ring = Ring { core: Rc::clone(&core), notifier: Arc::clone(&notifier) };
        ring.watch(notifier, NOTIFIED)?;
        CURRENT.set(Some(core));
        Ok(ring)
    }

    /// For waking this thread out of [`Ring::turn`] from any other.
    pub fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    /// Tells through [`Ring::turn`] each time `source` becomes readable, or breaks; the first time at
    /// once if it is so already. Whoever is told must read until nothing is left.
    pub fn watch(&self, source: Source, token: u64) -> io::Result<WatchId> {
        self.core.start(Held::Watch { source, token, wanted: true }, 0).map(WatchId)
    }

    /// Tells through [`Ring::turn`] once when `source` becomes writable, or breaks.
    pub fn watch_writable(&self, source: Source, token: u64) -> io::Result<()> {
        self.core.start(Held::Writable { source, token }, 0).map(drop)
    }

    /// Ends a watch. What was noticed before may still be told.
    pub fn unwatch(&self, watch: WatchId) -> io::Result<()> {
        let must_be_told = self.core.table.borrow_mut().unwant(watch.0);
        match must_be_told {
            true => self.core.start(Held::Removal { of: watch.0 }, 0).map(drop),
            false => Ok(()),
        }
    }

    /// Submits what is queued and takes what has completed: wakes the futures concerned and adds sockets
    /// that became ready to `ready`. If `may_sleep` allows it, sleeps until there is something to
    /// take or the notifier is rung. It is asked when no ring of the notifier can be missed any more.
    pub fn turn(
        &self,
        ready: &mut Vec<Readiness>,
        may_sleep: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        self.notifier.fall_asleep();
        let entered = self.core.enter(u32::from(may_sleep()));
        self.notifier.wake_up();
        entered?;
        self.core.reap()?;
        ready.append(&mut self.core.ready.borrow_mut());
        if ready.iter().any(|event| event.token == NOTIFIED && event.ended) {
            return Err(io::Error::other("the ring's own wake-up call has failed"));
        }
        ready.retain(|event| event.token != NOTIFIED);
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        CURRENT.set(None);
        self.core.drain();
    }
}

impl Core {
    /// Gives the kernel an operation on `held`, which stays in the table until it has completed.
    fn start(&self, held: Held, offset: u64) -> io::Result<u32> {
        let (index, entry) = self.table.borrow_mut().insert(held, offset);
        if let Err(error) = self.push(&entry) {
            self.table.borrow_mut().free(index);
            return Err(error);
        }
        if self.queued.get() >= EARLY {
            // Should it fail, so does the next turn, which says so.
            let _ = self.submit(0, 0);
        }
        Ok(index)
    }

    fn push(&self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        while !self.try_push(entry) {
            self.enter(0)?;
            if self.queued.get() == ENTRIES {
                self.reap()?; // the kernel may want its completions taken before it goes on
            }
        }
        Ok(())
    }

    fn try_push(&self, entry: &io_uring::squeue::Entry) -> bool {
        let mut uring = self.uring.borrow_mut();
        // SAFETY: the memory and the file of the entry belong to the slot of the table that its user
        // data names, which keeps them until the completion is taken. `drain` sees to those of a ring
        // that ends. Taking a slot's contents out before its completion would break this.
        let pushed = unsafe { uring.submission().push(entry) };
        self.queued.set(self.queued.get() + u32::from(pushed.is_ok()));
        pushed.is_ok()
    }

    /// One system call: submits, runs what the kernel deferred, and waits for `want` completions.
    fn enter(&self, want: u32) -> io::Result<()> {
        self.submit(want, GET_EVENTS)
    }

    fn submit(&self, want: u32, flags: u32) -> io::Result<()> {
        let uring = self.uring.borrow();
        // SAFETY: no argument is passed; the entries are sound, as `try_push` says.
        let entered =
            unsafe { uring.submitter().enter::<()>(self.queued.get(), want, flags, None) };
        match entered {
            Ok(submitted) => self.queued.set(self.queued.get() - submitted as u32),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes what has completed.
    fn reap(&self) -> io::Result<()> {
        let mut reaped = self.reaped.take();
        {
            let mut uring = self.uring.borrow_mut();
            let mut table = self.table.borrow_mut();
            for completion in uring.completion() {
                table.complete(&completion, &mut reaped);
            }
        }
        self.ready.borrow_mut().append(&mut reaped.ready);
        for waker in reaped.wakers.drain(..) {
            waker.wake();
        }
        for watch in reaped.ended_watches.drain(..) {
            let entry = self.table.borrow_mut().entry(watch, 0);
            self.push(&entry)?;
        }
        self.reaped.replace(reaped);
        Ok(())
    }

    /// Ends all watches and waits for everything else in flight. Should the system refuse that,
    /// what it may still touch is never given back.
    fn drain(&self) {
        let watches = self.table.borrow_mut().unwant_all();
        let removed = watches
            .into_iter()
            .try_for_each(|watch| self.start(Held::Removal { of: watch }, 0).map(drop));
        let mut drained = removed;
        while drained.is_ok() && self.table.borrow().in_flight() > 0 {
            drained = self.enter(1).and_then(|()| self.reap());
        }
        if drained.is_err() {
            std::mem::forget(self.table.take());
        }
    }
}

/// Interrupted, or the kernel wants completions to be taken first.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::INTR, Errno::AGAIN, Errno::BUSY].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}
