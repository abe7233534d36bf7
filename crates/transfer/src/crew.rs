//! Work that is done beside a conversation, on threads of its own; what comes of it is taken in the order in which it was
//! given. With no threads each piece is done where it is given, so that a simulation can say what happens when.
//!
//! Everything given is done before a crew is gone.

use blockyard_block::{Error, ErrorKind, Result};
use blockyard_io::block_on;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Whoever waits looks this often whether that is of use still.
const LOOK: Duration = Duration::from_millis(200);

/// What one thread does, with what it keeps from one piece to the next.
pub(crate) trait Work: Send + 'static {
    type Job: Send + 'static;
    type Done: Send + 'static;

    fn run(&mut self, job: Self::Job) -> impl Future<Output = Result<Self::Done>>;
}

pub(crate) struct Crew<W: Work> {
    /// Does it here if there are no threads.
    here: W,
    jobs: Option<Sender<Given<W>>>,
    threads: Vec<JoinHandle<()>>,
    coming: VecDeque<Coming<W::Done>>,
}

type Given<W> = (<W as Work>::Job, SyncSender<Result<<W as Work>::Done>>);

enum Coming<T> {
    Is(Result<T>),
    Comes(Receiver<Result<T>>),
}

impl<W: Work> Crew<W> {
    pub(crate) fn new(threads: usize, make: impl Fn() -> Result<W>) -> Result<Crew<W>> {
        // Made before the first thread: one that waits for work would be waited for if the next could not be made.
        let (here, works) = (make()?, (0..threads).map(|_| make()).collect::<Result<Vec<W>>>()?);
        let (to_threads, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut crew = Crew { here, jobs: None, threads: Vec::new(), coming: VecDeque::new() };
        for work in works {
            let jobs = Arc::clone(&jobs);
            // With fewer threads it takes longer.
            if let Ok(thread) = Builder::new().name("transfer".into()).spawn(|| serve(work, jobs)) {
                crew.threads.push(thread);
                crew.jobs = Some(to_threads.clone());
            }
        }
        Ok(crew)
    }

    /// How much was given and not taken. Whoever gives bounds it.
    pub(crate) fn count(&self) -> usize {
        self.coming.len()
    }

    pub(crate) async fn give(&mut self, job: W::Job) {
        let coming = match &self.jobs {
            None => Coming::Is(self.here.run(job).await),
            Some(jobs) => {
                let (done, comes) = sync_channel(1);
                // If all threads are gone, taking it says so.
                let _ = jobs.send((job, done));
                Coming::Comes(comes)
            }
        };
        self.coming.push_back(coming);
    }

    /// What came of what was given first; waits for it, and calls `working` again and again meanwhile, whose error ends the
    /// wait. `None` if nothing is left to take.
    pub(crate) fn take(
        &mut self,
        mut working: impl FnMut() -> Result<()>,
    ) -> Result<Option<W::Done>> {
        loop {
            let done = match self.coming.pop_front() {
                None => return Ok(None),
                Some(Coming::Is(done)) => done,
                Some(Coming::Comes(comes)) => match comes.recv_timeout(LOOK) {
                    Ok(done) => done,
                    Err(RecvTimeoutError::Disconnected) => {
                        Err(Error::new(ErrorKind::Io, "a thread of the transfer ended"))
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        self.coming.push_front(Coming::Comes(comes));
                        working()?;
                        continue;
                    }
                },
            };
            return done.map(Some);
        }
    }
}

impl<W: Work> Drop for Crew<W> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // one that panicked has told whoever waits for it
        }
    }
}

fn serve<W: Work>(mut work: W, jobs: Arc<Mutex<Receiver<Given<W>>>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, done)) = next else { return };
        // Whoever gave it may not want it any more.
        let _ = done.send(block_on(work.run(job)));
    }
}

#[cfg(test)]
mod tests {
    use super::{Crew, LOOK, Work};
    use blockyard_block::{Error, ErrorKind, Result};
    use blockyard_io::block_on;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    struct Squares(Arc<AtomicU64>);

    impl Work for Squares {
        type Job = u64;
        type Done = u64;

        async fn run(&mut self, number: u64) -> Result<u64> {
            std::thread::sleep(Duration::from_millis(20 - number));
            self.0.fetch_add(1, Ordering::Relaxed);
            match number {
                7 => Err(Error::new(ErrorKind::Corrupt, "seven")),
                _ => Ok(number * number),
            }
        }
    }

    #[test]
    fn what_comes_of_it_is_taken_in_order_and_all_of_it_is_done() {
        for threads in [0, 1, 3] {
            let done = Arc::new(AtomicU64::new(0));
            let mut crew = Crew::new(threads, || Ok(Squares(Arc::clone(&done)))).unwrap();
            (0..10).for_each(|number| block_on(crew.give(number)));
            assert_eq!(crew.count(), 10);
            for number in 0..7 {
                assert_eq!(crew.take(|| Ok(())).unwrap(), Some(number * number));
            }
            assert_eq!(crew.take(|| Ok(())).unwrap_err().message(), "seven");
            assert_eq!(crew.take(|| Ok(())).unwrap(), Some(64));
            drop(crew);
            assert_eq!(done.load(Ordering::Relaxed), 10);
        }
        let mut idle = Crew::new(1, || Ok(Squares(Arc::default()))).unwrap();
        assert_eq!(idle.take(|| Ok(())).unwrap(), None);
    }
    /// Works for longer than who waits for it is silent.
    struct Slow;

    impl Work for Slow {
        type Job = ();
        type Done = ();

        async fn run(&mut self, (): ()) -> Result<()> {
            std::thread::sleep(3 * LOOK);
            Ok(())
        }
    }

    #[test]
    fn who_waits_is_asked_whether_to_go_on_and_loses_nothing() {
        let mut crew = Crew::new(1, || Ok(Slow)).unwrap();
        block_on(crew.give(()));
        let enough = || Err(Error::new(ErrorKind::ShutDown, "enough"));
        assert_eq!(crew.take(enough).unwrap_err().message(), "enough");
        assert_eq!(crew.take(|| Ok(())).unwrap(), Some(()));
        assert_eq!(crew.count(), 0);
    }

    #[test]
    fn a_crew_that_cannot_be_made_whole_is_not_waited_for() {
        let (tells, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let made = AtomicU64::new(0);
            let make = || match made.fetch_add(1, Ordering::Relaxed) {
                2 => Err(Error::new(ErrorKind::NoSpace, "no third")),
                _ => Ok(Slow),
            };
            tells.send(Crew::new(3, make).map(drop)).unwrap();
        });
        let made = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(made.unwrap_err().message(), "no third");
    }
}
