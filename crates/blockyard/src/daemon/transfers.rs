//! Moving images to and from peers, as jobs: what a user asks for, and what peers ask for.

use crate::daemon::Daemon;
use crate::daemon::jobs::JobHandle;
use crate::daemon::storage::now_unix_s;
use anyhow::Context;
use blockyard_api::{Job, JobKind, JobReport, ProgressUnit, TransferReport};
use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, ImageName, Result};
use blockyard_transfer::{
    Account, Allowed, Direction, Fingerprint, Host, Order, Progress, Wire, answer, connect, pull,
    push, serve,
};
use pollster::block_on;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
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
        if let Err(error) = serve(listener, &identity, host, stopped).await {
            tracing::error!(%error, "peers are served no more");
        }
    }));
    Ok(())
}

/// What a user wants to be moved, or to know about that.
pub(crate) struct Wanted {
    pub(crate) direction: Direction,
    pub(crate) peer: String,
    /// Its name here, and at the peer.
    pub(crate) here: ImageName,
    pub(crate) there: ImageName,
    pub(crate) quote: bool,
}

/// Starts the job.
pub(crate) fn start(daemon: &Arc<Daemon>, wanted: Wanted) -> Result<Job> {
    daemon.peers.find(&wanted.peer)?;
    if wanted.direction == Direction::Push {
        daemon.pool.image(&wanted.here)?;
    } else if !wanted.quote && daemon.pool.image(&wanted.here).is_ok() {
        let message = format!("an image is called {} already", wanted.here);
        return Err(Error::new(ErrorKind::Exists, message));
    }
    let kind = match (wanted.quote, wanted.direction) {
        (true, _) => JobKind::Quote,
        (false, Direction::Push) => JobKind::Push,
        (false, Direction::Pull) => JobKind::Pull,
    };
    let (mover, title) = (Arc::clone(daemon), wanted.here.to_string());
    let work = move |job: &JobHandle| run(&mover, &wanted, job);
    daemon.jobs.start(kind, Some(&title), ProgressUnit::Bytes, work)
}

fn run(daemon: &Daemon, wanted: &Wanted, job: &JobHandle) -> Result<JobReport> {
    let peer = daemon.peers.find(&wanted.peer)?;
    let fingerprint = Fingerprint::parse(&peer.fingerprint)?;
    let identity = daemon.peers.identity()?;
    let wire = connect(&daemon.peers.runtime()?, &identity, &peer.address, fingerprint)
        .map_err(|error| error.at(format_args!("peer {}", peer.name)))?;
    let progress = OfJob { daemon, job, peer: fingerprint };
    let (pool, quote) = (&daemon.pool, wanted.quote);
    let account = match wanted.direction {
        Direction::Push => {
            let source = block_on(pool.hold_snapshot(&wanted.here, now_unix_s()))?;
            push(wire, pool, &source, &wanted.there, quote, &progress)
        }
        Direction::Pull => {
            let (from, to) = (&wanted.there, &wanted.here);
            pull(wire, pool, from, to, quote, now_unix_s(), &progress)
        }
    };
    Ok(JobReport::Transfer(report(&account?, quote)))
}

fn report(account: &Account, quote: bool) -> TransferReport {
    let cluster = CLUSTER_SIZE as u64;
    TransferReport {
        quote,
        size_bytes: account.size,
        extents_whole: account.extents_whole,
        bytes_found: account.clusters_found.saturating_mul(cluster),
        bytes_missing: account.clusters_sent.saturating_mul(cluster),
        bytes_sent: account.bytes_sent,
        bytes_received: account.bytes_received,
    }
}

/// A job as a transfer sees it. It ends, too, when the peer is taken off the list.
struct OfJob<'a> {
    daemon: &'a Daemon,
    job: &'a JobHandle,
    peer: Fingerprint,
}

impl Progress for OfJob<'_> {
    fn clusters(&self, done: u64, total: u64) {
        let cluster = CLUSTER_SIZE as u64;
        self.job.set_total(total.saturating_mul(cluster));
        let _ = self.job.progress(done.saturating_mul(cluster)); // asked for below
    }

    fn is_cancelled(&self) -> bool {
        self.job.is_cancelled() || self.daemon.peers.known(&self.peer).is_none()
    }
}

/// Does what peers ask for.
struct Answers {
    daemon: Arc<Daemon>,
}

impl Host for Answers {
    fn is_listed(&self, peer: &Fingerprint) -> bool {
        self.daemon.peers.known(peer).is_some()
    }

    fn answer(&self, peer: Fingerprint, wire: Wire) {
        let Some((name, allowed)) = self.daemon.peers.known(&peer) else { return };
        // It is given back if no job can be started.
        let wire = Arc::new(Mutex::new(Some(wire)));
        let take =
            |wire: &Mutex<Option<Wire>>| wire.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (daemon, given) = (Arc::clone(&self.daemon), Arc::clone(&wire));
        let work = move |job: &JobHandle| match take(&given) {
            Some(wire) => run_answer(&daemon, peer, &name, allowed, wire, job),
            None => Err(Error::new(ErrorKind::Io, "the call is gone")),
        };
        let started = self.daemon.jobs.start(JobKind::Answer, None, ProgressUnit::Bytes, work);
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
    peer: Fingerprint,
    name: &str,
    allowed: Allowed,
    wire: Wire,
    job: &JobHandle,
) -> Result<JobReport> {
    let progress = OfJob { daemon, job, peer };
    let quote = std::cell::Cell::new(false);
    let noted = |order: &Order| {
        quote.set(order.quote);
        let verb = match order.direction {
            Direction::Push => "sends",
            Direction::Pull => "takes",
        };
        let wants = if order.quote { "asks about" } else { verb };
        tracing::info!(peer = name, image = %order.image, "{wants}");
        job.note(format!("{name} {wants} {}", order.image));
    };
    let account = answer(wire, &daemon.pool, allowed, now_unix_s(), &progress, noted)?;
    Ok(JobReport::Transfer(report(&account, quote.get())))
}
