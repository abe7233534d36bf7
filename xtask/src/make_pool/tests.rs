//! What `make_pool` promises, one test for each promise.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn sizes_that_no_pool_can_have_are_refused() {
    assert_eq!(parse(&words("--gib 4 pool")).unwrap().bytes, 4 << 30);
    for line in ["--gib 0 pool", "--tib 1025 pool", "--tib 99999999999999 pool", "--gib pool", ""] {
        assert!(parse(&words(line)).is_err(), "{line}");
    }
}

#[test]
fn a_pool_is_made_where_none_is_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = words(&format!("--gib 1 --images 2 {}", folder.path().display()));
    assert!(run(&arguments).unwrap());
    let length = folder.path().join("data").metadata().unwrap().len();
    assert_eq!(length, (1 << 30) + EXTENT_SIZE);
    assert!(run(&arguments).is_err());
}
