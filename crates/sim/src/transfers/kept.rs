//! A short list in a file of the pool's directory, as the daemon has them: each change replaces the file, and is durable
//! before it counts. A crash, or a failure, in the midst leaves the old file or the new one.

use super::site::Site;
use blockyard_block::{Error, ErrorKind, Result};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;

pub(super) struct Kept<T> {
    file: RefCell<Vec<T>>,
    memory: RefCell<Vec<T>>,
    /// A change failed half way: it does not count, and the file may have it.
    unsure: Cell<bool>,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { file: RefCell::default(), memory: RefCell::default(), unsure: Cell::new(false) }
    }
}

impl<T: Clone + PartialEq> Kept<T> {
    /// A new process reads the file.
    pub(super) fn load(&self) {
        *self.memory.borrow_mut() = self.file.borrow().clone();
        self.unsure.set(false);
    }

    /// What a process that is started now would read.
    pub(super) fn on_disk(&self) -> Vec<T> {
        self.file.borrow().clone()
    }

    pub(super) fn list(&self) -> Vec<T> {
        self.memory.borrow().clone()
    }

    pub(super) async fn change(&self, site: &Site, change: impl FnOnce(&mut Vec<T>)) -> Result<()> {
        pause(site).await;
        let mut changed = self.list();
        change(&mut changed);
        if !self.unsure.get() && changed == self.list() {
            return Ok(());
        }
        let fails = site.context.faulty.get() && site.context.one_in(12);
        if !fails || site.context.one_in(2) {
            self.file.borrow_mut().clone_from(&changed);
        }
        self.unsure.set(fails);
        if fails {
            return Err(Error::new(ErrorKind::Io, "a list cannot be written"));
        }
        // Another task of this process sees what is on disk.
        *self.memory.borrow_mut() = changed;
        pause(site).await;
        Ok(())
    }
}

/// Lets others go first.
async fn pause(site: &Site) {
    let mut left = site.context.below(30);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
