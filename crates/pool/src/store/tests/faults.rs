//! One fixed life, with the Nth operation failing, for every N that there is.

use super::basics::{POOL, TINY, inspect, key, made, open, put};
use super::memory::{Fault, MemoryDirectory, Random, run};
use super::model::Writer;
use crate::store::Store;
use blockyard_block::{ErrorKind, Result};
use std::future::Future;
use std::task::{Context, Waker};

/// Makes a store if there is none, opens it, works, closes; stops at the first error of the log.
fn live(directory: &MemoryDirectory, writer: &mut Writer) -> Result<()> {
    if !run(Store::exists(directory))? {
        run(Store::create(directory, POOL, &TINY))?;
    }
    let (store, _, found) = open(directory)?;
    writer.settle(&found).unwrap();
    let mut random = Random(11);
    for round in 0..60 {
        let is_alive = run(writer.commit(&store, &mut random)).unwrap();
        if round % 20 == 19 {
            // What fails here without killing the store is tried again by later rounds.
            let _ = run(store.checkpoint());
        }
        if !is_alive || store.failure().is_some() {
            return Err(store.failure().unwrap());
        }
    }
    run(store.vouch(true))
}

/// Returns whether the fault came to pass.
fn one_fault(nth: u64, fault: Fault, cut_after: bool) -> bool {
    let directory = MemoryDirectory::new(nth);
    let mut writer = Writer::new(1, 30);
    directory.set_fault(nth, fault);
    let lived = live(&directory, &mut writer);
    let happened = directory.operations() > nth;
    let place = format!("{fault:?} at operation {nth}");
    match &lived {
        Ok(()) => assert!(!directory.is_dark(), "{place}: the power was gone"),
        Err(error) => {
            let kinds = [ErrorKind::Io, ErrorKind::NoSpace];
            assert!(happened && kinds.contains(&error.kind()), "{place}: {error}");
        }
    }
    directory.clear_fault();
    if cut_after || directory.is_dark() {
        directory.power_cut();
    }
    if run(Store::exists(&directory)).unwrap() {
        writer.settle(&inspect(&directory).unwrap().1).unwrap();
    }
    live(&directory, &mut writer).unwrap_or_else(|error| panic!("{place}: afterwards {error}"));
    directory.power_cut();
    let (_, recovery, found) = open(&directory).unwrap();
    assert!(recovery.clean, "{place}");
    writer.settle(&found).unwrap();
    happened
}

fn every_nth(fault: Fault) {
    for cut_after in [false, true] {
        let tried = (0..).take_while(|nth| one_fault(*nth, fault, cut_after)).count();
        assert!(tried > 150, "only {tried} operations failed");
    }
}

#[test]
fn an_io_error_at_any_operation_loses_nothing_acknowledged() {
    every_nth(Fault::Eio);
}

#[test]
fn a_full_file_system_at_any_operation_loses_nothing_acknowledged() {
    every_nth(Fault::Enospc);
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    every_nth(Fault::PowerCut);
}

#[test]
fn a_commit_that_failed_is_not_read_back() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"old")])).unwrap();
    directory.set_fault(1, Fault::Eio);
    run(store.commit(vec![put(1, b"new"), put(2, b"two")])).unwrap_err();
    assert_eq!(run(store.get(key(1))).unwrap(), Some(b"old".to_vec()));
    assert_eq!(run(store.get(key(2))).unwrap(), None);
}

#[test]
fn a_commit_dropped_while_it_writes_is_the_last_one() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    directory.set_slow(true);
    let before = directory.operations();
    let mut commit = Box::pin(store.commit(vec![put(1, b"one")]));
    let mut context = Context::from_waker(Waker::noop());
    while directory.operations() == before {
        assert!(commit.as_mut().poll(&mut context).is_pending());
    }
    drop(commit);
    let kind = |result: Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(run(store.commit(vec![put(2, b"two")])).map(|_| ())), ErrorKind::Io);
    assert_eq!(kind(run(store.checkpoint())), ErrorKind::Io);
    assert_eq!(directory.operations(), before + 1, "nothing more was written");
}

#[test]
fn a_checkpoint_dropped_at_any_moment_harms_nothing_or_kills_the_log() {
    for polls in 0..60 {
        let directory = made(&TINY);
        let (store, _, _) = open(&directory).unwrap();
        for id in 0..8 {
            run(store.commit(vec![put(id, &[1; 2000])])).unwrap();
        }
        directory.set_slow(true);
        let mut checkpoint = Box::pin(store.checkpoint());
        let mut context = Context::from_waker(Waker::noop());
        let is_done = (0..polls).any(|_| checkpoint.as_mut().poll(&mut context).is_ready());
        drop(checkpoint);
        directory.set_slow(false);
        if store.failure().is_none() {
            assert_eq!(store.stats().overlay_bytes > 0, !is_done);
            run(store.checkpoint()).unwrap();
            assert_eq!(store.stats().overlay_bytes, 0);
        }
        directory.power_cut();
        assert_eq!(open(&directory).unwrap().2.len(), 8);
    }
}
