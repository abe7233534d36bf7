//! Telling peers that they need not keep something any more.

use super::{Debt, Origin};
use crate::daemon::Daemon;
use crate::daemon::storage::now_unix_s;
use crate::daemon::transfers::dial;
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_transfer::{Caller, DependantId, Moved, Progress, Terms, not_needed, release};
use pollster::block_on;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A peer that cannot be told is called again after this long.
const AGAIN: Duration = Duration::from_secs(10);
/// One that does not go on holds up what others are to be told for this long, once in a round.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks now and then while there are some; ends with the runtime.
pub(crate) async fn watch_debts(daemon: Arc<Daemon>) {
    let mut tried: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        if daemon.lazy.debts.list().is_empty() {
            daemon.lazy.noted.notified().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = Arc::clone(&daemon);
        let before = std::mem::take(&mut tried);
        // A bug there is reported where it happens.
        if let Ok(after) = tokio::task::spawn_blocking(move || pay(&looked, before)).await {
            tried = after;
        }
    }
}

fn pay(daemon: &Daemon, mut tried: BTreeMap<String, Instant>) -> BTreeMap<String, Instant> {
    let debts = daemon.lazy.debts.list();
    if debts.is_empty() {
        return BTreeMap::new();
    }
    let ids = |debt: &Debt| DependantId::parse(&debt.dependant).ok();
    let waits =
        |debt: &&Debt| tried.get(&debt.dependant).is_some_and(|last| last.elapsed() < AGAIN);
    let asked = debts.iter().filter(|debt| !waits(debt)).filter_map(ids).collect();
    let ordered = || {
        let orders = daemon.orders.list().into_iter();
        orders.filter_map(|order| DependantId::parse(&order.dependant?).ok()).collect()
    };
    let of_origin = |bytes: &[u8]| DependantId::parse(&Origin::decode(bytes)?.dependant).ok();
    let Ok(due) = block_on(not_needed(&daemon.pool, asked, ordered, of_origin)) else {
        return tried;
    };
    let mut failing: BTreeSet<&str> = BTreeSet::new();
    for debt in debts.iter().filter(|debt| ids(debt).is_some_and(|id| due.contains(&id))) {
        if daemon.jobs.is_stopping() {
            break;
        }
        tried.insert(debt.dependant.clone(), Instant::now());
        if failing.contains(debt.peer.as_str()) {
            continue;
        }
        let told = tell(daemon, &debt.peer, &debt.source, &debt.dependant);
        match told {
            Ok(()) => {
                let kept = daemon
                    .lazy
                    .debts
                    .change(|list| list.retain(|other| other.dependant != debt.dependant));
                if let Err(error) = kept {
                    tracing::warn!(%error, "what a peer was told cannot be noted");
                }
            }
            Err(error) => {
                tracing::debug!(peer = debt.peer, %error, "not told to let go");
                // What it has against this one may not hold for the next.
                if error.kind() == ErrorKind::Io {
                    failing.insert(&debt.peer);
                }
            }
        }
    }
    tried.retain(|id, _| debts.iter().any(|debt| debt.dependant == *id));
    tried
}

fn tell(daemon: &Daemon, peer: &str, source: &str, dependant: &str) -> Result<()> {
    // A peer that is not known now may be about to be replaced: the debt stays.
    let (wire, _) = dial(daemon, peer)?;
    let wire = wire.with_patience(PATIENCE, PATIENCE);
    let (source, id) = (ImageName::parse(source)?, DependantId::parse(dependant)?);
    let caller = Caller {
        pool: &daemon.pool,
        terms: Terms::default(),
        quote: false,
        again: false,
        now_unix_s: now_unix_s(),
        progress: &UntilStopped(daemon),
    };
    block_on(release(wire, &caller, &source, id)).map_err(|failed| match failed.error.kind() {
        ErrorKind::ShutDown => Error::new(ErrorKind::Io, "the peer goes away"),
        _ => failed.error,
    })
}

/// Nobody waits for it, but it ends with the daemon.
struct UntilStopped<'a>(&'a Daemon);

impl Progress for UntilStopped<'_> {
    fn moved(&self, _moved: Moved) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn is_stopping(&self) -> bool {
        self.0.jobs.is_stopping()
    }
}
