//! What both machines and the line share: time, the dice, and what is to be started where.

use super::clock::SimClock;
use super::line::{Connection, connect};
use super::site::Site;
use super::transfer::Transfer;
use crate::report::{Count, Totals};
use crate::world::SimWorld;
use blockyard_block::{Error, ErrorKind, Result};
use blockyard_transfer::Wire;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Where tasks run: on one of the two machines, or between them.
pub(super) const LINE: usize = 2;

pub(super) struct Net {
    pub(super) dice: SimWorld,
    pub(super) clock: SimClock,
    pub(super) sites: [Rc<Site>; 2],
    pub(super) transfers: RefCell<Vec<Rc<Transfer>>>,
    /// Nothing bad happens any more.
    pub(super) calm: Cell<bool>,
    /// A machine whose power is cut at the next step.
    pub(super) loses_power: Cell<Option<usize>>,
    /// Tasks that nobody runs yet.
    starting: RefCell<VecDeque<(usize, Task)>>,
    /// Calls that nobody answers yet: at which machine.
    calls: RefCell<VecDeque<(usize, Wire)>>,
    totals: RefCell<Totals>,
    violation: RefCell<Option<String>>,
    verbose: bool,
}

impl Net {
    pub(super) fn new(dice: SimWorld, sites: [Rc<Site>; 2], verbose: bool) -> Net {
        Net {
            dice,
            clock: SimClock::default(),
            sites,
            transfers: RefCell::default(),
            calm: Cell::new(true),
            loses_power: Cell::new(None),
            starting: RefCell::default(),
            calls: RefCell::default(),
            totals: RefCell::default(),
            violation: RefCell::default(),
            verbose,
        }
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.dice.random_below(bound)
    }

    pub(super) fn one_in(&self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(super) fn note(&self, count: Count) {
        self.totals.borrow_mut().note(count, 1);
    }

    pub(super) fn note_times(&self, count: Count, times: u64) {
        self.totals.borrow_mut().note(count, times);
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals.borrow().clone()
    }

    pub(super) fn trace(&self, what: impl Display) {
        if self.verbose {
            println!("{:>8} ms  -- {what}", self.clock.now_ms());
        }
    }

    pub(super) fn violated(&self, what: impl Display) {
        self.trace(format_args!("VIOLATION {what}"));
        self.violation.borrow_mut().get_or_insert(what.to_string());
    }

    pub(super) fn violation(&self) -> Option<String> {
        let own = self.violation.borrow().clone();
        own.or_else(|| self.sites.iter().find_map(|site| site.context.violation()))
    }

    /// Runs a task at one of the three places, from some step on.
    pub(super) fn start(&self, place: usize, task: impl Future<Output = ()> + 'static) {
        self.starting.borrow_mut().push_back((place, Box::pin(task)));
    }

    pub(super) fn next_task(&self) -> Option<(usize, Task)> {
        self.starting.borrow_mut().pop_front()
    }

    pub(super) fn next_call(&self) -> Option<(usize, Wire)> {
        self.calls.borrow_mut().pop_front()
    }

    /// What was to be started or answered by a process that is gone.
    pub(super) fn forget_process(&self, site: usize) {
        self.starting.borrow_mut().retain(|(place, _)| *place != site);
        self.calls.borrow_mut().retain(|(place, _)| *place != site);
    }

    /// Calls the other machine.
    pub(super) fn dial(self: &Rc<Net>, from: usize) -> Result<(Wire, Rc<Connection>)> {
        let to = 1 - from;
        if !self.sites[to].serves.get() || !self.calm.get() && self.one_in(20) {
            return Err(Error::new(ErrorKind::Io, "the peer cannot be reached"));
        }
        let (ours, theirs, connection, tasks) = connect(self);
        tasks.into_iter().for_each(|task| self.start(LINE, task));
        self.calls.borrow_mut().push_back((to, theirs));
        Ok((ours, connection))
    }
}
