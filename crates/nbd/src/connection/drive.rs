//! Drives one future on the thread that made it, and says when it first has to wait.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Wakes one thread. The flag is needed since the future's own code may use up an unpark.
struct Bell {
    rung: AtomicBool,
    thread: Thread,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Belongs to one thread, and is used for one future after the other.
pub(super) struct Driver {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Driver {
    pub(super) fn for_this_thread() -> Driver {
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), thread: thread::current() });
        Driver { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Completes `future`; calls `before_waiting` once if it is not ready at first poll.
    pub(super) fn drive<F: Future>(&self, future: F, before_waiting: impl FnOnce()) -> F::Output {
        let mut future = pin!(future);
        let mut context = Context::from_waker(&self.waker);
        let mut before_waiting = Some(before_waiting);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if let Some(before_waiting) = before_waiting.take() {
                before_waiting();
            }
            while !self.bell.rung.swap(false, Ordering::Acquire) {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Driver;
    use std::future::poll_fn;
    use std::task::Poll;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_future_woken_from_another_thread_completes_and_the_wait_is_told_once() {
        let driver = Driver::for_this_thread();
        let mut polls = 0;
        let mut waits = 0;
        let future = poll_fn(|context| {
            polls += 1;
            if polls == 3 {
                return Poll::Ready(7);
            }
            let waker = context.waker().clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(5));
                waker.wake();
            });
            Poll::Pending
        });
        assert_eq!(driver.drive(future, || waits += 1), 7);
        assert_eq!(waits, 1);
    }

    #[test]
    fn a_ready_future_does_not_wait() {
        let driver = Driver::for_this_thread();
        assert_eq!(driver.drive(async { 1 }, || unreachable!("nothing to wait for")), 1);
    }
}
