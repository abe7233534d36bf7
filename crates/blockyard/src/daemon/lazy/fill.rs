//! The job that fetches for one image, from when it shows until it is filled or removed, in every run of the daemon.

use super::Origin;
use crate::daemon::Daemon;
use crate::daemon::jobs::JobHandle;
use crate::daemon::storage::now_unix_s;
use crate::daemon::transfers::{dial, report, terms_of};
use blockyard_api::{JobKind, JobReport, ProgressUnit, TransferProgress};
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, ImageId, ImageName, Result};
use blockyard_pool::Lazy;
use blockyard_transfer::{Account, Caller, DependantId, Fetched, Fetching, Moved, Progress, fetch};
use event_listener::Listener;
use pollster::block_on;
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An origin that cannot be reached is called again after this long, soon at first.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(3);
/// So is one that gave up the image, or a pool without space.
const AGAIN_LATE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// Starts a job for each lazy image that has none.
pub(crate) fn start_fills(daemon: &Arc<Daemon>) {
    for (id, origin) in daemon.pool.lazy_origins() {
        let Some(origin) = Origin::decode(&origin) else { continue };
        let mut jobs = daemon.lazy.jobs();
        if jobs.contains_key(&id) {
            continue;
        }
        daemon.pool.set_lazy_wait(id, origin.wait_s.saturating_mul(1000));
        let name = daemon.pool.images().into_iter().find(|image| image.id == id);
        let title = name.map(|image| image.name.to_string());
        let filler = Arc::clone(daemon);
        let work = move |job: &JobHandle| {
            let done = Fill { daemon: &filler, job, id, origin: &origin }.run();
            filler.lazy.jobs().remove(&id);
            done
        };
        let unit = ProgressUnit::Bytes;
        match daemon.jobs.start(JobKind::Fill, title.as_deref(), unit, work) {
            Ok(job) => drop(jobs.insert(id, job.id)),
            Err(error) => tracing::warn!(%error, "an image cannot be filled"),
        }
    }
}

struct Fill<'a> {
    daemon: &'a Daemon,
    job: &'a JobHandle,
    id: ImageId,
    origin: &'a Origin,
}

impl Fill<'_> {
    fn run(&self) -> Result<JobReport> {
        let mut wait = AGAIN_FIRST;
        let mut noted = None;
        loop {
            let lazy = self.lazy()?;
            if lazy.bytes_missing == 0 {
                block_on(self.daemon.pool.end_lazy(self.id))?;
                return Ok(self.told(&lazy));
            }
            if !self.fills() && !self.daemon.pool.has_demand(self.id) {
                // Each round counts all that is missing.
                self.sleep(AGAIN_LATE, true)?;
                continue;
            }
            match self.once(&lazy) {
                Ok(Fetched::Filled | Fetched::Idle) => wait = AGAIN_FIRST,
                Err(error) => {
                    self.check()?;
                    let said = error.to_string();
                    if noted.as_ref() != Some(&said) {
                        self.job.note(&said);
                        tracing::warn!(image = %lazy.name, %error, "cannot be filled now");
                        noted = Some(said);
                    }
                    let late = !matches!(error.kind(), ErrorKind::Io | ErrorKind::Busy);
                    self.sleep(if late { AGAIN_LATE } else { wait }, false)?;
                    wait = (2 * wait).min(AGAIN_MAX);
                }
            }
        }
    }

    fn lazy(&self) -> Result<Lazy> {
        self.check()?;
        let removed = || Error::new(ErrorKind::NotFound, "the image was removed");
        let lazy = self.daemon.pool.lazy_image(self.id).ok_or_else(removed)?;
        match &lazy.broken {
            Some(reason) => Err(Error::new(ErrorKind::Corrupt, reason.clone())),
            None => Ok(lazy),
        }
    }

    fn fills(&self) -> bool {
        self.daemon.lazy.fills(&self.origin.dependant)
    }

    /// One conversation with the origin.
    fn once(&self, lazy: &Lazy) -> Result<Fetched> {
        let (wire, _) = dial(self.daemon, &self.origin.peer)?;
        let progress =
            OfFill { fill: self, lazy, started: Instant::now(), refused: Cell::new(false) };
        let caller = Caller {
            pool: &self.daemon.pool,
            terms: terms_of(&self.origin.terms),
            quote: false,
            again: false,
            now_unix_s: now_unix_s(),
            progress: &progress,
        };
        let source = ImageName::parse(&self.origin.source)?;
        let background = || self.fills();
        let fetching = Fetching {
            image: self.id,
            source: &source,
            dependant: DependantId::parse(&self.origin.dependant)?,
            background: &background,
            missing: lazy.bytes_missing / CLUSTER_SIZE as u64,
        };
        block_on(fetch(wire, &caller, &fetching)).map_err(|failed| {
            let kind = failed.error.kind();
            if !failed.cut && matches!(kind, ErrorKind::NotFound | ErrorKind::Denied) {
                self.daemon.pool.note_origin(self.id, Some(failed.error.to_string()));
            }
            failed.error
        })
    }

    fn told(&self, lazy: &Lazy) -> JobReport {
        let clusters_sent = lazy.bytes_fetched / CLUSTER_SIZE as u64;
        let account = Account { clusters_sent, size: lazy.bytes_listed, ..Account::default() };
        JobReport::Transfer(report(&account, false, 0))
    }

    fn check(&self) -> Result<()> {
        match self.job.is_stopping() {
            true => Err(Error::new(ErrorKind::ShutDown, "the daemon is going away")),
            false => Ok(()),
        }
    }

    /// `for_demand` ends it when something is waited for, or all is to be brought.
    fn sleep(&self, time: Duration, for_demand: bool) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now()).min(LOOK);
            let demand = self.daemon.pool.demand().filter(|_| for_demand);
            let wanted = || self.daemon.pool.has_demand(self.id) || self.fills();
            if left.is_zero() || for_demand && wanted() {
                return Ok(());
            }
            match demand {
                Some(demand) => drop(demand.wait_timeout(left)),
                None => std::thread::sleep(left),
            }
            if !self.daemon.pool.is_lazy(self.id) {
                return Ok(());
            }
        }
    }
}

/// The job as the conversation sees it.
struct OfFill<'a> {
    fill: &'a Fill<'a>,
    lazy: &'a Lazy,
    started: Instant,
    refused: Cell<bool>,
}

impl Progress for OfFill<'_> {
    fn moved(&self, moved: Moved) {
        let fetched = moved.done.saturating_mul(CLUSTER_SIZE as u64);
        let before = self.lazy.bytes_listed - self.lazy.bytes_missing;
        let job = self.fill.job;
        job.set_total(self.lazy.bytes_listed);
        let _ = job.progress((before + fetched).min(self.lazy.bytes_listed)); // it is not cancelled
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let left = self.lazy.bytes_missing.saturating_sub(fetched) as f64;
        if moved.refused > 0 && !self.refused.replace(true) {
            let message = "its origin cannot give clusters of it, or gives them wrongly: `scrub` there finds them";
            job.note(message);
            tracing::warn!(image = %self.lazy.name, "{message}");
        }
        job.set_transfer(TransferProgress {
            bytes_moved: moved.bytes,
            bytes_saved: 0,
            rate: (moved.bytes as f64 / seconds) as u64,
            seconds_left: (fetched > 0).then(|| (seconds * left / fetched as f64) as u64),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.fill.job.is_cancelled() || !self.fill.daemon.pool.is_lazy(self.fill.id)
    }

    fn is_stopping(&self) -> bool {
        self.fill.job.is_stopping()
    }
}
