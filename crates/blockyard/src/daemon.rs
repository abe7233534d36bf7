//! The daemon: one process that owns a pool, serves its images over NBD and takes orders over REST.
//!
//! Started from the storage up, so that whoever reaches a socket finds everything behind it ready,
//! and stopped from the sockets down: nothing new comes in, what is in flight is finished, then the
//! pool is closed in order. Ended hard instead, it loses nothing acknowledged (I15).

mod api;
mod damage_log;
mod dependants;
mod engine;
mod exports;
mod high_water;
pub(crate) mod jobs;
mod kept_list;
mod lazy;
mod log;
mod notify;
mod orders;
mod peer_runtime;
mod peers;
pub(crate) mod plan;
mod profiles;
mod sockets;
pub(crate) mod storage;
mod transfers;
mod usage;

use crate::config::Config;
use anyhow::{Context, Result};
use blockyard_nbd::{Limits, Server};
use dependants::Dependants;
use engine::{EngineThreads, HostPool};
use jobs::Jobs;
use lazy::LazyImages;
use orders::Orders;
use peer_runtime::PeerRuntime;
use peers::Peers;
use plan::Plan;
use profiles::Profiles;
use signal_hook::consts::{SIGINT, SIGTERM};
use sockets::{Access, BoundSocket};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use usage::Usage;

/// What is in flight has this long to end when the daemon stops.
const IN_FLIGHT_TIME: Duration = Duration::from_secs(10);
/// Requests to the control API get this long: the engine's part of them is short, and whoever sends
/// half a request must not hold up the stop.
const API_TIME: Duration = Duration::from_secs(2);
/// After this long a stop is ended hard.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// Signals this close together are one: sudo, timeout and terminals send theirs to the process and
/// to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// What the parts of the running daemon share.
pub(crate) struct Daemon {
    plan: Plan,
    pool: Arc<HostPool>,
    jobs: Arc<Jobs>,
    usage: Arc<Usage>,
    peers: Peers,
    orders: Orders,
    dependants: Dependants,
    lazy: LazyImages,
    profiles: Profiles,
    /// A transfer ended, and may have left a part of an image.
    parts_left: Notify,
    started: Instant,
}

/// Serves until a signal ends it.
pub(crate) fn run(config: &Config) -> Result<()> {
    // What the daemon makes is its user's alone, unless its mode is set on purpose.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let plan = Plan::new(config)?;
    raise_file_limit();
    let repeats = log::start(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()
        .context("cannot start the runtime")?;
    let storage = Storage::open(&plan)?;
    let engine = EngineThreads::start(&storage.pool, repeats)?;
    let to_peers = Arc::<PeerRuntime>::default();
    let outcome = runtime.block_on(serve(plan, &storage, &to_peers));
    // Requests that were given up on may still wait for the engine.
    runtime.shutdown_background();
    to_peers.shut_down();
    match outcome {
        Ok(()) => storage.close(engine),
        Err(error) => {
            // Nothing was served, or it could not be: what was acknowledged is safe either way.
            storage.close(engine).context(format!("{error:#}; then"))?;
            Err(error)
        }
    }
}

/// Each client takes a descriptor: as many as the system grants.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Fewer clients are no reason not to serve.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// From binding the sockets until nothing uses the pool any more.
async fn serve(plan: Plan, storage: &Storage, to_peers: &Arc<PeerRuntime>) -> Result<()> {
    let mut signals = Signals::new()?;
    let nbd_access = Access::of_nbd(&plan)?;
    nbd_access.open_way_to(&plan.nbd_socket, &plan.pool)?;
    let nbd_socket = BoundSocket::bind(&plan.nbd_socket, &nbd_access)?;
    let api_socket = BoundSocket::bind(&plan.api_socket, &Access::owner_only())?;
    let jobs = Arc::<Jobs>::default();
    let pool = Arc::clone(&storage.pool);
    let usage = Arc::<Usage>::default();
    let peers = Peers::load(&plan, to_peers)?;
    let orders = Orders::load(&plan.pool)?;
    let dependants = Dependants::load(&plan.pool)?;
    let lazy = LazyImages::load(&plan.pool)?;
    let profiles = Profiles::load(&plan.pool)?;
    let started = Instant::now();
    let parts_left = Notify::new();
    let daemon = Daemon {
        plan,
        pool,
        jobs,
        usage,
        peers,
        orders,
        dependants,
        lazy,
        profiles,
        parts_left,
        started,
    };
    let daemon = Arc::new(daemon);

    let exports = Arc::new(exports::Images::new(Arc::clone(&daemon.pool)));
    let mut limits = Limits::default();
    if let Some(count) = daemon.plan.io_threads {
        limits.io_threads = count;
    }
    let nbd = Server::start(nbd_socket.listener()?, exports, limits, exports::log_event)
        .context("cannot start the NBD server")?;
    let (stop_api, stopping) = watch::channel(false);
    let api = tokio::spawn(api::serve(api_socket.listener()?, Arc::clone(&daemon), stopping));
    drop(tokio::spawn(high_water::watch(Arc::clone(&daemon))));
    drop(tokio::spawn(damage_log::watch(Arc::clone(&daemon))));
    let (stop_peers, peers_stop) = watch::channel(false);
    // Before peers can ask: these keep the numbers that their jobs had.
    daemon.dependants.forget_gone(&daemon.pool)?;
    transfers::take_up(&daemon);
    lazy::start_fills(&daemon);
    if let Some(listener) = daemon.peers.listener()? {
        transfers::listen(&daemon, listener, peers_stop)?;
    }
    drop(tokio::spawn(transfers::watch_left(Arc::clone(&daemon))));
    drop(tokio::spawn(lazy::watch_debts(Arc::clone(&daemon))));
    announce(&daemon);

    let name = signals.next().await;
    tracing::info!(signal = name, "stopping");
    notify::stopping();
    end_hard_if_impatient()?;
    let _ = stop_peers.send(true); // no receiver is left if nobody listens
    let _ = stop_api.send(true); // no receiver is left if the API has failed already
    let cut_off = tokio::task::spawn_blocking(move || {
        let jobs_ended = daemon.jobs.stop(IN_FLIGHT_TIME);
        let connections_left = nbd.shutdown(IN_FLIGHT_TIME);
        damage_log::tell_news(&daemon.pool);
        (jobs_ended, connections_left)
    });
    let (jobs_ended, connections_left) = cut_off.await?;
    if !jobs_ended || connections_left > 0 {
        tracing::warn!(jobs_ended, connections_left, "not all that was in flight has ended");
    }
    if tokio::time::timeout(API_TIME, api).await.is_err() {
        tracing::warn!("requests to the control API were cut off");
    }
    Ok(())
}

/// Says where and how to connect, for people, scripts that wait for `ready`, and systemd.
fn announce(daemon: &Daemon) {
    let plan = &daemon.plan;
    let peers = daemon.peers.address().map(|address| format!(", peers on {address}"));
    let peers = peers.unwrap_or_default();
    let (pool, nbd, api) =
        (plan.pool.display(), plan.nbd_socket.display(), plan.api_socket.display());
    let text = format!(
        "ready: pool {pool}, NBD on {nbd}, control on {api}{peers}\n  \
         make an image:  blockyard image create NAME 20G --api {api}\n  \
         use it:         qemu-system-x86_64 -drive 'file=nbd+unix:///NAME?socket={nbd},format=raw,if=virtio'\n"
    );
    // Whoever started the daemon need not listen.
    let _ = std::io::stdout().write_all(text.as_bytes());
    tracing::info!(%pool, %nbd, %api, "ready");
    notify::ready();
}

/// A second signal, or too long a wait, ends the process where it stands.
fn end_hard_if_impatient() -> Result<()> {
    let armed = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&armed))?;
    }
    let limit = move || {
        thread::sleep(SAME_SIGNAL);
        armed.store(true, Ordering::Relaxed);
        thread::sleep(STOP_TIME_MAX);
        tracing::error!("could not stop in time: ended before the pool was closed");
        std::process::exit(1);
    };
    thread::Builder::new().name("stop limit".to_owned()).spawn(limit)?;
    Ok(())
}

/// The signals that ask the daemon to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
