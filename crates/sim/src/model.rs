//! The obvious model: for each sector of each image, every value it may have, and since when.
//!
//! A request is known from its start to its end; a value may be gone only if a later request is
//! certain to have replaced it. A read sees what was current at some moment of its own. After a kill
//! every acknowledged value stands; after a power cut only what a flush or FUA covered must.
//! Changes to the list of images are durable once answered; those unanswered happened or not.

mod image;
mod sector;

pub(crate) use image::{ImageModel, Ticket};
pub(crate) use sector::{Rule, Value, Version};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) type SharedImage = Rc<RefCell<ImageModel>>;

/// A change to the list of images that is not answered yet, or was answered with an error that
/// leaves open whether it happened.
#[derive(Clone)]
pub(crate) enum Change {
    Create {
        image: SharedImage,
    },
    /// A snapshot or clone of `source`, taken at some moment since the change began.
    Copy {
        source: SharedImage,
        image: SharedImage,
    },
    Remove {
        name: String,
    },
    Resize {
        name: String,
        size: u64,
    },
    Rename {
        name: String,
        new: String,
    },
}

/// All that is known about a pool's images.
#[derive(Default)]
pub(crate) struct Model {
    clock: u64,
    images_made: u64,
    pub(crate) images: BTreeMap<String, SharedImage>,
    /// By the time they began.
    changes: BTreeMap<u64, Change>,
    /// Requests and changes in flight, by the time they began.
    active: BTreeMap<u64, ()>,
}

impl Model {
    /// The present, later than everything before.
    pub(crate) fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A model of an image that is not in the list yet.
    pub(crate) fn new_image(&mut self, name: &str, size: u64, writable: bool) -> SharedImage {
        self.images_made += 1;
        Rc::new(RefCell::new(ImageModel::new(self.images_made, name, size, writable)))
    }

    /// Notes that something began; answers when.
    pub(crate) fn begin(&mut self) -> u64 {
        let start = self.now();
        self.active.insert(start, ());
        start
    }

    pub(crate) fn end(&mut self, start: u64) {
        self.active.remove(&start);
    }

    /// The start of the oldest thing in flight: nothing before it needs to be remembered for reads.
    pub(crate) fn oldest_active(&self) -> u64 {
        self.active.keys().next().copied().unwrap_or(self.clock)
    }

    pub(crate) fn begin_write(
        &mut self,
        image: &SharedImage,
        sectors: std::ops::Range<u64>,
        value: impl Fn(u64) -> Value,
    ) -> Ticket {
        let start = self.begin();
        let oldest = self.oldest_active();
        image.borrow_mut().begin_write(start, sectors, oldest, value)
    }

    /// `durable` says that the answer was success and promised durability (FUA).
    pub(crate) fn end_write(
        &mut self,
        image: &SharedImage,
        ticket: Ticket,
        done: bool,
        durable: bool,
    ) {
        let now = self.now();
        self.end(ticket.start);
        image.borrow_mut().end_write(&ticket, now, done, durable);
    }

    pub(crate) fn begin_change(&mut self, change: Change) -> u64 {
        let start = self.begin();
        self.changes.insert(start, change);
        start
    }

    /// The change was refused and did not happen.
    pub(crate) fn refuse_change(&mut self, start: u64) {
        self.changes.remove(&start);
        self.end(start);
    }

    /// The change happened and is durable.
    pub(crate) fn accept_change(&mut self, start: u64) {
        let now = self.now();
        let change = self.changes.remove(&start);
        self.end(start);
        if let Some(change) = change {
            self.apply(start, now, change);
        }
    }

    fn apply(&mut self, start: u64, now: u64, change: Change) {
        match change {
            Change::Create { image } => self.add(image),
            Change::Copy { source, image } => {
                let versions = source.borrow().candidates(start, now);
                image.borrow_mut().start_with(versions);
                self.add(image);
            }
            Change::Remove { name } => {
                if let Some(image) = self.images.remove(&name) {
                    image.borrow_mut().removed = true;
                }
            }
            Change::Resize { name, size } => {
                if let Some(image) = self.images.get(&name) {
                    image.borrow_mut().resize(size);
                }
            }
            Change::Rename { name, new } => {
                if let Some(image) = self.images.remove(&name) {
                    image.borrow_mut().name.clone_from(&new);
                    self.images.insert(new, image);
                }
            }
        }
    }

    fn add(&mut self, image: SharedImage) {
        let name = image.borrow().name.clone();
        self.images.insert(name, image);
    }

    /// After a crash: decides by the list of images the pool shows which open changes happened.
    /// Values are judged afterwards, image by image.
    pub(crate) fn settle_changes(&mut self, listed: &BTreeMap<String, u64>) {
        let now = self.now();
        for (start, change) in std::mem::take(&mut self.changes) {
            let happened = match &change {
                Change::Create { image } | Change::Copy { image, .. } => {
                    listed.contains_key(&image.borrow().name)
                }
                Change::Remove { name } => !listed.contains_key(name),
                Change::Resize { name, size } => listed.get(name) == Some(size),
                Change::Rename { new, .. } => listed.contains_key(new),
            };
            if happened {
                self.apply(start, now, change);
            }
        }
        self.active.clear();
    }
}

#[cfg(test)]
mod tests;
