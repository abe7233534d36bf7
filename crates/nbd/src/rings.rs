//! Serving connections on rings: a few threads, each with an io_uring and many connections.
//!
//! A connection stays with the ring it was given to. Everything of it happens on that thread, so
//! there is no lock; devices are driven by futures, and one that is ready at once costs no task. A
//! device that blocks its thread would hold up every connection of the ring.

mod link;
mod turns;

use crate::connection::Opened;
use crate::execute::perform;
use crate::exports::{EndReason, Event, Exports};
use crate::server::Shared;
use blockyard_io::{Notifier, Ring};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

/// The rings of a server. They end when this is dropped and the last connection is gone.
pub(crate) struct Rings<E: Exports> {
    rings: Vec<Arc<Door<E>>>,
    shared: Arc<Shared<E>>,
}

/// Where a ring's thread takes new connections from.
pub(crate) struct Door<E: Exports> {
    newcomers: Mutex<Newcomers<E>>,
    /// Connections given to the ring and not gone yet.
    load: AtomicUsize,
    notifier: Arc<Notifier>,
}

struct Newcomers<E: Exports> {
    waiting: Vec<Opened<E>>,
    /// No more will come.
    closed: bool,
    /// The ring does not work any more.
    broken: bool,
}

impl<E: Exports> Door<E> {
    fn newcomers(&self) -> std::sync::MutexGuard<'_, Newcomers<E>> {
        // Each holder changes the list by one call.
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Exports> Rings<E> {
    /// Starts as many as the limits say; `None` if that is none. Errors: the system refuses rings.
    pub(crate) fn start(shared: &Arc<Shared<E>>) -> io::Result<Option<Rings<E>>> {
        let count = shared.limits.io_threads;
        let mut rings = Rings { rings: Vec::with_capacity(count), shared: Arc::clone(shared) };
        for number in 0..count {
            rings.rings.push(start_one(number, Arc::clone(shared))?);
        }
        Ok((count > 0).then_some(rings))
    }

    /// Gives a connection to the least loaded ring.
    pub(crate) fn take_in(&self, opened: Opened<E>) {
        let load = |door: &&Arc<Door<E>>| door.load.load(Ordering::Relaxed);
        let Some(door) = self.rings.iter().min_by_key(load) else { return };
        door.load.fetch_add(1, Ordering::Relaxed);
        let mut newcomers = door.newcomers();
        if newcomers.broken {
            drop(newcomers);
            return turn_away(&self.shared, opened);
        }
        newcomers.waiting.push(opened);
        drop(newcomers);
        door.notifier.notify();
    }
}

impl<E: Exports> Drop for Rings<E> {
    fn drop(&mut self) {
        for door in &self.rings {
            door.newcomers().closed = true;
            door.notifier.notify();
        }
    }
}

fn turn_away<E: Exports>(shared: &Shared<E>, opened: Opened<E>) {
    let Opened { seat, client, name, device, .. } = opened;
    drop(device);
    let (reason, counts) =
        (EndReason::Broken("its ring has failed".to_owned()), Default::default());
    let (client, name) = (&client, Some(name.as_str()));
    shared.report(Event::Disconnected { client, name, reason: &reason, counts });
    drop(seat);
}

/// A ring is made by the thread that uses it; returns once it is known whether there is one.
fn start_one<E: Exports>(number: usize, shared: Arc<Shared<E>>) -> io::Result<Arc<Door<E>>> {
    let (tell, told) = mpsc::channel();
    let run = move || {
        let (ring, door) = match Ring::new() {
            Ok(ring) => {
                let waiting = Vec::new();
                let newcomers = Newcomers { waiting, closed: false, broken: false };
                let door = Arc::new(Door {
                    newcomers: Mutex::new(newcomers),
                    load: AtomicUsize::new(0),
                    notifier: ring.notifier(),
                });
                (ring, door)
            }
            Err(error) => return drop(tell.send(Err(error))),
        };
        if tell.send(Ok(Arc::clone(&door))).is_ok() {
            let task = |device: Arc<E::Device>, terms: Arc<_>, operation| async move {
                perform(&*device, &terms, operation).await
            };
            turns::Turns::new(&ring, door, shared, task).run();
        }
    };
    thread::Builder::new().name(format!("nbd-ring-{number}")).spawn(run)?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of a ring ended early")))
}
