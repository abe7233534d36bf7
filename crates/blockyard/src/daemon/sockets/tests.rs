//! Stale sockets are replaced, everything else is left alone.

use super::{Access, BoundSocket};
use blockyard_block::ErrorKind;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

#[test]
fn a_socket_has_its_mode_and_is_removed_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let access = Access { owner: None, group: None, mode: 0o640 };
    let socket = BoundSocket::bind(&path, &access).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(UnixStream::connect(&path).is_ok());
    drop(socket);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = BoundSocket::bind(&path, &Access::owner_only()).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_live_socket_and_a_file_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let live = BoundSocket::bind(&path, &Access::owner_only()).unwrap();
    let refused = BoundSocket::bind(&path, &Access::owner_only()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(UnixStream::connect(&path).is_ok());
    drop(live);
    fs::write(&path, "mine").unwrap();
    let refused = BoundSocket::bind(&path, &Access::owner_only()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}
