//! Wakes a ring's thread that sleeps in the kernel, and costs nothing while it does not sleep.

use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a ring's thread and those that hand it work.
///
/// Whoever hands over work first puts it where the ring's thread looks, then calls
/// [`Notifier::notify`]. The ring's thread first says that it falls asleep, then looks. So either it
/// sees the work, or the other sees that it sleeps.
#[derive(Debug)]
pub struct Notifier {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Notifier {
    pub(super) fn new() -> io::Result<Notifier> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Notifier { event, asleep: AtomicBool::new(false) })
    }

    /// Wakes the ring's thread if it sleeps.
    pub fn notify(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the thread has been woken very often.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
