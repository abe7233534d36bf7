//! Random lives of a store: commits and checkpoints side by side, faults, kills and power cuts.
//! `BLOCKYARD_STORE_SEED=n` replays one seed, `BLOCKYARD_STORE_SEEDS=n` runs that many.

use super::basics::{POOL, inspect, open};
use super::memory::{Fault, MemoryDirectory, Random, run, run_together};
use super::model::{Verdict, Writer, ensure};
use crate::store::{Store, StoreOptions, StoreStats};
use blockyard_block::ErrorKind;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;

/// What the seeds went through, so that a test that tests nothing is noticed.
#[derive(Default, Debug)]
struct Tally {
    power_cuts: u64,
    kills: u64,
    torn_tails: u64,
    wraps: u64,
    checkpoints: u64,
    checkpoints_failed: u64,
    deaths: u64,
    opens_failed: u64,
    abandoned: u64,
    replayed: u64,
}

struct Run<'a> {
    random: Random,
    directory: MemoryDirectory,
    options: StoreOptions,
    writers: Vec<Writer>,
    epoch: u64,
    /// The last thing done was a clean close. (One that failed may be on the medium or not.)
    closed_clean: bool,
    tally: &'a mut Tally,
}

fn random_options(random: &mut Random) -> StoreOptions {
    StoreOptions {
        segment_bytes: [16 << 10, 20 << 10, 32 << 10][random.below(3) as usize],
        segments: 4 + random.below(3) as u32,
        part_bytes_target: [4 << 10, 8 << 10, 20 << 10][random.below(3) as usize],
    }
}

fn run_seed(seed: u64, syncs_ignored: bool, tally: &mut Tally) -> Verdict {
    let mut random = Random(seed);
    let directory = MemoryDirectory::new(random.next());
    if syncs_ignored {
        directory.ignore_syncs();
    }
    let options = random_options(&mut random);
    let ids = [5, 60, 400][random.below(3) as usize];
    let writers = (0..3).map(|kind| Writer::new(kind, ids)).collect();
    let mut run = Run { random, directory, options, writers, epoch: 0, closed_clean: false, tally };
    run.create()?;
    for _ in 0..6 {
        run.live_once()?;
    }
    Ok(())
}

impl Run<'_> {
    fn create(&mut self) -> Verdict {
        loop {
            self.maybe_fault(60);
            let created = run(Store::create(&self.directory, POOL, &self.options));
            if created.is_ok() {
                self.directory.clear_fault();
                return Ok(());
            }
            self.crash();
            let exists = run(Store::exists(&self.directory))
                .map_err(|error| format!("half-made store: {error}"))?;
            if exists {
                return Ok(());
            }
        }
    }

    fn maybe_fault(&mut self, range: u64) {
        if self.random.one_in(2) {
            let after = self.random.below(range);
            let faults = [Fault::Eio, Fault::Enospc, Fault::PowerCut];
            self.directory.set_fault(after, faults[self.random.below(3) as usize]);
        }
    }

    /// The process ends without a word, or the machine does.
    fn crash(&mut self) {
        if self.directory.is_dark() || self.random.one_in(2) {
            self.tally.power_cuts += 1;
            self.directory.power_cut();
        } else {
            self.tally.kills += 1;
            self.directory.clear_fault();
        }
    }

    fn live_once(&mut self) -> Verdict {
        let store = self.reopen()?;
        self.closed_clean = false;
        for _ in 0..1 + self.random.below(3) {
            self.maybe_fault(200);
            self.work_together(&store)?;
            self.check_death(&store)?;
        }
        self.directory.clear_fault();
        if self.random.one_in(3) && !self.directory.is_dark() {
            self.closed_clean = run(store.vouch(true)).is_ok();
        }
        self.count(store.stats());
        drop(store);
        self.crash();
        Ok(())
    }

    /// Opens, through faults and crashes if need be, and compares.
    fn reopen(&mut self) -> Verdict<Store<MemoryDirectory>> {
        let mut tries = 0;
        loop {
            // A store whose making failed may show until the power goes; once opened, it is there.
            if self.epoch == 0 && matches!(run(Store::exists(&self.directory)), Ok(false)) {
                self.create()?;
            }
            let (before, inspected) =
                inspect(&self.directory).map_err(|error| format!("inspect: {error}"))?;
            tries += 1;
            if tries < 5 {
                self.maybe_fault(40);
            }
            let expected = self.directory.operations();
            match open(&self.directory) {
                Ok((store, recovery, found)) => {
                    self.directory.clear_fault();
                    ensure(found == inspected, || "inspect and open disagree".into())?;
                    ensure(recovery.epoch >= self.epoch, || "the epoch fell".into())?;
                    let is_clean = recovery.clean || !self.closed_clean || tries > 1;
                    ensure(is_clean, || "the clean close went unseen".into())?;
                    ensure(before.batch == recovery.batch, || "inspect wrote".into())?;
                    self.epoch = store.epoch();
                    self.tally.torn_tails += u64::from(recovery.torn_tail);
                    self.tally.replayed += recovery.batches_replayed;
                    for writer in &mut self.writers {
                        writer.settle(&found)?;
                    }
                    return Ok(store);
                }
                Err(error) => {
                    let possible = [ErrorKind::Io, ErrorKind::NoSpace].contains(&error.kind())
                        && self.directory.operations() > expected;
                    ensure(possible && tries < 5, || format!("open: {error}"))?;
                    self.tally.opens_failed += 1;
                    self.crash();
                }
            }
        }
    }

    /// Writers, a checkpointer and a voucher take turns; sometimes all are dropped half-way.
    fn work_together(&mut self, store: &Store<MemoryDirectory>) -> Verdict {
        self.directory.set_slow(self.random.one_in(2));
        let verdict = RefCell::new(Ok(()));
        let note = |result: Verdict| {
            if result.is_err() && verdict.borrow().is_ok() {
                *verdict.borrow_mut() = result;
            }
        };
        let note = &note;
        let mut futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        let active = 1 + self.random.below(3) as usize;
        for writer in self.writers.iter_mut().take(active) {
            let random = Random(self.random.next());
            futures.push(Box::pin(async move { note(write(writer, store, random).await) }));
        }
        let random = Random(self.random.next());
        futures.push(Box::pin(async move { note(keep_house(store, random).await) }));
        let turns = if self.random.one_in(4) { self.random.below(200) } else { u64::MAX };
        run_together(&mut self.random, futures, turns);
        self.tally.abandoned += u64::from(turns != u64::MAX);
        self.directory.set_slow(false);
        verdict.into_inner()
    }

    /// A dead store says so at once, always the same, and writes nothing.
    fn check_death(&mut self, store: &Store<MemoryDirectory>) -> Verdict {
        let Some(failure) = store.failure() else { return Ok(()) };
        self.tally.deaths += 1;
        let before = self.directory.operations();
        let key = crate::store::Key { kind: 200, id: 0 };
        let change = crate::store::Change { key, value: Some(vec![1]) };
        let errors = [
            run(store.commit(vec![change])).err(),
            run(store.checkpoint()).err(),
            run(store.vouch(true)).err(),
        ];
        for error in errors {
            let kind = error.map(|error| error.kind());
            ensure(kind == Some(failure.kind()), || format!("a dead store said {kind:?}"))?;
        }
        ensure(self.directory.operations() == before, || "a dead store wrote".into())
    }

    fn count(&mut self, stats: StoreStats) {
        self.tally.wraps += stats.log_wraps;
        self.tally.checkpoints += stats.checkpoints;
        self.tally.checkpoints_failed += stats.checkpoints_failed;
    }
}

async fn write(writer: &mut Writer, store: &Store<MemoryDirectory>, mut random: Random) -> Verdict {
    for _ in 0..random.below(40) {
        if !writer.commit(store, &mut random).await? {
            return Ok(());
        }
        if random.one_in(3) {
            writer.get(store, &mut random).await?;
        }
    }
    Ok(())
}

async fn keep_house(store: &Store<MemoryDirectory>, mut random: Random) -> Verdict {
    for _ in 0..random.below(20) {
        let result = match random.below(3) {
            0 => store.vouch(random.one_in(5)).await,
            1 if !store.needs_checkpoint() => Ok(()),
            _ => store.checkpoint().await,
        };
        if let Err(error) = result {
            let possible = [ErrorKind::Io, ErrorKind::NoSpace].contains(&error.kind());
            ensure(possible, || format!("housekeeping: {error}"))?;
        }
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_committed_batch_survives_any_crash_whole() {
    let mut tally = Tally::default();
    let seeds = match number("BLOCKYARD_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BLOCKYARD_STORE_SEEDS").unwrap_or(300),
    };
    let is_replay = seeds.end - seeds.start == 1;
    for seed in seeds {
        if let Err(what) = run_seed(seed, false, &mut tally) {
            panic!("{what}; replay with BLOCKYARD_STORE_SEED={seed}");
        }
    }
    println!("{tally:?}");
    let Tally { power_cuts, kills, torn_tails, wraps, checkpoints, .. } = tally;
    let Tally { checkpoints_failed, deaths, opens_failed, abandoned, replayed, .. } = tally;
    let first = [power_cuts, kills, torn_tails, wraps, checkpoints];
    let second = [checkpoints_failed, deaths, opens_failed, abandoned, replayed];
    let is_busy = first.iter().chain(&second).all(|count| *count > 0);
    assert!(is_replay || is_busy, "something never happened: {tally:?}");
}

#[test]
fn a_disk_that_ignores_syncs_is_noticed() {
    let mut tally = Tally::default();
    let noticed = (0..30).filter(|seed| run_seed(*seed, true, &mut tally).is_err()).count();
    assert!(noticed > 10, "only {noticed} of 30 seeds noticed");
}
