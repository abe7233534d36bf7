//! A push or a pull that a user asked for: it goes on after cuts, and in the next run of the daemon.

use super::{OfJob, Wanted, call, report};
use crate::daemon::Daemon;
use crate::daemon::jobs::JobHandle;
use crate::daemon::lazy::{Origin, new_dependant};
use crate::daemon::orders::KeptOrder;
use crate::daemon::storage::now_unix_s;
use blockyard_api::{JobReport, TransferReport};
use blockyard_block::{Error, ErrorKind, ImageId, Result};
use blockyard_io::HostDirectory;
use blockyard_pool::Volume;
use blockyard_transfer::{
    Account, Caller, DependantId, Direction, Failed, Moved, Wire, give_up, pull, pull_lazily, push,
};
use pollster::block_on;
use std::thread;
use std::time::{Duration, Instant};

/// A transfer that was cut off is tried again until the peer has been out of reach, or nothing came of calling it, for this
/// long.
const RETRY_TIME: Duration = Duration::from_secs(600);
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Cancelling is noticed within this time.
const LOOK: Duration = Duration::from_millis(100);

/// `kept` is the order of a former run.
pub(super) fn run(
    daemon: &Daemon,
    wanted: &Wanted,
    kept: Option<KeptOrder>,
    job: &JobHandle,
) -> Result<JobReport> {
    let mut moving = Moving { daemon, wanted, job, again: kept.is_some(), cuts: 0, origin: None };
    let source = match moving.begin(kept) {
        Ok(source) => source,
        Err(error) => {
            forget(daemon, job);
            return Err(error);
        }
    };
    match moving.until_done(source.as_ref()) {
        Ok(account) => {
            forget(daemon, job);
            let lazy = wanted.lazy.is_some();
            let report = TransferReport { lazy, ..report(&account, false, moving.cuts) };
            Ok(JobReport::Transfer(report))
        }
        Err(failed) if failed.cut && job.is_stopping() => {
            // The next run goes on with it.
            if let Some(source) = source {
                source.leave(now_unix_s());
            }
            Err(failed.error)
        }
        Err(failed) => {
            forget(daemon, job);
            if !failed.cut || job.is_cancelled() {
                moving.leave_nothing();
            }
            Err(failed.error)
        }
    }
}

/// What was done is told, whether that can be noted or not. Asked for again, it is found to be there.
fn forget(daemon: &Daemon, job: &JobHandle) {
    if let Err(error) = daemon.orders.forget(job.id()) {
        tracing::warn!(%error, "the order of a transfer that has ended cannot be removed");
    }
}

struct Moving<'a> {
    daemon: &'a Daemon,
    wanted: &'a Wanted,
    job: &'a JobHandle,
    /// The peer has been called for it.
    again: bool,
    cuts: u64,
    /// Of a pull of an image that shows at once.
    origin: Option<Origin>,
}

impl Moving<'_> {
    /// The snapshot that is sent, and the order on disk. In this sequence a crash between the two leaves a snapshot
    /// that nobody refers to, which the next start removes.
    fn begin(&mut self, kept: Option<KeptOrder>) -> Result<Option<Volume<HostDirectory>>> {
        let (daemon, wanted) = (self.daemon, self.wanted);
        let push = wanted.direction == Direction::Push;
        let dependant = kept.as_ref().and_then(|order| order.dependant.clone());
        let known = kept.and_then(|order| order.snapshot).map(ImageId);
        let left = known.and_then(|id| daemon.pool.take_up_snapshot(id).ok());
        let source = match left {
            Some(source) => Some(source),
            None if push => {
                Some(block_on(daemon.pool.hold_snapshot(&wanted.here, true, now_unix_s()))?)
            }
            None => None,
        };
        self.origin = self.origin_of(dependant)?;
        daemon.orders.keep(&KeptOrder {
            job: self.job.id(),
            push,
            peer: wanted.peer.clone(),
            here: wanted.here.to_string(),
            there: wanted.there.to_string(),
            terms: wanted.terms.clone(),
            snapshot: source.as_ref().map(|source| source.id().0),
            dependant: self.origin.as_ref().map(|origin| origin.dependant.clone()),
            lazy: wanted.lazy.clone(),
        })?;
        if let (Some(origin), Some(lazy)) = (&self.origin, &wanted.lazy) {
            daemon.lazy.note(origin, lazy.fill)?;
        }
        Ok(source)
    }

    /// What is kept with an image that shows at once: its dependant stays the same over cuts and restarts.
    fn origin_of(&self, dependant: Option<String>) -> Result<Option<Origin>> {
        let Some(lazy) = &self.wanted.lazy else { return Ok(None) };
        let dependant = match dependant {
            Some(dependant) => dependant,
            None => new_dependant()?.to_string(),
        };
        Ok(Some(Origin {
            peer: self.wanted.peer.clone(),
            source: self.wanted.there.to_string(),
            dependant,
            wait_s: lazy.wait_s,
            terms: self.wanted.terms.clone(),
        }))
    }

    /// Whether the image shows already: the peer may not have heard of it.
    fn is_shown(&self, origin: &Origin) -> bool {
        let origins = self.daemon.pool.lazy_origins();
        origins
            .iter()
            .filter_map(|(_, bytes)| Origin::decode(bytes))
            .any(|shown| shown.dependant == origin.dependant)
    }

    /// Tries until it is done, fails for good, or was tried for long enough.
    fn until_done(&mut self, source: Option<&Volume<HostDirectory>>) -> Result<Account, Failed> {
        let mut patience = Patience::new();
        let (mut bytes_sent, mut bytes_received, mut clusters_sent) = (0, 0, 0);
        loop {
            let began = Instant::now();
            let (done, moved) = self.once(source);
            let failed = match done {
                Ok(account) => {
                    return Ok(Account {
                        bytes_sent: account.bytes_sent + bytes_sent,
                        bytes_received: account.bytes_received + bytes_received,
                        clusters_sent: account.clusters_sent + clusters_sent,
                        ..account
                    });
                }
                Err(failed) => failed,
            };
            bytes_sent += failed.bytes_sent;
            bytes_received += failed.bytes_received;
            clusters_sent += moved.done;
            patience.note(began.elapsed(), failed.bytes_received > 0, moved.total);
            if !failed.cut || self.job.is_cancelled() || patience.is_over() {
                return Err(failed);
            }
            self.cuts += 1;
            let wait = patience.next_wait();
            let (cuts, error, seconds) = (self.cuts, &failed.error, wait.as_secs());
            self.job.note(format!("cut off ({cuts}): {error}; it goes on in {seconds} s"));
            self.sleep(wait)?;
        }
    }

    /// One call, and what came of it.
    fn once(&mut self, source: Option<&Volume<HostDirectory>>) -> (Result<Account, Failed>, Moved) {
        if self.origin.as_ref().is_some_and(|origin| self.is_shown(origin)) {
            // The call that showed it may have failed before that was durable.
            let durable = block_on(self.daemon.pool.make_durable());
            return (durable.map(|()| Account::default()).map_err(Failed::from), Moved::default());
        }
        let (wire, peer) = match call(self.daemon, self.wanted) {
            Ok(called) => called,
            Err(error) => {
                let cut = self.again && error.kind() == ErrorKind::Io;
                return (Err(Failed::early(error, cut)), Moved::default());
            }
        };
        let progress = OfJob::new(self.daemon, self.job, Some(peer));
        let caller = progress.caller(&self.wanted.terms, self.wanted.quote, self.again);
        self.again = true;
        let done = match (source, &self.origin) {
            (Some(source), _) => block_on(push(wire, &caller, source, &self.wanted.there)),
            (None, Some(origin)) => self.pull_lazily(wire, &caller, origin),
            (None, None) => block_on(pull(wire, &caller, &self.wanted.there, &self.wanted.here)),
        };
        (done, progress.moved.get())
    }

    fn pull_lazily(
        &self,
        wire: Wire,
        caller: &Caller<'_, HostDirectory>,
        origin: &Origin,
    ) -> Result<Account, Failed> {
        let (there, here) = (&self.wanted.there, &self.wanted.here);
        let dependant = DependantId::parse(&origin.dependant)?;
        block_on(pull_lazily(wire, caller, there, here, dependant, origin.encode()?))
    }

    fn sleep(&self, time: Duration) -> Result<(), Failed> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            let checked = self.job.check();
            if self.job.is_stopping() {
                let error = Error::new(ErrorKind::ShutDown, "the daemon is going away");
                return Err(Failed::early(error, true));
            }
            checked?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The receiver forgets what came before.
    fn leave_nothing(&self) {
        if self.wanted.direction == Direction::Pull {
            return self.daemon.pool.give_up_parts(&self.wanted.here);
        }
        // It may know already.
        if !self.again {
            return;
        }
        match call(self.daemon, self.wanted) {
            Ok((wire, _)) => block_on(give_up(wire, &self.daemon.pool, &self.wanted.there)),
            Err(_) => {
                self.job.note("the peer could not be told: it keeps what came for a day at most")
            }
        }
    }
}

/// How long a transfer that is cut off again and again is tried: as long as ever fewer clusters are missing. That some came
/// proves nothing: a peer may give the same at each call, or what is of no use, and hang up.
struct Patience {
    wait: Duration,
    /// Time in which nothing came.
    idle: Duration,
    /// The fewest clusters that were missing when a call came to move them.
    missing: u64,
}

impl Patience {
    fn new() -> Patience {
        Patience { wait: WAIT_FIRST, idle: Duration::ZERO, missing: u64::MAX }
    }

    /// A call was cut off that took so long, and began to move so many clusters.
    fn note(&mut self, took: Duration, heard: bool, missing: u64) {
        if (1..self.missing).contains(&missing) {
            *self = Patience { missing, ..Patience::new() };
        } else if !heard {
            // Else lists, the search and verifying take their time.
            self.idle += took;
        }
    }

    fn is_over(&self) -> bool {
        self.idle > RETRY_TIME
    }

    fn next_wait(&mut self) -> Duration {
        let wait = self.wait;
        self.idle += wait;
        self.wait = (2 * wait).min(WAIT_MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::{Patience, RETRY_TIME, WAIT_FIRST};
    use std::time::Duration;

    /// Calls until it is given up, if it is.
    fn calls(missing: impl Fn(u64) -> u64) -> Option<u64> {
        let mut patience = Patience::new();
        (1..10_000).find(|call| {
            patience.note(Duration::from_secs(5), true, missing(*call));
            patience.next_wait();
            patience.is_over()
        })
    }

    #[test]
    fn a_transfer_is_tried_for_as_long_as_ever_less_is_missing_and_not_for_ever() {
        assert_eq!(calls(|call| 20_000 - call), None, "each call brings some");
        let given_up = calls(|_| 1_000).unwrap();
        assert!((20..40).contains(&given_up), "{given_up} calls that bring nothing");
        let given_up = calls(|call| 1_000 + call % 2).unwrap();
        assert!((20..40).contains(&given_up), "{given_up} calls that bring the same");
        assert!(calls(|_| 0).is_some(), "no call comes that far");
    }

    #[test]
    fn only_time_in_which_nothing_was_heard_counts() {
        let mut patience = Patience::new();
        patience.note(10 * RETRY_TIME, true, 7);
        patience.note(10 * RETRY_TIME, true, 7);
        assert!(!patience.is_over());
        patience.note(2 * RETRY_TIME, false, 0);
        assert!(patience.is_over());
        patience.note(RETRY_TIME, true, 6);
        assert!(!patience.is_over());
        assert_eq!(patience.next_wait(), WAIT_FIRST);
    }
}
