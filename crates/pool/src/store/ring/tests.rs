//! What `ring` promises, one test for each promise.

use super::{Class, Position, Ring};
use crate::store::StoreOptions;

fn ring(head_segment: u32, within: u64, tail: u32) -> Ring {
    Ring {
        options: StoreOptions { segment_bytes: 16384, segments: 4, part_bytes_target: 4096 },
        head: Position { segment: head_segment, within },
        tail,
    }
}

#[test]
fn changes_leave_a_whole_segment_free() {
    assert_eq!(ring(2, 8192, 0).place(Class::Changes, 8192).map(|p| p.segment), Some(2));
    assert_eq!(ring(2, 12288, 0).place(Class::Changes, 8192), None);
    assert_eq!(ring(3, 0, 0).place(Class::Changes, 4096), None);
    assert_eq!(ring(1, 16384, 0).place(Class::Changes, 4096).map(|p| p.segment), Some(2));
}

#[test]
fn a_full_log_still_takes_two_manifests() {
    let full = ring(2, 16384, 0);
    let first = full.place(Class::Manifest, 4096).expect("the free segment");
    assert_eq!(first, Position { segment: 3, within: 0 });
    let stuck = ring(3, 4096, 0);
    assert_eq!(stuck.place(Class::Changes, 4096), None);
    assert_eq!(stuck.place(Class::Mark, 4096).map(|p| p.within), Some(4096));
    let marked = ring(3, 8192, 0);
    assert_eq!(marked.place(Class::Mark, 4096), None);
    assert_eq!(marked.place(Class::Manifest, 4096).map(|p| p.within), Some(8192));
}

#[test]
fn live_bytes_count_from_the_tail_segment() {
    assert_eq!(ring(0, 4096, 3).live_bytes(), 16384 + 4096);
    assert_eq!(ring(1, 0, 1).live_bytes(), 0);
}
