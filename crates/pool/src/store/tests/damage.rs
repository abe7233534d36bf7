//! Flipped bits, cut files and foreign files: an error or the same records, never others.

use super::basics::{Model, POOL, TINY, delete, inspect, made, open, put};
use super::memory::{MemoryDirectory, Random, run};
use crate::PoolId;
use crate::store::batch::{BatchHeader, Kind};
use crate::store::header::LogHeader;
use crate::store::manifest::Manifest;
use crate::store::record::Reader;
use crate::store::{FORMAT_VERSION, Store};
use blockyard_block::ErrorKind;

/// A store with parts, batches on top of them, and a mark that vouches for the last.
fn filled() -> (MemoryDirectory, Model) {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    for id in 0..20 {
        run(store.commit(vec![put(id, &[id as u8; 300])])).unwrap();
    }
    run(store.checkpoint()).unwrap();
    run(store.commit(vec![put(3, b"newer"), delete(4)])).unwrap();
    run(store.commit(vec![put(100, &[9; 5000])])).unwrap();
    run(store.vouch(true)).unwrap();
    drop(store);
    let model = inspect(&directory).unwrap().1;
    assert_eq!(model.len(), 20);
    (directory, model)
}

fn flip(directory: &MemoryDirectory, name: &str, at: usize, bit: u8) {
    directory.with_bytes(name, |bytes| bytes[at] ^= 1 << bit);
}

#[test]
fn a_flipped_bit_never_changes_what_is_read() {
    let (directory, model) = filled();
    let mut refused = 0;
    for name in directory.names() {
        let length = directory.with_bytes(&name, |bytes| bytes.len());
        for at in 0..length {
            let is_zero = directory.with_bytes(&name, |bytes| bytes[at] == 0);
            if is_zero && at % 4096 >= 128 && at % 61 != 0 {
                continue;
            }
            let bit = (at % 8) as u8;
            flip(&directory, &name, at, bit);
            match inspect(&directory) {
                Ok((_, found)) => assert!(found == model, "{name} at {at}"),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} at {at}: {error}");
                    assert!(error.message().contains("offset"), "{error}");
                }
            }
            flip(&directory, &name, at, bit);
        }
    }
    assert!(refused > 5_000, "{refused} flips were refused");
    assert_eq!(inspect(&directory).unwrap().1, model);
}

#[test]
fn damage_to_a_batch_that_is_vouched_for_is_named_with_its_place() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"one")])).unwrap();
    run(store.commit(vec![put(2, b"two")])).unwrap();
    drop(store);
    // Header, epoch record, then the two batches, each in a block of its own.
    flip(&directory, "log", 2 * 4096 + 130, 0);
    let error = open(&directory).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().starts_with("log at offset 8192: "), "{error}");
    flip(&directory, "log", 2 * 4096 + 130, 0);
    // The last batch of a killed pool is the one case that looks like a torn write.
    flip(&directory, "log", 3 * 4096 + 130, 0);
    let (recovery, found) = inspect(&directory).unwrap();
    assert!(recovery.torn_tail && found.len() == 1);
}

#[test]
fn a_damaged_manifest_is_not_passed_over_for_an_older_one() {
    let directory = made(&TINY);
    let (store, _, _) = open(&directory).unwrap();
    run(store.commit(vec![put(1, b"one")])).unwrap();
    run(store.checkpoint()).unwrap();
    for id in 0..12 {
        run(store.commit(vec![put(id, &[1; 5000])])).unwrap();
    }
    drop(store);
    let at = directory.with_bytes("log", |bytes| {
        let blocks = (1..bytes.len() / 4096).map(|block| block * 4096);
        blocks
            .filter_map(|at| BatchHeader::decode(POOL, at as u64, &bytes[at..]).ok())
            .filter(|header| header.kind == Kind::Manifest)
            .max_by_key(|header| header.number)
            .unwrap()
            .offset
    });
    flip(&directory, "log", at as usize + 140, 3);
    assert_eq!(inspect(&directory).map(|_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn cut_and_missing_files_are_refused() {
    let (directory, _) = filled();
    for name in directory.names() {
        for keep in [0, 4096, 8192] {
            let copy = directory.copy();
            let was = copy.with_bytes(&name, |bytes| {
                let was = bytes.len();
                bytes.truncate(keep);
                was
            });
            if was > keep {
                let error = inspect(&copy).map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} cut to {keep}");
            }
        }
        let copy = directory.copy();
        run(blockyard_io::Directory::remove(&copy, &name)).unwrap();
        let error = inspect(&copy).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().starts_with(&name), "{error}");
        assert!(run(Store::exists(&copy)).map_or(true, |exists| exists), "taken for empty");
    }
}

#[test]
fn a_log_whose_header_was_wiped_is_not_taken_for_an_empty_directory() {
    let (directory, _) = filled();
    directory.with_bytes("log", |bytes| bytes[..4096].fill(0));
    let error = run(Store::create(&directory, POOL, &TINY)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Changes bytes of a frame and makes its checksum right again.
fn forge(bytes: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(bytes);
    let checksum = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (directory, _) = filled();
    for name in directory.names() {
        let copy = directory.copy();
        copy.with_bytes(&name, |bytes| forge(bytes, |frame| frame[8] = 9));
        let error = inspect(&copy).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
        let message = error.message();
        assert!(message.contains("version 9") && message.contains(&FORMAT_VERSION.to_string()));
    }
}

#[test]
fn a_file_of_another_pool_is_refused_by_name() {
    let (directory, _) = filled();
    let part = directory.names().into_iter().find(|name| name != "log").unwrap();
    directory.with_bytes(&part, |bytes| forge(bytes, |frame| frame[12..28].fill(1)));
    let error = inspect(&directory).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().starts_with(&part) && error.message().contains("another pool"));
}

#[test]
fn decoders_take_any_bytes() {
    let mut random = Random(5);
    let (_, block) = LogHeader::encode(POOL, TINY);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = match random.below(2) {
            0 => block.to_vec(),
            _ => (0..random.below(300)).map(|_| random.next() as u8 % 3).collect(),
        };
        for _ in 0..random.below(4) {
            if let Some(length) = (bytes.len() as u64).checked_sub(1).filter(|most| *most > 0) {
                bytes[random.below(length) as usize] = random.next() as u8;
            }
        }
        if bytes.len() >= 128 && random.one_in(2) {
            forge(&mut bytes, |_| {});
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        let _ = LogHeader::decode(&bytes);
        let _ = Manifest::decode(&TINY, &bytes);
        if let Ok(header) = BatchHeader::decode(PoolId([0; 16]), 0, &bytes) {
            let _ = header.payload(&bytes);
        }
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() && reader.record().is_ok() {}
    }
}
