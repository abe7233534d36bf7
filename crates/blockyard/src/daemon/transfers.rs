//! Moving images to and from peers, as jobs: what a user asks for, and what peers ask for.

mod left;
mod moving;
mod pipe;

pub(crate) use left::watch_left;
pub(crate) use pipe::{Call, WireToCome, answer_through, call_through};

use crate::daemon::Daemon;
use crate::daemon::dependants::OfPeer;
use crate::daemon::jobs::{Asked, JobHandle};
use crate::daemon::lazy;
use crate::daemon::orders::KeptOrder;
use crate::daemon::peers::id_of;
use crate::daemon::storage::now_unix_s;
use anyhow::Context;
use blockyard_api::{
    Compression, Job, JobKind, JobReport, JobState, LazyTerms, ProgressUnit, TransferProgress,
    TransferReport, TransferTerms,
};
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, ImageName, Result};
use blockyard_io::HostDirectory;
use blockyard_pool::{ImageKind, LeftImage};
use blockyard_transfer::{
    Account, Allowed, Caller, Direction, Host, Moved, NoOrigins, Order, Origins, PeerId, Progress,
    Terms, Wire, answer, connect, pull, push, serve,
};
use pollster::block_on;
use std::cell::Cell;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Serves peers until told to stop.
pub(crate) fn listen(
    daemon: &Arc<Daemon>,
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let identity = daemon.peers.identity().context("peers cannot be served")?;
    let host = Arc::new(Answers { daemon: Arc::clone(daemon) });
    drop(daemon.peers.runtime()?.spawn(async move {
        let stopped = async move {
            let _ = stopping.wait_for(|stop| *stop).await; // whoever could tell is gone: stop, too
        };
        let authority = host.daemon.peers.authority().cloned();
        if let Err(error) = serve(listener, &identity, authority.as_ref(), host, stopped).await {
            tracing::error!(%error, "peers are served no more");
        }
    }));
    Ok(())
}

/// What a user wants to be moved, or to know about that.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) direction: Direction,
    pub(crate) peer: String,
    /// Its name here, and at the peer.
    pub(crate) here: ImageName,
    pub(crate) there: ImageName,
    pub(crate) quote: bool,
    pub(crate) terms: TransferTerms,
    /// Of a pull: it shows before it is there.
    pub(crate) lazy: Option<LazyTerms>,
}

impl Wanted {
    fn kind(&self) -> JobKind {
        match (self.quote, self.direction) {
            (true, _) => JobKind::Quote,
            (false, Direction::Push) => JobKind::Push,
            (false, _) => JobKind::Pull,
        }
    }
}

/// How the transfer crate wants to be told.
pub(crate) fn terms_of(terms: &TransferTerms) -> Terms {
    Terms {
        compress: terms.compress == Compression::Zstd,
        rate: terms.rate,
        verify: !terms.unverified,
        sample: terms.sample,
    }
}

/// Connections that clusters may cross on, if that was said.
fn streams_of(terms: &TransferTerms) -> Result<Option<usize>> {
    match terms.streams.map(usize::from) {
        Some(streams) if !(1..=Wire::STREAMS_MAX).contains(&streams) => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{streams} streams: there may be 1 to {}", Wire::STREAMS_MAX),
        )),
        streams => Ok(streams),
    }
}

/// Starts the job.
pub(crate) fn start(daemon: &Arc<Daemon>, wanted: Wanted) -> Result<Job> {
    terms_of(&wanted.terms).check()?;
    streams_of(&wanted.terms)?;
    daemon.peers.find(&wanted.peer)?;
    if wanted.direction == Direction::Push {
        daemon.pool.image(&wanted.here)?;
    } else if !wanted.quote && daemon.pool.image(&wanted.here).is_ok() {
        let message = format!("an image is called {} already", wanted.here);
        return Err(Error::new(ErrorKind::Exists, message));
    }
    if !wanted.quote {
        check_alone(daemon, &wanted)?;
    }
    start_job(daemon, wanted, None)
}

/// Two transfers that make the same image would both cross, and one of them fail at its end; as do two that are asked for at the very
/// same moment.
fn check_alone(daemon: &Daemon, wanted: &Wanted) -> Result<()> {
    let (here, there) = (wanted.here.to_string(), wanted.there.to_string());
    let makes_it = |order: &KeptOrder| match wanted.direction {
        Direction::Push => order.push && order.peer == wanted.peer && order.there == there,
        _ => !order.push && order.here == here,
    };
    // One that could not be taken up has no job.
    let runs = |order: &KeptOrder| {
        let job = daemon.jobs.get(order.job, Duration::ZERO);
        job.is_ok_and(|job| job.state == JobState::Running)
    };
    match daemon.orders.list().into_iter().find(|order| makes_it(order) && runs(order)) {
        None => Ok(()),
        Some(KeptOrder { job, .. }) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "job {job} does that already: `blockyard job wait {job}` or `job cancel {job}`"
            ),
        )),
    }
}

/// Goes on with what a former run of the daemon had not ended, and removes what nobody goes on with.
pub(crate) fn take_up(daemon: &Arc<Daemon>) {
    let orders = daemon.orders.list();
    let is_sent = |left: &LeftImage| orders.iter().any(|order| order.snapshot == Some(left.id.0));
    daemon.pool.remove_left(now_unix_s(), |left| {
        let needed = is_sent(left) || daemon.dependants.keep_snapshot(left.id);
        left.kind == ImageKind::Snapshot && !needed
    });
    for order in orders {
        let job = order.job;
        let started = wanted_of(&order).and_then(|wanted| start_job(daemon, wanted, Some(order)));
        match started {
            Ok(_) => tracing::info!(job, "a transfer goes on"),
            Err(error) => tracing::warn!(job, %error, "a transfer does not go on"),
        }
    }
}

fn wanted_of(order: &KeptOrder) -> Result<Wanted> {
    Ok(Wanted {
        direction: if order.push { Direction::Push } else { Direction::Pull },
        peer: order.peer.clone(),
        here: ImageName::parse(&order.here)?,
        there: ImageName::parse(&order.there)?,
        quote: false,
        terms: order.terms.clone(),
        lazy: order.lazy.clone(),
    })
}

fn start_job(daemon: &Arc<Daemon>, wanted: Wanted, kept: Option<KeptOrder>) -> Result<Job> {
    let (kind, title) = (wanted.kind(), wanted.here.to_string());
    let (mover, id) = (Arc::clone(daemon), kept.as_ref().map(|order| order.job));
    let work = move |job: &JobHandle| match wanted.quote {
        true => quote(&mover, &wanted, job),
        false => {
            let done = moving::run(&mover, &wanted, kept, job);
            if wanted.lazy.is_some() {
                lazy::start_fills(&mover);
            }
            mover.parts_left.notify_one();
            done
        }
    };
    daemon.jobs.start_as(id, kind, Some(&title), ProgressUnit::Bytes, work)
}

fn quote(daemon: &Daemon, wanted: &Wanted, job: &JobHandle) -> Result<JobReport> {
    let (wire, peer) = call(daemon, wanted)?;
    let progress = OfJob::new(daemon, job, Some(peer));
    let caller = progress.caller(&wanted.terms, wanted.quote, false);
    let account = match wanted.direction {
        Direction::Push => {
            let source = block_on(daemon.pool.hold_snapshot(&wanted.here, false, now_unix_s()))?;
            block_on(push(wire, &caller, &source, &wanted.there))
        }
        _ => block_on(pull(wire, &caller, &wanted.there, &wanted.here)),
    };
    let account = account.map_err(|failed| failed.error)?;
    Ok(JobReport::Transfer(quoted(&account, &wanted.terms)))
}

/// A wire to the peer, and by what it is known.
fn call(daemon: &Daemon, wanted: &Wanted) -> Result<(Wire, PeerId)> {
    let (wire, peer) = dial(daemon, &wanted.peer)?;
    Ok((wire.with_streams(streams_of(&wanted.terms)?), peer))
}

/// The same by the peer's name.
pub(crate) fn dial(daemon: &Daemon, peer: &str) -> Result<(Wire, PeerId)> {
    let peer = daemon.peers.find(peer)?;
    let (id, identity) = (id_of(&peer)?, daemon.peers.identity()?);
    let (runtime, authority) = (daemon.peers.runtime()?, daemon.peers.authority());
    let wire = connect(&runtime, &identity, authority, &peer.address, &id)
        .map_err(|error| error.at(format_args!("peer {}", peer.name)))?;
    Ok((wire, id))
}

pub(crate) fn report(account: &Account, quote: bool, cuts: u64) -> TransferReport {
    let bytes = |clusters: u64| clusters.saturating_mul(CLUSTER_SIZE as u64);
    TransferReport {
        quote,
        lazy: false,
        size_bytes: account.size,
        bytes_data: Some(bytes(account.clusters)).filter(|data| *data > 0),
        extents_whole: account.extents_whole,
        bytes_found: bytes(account.clusters_found),
        bytes_repeated: bytes(account.clusters_repeated),
        bytes_missing: bytes(account.clusters_sent),
        bytes_damaged: bytes(account.clusters_damaged),
        bytes_compressed_estimate: account.compressed_estimate,
        seconds_at_rate: None,
        cuts,
        bytes_sent: account.bytes_sent,
        bytes_received: account.bytes_received,
        streams: account.streams as u64,
    }
}

/// What a quote says, and how long it takes at the rate that was asked about.
fn quoted(account: &Account, terms: &TransferTerms) -> TransferReport {
    let report = report(account, true, 0);
    let crosses = report.bytes_compressed_estimate.unwrap_or(report.bytes_missing);
    let seconds = |rate: u64| Some(crosses.div_ceil(rate.max(1)));
    TransferReport { seconds_at_rate: terms.rate.and_then(seconds), ..report }
}

/// A job as a transfer sees it. It ends, too, when the peer is taken off the list.
struct OfJob<'a> {
    daemon: &'a Daemon,
    job: &'a JobHandle,
    /// None at the end of a pipe.
    peer: Option<PeerId>,
    /// The peer's name and what it might do when this began: a change ends it.
    known: Option<(String, Allowed)>,
    started: Instant,
    /// What was told last.
    moved: Cell<Moved>,
}

impl OfJob<'_> {
    fn new<'a>(daemon: &'a Daemon, job: &'a JobHandle, peer: Option<PeerId>) -> OfJob<'a> {
        let known = peer.as_ref().and_then(|peer| daemon.peers.known(peer));
        OfJob { daemon, job, peer, known, started: Instant::now(), moved: Cell::default() }
    }

    fn caller(&self, terms: &TransferTerms, quote: bool, again: bool) -> Caller<'_, HostDirectory> {
        Caller {
            pool: &self.daemon.pool,
            // Of a quote the rate is a question.
            terms: Terms { rate: terms.rate.filter(|_| !quote), ..terms_of(terms) },
            quote,
            again,
            now_unix_s: now_unix_s(),
            progress: self,
        }
    }
}

impl Progress for OfJob<'_> {
    fn moved(&self, moved: Moved) {
        let cluster = CLUSTER_SIZE as u64;
        self.moved.set(moved);
        self.job.set_total(moved.total.saturating_mul(cluster));
        let _ = self.job.progress(moved.done.saturating_mul(cluster)); // asked for below
        let seconds = self.started.elapsed().as_secs_f64();
        let left = moved.total.saturating_sub(moved.done) as f64;
        self.job.set_transfer(TransferProgress {
            bytes_moved: moved.bytes,
            bytes_saved: moved.saved.saturating_mul(cluster),
            rate: (moved.bytes as f64 / seconds.max(0.001)) as u64,
            seconds_left: (moved.done > 0).then(|| (seconds * left / moved.done as f64) as u64),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    fn is_revoked(&self) -> bool {
        let Some(peer) = &self.peer else { return false };
        self.known.is_none() || self.daemon.peers.known(peer) != self.known
    }

    fn is_stopping(&self) -> bool {
        self.job.is_stopping()
    }
}

/// Does what peers ask for.
struct Answers {
    daemon: Arc<Daemon>,
}

impl Host for Answers {
    fn is_listed(&self, peer: &PeerId) -> bool {
        self.daemon.peers.known(peer).is_some()
    }

    fn names(&self) -> Vec<String> {
        self.daemon.peers.certificate_names()
    }

    fn answer(&self, peer: PeerId, wire: Wire) {
        let Some((name, allowed)) = self.daemon.peers.known(&peer) else { return };
        // Heard even if it may do nothing: it can let go of what is kept for it.
        let known_by = peer.to_string();
        // It is given back if no job can be started.
        let wire = Arc::new(Mutex::new(Some(wire)));
        let take =
            |wire: &Mutex<Option<Wire>>| wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (daemon, given) = (Arc::clone(&self.daemon), Arc::clone(&wire));
        let work = move |job: &JobHandle| match take(&given) {
            Some(wire) => run_answer(&daemon, Some(peer), &name, &allowed, wire, job),
            None => Err(Error::new(ErrorKind::Io, "the call is gone")),
        };
        let started = self.daemon.jobs.start_answer(Some(known_by), work);
        if let Err(error) = started
            && let Some(wire) = take(&wire)
        {
            wire.refuse(&error);
        }
    }

    fn refused(&self, address: &str, why: &str) {
        tracing::warn!(address, why, "a caller was turned away");
    }
}

fn run_answer(
    daemon: &Daemon,
    peer: Option<PeerId>,
    name: &str,
    allowed: &Allowed,
    wire: Wire,
    job: &JobHandle,
) -> Result<JobReport> {
    // By the rights that are asked below: those there are now may be fewer already.
    let known = Some((name.to_owned(), allowed.clone()));
    let progress = OfJob { known, ..OfJob::new(daemon, job, peer.clone()) };
    let quote = Cell::new(false);
    let noted = |order: &Order| {
        job.take_place(match order.direction {
            Direction::Push | Direction::Pull => Asked::Transfer,
            Direction::Fetch => Asked::Fetch,
            Direction::Release => Asked::Briefly,
        })?;
        quote.set(order.quote);
        let verb = match order.direction {
            Direction::Push => "sends",
            Direction::Pull => "takes",
            Direction::Fetch => "fetches of",
            Direction::Release => "lets go of",
        };
        let wants = if order.quote { "asks about" } else { verb };
        tracing::info!(peer = name, image = %order.image, "{wants}");
        job.note(format!("{name} {wants} {}", order.image));
        Ok(())
    };
    let of_peer = peer.map(|known_by| OfPeer { daemon, known_by, peer: name });
    let origins: &dyn Origins<HostDirectory> = match &of_peer {
        Some(of_peer) => of_peer,
        None => &NoOrigins,
    };
    let done = answer(wire, &daemon.pool, allowed, now_unix_s(), &progress, noted, origins);
    let account = block_on(done);
    daemon.parts_left.notify_one();
    Ok(JobReport::Transfer(report(&account.map_err(|failed| failed.error)?, quote.get(), 0)))
}
