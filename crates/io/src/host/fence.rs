//! The fence around files that receive I/O (I13): flock on their only open description.
//!
//! The kernel drops the lock when the description goes away, and that is only after the last
//! request in flight of a killed process has ended. So whoever gets the lock knows that no write
//! of a predecessor can still arrive. flock has no time limit, hence the polling.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

/// Who else may hold the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Nobody: the daemon.
    Exclusive,
    /// Readers that hold it shared, too: `check`.
    Shared,
}

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Takes the lock, trying for as long as `wait`; `ResourceBusy` if somebody else keeps it.
pub(super) fn lock(file: impl AsFd, fence: Fence, wait: Duration) -> io::Result<()> {
    if crate::broken("I13-no-fence") {
        return Ok(());
    }
    let operation = match fence {
        Fence::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Fence::Shared => FlockOperation::NonBlockingLockShared,
    };
    retry_while_busy(wait, Errno::WOULDBLOCK, || flock(&file, operation))
        .map_err(|error| busy_or(error, Errno::WOULDBLOCK, "in use by another process"))
}

/// Repeats `attempt` until it gives another answer than `busy`, or `wait` has passed.
pub(super) fn retry_while_busy<T>(
    wait: Duration,
    busy: Errno,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    // A wait too long for the clock is a wait for ever.
    let deadline = Instant::now().checked_add(wait);
    loop {
        match attempt() {
            Err(Errno::INTR) => {}
            Err(error)
                if error == busy && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
            {
                thread::sleep(POLL_INTERVAL);
            }
            result => return result,
        }
    }
}

fn busy_or(error: Errno, busy: Errno, message: &str) -> io::Error {
    if error == busy { io::Error::new(io::ErrorKind::ResourceBusy, message) } else { error.into() }
}

#[cfg(test)]
mod tests;
