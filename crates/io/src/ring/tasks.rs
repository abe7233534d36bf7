//! The futures of one ring's thread. A future that is ready at its first poll costs no allocation and
//! no system call: it is polled in a place that served others before.

use super::Notifier;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The future panicked and is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Futures of one kind, each with something to remember it by.
pub struct Tasks<F: Future, C> {
    places: Vec<Place<F, C>>,
    free: Vec<u32>,
    ready: Arc<Ready>,
    /// Kept for its memory.
    taken: Vec<u32>,
}

struct Place<F, C> {
    future: Pin<Box<Option<F>>>,
    context: Option<C>,
    waker: Waker,
}

/// Places whose futures were woken, by this thread or another.
struct Ready {
    places: Mutex<Vec<u32>>,
    notifier: Arc<Notifier>,
}

struct Bell {
    place: u32,
    ready: Arc<Ready>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.lock().push(self.place);
        self.ready.notifier.notify();
    }
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // Each holder changes the list by one call.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future, C> Tasks<F, C> {
    /// `notifier` is the ring's: a future woken by another thread wakes the ring.
    pub fn new(notifier: Arc<Notifier>) -> Tasks<F, C> {
        let ready = Arc::new(Ready { places: Mutex::default(), notifier });
        Tasks { places: Vec::new(), free: Vec::new(), ready, taken: Vec::new() }
    }

    /// Polls a new future. Returns what it came to, if it was ready at once; else it is kept.
    pub fn start(&mut self, context: C, future: F) -> Option<(C, Result<F::Output, Panicked>)> {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        let place = &mut self.places[index as usize];
        place.future.as_mut().set(Some(future));
        place.context = Some(context);
        self.poll(index)
    }

    /// Polls the futures that were woken; tells `done` of those that are ready.
    pub fn run_woken(&mut self, mut done: impl FnMut(C, Result<F::Output, Panicked>)) {
        std::mem::swap(&mut self.taken, &mut *self.ready.lock());
        let mut taken = std::mem::take(&mut self.taken);
        for index in taken.drain(..) {
            if let Some((context, result)) = self.poll(index) {
                done(context, result);
            }
        }
        self.taken = taken;
    }

    /// Whether no future was woken since the last [`Tasks::run_woken`].
    pub fn none_woken(&self) -> bool {
        self.ready.lock().is_empty()
    }

    /// How many futures are kept.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add_place(&mut self) -> u32 {
        let place = self.places.len() as u32; // bounded by what the caller keeps in flight
        let bell = Bell { place, ready: Arc::clone(&self.ready) };
        self.places.push(Place {
            future: Box::pin(None),
            context: None,
            waker: Waker::from(Arc::new(bell)),
        });
        place
    }

    /// A place may be polled that was woken for a future that is gone: that does no harm.
    fn poll(&mut self, index: u32) -> Option<(C, Result<F::Output, Panicked>)> {
        let Place { future, context, waker } = &mut self.places[index as usize];
        let polled = future.as_mut().as_pin_mut()?;
        let mut task = Context::from_waker(waker);
        let result = match catch_unwind(AssertUnwindSafe(|| polled.poll(&mut task))) {
            Ok(Poll::Pending) => return None,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(_) => Err(Panicked),
        };
        future.as_mut().set(None);
        let context = context.take()?;
        self.free.push(index);
        Some((context, result))
    }
}
