//! What `qcow2_header` promises, one test for each promise.

use super::{Reader, inspect};
use crate::transfer_file::testing::{
    Scratch, Seeded, convert, disk_content, has, import, run_qemu_img,
};
use blockyard_block::{ErrorKind, Result};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

const CLUSTER: usize = 65536;

/// The smallest sound image: header, L1 table, one L2 table, one data cluster, a cluster each.
fn sound() -> Vec<u8> {
    let mut bytes = vec![0; 4 * CLUSTER];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    put32(&mut bytes, 20, 16);
    put64(&mut bytes, 24, 1 << 20);
    put32(&mut bytes, 36, 1);
    put64(&mut bytes, 40, CLUSTER as u64);
    put32(&mut bytes, 96, 4);
    put32(&mut bytes, 100, 104);
    put64(&mut bytes, CLUSTER, (1 << 63) | (2 * CLUSTER as u64));
    put64(&mut bytes, 2 * CLUSTER, (1 << 63) | (3 * CLUSTER as u64));
    bytes
}

fn put32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
}

fn inspect_bytes(bytes: &[u8]) -> Result<Reader> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    inspect(&file, bytes.len() as u64, &|| false)
}

#[test]
fn a_sound_image_is_read_here() {
    assert_eq!(inspect_bytes(&sound()).unwrap(), Reader::Native);
}

#[test]
fn a_last_cluster_that_is_not_whole_is_sound() {
    assert_eq!(inspect_bytes(&sound()[..3 * CLUSTER + 1]).unwrap(), Reader::Native);
}

#[test]
fn features_that_only_qemu_reads_are_sent_there() {
    for feature in [1 << 0, 1 << 3, 1 << 4] {
        let mut bytes = sound();
        put64(&mut bytes, 72, feature);
        assert!(matches!(inspect_bytes(&bytes).unwrap(), Reader::QemuImg(_)));
    }
}

#[test]
fn encrypted_corrupt_and_unknown_images_are_refused() {
    let changes: [fn(&mut Vec<u8>); 5] = [
        |bytes| put32(bytes, 32, 1),
        |bytes| put32(bytes, 32, 2),
        |bytes| put32(bytes, 32, 77),
        |bytes| put64(bytes, 72, 1 << 1),
        |bytes| put64(bytes, 72, 1 << 40),
    ];
    for change in changes {
        let mut bytes = sound();
        change(&mut bytes);
        assert_eq!(inspect_bytes(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn tables_that_no_writer_makes_are_damage() {
    let changes: [fn(&mut Vec<u8>); 13] = [
        |bytes| put32(bytes, 20, 8),
        |bytes| put32(bytes, 20, 22),
        |bytes| put32(bytes, 20, u32::MAX),
        |bytes| put64(bytes, 24, u64::MAX),
        |bytes| put32(bytes, 36, 0),
        |bytes| put32(bytes, 36, u32::MAX),
        |bytes| put64(bytes, 40, u64::MAX - 7),
        |bytes| put64(bytes, CLUSTER, u64::MAX),
        |bytes| put64(bytes, CLUSTER, 2 * CLUSTER as u64 + 512),
        |bytes| put64(bytes, 2 * CLUSTER, (1 << 63) | (4 * CLUSTER as u64)),
        |bytes| put64(bytes, 2 * CLUSTER + 8, (1 << 62) | (4 * CLUSTER as u64)),
        |bytes| bytes.truncate(3 * CLUSTER),
        |bytes| bytes.truncate(71),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut bytes = sound();
        change(&mut bytes);
        let error = inspect_bytes(&bytes).expect_err(&format!("change {index}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "change {index}: {error}");
    }
}

#[test]
fn a_cancelled_inspection_ends() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sound()).unwrap();
    let error = inspect(&file, 4 * CLUSTER as u64, &|| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
}

#[test]
fn an_image_cut_short_anywhere_is_an_error() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", &disk_content(3 << 20, 21));
    for options in [&["-O", "qcow2"][..], &["-O", "qcow2", "-c"]] {
        let path = scratch.path("disk.qcow2");
        convert(&raw, &path, options);
        let whole = std::fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        let step = whole / 23;
        for length in (1..23).rev().map(|part| part * step) {
            file.set_len(length).unwrap();
            let result = import(&path, &scratch.options_alone());
            assert!(result.is_err(), "{options:?} cut to {length} of {whole} bytes imports");
        }
    }
}

/// Changes some bytes, mostly of the tables; what comes out is an error or some disk of bounded
/// size, soon, and never a panic.
#[test]
fn no_damage_to_a_qcow2_image_panics_or_hangs() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", &disk_content(1 << 20, 22));
    let base = scratch.path("base.qcow2");
    convert(&raw, &base, &["-O", "qcow2", "-c", "-o", "cluster_size=4k"]);
    let top = scratch.path("top.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-o", "cluster_size=4k", "-b"];
    run_qemu_img(create.into_iter().chain(["base.qcow2", top.to_str().unwrap()]));
    let rounds = std::env::var("BLOCKYARD_MUTATIONS").map_or(300, |text| text.parse().unwrap());
    let sound = [std::fs::read(&base).unwrap(), std::fs::read(&top).unwrap()];
    let deadline = Instant::now() + Duration::from_secs(240);
    for seed in 0..rounds {
        let which = (seed % 2) as usize;
        let mut bytes = sound[which].clone();
        mutate(&mut bytes, &mut Seeded(seed));
        std::fs::write([&base, &top][which], &bytes).unwrap();
        read_some(&scratch, &top, seed);
        std::fs::write([&base, &top][which], &sound[which]).unwrap();
        assert!(Instant::now() < deadline, "seed {seed}: {rounds} rounds take too long");
    }
}

fn mutate(bytes: &mut Vec<u8>, seeded: &mut Seeded) {
    for _ in 0..1 + seeded.below(6) {
        // The header, the tables behind it, or anywhere.
        let reach = [112, 600, 8 * 4096, bytes.len()][seeded.below(4)].min(bytes.len());
        let offset = 4 + seeded.below(reach - 4);
        let value = seeded.next().to_be_bytes();
        match seeded.below(4) {
            0 => bytes[offset] = value[0],
            1 => bytes[offset] ^= 1 << (value[0] % 8),
            2 => {
                let offset = (offset & !7).max(8).min(bytes.len() - 8);
                bytes[offset..offset + 8].copy_from_slice(&value);
            }
            _ => bytes[offset] = [0, 0xff, 0x7f, 0x80][seeded.below(4)],
        }
    }
    if seeded.below(8) == 0 {
        bytes.truncate(200 + seeded.below(bytes.len() - 200));
    }
}

/// Reads the first part of the disk, if there is one. The size may be anything, so not all of it.
fn read_some(scratch: &Scratch, path: &std::path::Path, seed: u64) {
    let result = std::panic::catch_unwind(|| {
        let options = scratch.options_alone();
        let Ok(opened) = crate::transfer_file::source::open(path, &options, &|| false) else {
            return;
        };
        let source = &opened.source;
        let mut buffer = vec![0; 65536];
        let mut offset = 0;
        for _ in 0..200 {
            let Some(left) = source.size().checked_sub(offset).filter(|&left| left > 0) else {
                return;
            };
            let Ok(run) = source.run_at(offset) else { return };
            assert!((1..=left).contains(&run.length), "a run of {} of {left}", run.length);
            let length = run.length.min(buffer.len() as u64);
            let part = &mut buffer[..length as usize];
            if !run.zero && source.read(offset, part).is_err() {
                return;
            }
            offset += if run.zero { run.length } else { length };
        }
    });
    assert!(result.is_ok(), "seed {seed} panics; replay with that seed alone");
}
