//! A pool that cannot be served as it lies: the daemon says what is wrong and with which file, ends
//! with the exit code of that kind of error, and changes nothing, so that the pool is whole again
//! once its files are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use support::loop_device::{LoopDevice, SmallFileSystem};
use support::{NbdClient, Place};

/// Exit codes of the kinds of error.
const NOT_FOUND: i32 = 3;
const READ_ONLY: i32 = 5;
const CORRUPT: i32 = 8;

#[test]
fn data_cut_short_is_refused_and_not_written_to() {
    for cleanly in [true, false] {
        let stored = Stored::new(cleanly);
        let data = stored.file("data");
        let whole = fs::read(&data).unwrap();
        for length in [5 << 20, 4096, 100, 0] {
            File::options().write(true).open(&data).unwrap().set_len(length).unwrap();
            let message = stored.place.fails(CORRUPT, &["serve"]);
            assert!(message.contains("data"), "{length}: {message}");
            assert_eq!(fs::metadata(&data).unwrap().len(), length);
        }
        fs::write(&data, whole).unwrap();
        stored.is_whole();
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let stored = Stored::new(true);
    for (name, code) in [("hashes", NOT_FOUND), ("log", CORRUPT), ("data", NOT_FOUND)] {
        let (file, aside) = (stored.file(name), stored.place.path("aside"));
        fs::rename(&file, &aside).unwrap();
        let message = stored.place.fails(code, &["serve"]);
        assert!(message.contains(name), "{message}");
        assert!(!file.exists(), "{name} was made anew");
        fs::rename(&aside, &file).unwrap();
    }
    stored.is_whole();
}

#[test]
fn a_file_of_another_pool_is_refused() {
    let (stored, other) = (Stored::new(true), Stored::new(true));
    for name in ["data", "hashes", "log"] {
        let (file, aside) = (stored.file(name), stored.place.path("aside"));
        fs::rename(&file, &aside).unwrap();
        fs::copy(other.file(name), &file).unwrap();
        let message = stored.place.fails(CORRUPT, &["serve"]);
        assert!(message.contains("belongs to pool"), "{name}: {message}");
        fs::rename(&aside, &file).unwrap();
    }
    stored.is_whole();
}

#[test]
fn a_read_only_file_system_is_said_to_be_one() {
    let place = Place::new();
    let below = SmallFileSystem::mount(&place.path("disk"), place.path("below"), 200 << 20);
    let Some(below) = below else { return };
    let pool = below.folder.join("pool");
    let pool = pool.to_str().unwrap();
    place.serve_pool(pool.as_ref(), &[]).stop();
    below.make_read_only();
    let message = place.fails(READ_ONLY, &["serve", "--pool", pool]);
    assert!(message.contains("Read-only file system") && message.contains(pool), "{message}");
    let fresh = below.folder.join("fresh");
    place.fails(READ_ONLY, &["serve", "--pool", fresh.to_str().unwrap()]);
}

#[test]
fn a_read_only_disk_is_said_to_be_one() {
    let place = Place::new();
    let file = place.path("device");
    File::create(&file).unwrap().set_len(64 << 20).unwrap();
    // The pool remembers this name: attached anew, the device may get another, and its old one be another's.
    let link = place.path("disk");
    let data = link.to_str().unwrap();
    let Some(device) = LoopDevice::attach(&file, &[]) else { return };
    symlink(&device.path, &link).unwrap();
    place.serve(&["--data", data]).stop();
    drop(device);
    let Some(device) = LoopDevice::attach(&file, &["--read-only"]) else { return };
    fs::remove_file(&link).unwrap();
    symlink(&device.path, &link).unwrap();
    let message = place.fails(READ_ONLY, &["serve", "--data", data]);
    assert!(message.contains(data) && message.contains("read-only"), "{message}");
    let message = place.fails(READ_ONLY, &["serve"]);
    assert!(message.contains("read-only"), "{message}");
}

/// A pool with something in it that nobody serves.
struct Stored {
    place: Place,
    digest: String,
}

impl Stored {
    fn new(cleanly: bool) -> Stored {
        let place = Place::new();
        let daemon = place.serve(&[]);
        place.ok(&["image", "create", "web", "16M"]);
        let mut client = NbdClient::open(&daemon, "web");
        for extent in 0..4 {
            assert!(client.write(extent << 22, &[7; 65536]));
        }
        let digest = place.ok(&["image", "digest", "web"]);
        match cleanly {
            true => daemon.stop(),
            false => daemon.kill(),
        }
        Stored { place, digest }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.pool().join(name)
    }

    fn is_whole(&self) {
        self.place.ok(&["check", self.place.pool().to_str().unwrap(), "--data"]);
        let daemon = self.place.serve(&[]);
        self.place.wait_until_trusted();
        assert_eq!(self.place.ok(&["image", "digest", "web"]), self.digest);
        daemon.stop();
    }
}
