//! What `directory` promises, one test for each promise.

use crate::{Directory, Disk, Fence, HostDirectory, HostOptions, block_on};
use blockyard_block::Buffer;
use std::io;
use std::os::unix::fs::PermissionsExt;

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn files_and_folders_come_and_go_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    assert!(block_on(directory.list("checkpoint")).unwrap().is_empty());
    block_on(directory.create("log")).unwrap();
    block_on(directory.create("checkpoint/000001")).unwrap();
    block_on(directory.create("checkpoint/000002")).unwrap();
    block_on(directory.sync()).unwrap();
    assert_eq!(block_on(directory.list("")).unwrap(), ["log"]);
    let names = sorted(block_on(directory.list("checkpoint")).unwrap());
    assert_eq!(names, ["000001", "000002"]);
    block_on(directory.remove("checkpoint/000001")).unwrap();
    block_on(directory.sync()).unwrap();
    assert_eq!(block_on(directory.list("checkpoint")).unwrap(), ["000002"]);
    let gone = block_on(directory.open("checkpoint/000001")).err().unwrap();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_folder_that_others_removed_is_made_again_once_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    block_on(directory.create("index/run")).unwrap();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let gone = block_on(directory.create("index/sort")).err().unwrap();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    directory.forget_folder("index");
    block_on(directory.create("index/sort")).unwrap();
    block_on(directory.sync()).unwrap();
    assert!(folder.path().join("index/sort").is_file());
    assert_eq!(block_on(directory.list("index")).unwrap(), ["sort"]);
}

#[test]
fn what_a_file_holds_is_found_by_the_next_opener() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    let disk = block_on(directory.create("index/run")).unwrap();
    block_on(disk.write(0, Buffer::copy_of(&[4; 4096]))).unwrap();
    drop(disk);
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    let disk = block_on(directory.open("index/run")).unwrap();
    assert_eq!(block_on(disk.length()).unwrap(), 4096);
}

#[test]
fn no_name_leads_out_of_the_directory_or_deeper_than_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    for name in ["", ".", "..", "../x", "/x", "a/", "a/b/c", "a/..", "./a", "a\0b"] {
        let refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        refused(block_on(directory.create(name)).err().unwrap());
        refused(block_on(directory.open(name)).err().unwrap());
        refused(block_on(directory.remove(name)).unwrap_err());
    }
    for name in [".", "..", "../x", "/x", "a/b"] {
        let error = block_on(directory.list(name)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_taken_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    block_on(directory.create("log")).unwrap();
    let error = block_on(directory.create("log")).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn every_file_is_fenced_as_the_options_say() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = HostOptions { fence: Some(Fence::Exclusive), ..HostOptions::default() };
    let check = HostOptions { fence: Some(Fence::Shared), ..HostOptions::default() };
    let serving = HostDirectory::open(folder.path(), daemon).unwrap();
    let checking = HostDirectory::open(folder.path(), check).unwrap();
    let disk = block_on(serving.create("log")).unwrap();
    let error = block_on(checking.open("log")).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    drop(disk);
    let first = block_on(checking.open("log")).unwrap();
    let _second = block_on(checking.open("log")).unwrap();
    assert!(block_on(serving.open("log")).is_err());
    drop(first);
}

#[test]
fn what_is_made_belongs_to_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/pool");
    let directory = HostDirectory::create(&path, HostOptions::default()).unwrap();
    HostDirectory::create(&path, HostOptions::default()).unwrap();
    block_on(directory.create("checkpoint/000001")).unwrap();
    let mode = |name: &str| {
        let found = std::fs::metadata(path.join(name)).unwrap();
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("checkpoint"), 0o700);
    assert_eq!(mode("checkpoint/000001"), 0o600);
}

#[test]
fn space_available_is_what_the_file_system_says() {
    let folder = tempfile::tempdir().unwrap();
    let directory = HostDirectory::open(folder.path(), HostOptions::default()).unwrap();
    let space = block_on(directory.space_available()).unwrap();
    assert!(space > 0 && space.is_multiple_of(512));
}
