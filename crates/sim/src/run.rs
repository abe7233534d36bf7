//! One seed: a pool is made, served, crashed, reopened and compared, until enough has happened.

use crate::client::Client;
use crate::context::{Context, SimPool};
use crate::executor::{Executor, Task};
use crate::fault::{Fault, FaultError, OperationKind};
use crate::lazy::fetch;
use crate::report::{Count, Totals};
use crate::rot::Rot;
use crate::scenario::Scenario;
use crate::verify::{Survival, verify_after_open, verify_at_rest};
use crate::world::SimWorld;
use blockyard_block::Error;
use blockyard_io::Directory;
use blockyard_pool::{CheckOptions, Pool, check};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

/// Simulated time without an end after which a run counts as hanging.
const PATIENCE_MS: u64 = 600_000;
const STEPS_MAX: u64 = 20_000_000;

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub totals: Totals,
    /// What was found wrong, if anything.
    pub violation: Option<String>,
    /// The same for two runs that did the same.
    pub digest: u64,
}

/// Plays one seed from beginning to end.
pub fn run_seed(seed: u64, verbose: bool) -> Outcome {
    let world = SimWorld::new(seed);
    let scenario = Scenario::draw(&world);
    let context = Rc::new(Context::new(&world, scenario, verbose));
    context.trace(format_args!("{:?}", context.scenario));
    let executor = Executor::new(&world);
    let mut run = Run {
        context,
        executor,
        survival: Survival::Acknowledged,
        failed_syncs: 0,
        maintained: false,
    };
    let violation = run.play().err();
    run.close();
    let context = &run.context;
    context.totals.borrow_mut().note_world(&world.counters());
    let totals = context.totals.borrow().clone();
    Outcome { totals, violation, digest: context.digest() }
}

struct Run {
    context: Rc<Context>,
    executor: Executor,
    /// What must be there after the next opening.
    survival: Survival,
    /// Failed syncs of the world when the pool was opened.
    failed_syncs: u64,
    /// The pool's maintenance runs already.
    maintained: bool,
}

impl Run {
    fn play(&mut self) -> Result<(), String> {
        self.make_pool()?;
        loop {
            self.open()?;
            let verification = verify_after_open(Rc::clone(&self.context), self.survival);
            self.finish(verification)??;
            let crashes = self.context.world.counters().crashes();
            let scenario = &self.context.scenario;
            if self.context.sequence() >= scenario.operations && crashes >= scenario.crashes {
                return Ok(());
            }
            self.serve()?;
        }
    }

    fn make_pool(&mut self) -> Result<(), String> {
        let made = self.finish(make_pool(Rc::clone(&self.context)))?;
        made.map_err(|error| format!("the pool was not made: {error}"))
    }

    /// Opens the pool, crashing and failing on the way now and then.
    fn open(&mut self) -> Result<(), String> {
        loop {
            if self.context.one_in(6) {
                self.finish(check_pool(Rc::clone(&self.context)))??;
            }
            if self.percent(self.context.scenario.fault_percent / 2) {
                self.arm_faults(60);
            }
            let task = self.executor.spawn(open_pool(Rc::clone(&self.context)));
            if self.context.one_in(4) {
                let steps = self.context.below(300);
                self.executor.run_steps(steps);
                if !task.is_done() {
                    self.context.note(Count::CrashesWhileOpening);
                    self.crash();
                    continue;
                }
            }
            match self.wait(&task)? {
                Ok(pool) if self.context.faulty.get() && lost_a_list(&pool) => {
                    self.context.trace("a list could not be read: it can at the next open");
                    drop(pool);
                    self.crash();
                }
                Ok(pool) => return self.begin_service(pool),
                Err(error) if self.context.faulty.get() => {
                    self.context.trace(format_args!("opening failed: {error}"));
                    self.crash();
                }
                Err(error) => return Err(format!("the pool does not open: {error}")),
            }
        }
    }

    fn begin_service(&mut self, pool: Arc<SimPool>) -> Result<(), String> {
        self.context.trace("opened");
        self.context.world.clear_faults();
        self.context.faulty.set(false);
        self.failed_syncs = self.context.world.counters().failed_syncs;
        pool.tick(self.context.now_ms.get());
        let (sync, commit) = (Arc::clone(&pool), Arc::clone(&pool));
        let reclaim = Arc::clone(&pool);
        drop(self.executor.spawn(async move { reclaim.run_reclaim().await }));
        drop(self.executor.spawn(async move { sync.run_sync().await }));
        drop(self.executor.spawn(async move { commit.run_commit().await }));
        self.context.set_pool(Some(pool));
        // What is fetched needs space, and the verification fetches.
        let lazy = !self.context.pool().lazy_images().is_empty();
        for _ in 0..2 {
            drop(self.executor.spawn(fetch(Rc::clone(&self.context))));
        }
        self.maintained = self.context.one_in(2) || lazy;
        if self.maintained {
            self.start_maintenance();
        }
        Ok(())
    }

    /// Started late, it hashes again while the first clients write.
    fn start_maintenance(&mut self) {
        let pool = self.context.pool();
        drop(self.executor.spawn(async move { pool.run_maintenance().await }));
    }

    /// Lets clients work until a crash, or until all are done.
    fn serve(&mut self) -> Result<(), String> {
        if !self.maintained {
            self.start_maintenance();
        }
        if self.percent(self.context.scenario.fault_percent) {
            self.arm_faults(400);
        }
        let each = 20 + self.context.below(60);
        let mut clients: Vec<Task<()>> = Vec::new();
        for number in 1..=self.context.scenario.clients {
            let client = Client { context: Rc::clone(&self.context), number };
            clients.push(self.executor.spawn(client.run(each)));
        }
        let all_done = || clients.iter().all(Task::is_done);
        if self.context.below(3) == 0 {
            self.drive(all_done)?;
            return self.rest();
        }
        let target = self.context.sequence() + 20 + self.context.below(140);
        let context = Rc::clone(&self.context);
        self.drive(|| context.sequence() >= target || all_done())?;
        let steps = self.context.below(60);
        self.executor.run_steps(steps);
        self.context.trace(format_args!("{} of the disk in flight", self.context.world.pending()));
        self.crash();
        Ok(())
    }

    /// All clients are done: everything is compared, then the pool ends in one way or another.
    fn rest(&mut self) -> Result<(), String> {
        self.context.trace("all clients are done");
        if !self.context.faulty.get() {
            self.finish(verify_at_rest(Rc::clone(&self.context)))??;
            if self.context.one_in(2) && self.rot()? {
                return Ok(());
            }
        }
        if self.context.one_in(3) {
            self.crash();
            return Ok(());
        }
        let pool = self.context.pool();
        self.context.trace("shutting down");
        match self.finish(async move { pool.shutdown().await })? {
            Ok(()) => self.end_cleanly(),
            Err(error) if self.context.faulty.get() => {
                self.context.trace(format_args!("shutdown failed: {error}"));
                self.crash();
                Ok(())
            }
            Err(error) => Err(format!("shutdown failed: {error}")),
        }
    }

    /// Lets a cluster rot and be found; true if that ended in a crash.
    fn rot(&mut self) -> Result<bool, String> {
        self.drain();
        let Some(rot) = self.finish(Rot::pick(Rc::clone(&self.context)))?? else {
            return Ok(false);
        };
        let world = self.context.world.clone();
        self.drain();
        self.context.trace(&rot);
        self.context.note(Count::Rots);
        rot.flip(&world);
        let judged = self.executor.spawn(rot.clone().judge(Rc::clone(&self.context)));
        if self.context.one_in(3) {
            let steps = self.context.below(400);
            self.executor.run_steps(steps);
            if !judged.is_done() {
                self.crash();
                rot.restore(&world);
                return Ok(true);
            }
        }
        self.wait(&judged)??;
        if !rot.has_equal {
            rot.restore(&world);
        }
        self.finish(verify_at_rest(Rc::clone(&self.context)))??;
        Ok(false)
    }

    /// After a clean end even a power cut loses nothing.
    fn end_cleanly(&mut self) -> Result<(), String> {
        self.context.trace("shut down");
        self.context.note(Count::CleanShutdowns);
        self.note_pool_counters();
        self.context.set_pool(None);
        self.drain();
        if self.executor.unfinished() > 0 {
            return Err("background work goes on after shutdown".to_owned());
        }
        self.crash();
        self.survival = Survival::Acknowledged;
        Ok(())
    }

    /// A kill or a power cut, now.
    fn crash(&mut self) {
        self.note_pool_counters();
        self.context.set_pool(None);
        let failed_syncs = self.context.world.counters().failed_syncs;
        let lying = failed_syncs > self.failed_syncs;
        if self.context.one_in(2) {
            self.context.trace("KILL");
            self.executor.kill();
        } else {
            self.context.trace("POWER CUT");
            self.executor.cut_power();
            self.survival = Survival::Flushed;
        }
        if lying {
            self.survival = Survival::Flushed;
        }
        self.failed_syncs = failed_syncs;
        self.context.faulty.set(false);
    }

    fn note_pool_counters(&self) {
        if let Some(pool) = self.context.pool_if_open() {
            let counters = pool.counters();
            let mut totals = self.context.totals.borrow_mut();
            totals.note(Count::ClustersReused, counters.clusters_reused);
            totals.note(Count::IntentsCleared, counters.intents_cleared);
            totals.note(Count::LogWraps, counters.log_wraps);
            totals.note(Count::SpilledSorts, counters.sort_files);
            totals.note(Count::IndexesMade, counters.indexes_made);
            totals.note(Count::ReferencesWritten, counters.references_written);
            totals.note(Count::Shortages, counters.shortage_passes);
        }
    }

    fn close(&mut self) {
        self.context.set_pool(None);
        self.executor = Executor::new(&self.context.world);
    }

    fn percent(&self, share: u64) -> bool {
        self.context.below(100) < share
    }

    fn arm_faults(&self, within: u64) {
        arm_faults(&self.context, within);
    }

    /// Runs a future of the harness to its end.
    fn finish<T: 'static>(
        &mut self,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, String> {
        let task = self.executor.spawn(future);
        self.wait(&task)
    }

    fn wait<T: 'static>(&mut self, task: &Task<T>) -> Result<T, String> {
        self.drive(|| task.is_done())?;
        task.take().ok_or_else(|| "a task of the harness vanished".to_owned())
    }

    /// Steps, and lets time pass, until `done`; an error if something was violated or hangs.
    fn drive(&mut self, done: impl Fn() -> bool) -> Result<(), String> {
        let (mut progress, mut progress_ms) = (0, self.context.now_ms.get());
        let first_step = self.executor.steps();
        while !done() {
            if let Some(violation) = self.context.violation() {
                return Err(violation);
            }
            if self.context.sequence() != progress {
                (progress, progress_ms) = (self.context.sequence(), self.context.now_ms.get());
            }
            let waited = self.context.now_ms.get() - progress_ms;
            if waited > PATIENCE_MS || self.executor.steps() - first_step > STEPS_MAX {
                return Err(self.describe_hang());
            }
            let stepped = self.executor.step();
            if !stepped || self.context.one_in(self.context.scenario.steps_per_tick) {
                self.pass_time();
            }
        }
        self.context.violation().map_or(Ok(()), Err)
    }

    fn describe_hang(&self) -> String {
        let status = self.context.pool_if_open().map(|pool| pool.status());
        format!(
            "requests hang: {} operations of the disk in flight, {} tasks unfinished, {status:?}",
            self.context.world.pending(),
            self.executor.unfinished(),
        )
    }

    fn pass_time(&self) {
        let now = self.context.now_ms.get() + 1 + self.context.below(60);
        self.context.now_ms.set(now);
        if let Some(pool) = self.context.pool_if_open() {
            pool.tick(now);
        }
    }

    fn drain(&mut self) {
        self.executor.run_until_idle();
    }
}

/// Of an image that is used while it is filled.
fn lost_a_list(pool: &SimPool) -> bool {
    pool.lazy_images().iter().any(|lazy| lazy.broken.is_some())
}

/// Makes one to three of the next operations fail.
pub(crate) fn arm_faults(context: &Context, within: u64) {
    const KINDS: [Option<OperationKind>; 8] = [
        None,
        Some(OperationKind::Read),
        Some(OperationKind::Write),
        Some(OperationKind::Sync),
        Some(OperationKind::Allocate),
        Some(OperationKind::Punch),
        Some(OperationKind::Create),
        Some(OperationKind::SyncDirectory),
    ];
    for _ in 0..1 + context.below(3) {
        let error = if context.one_in(3) { FaultError::StorageFull } else { FaultError::Io };
        let fault = Fault {
            kind: KINDS[context.below(KINDS.len() as u64) as usize],
            name_contains: String::new(),
            nth: 1 + context.below(within),
            error,
        };
        context.trace(format_args!("to come: {fault:?}"));
        context.world.fail(fault);
    }
    context.faulty.set(true);
}

/// The engine's own check, of a pool as a crash left it.
pub(crate) async fn check_pool(context: Rc<Context>) -> Result<(), String> {
    let world = &context.world;
    let directory = world.directory();
    let data = directory.open("data").await.map_err(|error| format!("opening data: {error}"))?;
    let mut journal = world.mapped(SimPool::JOURNAL_BYTES);
    let options = CheckOptions { read_data: true, boot_id: world.boot_id() };
    let report = check(&directory, &data, Some(&mut journal), &options, &mut |_| {}).await;
    let report = report.map_err(|error| format!("check of a closed pool: {error}"))?;
    context.trace(format_args!("checked: {:?}", report.counts));
    context.note(Count::Checks);
    match report.is_sound() {
        true => Ok(()),
        false => Err(format!("check of a closed pool: {:?}", report.findings)),
    }
}

pub(crate) async fn make_pool(context: Rc<Context>) -> Result<(), Error> {
    let directory = context.world.directory();
    let options = context.scenario.create_options();
    context.world.set_capacity(context.scenario.disk_bytes);
    let at = |error| Error::io("making data", error);
    let data = directory.create("data").await.map_err(at)?;
    directory.sync().await.map_err(at)?;
    Pool::create(&directory, &data, &options).await
}

pub(crate) async fn open_pool(context: Rc<Context>) -> Result<Arc<SimPool>, Error> {
    let world = &context.world;
    let directory = world.directory();
    let data = directory.open("data").await.map_err(|error| Error::io("opening data", error))?;
    let journal = Box::new(world.mapped(SimPool::JOURNAL_BYTES));
    let options = context.scenario.open_options(world.boot_id());
    Pool::open(directory, data, journal, options).await
}

#[cfg(test)]
mod tests;
