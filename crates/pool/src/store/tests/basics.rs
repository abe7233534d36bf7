//! What `store` promises, one test for each promise.

use super::memory::{MemoryDirectory, run};
use crate::PoolId;
use crate::store::{Change, Key, Recovery, Store, StoreOptions};
use blockyard_block::{ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const POOL: PoolId = PoolId([7; 16]);

pub(super) const TINY: StoreOptions =
    StoreOptions { segment_bytes: 16 << 10, segments: 4, part_bytes_target: 4 << 10 };

pub(super) type Model = BTreeMap<Key, Vec<u8>>;

pub(super) fn key(id: u64) -> Key {
    Key { kind: (id % 3) as u8, id }
}

pub(super) fn put(id: u64, value: &[u8]) -> Change {
    Change { key: key(id), value: Some(value.to_vec()) }
}

pub(super) fn delete(id: u64) -> Change {
    Change { key: key(id), value: None }
}

pub(super) fn open(
    directory: &MemoryDirectory,
) -> Result<(Store<MemoryDirectory>, Recovery, Model)> {
    let mut found = Model::new();
    let mut last = None;
    let (store, recovery) =
        run(Store::open(Arc::new(directory.clone()), &mut |key, value: &[u8]| {
            assert!(last.replace(key) < Some(key), "records are visited in order");
            found.insert(key, value.to_vec());
            Ok(())
        }))?;
    assert_eq!(recovery.records, found.len() as u64);
    Ok((store, recovery, found))
}

pub(super) fn inspect(directory: &MemoryDirectory) -> Result<(Recovery, Model)> {
    let mut found = Model::new();
    let recovery = run(Store::inspect(directory, &mut |key, value: &[u8]| {
        found.insert(key, value.to_vec());
        Ok(())
    }))?;
    Ok((recovery, found))
}

pub(super) fn made(options: &StoreOptions) -> MemoryDirectory {
    let directory = MemoryDirectory::new(1);
    run(Store::create(&directory, POOL, options)).unwrap();
    directory
}

#[test]
fn what_was_committed_is_there_after_a_power_cut() {
    let directory = made(&TINY);
    let (store, recovery, found) = open(&directory).unwrap();
    assert_eq!((recovery.epoch, store.epoch(), found.len()), (0, 1, 0));
    run(store.commit(vec![put(1, b"one"), put(2, b"two")])).unwrap();
    run(store.commit(vec![delete(1), put(3, b"")])).unwrap();
    directory.power_cut();
    let (store, recovery, found) = open(&directory).unwrap();
    assert_eq!((recovery.epoch, store.epoch()), (1, 2));
    assert!(!recovery.clean);
    assert_eq!(found, Model::from([(key(2), b"two".to_vec()), (key(3), vec![])]));
    assert_eq!(run(store.get(key(2))).unwrap(), Some(b"two".to_vec()));
    assert_eq!(run(store.get(key(1))).unwrap(), None);
}

#[test]
fn a_checkpoint_keeps_every_record_and_drops_deleted_ones() {
    let directory = made(&TINY);
    let (store, _, mut model) = open(&directory).unwrap();
    for round in 0..60u64 {
        let id = round * 7 % 40;
        let value = vec![round as u8; 700];
        run(store.commit(vec![put(id, &value), delete(id + 1)])).unwrap();
        model.insert(key(id), value);
        model.remove(&key(id + 1));
        if store.needs_checkpoint() {
            run(store.checkpoint()).unwrap();
        }
    }
    run(store.checkpoint()).unwrap();
    let stats = store.stats();
    assert!(stats.parts > 1 && stats.log_wraps > 1 && stats.overlay_bytes == 0, "{stats:?}");
    for id in 0..45 {
        assert_eq!(run(store.get(key(id))).unwrap(), model.get(&key(id)).cloned());
    }
    drop(store);
    assert_eq!(inspect(&directory).unwrap().1, model);
    let (_, recovery, found) = open(&directory).unwrap();
    assert_eq!(found, model);
    assert_eq!(recovery.batches_replayed, 1, "only the manifest");
}

#[test]
fn a_full_log_makes_room_by_itself() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    for round in 0..200u64 {
        run(store.commit(vec![put(round % 10, &[round as u8; 5000])])).unwrap();
    }
    assert!(store.stats().checkpoints > 5);
    assert_eq!(open(&directory).unwrap().2.len(), 10);
}

#[test]
fn a_clean_close_is_reported_once() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"one")])).unwrap();
    run(store.vouch(false)).unwrap();
    let batches = store.stats().batches;
    run(store.vouch(false)).unwrap();
    assert_eq!(store.stats().batches, batches, "vouched for already");
    run(store.vouch(true)).unwrap();
    assert!(inspect(&directory).unwrap().0.clean);
    assert!(open(&directory).unwrap().1.clean);
    assert!(!open(&directory).unwrap().1.clean);
}

#[test]
fn a_batch_too_large_is_refused_and_nothing_else_happens() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    let most = store.batch_bytes_max();
    let fits = put(1, &vec![1; most - 13]);
    assert_eq!(fits.encoded_bytes(), most);
    run(store.commit(vec![fits.clone()])).unwrap();
    let error = run(store.commit(vec![fits, put(2, b"")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    run(store.commit(vec![put(2, b"two")])).unwrap();
    assert_eq!(open(&directory).unwrap().2.len(), 2);
}

#[test]
fn a_second_create_is_refused() {
    let directory = made(&TINY);
    let error = run(Store::create(&directory, POOL, &TINY)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(run(Store::exists(&directory)).unwrap());
    assert!(!run(Store::exists(&MemoryDirectory::new(1))).unwrap());
    let error = open(&MemoryDirectory::new(1)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn opening_again_and_again_never_fills_the_log() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"one")])).unwrap();
    drop(store);
    for round in 0..100 {
        let (_, recovery, found) = open(&directory).unwrap();
        assert!(found.len() == 1 && recovery.epoch > round, "{recovery:?}");
        if round % 3 == 0 {
            directory.power_cut();
        }
    }
}

#[test]
fn parts_that_nobody_names_are_removed_at_open_and_strangers_are_not() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"one")])).unwrap();
    run(store.checkpoint()).unwrap();
    drop(store);
    for name in ["checkpoint/000000000044", "checkpoint/notes"] {
        run(blockyard_io::Directory::create(&directory, name)).unwrap();
    }
    inspect(&directory).unwrap();
    assert_eq!(directory.names().len(), 4, "inspect removes nothing");
    open(&directory).unwrap();
    assert_eq!(directory.names(), ["checkpoint/000000000001", "checkpoint/notes", "log"]);
}
