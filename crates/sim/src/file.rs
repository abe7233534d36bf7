//! One simulated file: what reads see, what is on the medium, and the changes between the two.
//!
//! The medium plus all unsynced changes in order is always what reads see, except after a failed
//! sync: then reads see more than will ever be durable. A power cut applies an arbitrary part of
//! the unsynced changes, so each 512-byte sector is the old one or any unsynced version of it.

use blockyard_block::CLUSTER_SIZE;
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

pub(crate) const PAGE: u64 = CLUSTER_SIZE as u64;
const SECTOR: usize = 512;

pub(crate) type Page = [u8; CLUSTER_SIZE];

/// A sparse array of pages. A missing page reads zero and takes no space.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    pub(crate) length: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// A completed change that no sync has made durable.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { first: u64, pages: Vec<Arc<Page>> },
    Length(u64),
    Allocate(Range<u64>),
    Punch(Range<u64>),
}

impl Change {
    fn pages_written(&self) -> u64 {
        match self {
            Change::Write { pages, .. } => pages.len() as u64,
            _ => 0,
        }
    }
}

/// How many page writes a crash tore or lost.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) torn: u64,
    pub(crate) lost: u64,
}

impl Pages {
    /// Pages that take space.
    pub(crate) fn count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Pages of the range that take no space yet.
    pub(crate) fn missing(&self, range: Range<u64>) -> u64 {
        let length = range.end.saturating_sub(range.start);
        length - self.pages.range(range).count() as u64
    }

    /// Copies whole pages from a page boundary on; the last one may be copied in part.
    pub(crate) fn copy_to(&self, offset: u64, target: &mut [u8]) {
        for (index, part) in target.chunks_mut(CLUSTER_SIZE).enumerate() {
            match self.pages.get(&(offset / PAGE + index as u64)) {
                Some(page) => part.copy_from_slice(&page[..part.len()]),
                None => part.fill(0),
            }
        }
    }

    pub(crate) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let page = self.pages.entry(offset / PAGE).or_insert_with(zero_page);
        Arc::make_mut(page)[(offset % PAGE) as usize] ^= 1 << (bit % 8);
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { first, pages } => {
                for (index, page) in (*first..).zip(pages) {
                    self.put(index, Arc::clone(page));
                }
            }
            Change::Length(length) => self.set_length(*length),
            Change::Allocate(range) => {
                let zeros = zero_page();
                for index in range.clone() {
                    self.pages.entry(index).or_insert_with(|| Arc::clone(&zeros));
                }
                self.length = self.length.max(range.end * PAGE);
            }
            Change::Punch(range) => {
                for index in range.clone() {
                    self.pages.remove(&index);
                }
            }
        }
    }

    /// Applies any part of the change: each page whole, not at all, or some of its sectors.
    fn apply_part(&mut self, change: &Change, rng: &mut Rng, losses: &mut Losses) {
        match change {
            Change::Write { first, pages } => {
                for (index, page) in (*first..).zip(pages) {
                    match rng.u8(0..4) {
                        0 => self.put(index, Arc::clone(page)),
                        1 => losses.lost += 1,
                        _ => {
                            let sectors = rng.u8(1..255);
                            let torn = self.torn(index, page, sectors);
                            self.put(index, torn);
                            losses.torn += 1;
                        }
                    }
                }
            }
            Change::Length(_) | Change::Allocate(_) => {
                if rng.bool() {
                    self.apply(change);
                }
            }
            Change::Punch(range) => {
                for index in range.clone().filter(|_| rng.bool()) {
                    self.pages.remove(&index);
                }
            }
        }
    }

    fn put(&mut self, index: u64, page: Arc<Page>) {
        self.pages.insert(index, page);
        self.length = self.length.max((index + 1) * PAGE);
    }

    /// The page with only the named sectors of `new` in it.
    fn torn(&self, index: u64, new: &Page, sectors: u8) -> Arc<Page> {
        let mut page = self.pages.get(&index).map_or([0; CLUSTER_SIZE], |old| **old);
        for sector in (0..8).filter(|sector| sectors & (1 << sector) != 0) {
            let bytes = sector * SECTOR..(sector + 1) * SECTOR;
            page[bytes.clone()].copy_from_slice(&new[bytes]);
        }
        Arc::new(page)
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.pages.split_off(&length.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(length / PAGE)) {
                Arc::make_mut(page)[(length % PAGE) as usize..].fill(0);
            }
        }
        self.length = length;
    }
}

fn zero_page() -> Arc<Page> {
    Arc::new([0; CLUSTER_SIZE])
}

/// A file with its cache, its medium and the difference.
#[derive(Debug)]
pub(crate) struct SimFile {
    /// The name it was created by; files are never renamed.
    pub(crate) name: String,
    pub(crate) view: Pages,
    durable: Pages,
    changes: VecDeque<Change>,
    /// Number of the first of `changes`; numbers count all changes ever made.
    first_change: u64,
    /// Changes below this number were reported complete to the engine.
    completed: u64,
    cache_lies: bool,
}

impl SimFile {
    pub(crate) fn new(name: &str) -> SimFile {
        SimFile {
            name: name.to_owned(),
            view: Pages::default(),
            durable: Pages::default(),
            changes: VecDeque::new(),
            first_change: 0,
            completed: 0,
            cache_lies: false,
        }
    }

    /// Makes a change visible; returns the number to report with [`SimFile::complete`].
    pub(crate) fn change(&mut self, change: Change) -> u64 {
        self.view.apply(&change);
        self.changes.push_back(change);
        self.last_change()
    }

    /// The number of the change that was made visible last.
    pub(crate) fn last_change(&self) -> u64 {
        self.first_change + self.changes.len() as u64
    }

    /// Makes any part of a change visible: it failed, or nobody waits for it any more.
    pub(crate) fn change_in_part(&mut self, change: Change, rng: &mut Rng) -> Losses {
        let mut losses = Losses::default();
        match change {
            Change::Write { first, pages } => {
                for (index, page) in (first..).zip(pages) {
                    self.write_in_part(index, page, rng, &mut losses);
                }
            }
            Change::Punch(range) => {
                for index in range.filter(|_| rng.bool()) {
                    self.change(Change::Punch(index..index + 1));
                }
            }
            change => {
                if rng.bool() {
                    self.change(change);
                }
            }
        }
        losses
    }

    fn write_in_part(&mut self, index: u64, page: Arc<Page>, rng: &mut Rng, losses: &mut Losses) {
        let page = match rng.u8(0..3) {
            0 => page,
            1 => return,
            _ => {
                losses.torn += 1;
                self.view.torn(index, &page, rng.u8(1..255))
            }
        };
        self.change(Change::Write { first: index, pages: vec![page] });
    }

    /// The engine has seen the completion of the change that got `number`, hence a sync must cover
    /// it and all before it.
    pub(crate) fn complete(&mut self, number: u64) {
        self.completed = self.completed.max(number);
    }

    /// What a sync submitted now must make durable.
    pub(crate) fn sync_point(&self) -> u64 {
        self.completed
    }

    /// Makes everything up to the sync point durable, and perhaps some more.
    pub(crate) fn sync(&mut self, sync_point: u64, rng: &mut Rng) {
        for change in self.take_synced(sync_point, rng) {
            self.durable.apply(&change);
        }
    }

    /// A failed sync: any part of what it covered reaches the medium, the rest never will, and the
    /// cache goes on showing it.
    pub(crate) fn fail_sync(&mut self, sync_point: u64, rng: &mut Rng) -> Losses {
        let mut losses = Losses::default();
        self.cache_lies = true;
        for change in self.take_synced(sync_point, rng) {
            if rng.u8(0..4) == 0 {
                self.durable.apply_part(&change, rng, &mut losses);
            }
        }
        losses
    }

    fn take_synced(&mut self, sync_point: u64, rng: &mut Rng) -> Vec<Change> {
        let all = self.changes.len() as u64;
        let must = sync_point.saturating_sub(self.first_change).min(all);
        let covered = if rng.bool() { must } else { rng.u64(must..=all) };
        self.first_change += covered;
        self.changes.drain(..covered as usize).collect()
    }

    /// Reads come from the medium again, except for what still waits to be written to it.
    pub(crate) fn drop_cache(&mut self) {
        if !self.cache_lies {
            return;
        }
        self.cache_lies = false;
        self.view = self.durable.clone();
        for change in &self.changes {
            self.view.apply(change);
        }
    }

    /// Each unsynced change is kept, lost or torn; what is left is all there is.
    pub(crate) fn cut_power(&mut self, rng: &mut Rng) -> Losses {
        let mut losses = Losses::default();
        let changes = std::mem::take(&mut self.changes);
        self.first_change += changes.len() as u64;
        self.completed = self.first_change;
        self.cache_lies = false;
        let mood = rng.u8(0..8);
        let kept = rng.usize(0..=changes.len());
        for (index, change) in changes.into_iter().enumerate() {
            match mood {
                0 => losses.lost += change.pages_written(),
                1 => self.durable.apply(&change),
                2 if index < kept => self.durable.apply(&change),
                2 => losses.lost += change.pages_written(),
                3 if index < kept => self.durable.apply_part(&change, rng, &mut losses),
                3 => self.durable.apply(&change),
                _ => self.durable.apply_part(&change, rng, &mut losses),
            }
        }
        self.view = self.durable.clone();
        losses
    }

    /// Rot: changes the medium and what reads see.
    pub(crate) fn flip_bit(&mut self, offset: u64, bit: u8) {
        self.view.flip_bit(offset, bit);
        self.durable.flip_bit(offset, bit);
    }
}
