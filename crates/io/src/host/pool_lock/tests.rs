//! What `pool_lock` promises, one test for each promise.

use super::{PoolLock, flock_holder, parse_owner};
use crate::host::test_support::{FORK_GRACE, Holder};
use blockyard_block::ErrorKind;
use std::time::Duration;

#[test]
fn a_second_owner_is_refused_with_the_pid_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let lock = PoolLock::acquire(folder.path(), Duration::ZERO).unwrap();
    for second in [PoolLock::acquire, PoolLock::acquire_shared] {
        let error = second(folder.path(), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let pid = format!("process {} (", std::process::id());
        assert!(error.message().contains(&pid), "{error}");
    }
    drop(lock);
    PoolLock::acquire(folder.path(), FORK_GRACE).unwrap();
}

#[test]
fn an_owner_in_another_process_is_named_whatever_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    drop(PoolLock::acquire(folder.path(), Duration::ZERO).unwrap());
    let mut holder = Holder::new("--shared", &folder.path().join("lock"));
    let error = PoolLock::acquire(folder.path(), Duration::ZERO).unwrap_err();
    assert!(error.message().contains(&format!("process {}", holder.pid())), "{error}");
    PoolLock::acquire_shared(folder.path(), Duration::ZERO).unwrap();
    holder.kill();
    PoolLock::acquire(folder.path(), FORK_GRACE).unwrap();
}

#[test]
fn readers_share_a_pool_and_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let _without_file = PoolLock::acquire_shared(folder.path(), Duration::ZERO).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(PoolLock::acquire(folder.path(), Duration::ZERO).unwrap());
    let before = std::fs::read(folder.path().join("lock")).unwrap();
    let _first = PoolLock::acquire_shared(folder.path(), FORK_GRACE).unwrap();
    let _second = PoolLock::acquire_shared(folder.path(), Duration::ZERO).unwrap();
    assert_eq!(std::fs::read(folder.path().join("lock")).unwrap(), before);
}

#[test]
fn any_content_of_the_lock_file_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"\n", b"12", b"x\ny\n", &[0xff; 9000]] {
        std::fs::write(folder.path().join("lock"), content).unwrap();
        let _holder = Holder::new("--exclusive", &folder.path().join("lock"));
        let error = PoolLock::acquire(folder.path(), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
}

#[test]
fn the_kernels_list_of_locks_is_read_by_inode_and_kind() {
    let line = "1: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF";
    assert_eq!(flock_holder(line, 131), Some(1234));
    assert_eq!(flock_holder(line, 31), None);
    assert_eq!(flock_holder(&line.replace("FLOCK", "POSIX"), 131), None);
    assert_eq!(flock_holder("7: -> FLOCK", 131), None);
    assert_eq!(flock_holder("", 0), None);
    assert_eq!(parse_owner("12\nblockyard serve\n"), Some((12, "blockyard serve")));
}
