//! One of the two machines, over all its crashes: its pool and model, and the lists its daemon keeps.

use super::kept::Kept;
use super::net::Net;
use crate::context::Context;
use blockyard_block::ImageId;
use blockyard_transfer::{DependantId, LetGo};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

/// A transfer that was asked for here and has not ended.
#[derive(Clone, PartialEq)]
pub(super) struct Order {
    /// Its place in the list of all.
    pub(super) transfer: usize,
    /// What is sent, of a push.
    pub(super) snapshot: Option<ImageId>,
}

/// The other side keeps something for an image here.
#[derive(Clone, PartialEq)]
pub(super) struct Debt {
    pub(super) dependant: DependantId,
    pub(super) source: String,
}

/// Something is kept here for an image of the other side.
#[derive(Clone, PartialEq)]
pub(super) struct Dependant {
    pub(super) id: DependantId,
    pub(super) source: String,
    pub(super) snapshot: ImageId,
}

pub(super) struct Site {
    pub(super) index: usize,
    pub(super) context: Rc<Context>,
    pub(super) orders: Kept<Order>,
    pub(super) debts: Kept<Debt>,
    pub(super) dependants: Kept<Dependant>,
    /// Calls are answered.
    pub(super) serves: Cell<bool>,
    /// The daemon is about to end.
    pub(super) stopping: Cell<bool>,
    /// The number of the process; a crash ends it.
    pub(super) process: Cell<u64>,
    pub(super) let_go: RefCell<LetGo>,
    /// A dependant comes or goes.
    pub(super) changing: Cell<bool>,
    /// Jobs and conversations that go on.
    pub(super) busy: Cell<u64>,
    pub(super) filling: RefCell<BTreeSet<ImageId>>,
}

impl Site {
    pub(super) fn new(index: usize, context: Rc<Context>) -> Site {
        Site {
            index,
            context,
            orders: Kept::default(),
            debts: Kept::default(),
            dependants: Kept::default(),
            serves: Cell::new(false),
            stopping: Cell::new(false),
            process: Cell::new(0),
            let_go: RefCell::default(),
            changing: Cell::new(false),
            busy: Cell::new(0),
            filling: RefCell::default(),
        }
    }

    /// What only the memory of a process had.
    pub(super) fn begin_process(&self) {
        self.process.set(self.process.get() + 1);
        self.serves.set(false);
        self.stopping.set(false);
        *self.let_go.borrow_mut() = LetGo::default();
        self.changing.set(false);
        self.context.closing.set(false);
        self.busy.set(0);
        self.filling.borrow_mut().clear();
        self.orders.load();
        self.debts.load();
        self.dependants.load();
    }

    /// Waits until no dependant comes or goes; then none does until this is dropped.
    pub(super) async fn change_dependants(self: &Rc<Self>, net: &Net) -> Changing {
        while self.changing.get() {
            net.clock.sleep_ms(1 + net.below(5)).await;
        }
        self.changing.set(true);
        Changing { site: Rc::clone(self), process: self.process.get() }
    }

    /// Counts one more until this is dropped.
    pub(super) fn work(self: &Rc<Self>) -> Work {
        self.busy.set(self.busy.get() + 1);
        Work { site: Rc::clone(self), process: self.process.get() }
    }
}

pub(super) struct Changing {
    site: Rc<Site>,
    process: u64,
}

impl Drop for Changing {
    fn drop(&mut self) {
        if self.process == self.site.process.get() {
            self.site.changing.set(false);
        }
    }
}

pub(super) struct Work {
    site: Rc<Site>,
    process: u64,
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.process == self.site.process.get() {
            self.site.busy.set(self.site.busy.get() - 1);
        }
    }
}
