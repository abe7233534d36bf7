//! What the clients of one run share: the pool, the model, what was found wrong, what was done.

use crate::handle::SimDirectory;
use crate::judge::find_equal;
use crate::lazy::Origin;
use crate::model::Model;
use crate::report::{Count, Totals};
use crate::scenario::Scenario;
use crate::world::SimWorld;
use blockyard_block::{Error, ErrorKind};
use blockyard_pool::{Pool, Volume};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) type SimPool = Pool<SimDirectory>;
pub(crate) type SimVolume = Volume<SimDirectory>;

pub(crate) struct Context {
    pub(crate) world: SimWorld,
    pub(crate) scenario: Scenario,
    pub(crate) model: RefCell<Model>,
    pub(crate) totals: RefCell<Totals>,
    pool: RefCell<Option<Arc<SimPool>>>,
    violation: RefCell<Option<String>>,
    /// Failures were injected since the last crash, so requests may fail.
    pub(crate) faulty: Cell<bool>,
    /// The pool is about to be closed: it may refuse requests.
    pub(crate) closing: Cell<bool>,
    /// Milliseconds of simulated time.
    pub(crate) now_ms: Cell<u64>,
    /// What the origins of lazy images have, by what names them.
    pub(crate) origins: RefCell<BTreeMap<Vec<u8>, Rc<Origin>>>,
    /// They are other pools, which may be out of reach.
    pub(crate) origins_apart: bool,
    /// Before each line of the trace.
    label: &'static str,
    verbose: bool,
    sequence: Cell<u64>,
    digest: Cell<u64>,
}

impl Context {
    pub(crate) fn new(world: &SimWorld, scenario: Scenario, verbose: bool) -> Context {
        Context {
            world: world.clone(),
            scenario,
            model: RefCell::default(),
            totals: RefCell::default(),
            pool: RefCell::default(),
            violation: RefCell::default(),
            faulty: Cell::new(false),
            closing: Cell::new(false),
            now_ms: Cell::new(0),
            origins: RefCell::default(),
            origins_apart: false,
            label: "",
            verbose,
            sequence: Cell::new(0),
            digest: Cell::new(0xCBF2_9CE4_8422_2325),
        }
    }

    /// One of several pools.
    pub(crate) fn of_site(
        world: &SimWorld,
        scenario: Scenario,
        verbose: bool,
        label: &'static str,
    ) -> Context {
        let alone = Context::new(world, scenario, verbose);
        Context { origins_apart: true, label, ..alone }
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.world.random_below(bound)
    }

    pub(crate) fn one_in(&self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn note(&self, count: Count) {
        self.totals.borrow_mut().note(count, 1);
    }

    /// The number of the next request.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.set(self.sequence.get() + 1);
        self.note(Count::Operations);
        self.sequence.get()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    pub(crate) fn set_pool(&self, pool: Option<Arc<SimPool>>) {
        *self.pool.borrow_mut() = pool;
    }

    /// The open pool. Clients exist only while one is open.
    pub(crate) fn pool(&self) -> Arc<SimPool> {
        let pool = self.pool.borrow();
        Arc::clone(pool.as_ref().expect("clients run only while a pool is open"))
    }

    pub(crate) fn pool_if_open(&self) -> Option<Arc<SimPool>> {
        self.pool.borrow().clone()
    }

    /// Tells what is done, if anyone listens, and adds it to the digest of the run.
    pub(crate) fn trace(&self, what: impl Display) {
        let what = what.to_string();
        let mix = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        self.digest.set(what.bytes().fold(self.digest.get(), mix));
        if self.verbose {
            println!("{:>8} ms  {}{what}", self.now_ms.get(), self.label);
        }
    }

    /// The same for two runs that did the same.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.get()
    }

    /// The first violation ends the run.
    pub(crate) fn violated(&self, what: impl Display) {
        self.trace(format_args!("VIOLATION {what}"));
        self.violation.borrow_mut().get_or_insert(what.to_string());
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub(crate) fn check(&self, what: Result<(), String>) {
        if let Err(what) = what {
            self.violated(what);
        }
    }

    /// Whether removed images still have space to give back: no request may fail for lack of it (I10).
    fn space_is_coming(&self) -> bool {
        let told = self.pool().inspect();
        !told.pages_to_sweep.is_empty() || !told.extents_to_sweep.is_empty()
    }

    /// When a write is refused for lack of space no two trusted clusters are equal (I10). Judged only if
    /// nothing was written since the refusal.
    fn judge_refusal(&self) {
        let counters = self.pool().counters();
        if counters.refused_at != Some(counters.hashes_published) || self.faulty.get() {
            return;
        }
        self.note(Count::RefusalsJudged);
        if let Some(equal) = find_equal(&self.pool().inspect(), &self.world) {
            self.violated(format_args!("refused for lack of space, though {equal:?} are equal"));
        }
    }

    /// Judges whether a request may fail like this.
    pub(crate) fn judge_error(&self, what: impl Display, error: &Error) {
        self.trace(format_args!("{what} failed: {error}"));
        let excused = match error.kind() {
            ErrorKind::NoSpace => {
                self.note(Count::NoSpace);
                self.judge_refusal();
                self.faulty.get() || self.scenario.is_tight() && !self.space_is_coming()
            }
            ErrorKind::Corrupt => false,
            ErrorKind::ShutDown if self.closing.get() => true,
            _ => self.faulty.get(),
        };
        if !excused {
            self.violated(format_args!("{what} failed without a reason: {error}"));
        }
    }
}
