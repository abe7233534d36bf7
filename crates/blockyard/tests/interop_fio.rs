//! fio's own NBD client: random writes it verifies by a checksum in every block.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::host::{self, uri};
use support::{Daemon, Place, has_program, skip};

/// Whether fio is there and was built with libnbd.
fn has_fio() -> bool {
    if !has_program("fio") {
        return false;
    }
    let engine = host::run("fio", &["--enghelp"]).lines().any(|line| line.trim() == "nbd");
    if !engine {
        skip("this fio has no nbd engine");
    }
    engine
}

/// Runs fio on the image "web" until all of it is written and verified; any mismatch is an error of fio.
fn fio(daemon: &Daemon, options: &[&str]) {
    let export = format!("--uri={}", uri(daemon, "web"));
    let always =
        ["--name=verified", "--ioengine=nbd", &export, "--verify=crc32c", "--verify_fatal=1"];
    // State files would go to the working folder.
    let quiet = ["--verify_state_save=0", "--output-format=terse"];
    host::run("fio", &[&always[..], &quiet, options].concat());
}

#[test]
fn fio_verifies_random_4k_writes_at_depth_32() {
    if !has_fio() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    fio(&daemon, &["--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=32M"]);
    let status = place.json(&["pool", "status"]);
    assert_eq!(status["bytes_physical"], 32 << 20);
}

#[test]
fn fio_verifies_blocks_of_odd_sizes_written_twice_with_flushes_between() {
    if !has_fio() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    for seed in ["--randseed=1", "--randseed=2"] {
        let sizes = ["--bsrange=512-256k", "--blockalign=512", "--size=32M", seed];
        fio(&daemon, &[&["--rw=randwrite", "--iodepth=16", "--fsync=64"], &sizes[..]].concat());
    }
}

#[test]
fn fio_verifies_four_connections_writing_side_by_side() {
    if !has_fio() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    let jobs = ["--numjobs=4", "--offset_increment=8M", "--size=8M", "--iodepth=8"];
    fio(&daemon, &[&["--rw=randwrite", "--bs=16k"], &jobs[..]].concat());
}
