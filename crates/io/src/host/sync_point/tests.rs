//! What `sync_point` promises, one test for each promise.

use super::SyncPoint;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn sync(point: &SyncPoint, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    crate::block_on(point.sync(|| async { run() }))
}

/// Long enough that a thread which wants to wait on the sync point has got there.
const SETTLE: Duration = Duration::from_millis(100);

#[test]
fn a_caller_never_joins_a_sync_that_started_before_it_arrived() {
    let point = SyncPoint::default();
    let syncs = AtomicUsize::new(0);
    let (first_runs, first_is_running) = mpsc::channel();
    let (finish_first, first_may_finish) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            sync(&point, move || {
                first_runs.send(()).unwrap();
                first_may_finish.recv().unwrap();
                Ok(())
            })
        });
        first_is_running.recv().unwrap();
        let late = scope.spawn(|| {
            sync(&point, || {
                syncs.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        });
        thread::sleep(SETTLE);
        assert!(!late.is_finished(), "the late caller waits while the first sync runs");
        finish_first.send(()).unwrap();
        late.join().unwrap().unwrap();
    });
    assert_eq!(syncs.load(Ordering::SeqCst), 1, "the late caller had a sync of its own");
}

#[test]
fn all_who_arrive_while_a_sync_runs_share_the_next_one() {
    const LATE: usize = 16;
    let point = SyncPoint::default();
    let syncs = AtomicUsize::new(0);
    let (first_runs, first_is_running) = mpsc::channel();
    let (finish_first, first_may_finish) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            sync(&point, move || {
                first_runs.send(()).unwrap();
                first_may_finish.recv().unwrap();
                Ok(())
            })
        });
        first_is_running.recv().unwrap();
        for _ in 0..LATE {
            scope.spawn(|| {
                let counted = || {
                    syncs.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                };
                sync(&point, counted).unwrap();
            });
        }
        thread::sleep(SETTLE);
        finish_first.send(()).unwrap();
    });
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn syncs_never_overlap() {
    let point = SyncPoint::default();
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let alone = || {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    };
                    sync(&point, alone).unwrap();
                }
            });
        }
    });
}

#[test]
fn after_a_failed_sync_every_later_one_fails_without_being_tried() {
    const EIO: i32 = 5;
    let point = SyncPoint::default();
    sync(&point, || Ok(())).unwrap();
    sync(&point, || Err(io::Error::from_raw_os_error(EIO))).unwrap_err();
    for _ in 0..3 {
        let error = sync(&point, || panic!("the kernel would lie now")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EIO));
    }
}

#[test]
fn those_who_wait_when_a_sync_fails_are_told() {
    let point = SyncPoint::default();
    let (first_runs, first_is_running) = mpsc::channel();
    let (finish_first, first_may_finish) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            sync(&point, move || {
                first_runs.send(()).unwrap();
                first_may_finish.recv().unwrap();
                Err(io::ErrorKind::StorageFull.into())
            })
        });
        first_is_running.recv().unwrap();
        let late = scope.spawn(|| sync(&point, || Ok(())));
        thread::sleep(SETTLE);
        finish_first.send(()).unwrap();
        assert!(first.join().unwrap().is_err());
        assert_eq!(late.join().unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    });
}
