//! What the ring promises, on real files and sockets.

use super::{Ring, Tasks};
use crate::{Disk, HostDisk, HostOptions};
use blockyard_block::{Buffer, BufferMut};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The ring of this thread, unless the system refuses one.
fn ring() -> Option<Ring> {
    Ring::new().map_err(|error| blockyard_testing::skip(&format!("io_uring: {error}"))).ok()
}

/// Drives one future to its end on the ring.
fn drive<F: Future>(ring: &Ring, future: F) -> F::Output {
    let mut tasks = Tasks::new(ring.notifier());
    let mut output = tasks.start((), future);
    while output.is_none() {
        ring.turn(&mut Vec::new(), || tasks.none_woken()).expect("a turn");
        tasks.run_woken(|(), result| output = Some(((), result)));
    }
    output.expect("the loop ended").1.expect("no panic")
}

fn disk(direct: bool) -> (tempfile::TempDir, HostDisk) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = HostOptions { direct, ..HostOptions::default() };
    let disk = HostDisk::create(folder.path().join("data"), &options).expect("a file");
    (folder, disk)
}

#[test]
fn what_was_written_on_the_ring_is_read_on_the_ring_and_beside_it() {
    let Some(ring) = ring() else { return };
    for direct in [true, false] {
        let (_folder, disk) = disk(direct);
        let data = Buffer::copy_of(&[7; 64 << 10]);
        drive(&ring, disk.write(8192, data.clone())).expect("a write");
        drive(&ring, disk.sync()).expect("a sync");
        let (result, read) = drive(&ring, disk.read(8192, BufferMut::zeroed(64 << 10)));
        result.expect("a read");
        assert_eq!(*read, *data);
        let beside = std::thread::scope(|scope| {
            let read = || crate::block_on(disk.read(8192, BufferMut::zeroed(64 << 10))).1;
            scope.spawn(read).join().expect("no panic")
        });
        assert_eq!(*beside, *data);
    }
}

#[test]
fn memory_that_is_not_aligned_is_written_and_read_all_the_same() {
    let Some(ring) = ring() else { return };
    let (_folder, disk) = disk(true);
    let bytes: Vec<u8> = (0..16384_u32).map(|at| (at % 251) as u8).collect();
    let mut odd = BufferMut::zeroed_at_phase(16384, 512);
    odd.copy_from_slice(&bytes);
    drive(&ring, disk.write(0, odd.freeze())).expect("a write");
    let (result, read) = drive(&ring, disk.read(0, BufferMut::zeroed_at_phase(16384, 1024)));
    result.expect("a read");
    assert_eq!(*read, *bytes);
}

#[test]
fn a_read_beyond_the_end_says_so() {
    let Some(ring) = ring() else { return };
    for direct in [true, false] {
        let (_folder, disk) = disk(direct);
        drive(&ring, disk.write(0, Buffer::copy_of(&[1; 4096]))).expect("a write");
        let (result, _) = drive(&ring, disk.read(0, BufferMut::zeroed(8192)));
        assert_eq!(result.expect_err("too far").kind(), std::io::ErrorKind::UnexpectedEof);
        let (result, _) = drive(&ring, disk.read(1, BufferMut::zeroed(4096)));
        assert_eq!(result.expect_err("not aligned").kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn more_operations_than_the_queue_holds_all_complete() {
    let Some(ring) = ring() else { return };
    let (_folder, disk) = disk(true);
    let disk = Rc::new(disk);
    let mut tasks = Tasks::new(ring.notifier());
    let mut done = 0;
    for at in 0..1000_u64 {
        let disk = Rc::clone(&disk);
        let write = async move { disk.write(at * 4096, Buffer::copy_of(&[at as u8; 4096])).await };
        done += usize::from(tasks.start(at, write).is_some());
    }
    while done < 1000 {
        ring.turn(&mut Vec::new(), || tasks.none_woken()).expect("a turn");
        tasks.run_woken(|_, result| {
            result.expect("no panic").expect("a write");
            done += 1;
        });
    }
    for at in [0, 255, 999_u64] {
        let (_, read) = drive(&ring, disk.read(at * 4096, BufferMut::zeroed(4096)));
        assert!(read.iter().all(|byte| *byte == at as u8));
    }
}

#[test]
fn a_dropped_future_leaves_its_memory_to_the_kernel_and_the_ring_goes_on() {
    let Some(ring) = ring() else { return };
    let (_folder, disk) = disk(true);
    drive(&ring, disk.write(0, Buffer::copy_of(&[9; 1 << 20]))).expect("a write");
    for _ in 0..100 {
        let mut read = Box::pin(disk.read(0, BufferMut::zeroed(1 << 20)));
        let mut task = std::task::Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut task).is_pending());
    }
    let (result, read) = drive(&ring, disk.read(0, BufferMut::zeroed(4096)));
    result.expect("a read");
    assert_eq!(*read, [9; 4096]);
    drop(ring); // waits for the reads
    assert!(super::current().is_none());
}

#[test]
fn a_watch_tells_of_data_and_of_the_end_and_nothing_after_it_was_taken_back() {
    let Some(ring) = ring() else { return };
    let (mut here, there) = UnixStream::pair().expect("a pair");
    let there = Arc::new(there);
    let watch = ring.watch(there.clone(), 5).expect("a watch");
    let mut ready = Vec::new();
    for round in 0..3_u8 {
        here.write_all(&[round]).expect("sent");
        ready.clear();
        while ready.is_empty() {
            ring.turn(&mut ready, || true).expect("a turn");
        }
        assert!(ready.iter().all(|event| event.token == 5 && event.readable));
        let mut byte = [9];
        (&*there).read_exact(&mut byte).expect("received");
        assert_eq!(byte, [round]);
    }
    ring.unwatch(watch).expect("taken back");
    ring.turn(&mut ready, || true).expect("a turn"); // the removal completes
    ready.clear();
    drop(here);
    ring.turn(&mut ready, || false).expect("a turn");
    assert!(ready.is_empty(), "{ready:?}");
}

#[test]
fn a_socket_that_takes_more_again_is_told_of_once() {
    let Some(ring) = ring() else { return };
    let (here, mut there) = UnixStream::pair().expect("a pair");
    here.set_nonblocking(true).expect("set");
    let here = Arc::new(here);
    while (&*here).write(&[0; 65536]).is_ok() {}
    ring.watch_writable(here.clone(), 8).expect("a watch");
    let mut ready = Vec::new();
    ring.turn(&mut ready, || false).expect("a turn");
    assert!(ready.is_empty());
    let mut taken = vec![0; 1 << 20];
    while ready.is_empty() {
        let _ = there.read(&mut taken).expect("received");
        ring.turn(&mut ready, || false).expect("a turn");
    }
    assert!(ready[0].writable && ready[0].token == 8);
}

#[test]
fn a_future_woken_by_another_thread_wakes_the_sleeping_ring() {
    let Some(ring) = ring() else { return };
    let polls = Cell::new(0);
    let future = poll_fn(|context| {
        polls.set(polls.get() + 1);
        if polls.get() == 3 {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            waker.wake();
        });
        Poll::Pending
    });
    drive(&ring, future);
    assert_eq!(polls.get(), 3);
}

#[test]
fn a_future_that_panics_is_told_and_its_place_serves_others() {
    let Some(ring) = ring() else { return };
    let mut tasks = Tasks::new(ring.notifier());
    let task = |fails: bool| async move { assert!(!fails, "as the test wants it") };
    assert_eq!(tasks.start(1, task(true)), Some((1, Err(super::Panicked))));
    assert_eq!(tasks.start(2, task(false)), Some((2, Ok(()))));
    assert!(tasks.is_empty());
}

#[test]
fn a_thread_has_one_ring() {
    let Some(ring) = ring() else { return };
    assert_eq!(
        Ring::new().err().map(|error| error.kind()),
        Some(std::io::ErrorKind::AlreadyExists)
    );
    drop(ring);
    assert!(Ring::new().is_ok());
}
