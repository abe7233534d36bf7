//! Time as the conversations of a run see it. It passes when the driver says so.

use blockyard_transfer::Clock;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[derive(Clone, Default)]
pub(super) struct SimClock {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    now_ms: u64,
    /// By when they are to wake, and their number.
    sleepers: BTreeMap<(u64, u64), Waker>,
    next: u64,
}

impl SimClock {
    pub(super) fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    /// When the first sleeper wakes.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.lock().sleepers.first_key_value().map(|((until, _), _)| *until)
    }

    /// Wakes whoever has slept enough.
    pub(super) fn pass_to(&self, now_ms: u64) {
        let woken: Vec<Waker> = {
            let mut shared = self.lock();
            shared.now_ms = now_ms;
            let later = shared.sleepers.split_off(&(now_ms + 1, 0));
            std::mem::replace(&mut shared.sleepers, later).into_values().collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn sleep_ms(&self, ms: u64) -> Sleep {
        let mut shared = self.lock();
        shared.next += 1;
        let place = (shared.now_ms + ms, shared.next);
        drop(shared);
        Sleep { clock: self.clone(), place }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms())
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.sleep_ms(time.as_micros().div_ceil(1000) as u64))
    }
}

pub(super) struct Sleep {
    clock: SimClock,
    place: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.clock.lock();
        if shared.now_ms >= self.place.0 {
            return Poll::Ready(());
        }
        shared.sleepers.insert(self.place, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.lock().sleepers.remove(&self.place);
    }
}
