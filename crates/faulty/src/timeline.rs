//! What was done to a set of disks, in one order. Whoever talks to the program above notes where the
//! timeline stands: what was acknowledged then rests on no later event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone)]
pub struct Change {
    pub offset: u64,
    pub length: u64,
    /// `None` for zeros.
    pub data: Option<Arc<[u8]>>,
}

#[derive(Clone)]
pub enum Event {
    /// Done, and about to be told.
    Write { disk: usize, change: Change },
    /// All events of this disk before `covers` are durable.
    Flush { disk: usize, covers: usize },
}

#[derive(Default)]
pub struct Timeline {
    events: Mutex<Vec<Event>>,
}

impl Timeline {
    /// How many events there are.
    pub fn now(&self) -> usize {
        self.lock().len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    pub(crate) fn push(&self, event: Event) {
        self.lock().push(event);
    }

    /// A push leaves no half state behind.
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
