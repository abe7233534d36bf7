//! What the daemon does about an order, from `blockyard`'s `daemon/transfers/moving.rs`: it calls until it is done, fails for
//! good, or is cancelled; and goes on when it is started again.

use super::line::Connection;
use super::net::Net;
use super::site::{Debt, Order, Site};
use super::transfer::{Kind, Transfer};
use crate::client::image_name;
use crate::context::{SimPool, SimVolume};
use crate::manage::NOW_UNIX_S;
use crate::report::Count;
use blockyard_block::{Error, ErrorKind, Result};
use blockyard_transfer::{
    Account, Caller, Failed, Moved, Progress, Terms, give_up, pull, pull_lazily, push,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// A conversation, as whoever asked for it sees it.
pub(super) struct Watched {
    pub(super) site: Rc<Site>,
    pub(super) transfer: Option<Rc<Transfer>>,
    pub(super) moved: Cell<Moved>,
}

impl Watched {
    pub(super) fn new(site: &Rc<Site>, transfer: Option<&Rc<Transfer>>) -> Watched {
        Watched { site: Rc::clone(site), transfer: transfer.cloned(), moved: Cell::default() }
    }
}

impl Progress for Watched {
    fn moved(&self, moved: Moved) {
        self.moved.set(moved);
    }

    fn is_cancelled(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.cancelled.get())
    }

    fn is_stopping(&self) -> bool {
        self.site.stopping.get()
    }
}

pub(super) struct Job {
    pub(super) net: Rc<Net>,
    pub(super) site: Rc<Site>,
    pub(super) transfer: Rc<Transfer>,
}

/// What excuses that a conversation fails.
struct Excuses {
    processes: [u64; 2],
    connection: Option<Rc<Connection>>,
}

impl Job {
    /// `kept` is the order of a former process.
    pub(super) async fn run(self, kept: Option<Order>) {
        let _work = self.site.work();
        let again = kept.is_some();
        let source = match self.begin(kept).await {
            Ok(source) => source,
            Err(error) => {
                self.judge(&error, self.site.context.faulty.get());
                return self.end(true).await;
            }
        };
        match self.until_done(source.as_ref(), again).await {
            Ok(()) => self.end(false).await,
            Err(failed) if failed.cut && self.site.stopping.get() => {
                if let Some(source) = source {
                    source.leave(NOW_UNIX_S);
                }
            }
            Err(_) => self.end(true).await,
        }
    }

    async fn begin(&self, kept: Option<Order>) -> Result<Option<SimVolume>> {
        let pool = self.pool();
        let known = kept.and_then(|order| order.snapshot);
        let left = known.and_then(|id| pool.take_up_snapshot(id).ok());
        let source = match (left, self.transfer.kind) {
            (None, Kind::Push) => {
                let name = image_name(&self.transfer.source_name());
                Some(pool.hold_snapshot(&name, true, NOW_UNIX_S).await?)
            }
            (left, _) => left,
        };
        let number = self.transfer.number;
        let order = Order { transfer: number, snapshot: source.as_ref().map(|source| source.id()) };
        self.site
            .orders
            .change(&self.site, |list| {
                list.retain(|other| other.transfer != number);
                list.push(order);
            })
            .await?;
        if self.transfer.kind == Kind::Lazy {
            let (dependant, source) = (self.transfer.dependant, self.transfer.source_name());
            let debt = Debt { dependant, source };
            self.site
                .debts
                .change(&self.site, |list| {
                    if !list.iter().any(|debt| debt.dependant == dependant) {
                        list.push(debt);
                    }
                })
                .await?;
        }
        Ok(source)
    }

    async fn until_done(&self, source: Option<&SimVolume>, mut again: bool) -> Result<(), Failed> {
        let mut wait_ms = 100;
        loop {
            let excuses = self.excuses();
            let (done, connection) = self.once(source, again).await;
            let excused = self.is_excused(&Excuses { connection, ..excuses });
            again = true;
            let failed = match done {
                Ok(account) => {
                    self.net.trace(format_args!("{}: {account:?}", self.name()));
                    self.net.note(match self.transfer.kind {
                        Kind::Push => Count::Pushes,
                        Kind::Pull => Count::Pulls,
                        Kind::Lazy => Count::LazyPulls,
                    });
                    self.transfer.arrived(&self.net);
                    return Ok(());
                }
                Err(failed) => failed,
            };
            let cut = if failed.cut { "cut off" } else { "failed" };
            self.net.trace(format_args!("{}: {cut}: {}", self.name(), failed.error));
            if !failed.cut || self.transfer.cancelled.get() {
                self.judge(&failed.error, excused);
                return Err(failed);
            }
            if self.site.stopping.get() {
                return Err(failed);
            }
            if !excused {
                self.net.violated(format_args!(
                    "{} is cut off for no reason: {}",
                    self.name(),
                    failed.error
                ));
            }
            self.net.note(Count::TransfersCut);
            self.net.clock.sleep_ms(wait_ms).await;
            wait_ms = (2 * wait_ms).min(5_000);
            if self.site.stopping.get() || self.transfer.cancelled.get() {
                return Err(failed);
            }
        }
    }

    async fn once(
        &self,
        source: Option<&SimVolume>,
        again: bool,
    ) -> (Result<Account, Failed>, Option<Rc<Connection>>) {
        let (pool, transfer) = (self.pool(), &self.transfer);
        if transfer.kind == Kind::Lazy && self.is_shown() {
            // The one before this may not have got that far.
            let durable = pool.make_durable().await;
            return (durable.map(|()| Account::default()).map_err(Failed::from), None);
        }
        let (wire, connection) = match self.net.dial(self.site.index) {
            Ok(dialled) => dialled,
            Err(error) => return (Err(Failed::early(error, true)), None),
        };
        let progress = Watched::new(&self.site, Some(transfer));
        let terms = Terms {
            compress: self.net.one_in(2),
            rate: self.net.one_in(8).then_some(1 << 20),
            verify: !self.net.one_in(4),
            sample: false,
        };
        let caller = Caller {
            pool: &pool,
            terms,
            quote: false,
            again,
            now_unix_s: NOW_UNIX_S,
            progress: &progress,
        };
        let (from, to) = (transfer.source_name(), transfer.target_name());
        let (from, to) = (image_name(&from), image_name(&to));
        let done = match (transfer.kind, source) {
            (Kind::Push, Some(source)) => push(wire, &caller, source, &to).await,
            (Kind::Lazy, _) => {
                let origin = transfer.dependant.0.to_vec();
                pull_lazily(wire, &caller, &from, &to, transfer.dependant, origin).await
            }
            _ => pull(wire, &caller, &from, &to).await,
        };
        (done, Some(connection))
    }

    fn is_shown(&self) -> bool {
        let ours = |(_, origin): &(_, Vec<u8>)| *origin == self.transfer.dependant.0;
        self.pool().lazy_origins().iter().any(ours)
    }

    /// The order goes. Of one that failed nothing is to stay.
    async fn end(&self, failed: bool) {
        let number = self.transfer.number;
        let forgotten = self
            .site
            .orders
            .change(&self.site, |list| list.retain(|order| order.transfer != number))
            .await;
        if let Err(error) = forgotten {
            self.net.trace(format_args!("{}: its order stays: {error}", self.name()));
        }
        if failed {
            self.net.note(Count::TransfersFailed);
            self.leave_nothing().await;
        }
        self.transfer.ended.set(true);
    }

    async fn leave_nothing(&self) {
        let target = image_name(&self.transfer.target_name());
        if self.transfer.kind != Kind::Push {
            return self.pool().give_up_parts(&target);
        }
        let excuses = self.excuses();
        match self.net.dial(self.site.index) {
            Ok((wire, connection)) => {
                give_up(wire, &self.pool(), &target).await;
                if self.is_excused(&Excuses { connection: Some(connection), ..excuses }) {
                    self.transfer.part_may_stay.set(true);
                }
            }
            Err(_) => self.transfer.part_may_stay.set(true),
        }
    }

    fn pool(&self) -> Arc<SimPool> {
        self.site.context.pool()
    }

    fn name(&self) -> String {
        let (kind, to) = (self.transfer.kind, self.transfer.target_name());
        format!("{kind:?} of {} as {to}", self.transfer.source_name())
    }

    fn excuses(&self) -> Excuses {
        let processes = [0, 1].map(|site: usize| self.net.sites[site].process.get());
        Excuses { processes, connection: None }
    }

    fn is_excused(&self, excuses: &Excuses) -> bool {
        let crashed = self.excuses().processes != excuses.processes;
        let sites = &self.net.sites;
        let fails = sites.iter().any(|site| site.context.faulty.get() || site.stopping.get());
        let troubled = |connection: &Rc<Connection>| connection.troubled.get();
        crashed || fails || excuses.connection.as_ref().is_none_or(troubled)
    }

    /// One that fails for good needs a reason.
    fn judge(&self, error: &Error, excused: bool) {
        let by_kind = match error.kind() {
            // The source is not all there, or clusters are still to be hashed.
            ErrorKind::Busy => true,
            // It came before, and was written since.
            ErrorKind::Exists => self.transfer.shown.get(),
            ErrorKind::NotFound => self.transfer.source.borrow().disturbances > 0,
            _ => false,
        };
        if !excused && !by_kind && !self.transfer.cancelled.get() {
            self.net.violated(format_args!("{} failed for no reason: {error}", self.name()));
        }
    }
}
