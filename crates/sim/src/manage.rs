//! What clients do to images as a whole: create, copy, resize, rename, remove and import.
//!
//! Each such change is durable once answered. One that is refused must not have happened; one that
//! ends in an error of the storage may have.

use crate::client::{Client, Opened, give_up_after, image_name};
use crate::content::SECTOR;
use crate::model::{Change, SharedImage};
use crate::report::Count;
use blockyard_block::{Error, ErrorKind};
use blockyard_pool::ReclaimOptions;
use std::rc::Rc;

pub(crate) const NOW_UNIX_S: u64 = 1_800_000_000;

impl Client {
    pub(crate) async fn manage(&self) {
        let images = self.context.model.borrow().images.len() as u64;
        if images < self.context.scenario.images {
            return self.create().await;
        }
        let crowded = images > self.context.scenario.images + 4;
        let asks_reclaim = self.context.scenario.one_in_equal < 1_000 && self.context.one_in(4);
        match self.context.below(14) {
            _ if asks_reclaim => self.reclaim().await,
            _ if crowded => self.remove().await,
            0..=2 => self.copy(false).await,
            3 | 4 => self.copy(true).await,
            5 | 6 => self.remove().await,
            7 | 8 => self.resize().await,
            9 => self.rename().await,
            10 => self.import().await,
            11 | 12 if self.context.one_in(2) => self.receive_lazily().await,
            11 | 12 => self.receive().await,
            _ => self.create().await,
        }
    }

    /// Shares equal clusters while others write; now and then it is stopped or dropped half way.
    async fn reclaim(&self) {
        self.context.next_sequence();
        let options = ReclaimOptions {
            target_bytes: self.context.one_in(4).then(|| self.context.below(200) << 12),
            runs_min: if self.context.one_in(3) { 1 + self.context.below(6) } else { 1 },
            dry_run: self.context.one_in(12),
        };
        self.context.trace(format_args!("client {} {options:?}", self.number));
        let mut steps = if self.context.one_in(4) { self.context.below(8) } else { u64::MAX };
        let polls = if self.context.one_in(8) { self.context.below(30) } else { u64::MAX };
        let pool = self.context.pool();
        let work = pool.reclaim(options, |_| {
            steps = steps.saturating_sub(1);
            steps > 0
        });
        match give_up_after(polls, work).await {
            Some(Ok(account)) => {
                self.context.trace(format_args!("client {} has {account:?}", self.number));
                self.context.note(Count::Reclaims);
                self.context.totals.borrow_mut().note(Count::ClustersReclaimed, account.freed);
            }
            Some(Err(error)) => self.context.judge_error("reclaim", &error),
            None => self.context.trace(format_args!("client {} drops reclaim", self.number)),
        }
    }

    pub(crate) fn fresh_name(&self) -> String {
        format!("i{}", self.context.next_sequence())
    }

    fn any_size(&self) -> u64 {
        let sectors = self.context.scenario.image_size_max / SECTOR as u64;
        let unit = if self.context.one_in(2) { 8 } else { 1 };
        (1 + self.context.below(sectors)).next_multiple_of(unit) * SECTOR as u64
    }

    pub(crate) async fn create(&self) {
        let (name, size) = (self.fresh_name(), self.any_size());
        let image = self.context.model.borrow_mut().new_image(&name, size, true);
        let what = format!("client {} create {name} of {size} bytes", self.number);
        let start = self.begin(&what, Change::Create { image });
        let answer = self.context.pool().create_image(&image_name(&name), size, NOW_UNIX_S).await;
        self.conclude(&what, start, Count::Creations, answer.map(drop), None);
    }

    /// A snapshot, or a clone if it is to be writable.
    async fn copy(&self, writable: bool) {
        let Some(source) = self.any_image() else { return };
        let name = self.fresh_name();
        let (source_name, size) = (source.borrow().name.clone(), source.borrow().size);
        let image = self.context.model.borrow_mut().new_image(&name, size, writable);
        let (verb, count) =
            if writable { ("clone", Count::Clones) } else { ("snapshot", Count::Snapshots) };
        let what = format!("client {} {verb} {source_name} as {name}", self.number);
        source.borrow_mut().copies_in_flight += 1;
        let start = self.begin(&what, Change::Copy { source: Rc::clone(&source), image });
        let (pool, from, to) = (self.context.pool(), image_name(&source_name), image_name(&name));
        let answer = match writable {
            true => pool.clone_image(&from, &to, NOW_UNIX_S).await,
            false => pool.snapshot_image(&from, &to, NOW_UNIX_S).await,
        };
        source.borrow_mut().copies_in_flight -= 1;
        self.conclude(&what, start, count, answer.map(drop), Some(&source));
    }

    async fn remove(&self) {
        let Some(image) = self.any_image() else { return };
        self.remove_image(&image).await;
    }

    pub(crate) async fn remove_image(&self, image: &SharedImage) {
        self.context.next_sequence();
        let (name, force) = (image.borrow().name.clone(), self.context.one_in(2));
        let what = format!("client {} remove {name}, force {force}", self.number);
        image.borrow_mut().disturb();
        let start = self.begin(&what, Change::Remove { name: name.clone() });
        let answer = self.context.pool().remove_image(&image_name(&name), force).await;
        self.conclude_managed(&what, start, Count::Removals, answer, image);
    }

    async fn resize(&self) {
        let Some(image) = self.any_image() else { return };
        if image.borrow().copies_in_flight > 0 || !image.borrow().writable {
            return;
        }
        self.context.next_sequence();
        let (name, force) = (image.borrow().name.clone(), self.context.one_in(2));
        let size = self.any_size();
        let from = image.borrow().size;
        let what = format!("client {} resize {name}: {from} to {size}, force {force}", self.number);
        image.borrow_mut().disturb();
        let start = self.begin(&what, Change::Resize { name: name.clone(), size });
        let answer = self.context.pool().resize_image(&image_name(&name), size, force).await;
        self.conclude_managed(&what, start, Count::Resizes, answer, &image);
    }

    async fn rename(&self) {
        let Some(image) = self.any_image() else { return };
        let (name, new, force) =
            (image.borrow().name.clone(), self.fresh_name(), self.context.one_in(2));
        let what = format!("client {} rename {name} to {new}, force {force}", self.number);
        image.borrow_mut().disturb();
        let change = Change::Rename { name: name.clone(), new: new.clone() };
        let start = self.begin(&what, change);
        let pool = self.context.pool();
        let answer = pool.rename_image(&image_name(&name), &image_name(&new), force).await;
        self.conclude_managed(&what, start, Count::Renames, answer, &image);
    }

    /// Fills a hidden image and reveals it, or drops it half way.
    async fn import(&self) {
        let (name, size) = (self.fresh_name(), self.any_size());
        let what = format!("client {} import {name} of {size} bytes", self.number);
        self.context.trace(&what);
        let pool = self.context.pool();
        let volume = match pool.begin_import(&image_name(&name), size, NOW_UNIX_S).await {
            Ok(volume) => volume,
            Err(error) => return self.context.judge_error(what, &error),
        };
        let image = self.context.model.borrow_mut().new_image(&name, size, true);
        let opened = Opened::new(image, volume);
        for _ in 0..self.context.below(6) {
            self.write(&opened).await;
        }
        if self.context.one_in(3) {
            return self.context.trace(format_args!("{what}: dropped"));
        }
        let Opened { image, volume, .. } = opened;
        let start = self.begin(&what, Change::Create { image: Rc::clone(&image) });
        image.borrow_mut().flushed(start);
        let answer = pool.reveal_import(volume).await;
        self.conclude(&what, start, Count::Imports, answer.map(drop), None);
    }

    pub(crate) fn begin(&self, what: &str, change: Change) -> u64 {
        self.context.trace(what);
        self.context.model.borrow_mut().begin_change(change)
    }

    fn conclude_managed(
        &self,
        what: &str,
        start: u64,
        count: Count,
        answer: Result<(), Error>,
        image: &SharedImage,
    ) {
        let known = answer.as_ref().err().is_none_or(|error| self.is_refusal(error));
        if !matches!(&answer, Err(error) if error.kind() == ErrorKind::Busy) {
            self.conclude(what, start, count, answer, None);
        } else {
            self.context.trace(format_args!("busy: {what}"));
            self.context.model.borrow_mut().refuse_change(start);
        }
        image.borrow_mut().managed = !known;
    }

    /// `source` is an image whose removal or renaming excuses a failure.
    pub(crate) fn conclude(
        &self,
        what: &str,
        start: u64,
        count: Count,
        answer: Result<(), Error>,
        source: Option<&SharedImage>,
    ) {
        match answer {
            Ok(()) => {
                self.context.trace(format_args!("done: {what}"));
                self.context.note(count);
                self.context.model.borrow_mut().accept_change(start);
            }
            Err(error) if is_lazy(&error) => {
                self.context.trace(format_args!("{what}: {error}"));
                self.context.model.borrow_mut().refuse_change(start);
            }
            Err(error) => {
                let excused = source.is_some_and(|source| source.borrow().disturbances > 0);
                if excused && error.kind() == ErrorKind::NotFound {
                    self.context.trace(format_args!("{what} failed: {error}"));
                } else {
                    self.context.judge_error(what, &error);
                }
                if self.is_refusal(&error) {
                    self.context.model.borrow_mut().refuse_change(start);
                }
            }
        }
    }

    /// Whether an error promises that the change did not happen.
    fn is_refusal(&self, error: &Error) -> bool {
        let by_kind = matches!(
            error.kind(),
            ErrorKind::NoSpace
                | ErrorKind::Exists
                | ErrorKind::NotFound
                | ErrorKind::Busy
                | ErrorKind::InvalidArgument
        );
        by_kind && !self.context.faulty.get() || error.kind() == ErrorKind::Busy
    }
}

/// Some things cannot be done to an image that is not all there.
fn is_lazy(error: &Error) -> bool {
    error.kind() == ErrorKind::Busy && error.message().contains("is not all here yet")
}
