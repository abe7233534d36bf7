//! What `mapped` promises, one test for each promise.

use super::{MappedFile, boot_id, parse_boot_id};
use crate::Mapped;
use crate::host::test_support::FORK_GRACE;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// On tmpfs, where the journal lives.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn open(path: &Path, length: u64) -> io::Result<MappedFile> {
    MappedFile::open(path, length, FORK_GRACE)
}

#[test]
fn bytes_are_kept_over_reopening_and_new_ones_are_zero() {
    let folder = folder();
    let path = folder.path().join("journal");
    let mut mapped = open(&path, 8192).unwrap();
    assert!(mapped.bytes().iter().all(|byte| *byte == 0));
    mapped.bytes()[8191] = 7;
    drop(mapped);
    let mut mapped = open(&path, 16384).unwrap();
    assert_eq!(mapped.bytes().len(), 16384);
    assert_eq!(mapped.bytes()[8191], 7);
    assert!(mapped.bytes()[8192..].iter().all(|byte| *byte == 0));
    drop(mapped);
    assert_eq!(open(&path, 4096).unwrap().bytes().len(), 4096);
}

#[test]
fn every_page_is_there_before_it_is_mapped() {
    let folder = folder();
    let path = folder.path().join("journal");
    let _mapped = open(&path, 1 << 20).unwrap();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.blocks() * 512, 1 << 20);
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

#[test]
fn more_than_the_tmpfs_holds_is_an_error_at_open() {
    let folder = folder();
    let error = open(&folder.path().join("journal"), 1 << 50).err().unwrap();
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge];
    assert!(kinds.contains(&error.kind()), "{error}");
}

#[test]
fn a_second_mapping_waits_for_the_first_to_go() {
    let folder = folder();
    let path = folder.path().join("journal");
    let first = open(&path, 4096).unwrap();
    let busy = MappedFile::open(&path, 4096, Duration::ZERO).err().unwrap();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    drop(first);
    open(&path, 4096).unwrap();
}

#[test]
fn links_and_other_kinds_of_files_are_refused() {
    let folder = folder();
    let target = folder.path().join("target");
    std::fs::write(&target, b"precious").unwrap();
    let symbolic = folder.path().join("symbolic");
    std::os::unix::fs::symlink(&target, &symbolic).unwrap();
    assert!(open(&symbolic, 4096).is_err());
    let hard = folder.path().join("hard");
    std::fs::hard_link(&target, &hard).unwrap();
    assert_eq!(open(&hard, 4096).err().unwrap().kind(), io::ErrorKind::PermissionDenied);
    assert!(open(folder.path(), 4096).is_err());
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let folder = folder();
    let path = folder.path().join("planted");
    std::fs::write(&path, b"").unwrap();
    if let Err(error) = std::os::unix::fs::chown(&path, Some(12345), None) {
        return crate::host::test_support::skip(&format!("chown: {error}"));
    }
    assert_eq!(open(&path, 4096).err().unwrap().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn nothing_to_map_is_an_error() {
    let folder = folder();
    let error = open(&folder.path().join("journal"), 0).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_boot_has_one_name() {
    assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    let id = parse_boot_id("00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
    assert_eq!(id[..3], [0x00, 0x11, 0x22]);
    assert_eq!(id[15], 0xff);
    assert_eq!(parse_boot_id("0011"), None);
    assert_eq!(parse_boot_id("g0112233-4455-6677-8899-aabbccddeeff"), None);
}
