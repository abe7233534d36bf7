//! The threads the engine runs on, and its clock.

use crate::daemon::log::Repeats;
use anyhow::{Context, Result};
use blockyard_io::HostDirectory;
use blockyard_pool::Pool;
use pollster::block_on;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) type HostPool = Pool<HostDirectory>;

const TICK: Duration = Duration::from_millis(50);

/// Run until the pool is shut down.
pub(crate) struct EngineThreads {
    threads: Vec<JoinHandle<()>>,
    clock: JoinHandle<()>,
    clock_stops: Arc<AtomicBool>,
}

impl EngineThreads {
    pub(crate) fn start(pool: &Arc<HostPool>, repeats: Repeats) -> Result<EngineThreads> {
        let clock_stops = Arc::new(AtomicBool::new(false));
        let (ticked, stops) = (Arc::clone(pool), Arc::clone(&clock_stops));
        let clock = spawn("clock", move || tick(&ticked, &stops, &repeats))?;
        let on = |name, run: fn(&HostPool)| {
            let pool = Arc::clone(pool);
            spawn(name, move || run(&pool))
        };
        let threads = vec![
            on("sync", |pool| block_on(pool.run_sync()))?,
            on("commit", |pool| block_on(pool.run_commit()))?,
            on("maintenance", |pool| block_on(pool.run_maintenance()))?,
            on("reclaim", |pool| block_on(pool.run_reclaim()))?,
        ];
        Ok(EngineThreads { threads, clock, clock_stops })
    }

    /// Waits for the threads; they end once the pool is shut down.
    pub(crate) fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // a panic on it has ended the process already
        }
        self.clock_stops.store(true, Ordering::Relaxed);
        let _ = self.clock.join();
    }
}

fn tick(pool: &HostPool, stops: &AtomicBool, repeats: &Repeats) {
    let started = Instant::now();
    while !stops.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        pool.tick(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        repeats.tell();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let guarded = move || {
        let _guard = EndOnPanic;
        work();
    };
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(guarded).context("cannot start a thread of the engine")
}

/// Without one of its threads the engine would let every guest wait for ever. A daemon that ends
/// is started again and has lost nothing (I15).
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "blockyard: a thread of the engine panicked; this is a bug, please report it"
            );
            std::process::abort();
        }
    }
}
