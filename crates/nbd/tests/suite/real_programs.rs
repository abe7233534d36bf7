//! The clients people have: libnbd's and QEMU's programs, against a disk in memory.

use crate::support::memory::MemoryDisk;
use crate::support::programs::{TemporaryFile, have, output, run};
use crate::support::{Fixture, Seeded};
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// Data and holes by turns, with a ragged piece at the end.
fn pattern(length: usize) -> Vec<u8> {
    let mut seeded = Seeded(7);
    let mut bytes = vec![0; length];
    for start in (0..length).step_by(256 << 10) {
        let piece = seeded.bytes(64 << 10);
        bytes[start..start + (64 << 10)].copy_from_slice(&piece);
    }
    let tail = seeded.bytes(1000);
    bytes[length - 1000..].copy_from_slice(&tail);
    bytes
}

/// A disk that holds `bytes` where they are not zero.
fn disk_of(bytes: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(bytes.len() as u64);
    for (index, cluster) in bytes.chunks(4096).enumerate() {
        if cluster.iter().any(|byte| *byte != 0) {
            disk.put(index as u64 * 4096, cluster);
        }
    }
    disk
}

#[test]
fn nbdinfo_lists_describes_and_maps() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let mut sealed = MemoryDisk::new(MIB as u64);
    sealed.read_only = true;
    let disk = disk_of(&pattern(MIB));
    let disks = [("disk", Arc::new(disk)), ("sealed", Arc::new(sealed))];
    let fixture = Fixture::new(disks, crate::limits());
    let all = run("nbdinfo", &["--list", &fixture.uri("")]);
    assert!(all.contains("export=\"disk\":") && all.contains("export=\"sealed\":"), "{all}");
    let json = run("nbdinfo", &["--json", &fixture.uri("disk")]);
    for line in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"base:allocation\"",
        "\"can_fast_zero\": true",
        "\"can_multi_conn\": true",
        "\"can_zero\": true",
        "\"is_read_only\": false",
        "\"block_size_minimum\": 1",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
        "\"export-size\": 1048576",
    ] {
        assert!(json.contains(line), "{line} in {json}");
    }
    assert!(run("nbdinfo", &["--json", &fixture.uri("sealed")]).contains("\"is_read_only\": true"));
    let map = run("nbdinfo", &["--map", &fixture.uri("disk")]);
    let words: Vec<_> =
        map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(words[0], ["0", "65536", "0", "data"]);
    assert_eq!(words[1], ["65536", "196608", "3", "hole,zero"]);
    assert_eq!(words.len(), 9);
    let unknown = output("nbdinfo", &[&fixture.uri("nothing")]);
    assert!(!unknown.status.success());
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let bytes = pattern(48 * MIB);
    let disk = Arc::new(MemoryDisk::new(bytes.len() as u64));
    let fixture = Fixture::new([("disk", Arc::clone(&disk))], crate::limits());
    let source = TemporaryFile::new("nbdcopy-source", &bytes);
    let target = TemporaryFile::new("nbdcopy-target", b"");
    let uri = fixture.uri("disk");
    run("nbdcopy", &["--connections=4", "--flush", source.path(), &uri]);
    assert!(disk.bytes(0, bytes.len()) == bytes);
    run("nbdcopy", &["--connections=4", "--requests=32", &uri, target.path()]);
    assert!(std::fs::read(target.path()).unwrap() == bytes);
    run("nbdcopy", &["--synchronous", &uri, target.path()]);
    assert!(std::fs::read(target.path()).unwrap() == bytes);
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bytes = pattern(32 * MIB);
    let fixture = Fixture::new(
        [
            ("full", Arc::new(disk_of(&bytes))),
            ("empty", Arc::new(MemoryDisk::new(bytes.len() as u64))),
        ],
        crate::limits(),
    );
    let file = TemporaryFile::new("qemu-img-source", &bytes);
    let copy = TemporaryFile::new("qemu-img-copy", b"");
    let (full, empty) = (fixture.uri("full"), fixture.uri("empty"));
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", file.path(), &full]);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", file.path(), &empty]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &full, &empty]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &full, copy.path()]);
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", copy.path(), &empty]);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &full]);
    assert!(map.contains("\"start\": 0, \"length\": 65536") && map.contains("\"zero\": true"));
}

#[test]
fn qemu_io_patterns_with_unaligned_edges_hold() {
    if !have(&["qemu-io"]) {
        return;
    }
    let fixture = Fixture::with_disk(MemoryDisk::new(16 << 20));
    let uri = fixture.uri("disk");
    let script = [
        "write -P 0x11 0 1M",
        "write -P 0x22 4095 3",
        "write -f -P 0x33 511 8193",
        "write -z 5000 9000",
        "write -z -u 65536 65536",
        "discard 131072 65536",
        "write -P 0x44 16776703 513",
        "aio_write -P 0x55 300000 100000",
        "aio_write -P 0x66 600001 99999",
        "aio_flush",
        "read -P 0x11 0 511",
        "read -P 0x33 511 4489",
        "read -P 0x00 5000 9000",
        "read -P 0x11 14000 51536",
        "read -P 0x00 65536 131072",
        "read -P 0x55 300000 100000",
        "read -P 0x66 600001 99999",
        "read -P 0x44 16776703 513",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    script.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("verification failed") && !text.contains("error"), "{text}");
}
