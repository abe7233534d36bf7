//! What `publish` promises, one test for each promise.

use super::NewFile;
use crate::transfer_file::testing::Scratch;
use blockyard_block::ErrorKind;
use std::os::unix::fs::FileExt;

fn names(scratch: &Scratch) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.folder()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The fallback of file systems without unnamed files.
fn under_a_temporary_name(new: NewFile) -> NewFile {
    let mut new = new;
    new.named().unwrap();
    new
}

#[test]
fn nothing_is_there_before_the_file_is_published() {
    let scratch = Scratch::new();
    let new = NewFile::create(&scratch.path("disk"), false).unwrap();
    new.file().write_all_at(b"content", 0).unwrap();
    assert!(names(&scratch).is_empty());
    new.publish().unwrap();
    assert_eq!(std::fs::read(scratch.path("disk")).unwrap(), b"content");
    assert_eq!(names(&scratch), ["disk"]);
}

#[test]
fn a_file_given_up_leaves_nothing() {
    let scratch = Scratch::new();
    drop(NewFile::create(&scratch.path("disk"), false).unwrap());
    drop(under_a_temporary_name(NewFile::create(&scratch.path("disk"), false).unwrap()));
    assert!(names(&scratch).is_empty());
}

#[test]
fn what_exists_is_kept_without_force_even_if_it_came_meanwhile() {
    let scratch = Scratch::new();
    let early = NewFile::create(&scratch.path("disk"), false).unwrap();
    let early_named =
        under_a_temporary_name(NewFile::create(&scratch.path("disk"), false).unwrap());
    scratch.file("disk", b"old");
    let late = NewFile::create(&scratch.path("disk"), false);
    assert_eq!(late.err().unwrap().kind(), ErrorKind::Exists);
    assert_eq!(early.publish().unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(early_named.publish().unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(std::fs::read(scratch.path("disk")).unwrap(), b"old");
    assert_eq!(names(&scratch), ["disk"]);
}

#[test]
fn by_force_the_old_file_stays_until_the_new_one_is_whole() {
    let scratch = Scratch::new();
    scratch.file("disk", b"old");
    let new = NewFile::create(&scratch.path("disk"), true).unwrap();
    new.file().write_all_at(b"new", 0).unwrap();
    assert_eq!(std::fs::read(scratch.path("disk")).unwrap(), b"old");
    new.publish().unwrap();
    assert_eq!(std::fs::read(scratch.path("disk")).unwrap(), b"new");
    assert_eq!(names(&scratch), ["disk"]);
}

#[test]
fn a_symbolic_link_is_followed_not_replaced() {
    let scratch = Scratch::new();
    scratch.file("real", b"old");
    std::os::unix::fs::symlink("real", scratch.path("link")).unwrap();
    NewFile::create(&scratch.path("link"), true).unwrap().publish().unwrap();
    assert_eq!(std::fs::read(scratch.path("real")).unwrap(), b"");
    assert!(scratch.path("link").is_symlink());
}

#[test]
fn what_is_no_plain_file_is_never_replaced() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("folder")).unwrap();
    let error = NewFile::create(&scratch.path("folder"), true).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
