//! Long work on threads of its own: progress, cancelling, and what came of it.
//!
//! A job sees that it was cancelled when it reports progress, and then leaves nothing behind but what its kind says
//! it leaves: that is its duty, not the registry's. Finished jobs are kept until too many newer ones have finished.

use blockyard_api::{
    ErrorDetail, Job, JobKind, JobReport, JobState, ProgressUnit, TransferProgress,
};
use blockyard_block::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Finished jobs that are remembered.
const FINISHED_KEPT: usize = 100;
/// Jobs of users that run at the same time; more are refused.
const RUNNING_MAX: usize = 16;
/// Images that are filled at the same time.
const FILLS_MAX: usize = 1000;

/// Of each job.
const NOTES_KEPT: usize = 50;

/// What a peer wants of a job. Each has places of its own, apart from those of users, and one peer has not all of them:
/// none keeps users, other peers or its own releases from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It has not said so yet, or lets go of something: that is short.
    Briefly,
    /// A push, a pull or a quote.
    Transfer,
    /// What an image lacks that is in use: until it is filled.
    Fetch,
}

impl Asked {
    /// Places in all, and how many of them one peer may take.
    const fn places(self) -> (usize, usize) {
        match self {
            // More than peers have connections.
            Asked::Briefly => (1000, 32),
            Asked::Transfer => (16, 8),
            Asked::Fetch => (512, 128),
        }
    }
}

/// All jobs of this run of the daemon.
#[derive(Default)]
pub(crate) struct Jobs {
    table: Mutex<Table>,
    /// A job has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    stopping: bool,
    jobs: BTreeMap<u64, Arc<Shared>>,
}

/// What the thread of a job and those who ask about it share.
struct Shared {
    id: u64,
    kind: JobKind,
    image: Option<String>,
    unit: ProgressUnit,
    /// By what the peer is known that it is done for; none at the end of a pipe.
    peer: Option<String>,
    /// Of an answer.
    asked: Mutex<Asked>,
    cancelled: AtomicBool,
    /// It was not cancelled, but the daemon goes away.
    stopping: AtomicBool,
    done: AtomicU64,
    /// Zero while unknown.
    total: AtomicU64,
    transfer: Mutex<Option<TransferProgress>>,
    notes: Mutex<Vec<String>>,
    outcome: Mutex<Option<Result<JobReport>>>,
}

/// A job as its own thread sees it.
pub(crate) struct JobHandle {
    shared: Arc<Shared>,
    jobs: Arc<Jobs>,
}

impl JobHandle {
    /// How much there is to do, in the job's unit.
    pub(crate) fn set_total(&self, total: u64) {
        self.shared.total.store(total, Ordering::Relaxed);
    }

    /// How much is done. Returns the error to leave with when the job was cancelled.
    pub(crate) fn progress(&self, done: u64) -> Result<()> {
        self.shared.done.store(done, Ordering::Relaxed);
        self.check()
    }

    /// The error to leave with when the job was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            let left = self.shared.kind.left_when_cancelled();
            return Err(Error::new(ErrorKind::ShutDown, format!("cancelled; {left}")));
        }
        Ok(())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// The daemon goes away: the job may leave what lets it go on later.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> u64 {
        self.shared.id
    }

    /// Takes a place for what a peer asked for, in place of the one for asking. `Busy` if there is none.
    pub(crate) fn take_place(&self, asked: Asked) -> Result<()> {
        let table = lock(&self.jobs.table);
        if *lock(&self.shared.asked) != asked {
            table.check_places(asked, self.shared.peer.as_deref())?;
            *lock(&self.shared.asked) = asked;
        }
        Ok(())
    }

    /// How a transfer goes.
    pub(crate) fn set_transfer(&self, progress: TransferProgress) {
        *lock(&self.shared.transfer) = Some(progress);
    }

    /// Something the user should know, such as a size that was rounded up. Only the last are kept.
    pub(crate) fn note(&self, note: impl Into<String>) {
        let mut notes = lock(&self.shared.notes);
        notes.push(note.into());
        let surplus = notes.len().saturating_sub(NOTES_KEPT);
        notes.drain(..surplus);
    }
}

impl Jobs {
    /// Runs `work` on a thread of its own and returns the job as it starts.
    pub(crate) fn start(
        self: &Arc<Self>,
        kind: JobKind,
        image: Option<&str>,
        unit: ProgressUnit,
        work: impl FnOnce(&JobHandle) -> Result<JobReport> + Send + 'static,
    ) -> Result<Job> {
        self.start_as(None, kind, image, unit, work)
    }

    /// Does what a peer is about to ask for. `peer` is by what it is known.
    pub(crate) fn start_answer(
        self: &Arc<Self>,
        peer: Option<String>,
        work: impl FnOnce(&JobHandle) -> Result<JobReport> + Send + 'static,
    ) -> Result<Job> {
        self.spawn(self.register(None, JobKind::Answer, None, ProgressUnit::Bytes, peer)?, work)
    }

    /// The same; a job of a former run goes on with the number that it had.
    pub(crate) fn start_as(
        self: &Arc<Self>,
        id: Option<u64>,
        kind: JobKind,
        image: Option<&str>,
        unit: ProgressUnit,
        work: impl FnOnce(&JobHandle) -> Result<JobReport> + Send + 'static,
    ) -> Result<Job> {
        self.spawn(self.register(id, kind, image, unit, None)?, work)
    }

    fn spawn(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        work: impl FnOnce(&JobHandle) -> Result<JobReport> + Send + 'static,
    ) -> Result<Job> {
        let handle = JobHandle { shared: Arc::clone(&shared), jobs: Arc::clone(self) };
        let spawned = thread::Builder::new().name(format!("job {}", shared.id)).spawn(move || {
            // A panic here is a bug of ours; the daemon and its guests outlive it.
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&handle))).unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, "the job ended by a bug; see the daemon's log"))
            });
            handle.jobs.finish(&handle.shared, outcome);
        });
        if let Err(error) = spawned {
            lock(&self.table).jobs.remove(&shared.id);
            return Err(Error::io("cannot start a thread for the job", error));
        }
        Ok(shared.describe())
    }

    /// The job now, or as soon as it has ended within `wait`.
    pub(crate) fn get(&self, id: u64, wait: Duration) -> Result<Job> {
        let deadline = Instant::now() + wait;
        let mut table = lock(&self.table);
        loop {
            let shared = table.jobs.get(&id).cloned().ok_or_else(|| no_job(id))?;
            let left = deadline.saturating_duration_since(Instant::now());
            if shared.has_ended() || left.is_zero() {
                return Ok(shared.describe());
            }
            table = self.ended.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn list(&self) -> Vec<Job> {
        lock(&self.table).jobs.values().map(|shared| shared.describe()).collect()
    }

    /// What is being done, for people.
    pub(crate) fn activities(&self) -> Vec<String> {
        let running = |job: &Job| job.state == JobState::Running;
        self.list().iter().filter(|job| running(job)).map(activity).collect()
    }

    /// Asks a job to stop.
    pub(crate) fn cancel(&self, id: u64) -> Result<Job> {
        let shared = lock(&self.table).jobs.get(&id).cloned().ok_or_else(|| no_job(id))?;
        if shared.kind == JobKind::Fill && !shared.has_ended() {
            let image = shared.image.as_deref().unwrap_or_default();
            let message = format!(
                "{image} is used while it is filled: that ends when it is whole, or removed"
            );
            return Err(Error::new(ErrorKind::Busy, message));
        }
        // What it ended as is what it stays.
        if !shared.has_ended() {
            shared.cancelled.store(true, Ordering::Relaxed);
        }
        Ok(shared.describe())
    }

    /// Cancels all jobs, starts no more, and waits for those that run. False if some still run
    /// after `wait`.
    pub(crate) fn stop(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut table = lock(&self.table);
        table.stopping = true;
        for shared in table.jobs.values() {
            let cancelled = shared.cancelled.load(Ordering::Relaxed);
            shared.stopping.store(!cancelled, Ordering::Relaxed);
            shared.cancelled.store(true, Ordering::Release);
        }
        while table.running() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            table = self.ended.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The daemon goes away.
    pub(crate) fn is_stopping(&self) -> bool {
        lock(&self.table).stopping
    }

    fn register(
        &self,
        id: Option<u64>,
        kind: JobKind,
        image: Option<&str>,
        unit: ProgressUnit,
        peer: Option<String>,
    ) -> Result<Arc<Shared>> {
        let mut table = lock(&self.table);
        if table.stopping {
            return Err(Error::new(ErrorKind::ShutDown, "the daemon is going away"));
        }
        table.check_alone(kind)?;
        match class(kind) {
            Class::Peer => table.check_places(Asked::Briefly, peer.as_deref())?,
            Class::Fill => table.check_room(kind, FILLS_MAX, "images are being filled:")?,
            Class::User => table.check_room(kind, RUNNING_MAX, "jobs")?,
        }
        let id = id.unwrap_or(table.last_id + 1);
        table.last_id = table.last_id.max(id);
        let shared = Arc::new(Shared {
            id,
            kind,
            image: image.map(str::to_owned),
            unit,
            peer,
            asked: Mutex::new(Asked::Briefly),
            cancelled: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            transfer: Mutex::default(),
            notes: Mutex::default(),
            outcome: Mutex::new(None),
        });
        table.jobs.insert(shared.id, Arc::clone(&shared));
        table.forget_old(kind);
        Ok(shared)
    }

    fn finish(&self, shared: &Shared, outcome: Result<JobReport>) {
        let table = lock(&self.table);
        match &outcome {
            Ok(_) => tracing::info!(job = shared.id, "{:?} done", shared.kind),
            Err(error) => tracing::warn!(job = shared.id, %error, "{:?} ended", shared.kind),
        }
        *lock(&shared.outcome) = Some(outcome);
        drop(table);
        self.ended.notify_all();
    }
}

impl Table {
    fn running(&self) -> usize {
        self.jobs.values().filter(|shared| !shared.has_ended()).count()
    }

    /// Two reclaims would only compete: for the disk, and for the same clusters.
    fn check_alone(&self, kind: JobKind) -> Result<()> {
        if kind != JobKind::Reclaim {
            return Ok(());
        }
        let running = self.jobs.values().find(|other| other.kind == kind && !other.has_ended());
        let Some(id) = running.map(|running| running.id) else { return Ok(()) };
        let message = format!(
            "a reclaim runs already as job {id}: `blockyard job wait {id}` waits for its end, `blockyard job cancel {id}` stops it"
        );
        Err(Error::new(ErrorKind::Busy, message))
    }

    fn check_room(&self, kind: JobKind, most: usize, what: &str) -> Result<()> {
        let running = self.beside(kind).filter(|other| !other.has_ended()).count();
        match running < most {
            true => Ok(()),
            false => Err(no_place(&format!("{most} {what}"))),
        }
    }

    /// Places for what `peer` asks for.
    fn check_places(&self, asked: Asked, peer: Option<&str>) -> Result<()> {
        let takes_one = |other: &&Arc<Shared>| !other.has_ended() && *lock(&other.asked) == asked;
        let taken: Vec<_> = self.beside(JobKind::Answer).filter(takes_one).collect();
        let of_peer = taken.iter().filter(|other| other.peer.as_deref() == peer).count();
        let (most, most_of_peer) = asked.places();
        if taken.len() >= most {
            return Err(no_place(&format!("{most} transfers of peers")));
        }
        match peer.is_none() || of_peer < most_of_peer {
            true => Ok(()),
            false => Err(no_place(&format!("{most_of_peer} transfers of this peer"))),
        }
    }

    /// Jobs of users, those that peers asked for, or fills: whichever `kind` is.
    fn beside(&self, kind: JobKind) -> impl Iterator<Item = &Arc<Shared>> {
        self.jobs.values().filter(move |other| class(other.kind) == class(kind))
    }

    fn forget_old(&mut self, kind: JobKind) {
        let ended: Vec<u64> =
            self.beside(kind).filter(|other| other.has_ended()).map(|other| other.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(FINISHED_KEPT)) {
            self.jobs.remove(id);
        }
    }
}

/// What has a bound of its own.
#[derive(PartialEq, Eq)]
enum Class {
    User,
    Peer,
    Fill,
}

fn class(kind: JobKind) -> Class {
    match kind {
        JobKind::Answer => Class::Peer,
        JobKind::Fill => Class::Fill,
        _ => Class::User,
    }
}

impl Shared {
    fn has_ended(&self) -> bool {
        lock(&self.outcome).is_some()
    }

    fn is_transfer(&self) -> bool {
        matches!(self.kind, JobKind::Push | JobKind::Pull | JobKind::Fill)
    }

    fn describe(&self) -> Job {
        let outcome = lock(&self.outcome);
        let cancelled = self.cancelled.load(Ordering::Relaxed);
        let (state, error, report) = match &*outcome {
            None => (JobState::Running, None, None),
            Some(Ok(report)) => (JobState::Done, None, Some(report.clone())),
            // The next run goes on with it.
            Some(Err(_)) if self.stopping.load(Ordering::Acquire) && self.is_transfer() => {
                (JobState::Running, None, None)
            }
            Some(Err(_)) if cancelled => (JobState::Cancelled, None, None),
            Some(Err(error)) => (JobState::Failed, Some(ErrorDetail::from(error)), None),
        };
        let total = self.total.load(Ordering::Relaxed);
        Job {
            id: self.id,
            kind: self.kind,
            image: self.image.clone(),
            state,
            done: self.done.load(Ordering::Relaxed),
            total: (total > 0).then_some(total),
            unit: self.unit,
            transfer: *lock(&self.transfer),
            notes: lock(&self.notes).clone(),
            error,
            report,
        }
    }
}

/// `import of web: 37 %`
fn activity(job: &Job) -> String {
    let kind = match job.kind {
        JobKind::Answer => "transfer that a peer asked for",
        kind => kind.name(),
    };
    let image = job.image.as_ref().map(|image| format!(" of {image}")).unwrap_or_default();
    match job.total {
        Some(total) => {
            let percent = u128::from(job.done) * 100 / u128::from(total);
            format!("{kind}{image}: {percent} %")
        }
        None => format!("{kind}{image}"),
    }
}

fn no_place(taken: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("{taken} run already; wait for one to end"))
}

fn no_job(id: u64) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no job {id}, or it ended long ago"))
}

/// Nothing that panics runs under these locks, and every state between two statements is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
