//! What `fence` promises, one test for each promise.

use super::{Fence, lock};
use crate::host::test_support::Holder;
use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

fn locked(path: &std::path::Path, fence: Fence) -> io::ErrorKind {
    lock(File::open(path).unwrap(), fence, Duration::ZERO).unwrap_err().kind()
}

#[test]
fn an_exclusive_holder_in_another_process_keeps_everybody_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    File::create(&path).unwrap();
    let _holder = Holder::new("--exclusive", &path);
    assert_eq!(locked(&path, Fence::Exclusive), io::ErrorKind::ResourceBusy);
    assert_eq!(locked(&path, Fence::Shared), io::ErrorKind::ResourceBusy);
}

#[test]
fn a_shared_holder_in_another_process_lets_readers_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    File::create(&path).unwrap();
    let _holder = Holder::new("--shared", &path);
    lock(File::open(&path).unwrap(), Fence::Shared, Duration::ZERO).unwrap();
    assert_eq!(locked(&path, Fence::Exclusive), io::ErrorKind::ResourceBusy);
}

#[test]
fn who_waits_gets_the_lock_of_a_killed_holder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    File::create(&path).unwrap();
    let mut holder = Holder::new("--exclusive", &path);
    let waiter = thread::spawn(move || {
        lock(File::open(&path).unwrap(), Fence::Exclusive, Duration::from_secs(60))
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    holder.kill();
    waiter.join().unwrap().unwrap();
}

#[test]
fn waiting_ends_at_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let first = File::create(&path).unwrap();
    lock(&first, Fence::Exclusive, Duration::ZERO).unwrap();
    let wait = Duration::from_millis(50);
    let start = Instant::now();
    let error = lock(File::open(&path).unwrap(), Fence::Shared, wait).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(start.elapsed() >= wait);
}
