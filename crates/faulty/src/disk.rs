//! One disk: its bytes, its record, its faults.

use crate::fault::{Effect, Kind, Rule};
use crate::memory::Memory;
use crate::random::Random;
use crate::timeline::{Change, Event, Timeline};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The errors that a disk answers with, by their number in NBD and Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
}

pub struct Disk {
    pub(crate) size: u64,
    number: usize,
    timeline: Arc<Timeline>,
    recording: AtomicBool,
    /// Held while one request is done and noted.
    memory: Mutex<Memory>,
    faults: Mutex<Faults>,
    /// Hung requests wait here.
    released: Condvar,
    /// How many requests have met a fault.
    met: AtomicU64,
    /// How many flushes came.
    flushes: AtomicU64,
}

struct Faults {
    rules: Vec<Rule>,
    random: Random,
    hung: u64,
    /// Grows with each release.
    releases: u64,
}

impl Disk {
    /// An empty disk, number `number` of those on the timeline.
    pub fn new(size: u64, number: usize, timeline: &Arc<Timeline>) -> Arc<Disk> {
        let random = Random::new(number as u64 + 1);
        Arc::new(Disk {
            size,
            number,
            timeline: Arc::clone(timeline),
            recording: AtomicBool::new(false),
            memory: Mutex::default(),
            faults: Mutex::new(Faults { rules: Vec::new(), random, hung: 0, releases: 0 }),
            released: Condvar::new(),
            met: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Records from now on; returns what is there already. Nobody may write during the call.
    pub fn record(&self) -> Memory {
        self.recording.store(true, Ordering::SeqCst);
        self.memory().clone()
    }

    /// Where a block of 4 KiB that starts with `bytes` lies.
    pub fn find(&self, bytes: &[u8]) -> Option<u64> {
        self.memory().find(bytes)
    }

    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// How many requests have met a fault.
    pub fn faults_met(&self) -> u64 {
        self.met.load(Ordering::SeqCst)
    }

    /// How many requests hang now.
    pub fn hung(&self) -> u64 {
        self.faults().hung
    }

    pub fn fail(&self, rule: Rule) {
        self.faults().rules.push(rule);
    }

    /// No more faults; what hangs is done now.
    pub fn heal(&self) {
        let mut faults = self.faults();
        faults.rules.clear();
        faults.releases += 1;
        self.released.notify_all();
    }

    /// What is to happen to a request.
    pub(crate) fn effect(&self, kind: Kind, bytes: &Range<u64>) -> Option<Effect> {
        let mut faults = self.faults();
        let Faults { rules, random, .. } = &mut *faults;
        for rule in rules.iter_mut().filter(|rule| rule.meets(kind, bytes)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.count > 0 && random.one_in(rule.one_in) {
                rule.count -= 1;
                self.met.fetch_add(1, Ordering::SeqCst);
                return Some(rule.effect);
            }
        }
        None
    }

    /// Returns when the disk is released.
    pub(crate) fn hang(&self) {
        let mut faults = self.faults();
        let before = faults.releases;
        faults.hung += 1;
        while faults.releases == before {
            faults = self.released.wait(faults).unwrap_or_else(PoisonError::into_inner);
        }
        faults.hung -= 1;
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory().read(offset, &mut bytes);
        bytes
    }

    pub(crate) fn change(&self, change: Change) {
        let mut memory = self.memory();
        match &change.data {
            Some(data) => memory.write(change.offset, data),
            None => memory.zero(change.offset, change.length),
        }
        if self.recording.load(Ordering::SeqCst) {
            self.timeline.push(Event::Write { disk: self.number, change });
        }
    }

    pub(crate) fn flush(&self) {
        let _memory = self.memory();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.recording.load(Ordering::SeqCst) {
            let covers = self.timeline.now();
            self.timeline.push(Event::Flush { disk: self.number, covers });
        }
    }

    /// No code that can panic leaves a half state under these locks.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
