//! One image that moves, as the model sees it: what the target may hold is what the source held at some moment since it was
//! asked for, sector by sector.

use super::net::Net;
use super::site::Site;
use crate::model::{Change, SharedImage, Value, Version};
use crate::report::Count;
use blockyard_transfer::{DependantId, Moved};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Push,
    Pull,
    Lazy,
}

/// Of several clusters of one content the first is tried, and a client may be changing it: then it is asked for.
const AGAIN_MAX: u64 = 8;

/// What a call that was cut off left at the target.
struct Came {
    at: u64,
    /// Both processes must be the same, or it may be lost, or be of another snapshot.
    processes: [u64; 2],
    /// Clusters that have not come.
    missing: u64,
}

type Sectors = BTreeMap<u64, Vec<Version>>;

pub(super) struct Transfer {
    pub(super) number: usize,
    pub(super) kind: Kind,
    /// The machine that has the image, and the one that gets it.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) source: SharedImage,
    pub(super) image: SharedImage,
    pub(super) dependant: DependantId,
    /// The user wants it no more.
    pub(super) cancelled: Cell<bool>,
    /// Its order is gone.
    pub(super) ended: Cell<bool>,
    /// The target is there, for good.
    pub(super) shown: Cell<bool>,
    /// What came of it may lie at the target: nobody could tell it to forget it.
    pub(super) part_may_stay: Cell<bool>,
    /// What calls brought so far.
    came: RefCell<Option<Came>>,
    events: Cell<u64>,
    /// Since when the source is watched.
    window: Cell<Option<u64>>,
    seen: RefCell<Option<Sectors>>,
    /// That the target may show, in the model of its machine.
    change: Cell<Option<u64>>,
}

impl Transfer {
    pub(super) fn new(
        number: usize,
        kind: Kind,
        from: usize,
        source: &SharedImage,
        image: SharedImage,
        dependant: DependantId,
    ) -> Transfer {
        image.borrow_mut().lazy = kind == Kind::Lazy;
        Transfer {
            number,
            kind,
            from,
            to: 1 - from,
            source: Rc::clone(source),
            image,
            dependant,
            cancelled: Cell::new(false),
            ended: Cell::new(false),
            shown: Cell::new(false),
            part_may_stay: Cell::new(false),
            came: RefCell::default(),
            events: Cell::new(0),
            window: Cell::new(None),
            seen: RefCell::default(),
            change: Cell::new(None),
        }
    }

    pub(super) fn caller(&self) -> usize {
        if self.kind == Kind::Push { self.from } else { self.to }
    }

    pub(super) fn source_name(&self) -> String {
        self.source.borrow().name.clone()
    }

    pub(super) fn target_name(&self) -> String {
        self.image.borrow().name.clone()
    }

    /// A number that grows.
    pub(super) fn event(&self) -> u64 {
        self.events.set(self.events.get() + 1);
        self.events.get()
    }

    /// All has to come again.
    pub(super) fn drops_what_came(&self) {
        self.came.take();
    }

    /// A call that began at the event `since` was answered, and so far it came. What an earlier one brought must not have
    /// come again.
    pub(super) fn has_come(&self, net: &Net, since: u64, moved: Moved) {
        if moved.total == 0 {
            return;
        }
        let processes = [0, 1].map(|site: usize| net.sites[site].process.get());
        let before = self.came.take();
        if let Some(before) = before
            && before.at < since
            && before.processes == processes
        {
            net.note(Count::Continued);
            if moved.total > before.missing + AGAIN_MAX {
                net.violated(format_args!(
                    "{}: {} clusters are asked for, though all but {} had come",
                    self.target_name(),
                    moved.total,
                    before.missing
                ));
            }
        }
        let missing = moved.total - moved.done;
        *self.came.borrow_mut() = Some(Came { at: self.event(), processes, missing });
    }

    /// What is written to the source from now on may come, too.
    pub(super) fn watch_source(&self, from: &Site) {
        if !self.shown.get() && self.window.get().is_none() {
            self.window.set(Some(from.context.model.borrow_mut().begin()));
        }
    }

    /// The target may show from now on.
    pub(super) fn expect_target(&self, to: &Site) {
        if !self.shown.get() && self.change.get().is_none() {
            let change = Change::Create { image: Rc::clone(&self.image) };
            self.change.set(Some(to.context.model.borrow_mut().begin_change(change)));
        }
    }

    /// Notes what the source may have held so far.
    fn look_at_source(&self, from: &Site) {
        let Some(start) = self.window.get() else { return };
        let now = from.context.model.borrow_mut().now();
        let found = self.source.borrow().candidates(start, now);
        let mut seen = self.seen.borrow_mut();
        match &mut *seen {
            None => *seen = Some(found),
            Some(seen) => merge(seen, found),
        }
    }

    /// The source's machine crashes: what its image holds afterwards is another matter.
    pub(super) fn source_crashes(&self, from: &Site) {
        self.look_at_source(from);
        self.window.set(None);
    }

    /// The target's machine was started again and has not looked what it has.
    pub(super) fn target_is_back(&self, net: &Net) {
        self.change_is_gone();
        if !self.shown.get() {
            self.prepare(net);
            self.expect_target(&net.sites[self.to]);
        }
    }

    fn change_is_gone(&self) {
        self.change.set(None);
    }

    fn prepare(&self, net: &Net) {
        self.look_at_source(&net.sites[self.from]);
        let seen = self.seen.borrow().clone().unwrap_or_default();
        self.image.borrow_mut().start_with(seen);
    }

    /// The target's machine has looked.
    pub(super) fn target_was_verified(&self, net: &Net) {
        if self.shown.get() {
            return;
        }
        let to = &net.sites[self.to];
        self.change_is_gone();
        if to.context.model.borrow().images.contains_key(&self.target_name()) {
            self.shown.set(true);
            self.unwatch(net);
        } else {
            self.expect_target(to);
        }
    }

    /// The target is there, durably.
    pub(super) fn arrived(&self, net: &Net) {
        if self.shown.get() {
            return;
        }
        // If that machine is down, its list of images tells when it is back.
        let Some(change) = self.change.take() else { return };
        net.trace(format_args!("{} is there", self.target_name()));
        self.prepare(net);
        net.sites[self.to].context.model.borrow_mut().accept_change(change);
        self.shown.set(true);
        self.unwatch(net);
    }

    /// It does not come.
    pub(super) fn does_not_come(&self, net: &Net) {
        if let Some(change) = self.change.take() {
            net.sites[self.to].context.model.borrow_mut().refuse_change(change);
        }
        self.unwatch(net);
    }

    fn unwatch(&self, net: &Net) {
        if let Some(start) = self.window.take() {
            net.sites[self.from].context.model.borrow_mut().end(start);
        }
    }
}

/// Adds what was possible at another time; a sector that is not there is zero.
fn merge(seen: &mut Sectors, found: Sectors) {
    let zeros = || vec![Version::old(Value::ZEROS)];
    for (sector, versions) in seen.iter_mut() {
        let others = found.get(sector).cloned().unwrap_or_else(zeros);
        for other in others {
            if !versions.iter().any(|version| version.value == other.value) {
                versions.push(other);
            }
        }
    }
    for (sector, mut versions) in found {
        seen.entry(sector).or_insert_with(|| {
            versions.extend(zeros());
            versions
        });
    }
}
