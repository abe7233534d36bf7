//! A pool without space: writes get ENOSPC and nothing else, everything else goes on, freeing heals
//! it, and nothing is lost; whether the limit is the pool's own or the file system's below.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use std::fs;
use std::ops::Range;
use support::loop_device::SmallFileSystem;
use support::model::{Model, Tag};
use support::pipelined::{Command, ENOSPC, Plain};
use support::{Daemon, Place, eventually};

const PIECE: u64 = 64 << 10;
const IMAGE_BYTES: u64 = 512 << 20;
const FILE_SYSTEM_BYTES: u64 = 300 << 20;
/// What the daemon leaves to metadata and to others.
const RESERVE: u64 = 64 << 20;

#[test]
fn at_its_capacity_a_pool_refuses_only_what_needs_space_and_trim_heals_it() {
    let place = Place::new();
    let daemon = place.serve(&["--capacity", "40M"]);
    let mut disk = Disk::create(&place, &daemon);
    let filled = disk.fill();
    assert_eq!(filled, (40 << 20) / PIECE * PIECE, "all of the capacity can be used, and no more");
    disk.goes_on_when_full(filled);
    disk.heals_by_trim(filled);
    disk.is_whole_and_healthy(&place);
    daemon.kill();
    check_sound(&place);
    let daemon = place.serve(&["--capacity", "40M"]);
    disk.connect(&daemon);
    disk.is_whole_and_healthy(&place);
    disk.goes_on_when_full(filled);
    daemon.stop();
    check_sound(&place);
}

#[test]
fn on_a_full_file_system_a_pool_refuses_only_what_needs_space_and_trim_heals_it() {
    let place = Place::new();
    let Some(below) = mount(&place) else { return };
    let daemon = serve(&place, &below);
    let mut disk = Disk::create(&place, &daemon);
    let filled = disk.fill();
    assert!(filled > 100 << 20, "only {filled} bytes were taken");
    let left = below.bytes_available();
    assert!(left >= RESERVE, "the reserve was used: {left} are left");
    disk.goes_on_when_full(filled);
    disk.heals_by_trim(filled);
    disk.is_whole_and_healthy(&place);
    daemon.kill();
    check_sound(&place);
    let daemon = serve(&place, &below);
    disk.connect(&daemon);
    disk.is_whole_and_healthy(&place);
    disk.heals_by_trim(filled);
    daemon.stop();
    check_sound(&place);
}

/// Space that was freed is still taken in the data file: the next daemon uses it before it asks the
/// file system, which has none.
#[test]
fn space_freed_on_a_full_file_system_is_found_again_by_the_next_daemon() {
    let place = Place::new();
    let Some(below) = mount(&place) else { return };
    let daemon = serve(&place, &below);
    let mut disk = Disk::create(&place, &daemon);
    let filled = disk.fill();
    let _greedy = below.eat_all();
    disk.trim(0..filled);
    daemon.stop();
    let daemon = serve(&place, &below);
    disk.connect(&daemon);
    let again = disk.fill();
    assert!(again >= filled / 8 * 7, "{filled} were freed, {again} of them found again");
    disk.is_whole_and_healthy(&place);
    daemon.stop();
    check_sound(&place);
}

#[test]
fn another_file_that_eats_all_space_does_not_stop_a_pool() {
    let place = Place::new();
    let Some(below) = mount(&place) else { return };
    let daemon = serve(&place, &below);
    let mut disk = Disk::create(&place, &daemon);
    assert_eq!(disk.write(0..PIECE), 0);
    let greedy = below.eat_all();
    let filled = disk.fill();
    for _ in 0..3 {
        disk.goes_on_when_full(filled);
        disk.heals_by_trim(filled);
    }
    disk.is_whole_and_healthy(&place);
    daemon.kill();
    check_sound(&place);
    let daemon = serve(&place, &below);
    disk.connect(&daemon);
    disk.is_whole_and_healthy(&place);
    disk.goes_on_when_full(filled);
    fs::remove_file(greedy).unwrap();
    let next = filled..filled + PIECE;
    eventually("writes once there is space", || disk.write(next.clone()) == 0);
    disk.is_whole_and_healthy(&place);
    daemon.stop();
    check_sound(&place);
}

#[test]
fn data_on_another_file_system_fills_that_up_to_its_own_reserve() {
    let place = Place::new();
    let Some(below) = mount(&place) else { return };
    let data = below.folder.join("data");
    let daemon = place.serve(&["--data", data.to_str().unwrap()]);
    let capacity = place.json(&["pool", "status"])["bytes_capacity"].as_u64().unwrap();
    assert!(capacity <= FILE_SYSTEM_BYTES - RESERVE, "{capacity} are promised");
    let mut disk = Disk::create(&place, &daemon);
    let filled = disk.fill();
    assert!(filled > 180 << 20, "only {filled} bytes were taken");
    assert!(below.bytes_available() >= RESERVE, "{} are left", below.bytes_available());
    disk.goes_on_when_full(filled);
    disk.heals_by_trim(filled);
    daemon.stop();
    let daemon = place.serve(&[]);
    disk.connect(&daemon);
    disk.trim(0..filled);
    let _greedy = below.eat_all();
    assert!(disk.fill() >= filled / 8 * 7, "what was freed is found again");
    disk.is_whole_and_healthy(&place);
    daemon.stop();
    check_sound(&place);
}

fn mount(place: &Place) -> Option<SmallFileSystem> {
    SmallFileSystem::mount(&place.path("disk"), place.path("below"), FILE_SYSTEM_BYTES)
}

/// The pool's directory is a link, so that the commands of the place find it.
fn serve(place: &Place, below: &SmallFileSystem) -> Daemon {
    let folder = below.folder.join("pool");
    if !folder.exists() {
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&folder, place.pool()).unwrap();
    }
    place.serve(&[])
}

fn check_sound(place: &Place) {
    place.ok(&["check", place.pool().to_str().unwrap(), "--data"]);
}

/// An image much larger than the space there is, one client, and what must be there.
struct Disk {
    client: Plain,
    model: Model,
    tag: Tag,
}

impl Disk {
    fn create(place: &Place, daemon: &Daemon) -> Disk {
        place.ok(&["image", "create", "web", &IMAGE_BYTES.to_string()]);
        let client = Plain::open(daemon, "web");
        Disk { client, model: Model::new(1, IMAGE_BYTES), tag: 0 }
    }

    fn connect(&mut self, daemon: &Daemon) {
        self.client = Plain::open(daemon, "web");
    }

    /// 0 or ENOSPC. What was refused may be there in part, and is read to know.
    fn write(&mut self, bytes: Range<u64>) -> u32 {
        self.tag += 1;
        let data = self.model.content(&bytes, self.tag);
        assert!(self.model.begin(&bytes, self.tag));
        let code = self.client.write(bytes.start, &data);
        match code {
            0 => self.model.acknowledge(&bytes),
            ENOSPC => self.verify(bytes),
            other => panic!("a write failed with {other}, which is not ENOSPC"),
        }
        code
    }

    fn trim(&mut self, bytes: Range<u64>) {
        assert!(self.model.begin(&bytes, 0));
        assert_eq!(self.client.trim(bytes.clone()), 0, "giving space back needs none");
        self.model.acknowledge(&bytes);
    }

    fn verify(&mut self, bytes: Range<u64>) {
        let found = self.client.read(bytes.clone());
        self.model.settle(&bytes, &found).unwrap();
    }

    /// Writes until there is no space; returns how far it came.
    fn fill(&mut self) -> u64 {
        let mut end = 0;
        while self.write(end..end + PIECE) == 0 {
            end += PIECE;
            assert!(end < IMAGE_BYTES, "the space never ends");
        }
        end
    }

    /// Reads, flushes, overwrites of what is there, and again ENOSPC for what is not.
    fn goes_on_when_full(&mut self, filled: u64) {
        let mut flushed = 0;
        for start in (0..filled).step_by(16 * PIECE as usize) {
            assert_eq!(self.write(start..start + 4096), 0, "an overwrite in place");
            assert_eq!(
                self.write(start + 8192 + 128..start + 8192 + 1024),
                0,
                "a part of a cluster"
            );
            self.verify(start..start + PIECE);
            assert_eq!(self.client.flush(), 0);
            flushed += 1;
        }
        assert!(flushed > 0);
        assert_eq!(self.write(filled + PIECE..filled + 2 * PIECE), ENOSPC);
    }

    /// What is freed can be written at once, elsewhere; and what was freed, again.
    fn heals_by_trim(&mut self, filled: u64) {
        let freed = filled / 2 / PIECE * PIECE;
        self.trim(freed..freed + 4 * PIECE);
        let elsewhere = filled + 4 * PIECE;
        assert_eq!(self.write(elsewhere..elsewhere + 4 * PIECE), 0, "just freed");
        assert_eq!(self.write(freed..freed + 4096), ENOSPC, "used elsewhere");
        self.trim(elsewhere..elsewhere + 4 * PIECE);
        assert_eq!(self.write(freed..freed + 4 * PIECE), 0, "freed again");
        assert_eq!(self.client.flush(), 0);
    }

    /// Every byte is there, and the pool serves writes.
    fn is_whole_and_healthy(&mut self, place: &Place) {
        for start in (0..IMAGE_BYTES).step_by(1 << 20) {
            self.verify(start..start + (1 << 20));
        }
        assert_eq!(self.client.ask(Command::Flush, 0..0, &[]), 0);
        assert_eq!(place.json(&["pool", "status"])["failed"], Value::Null);
    }
}
