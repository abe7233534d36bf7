//! What `fold` promises, one test for each promise.

use super::{Step, plan};
use crate::store::manifest::PartEntry;
use crate::store::overlay::Overlay;
use crate::store::{Change, Key};

const TARGET: u64 = 64 << 10;

fn key(id: u64) -> Key {
    Key { kind: 1, id }
}

/// Parts that start at 100, 200, ... and have these lengths.
fn parts(lengths: &[u64]) -> Vec<PartEntry> {
    let part = |(at, bytes): (usize, &u64)| {
        let first = 100 * (at as u64 + 1);
        let (first, last) = (key(first), key(first + 99));
        PartEntry { id: at as u64 + 1, bytes: *bytes, records: 9, first, last, checksum: 0 }
    };
    lengths.iter().enumerate().map(part).collect()
}

fn changes(ids: &[u64]) -> Overlay {
    let mut overlay = Overlay::default();
    for id in ids {
        overlay.apply(Change { key: key(*id), value: Some(vec![0; 100]) });
    }
    overlay
}

/// The groups that are rewritten, and the parts that are kept.
fn shape(steps: &[Step]) -> String {
    let show = |step: &Step| match step {
        Step::Keep(at) => format!("keep {at}"),
        Step::Rewrite { group, .. } => format!("write {}..{}", group.start, group.end),
    };
    steps.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[test]
fn only_parts_whose_range_has_changes_are_rewritten() {
    let parts = parts(&[TARGET; 4]);
    let planned = |ids: &[u64]| shape(&plan(&parts, &changes(ids), TARGET, 1000));
    assert_eq!(planned(&[250]), "keep 0, write 1..2, keep 2, keep 3");
    assert_eq!(planned(&[1, 999]), "write 0..1, keep 1, keep 2, write 3..4");
    assert_eq!(planned(&[299, 300]), "keep 0, write 1..3, keep 3");
    assert_eq!(planned(&[]), "keep 0, keep 1, keep 2, keep 3");
}

#[test]
fn small_neighbours_are_merged() {
    let parts = parts(&[TARGET, 4096, TARGET, 4096, 4096]);
    assert_eq!(shape(&plan(&parts, &changes(&[350]), TARGET, 1000)), "keep 0, write 1..4, keep 4");
}

#[test]
fn a_part_that_grew_is_cut_evenly() {
    let steps = plan(&parts(&[3 * TARGET]), &changes(&[150]), TARGET, 1000);
    let [Step::Rewrite { cut_bytes, .. }] = steps[..] else { panic!("{steps:?}") };
    assert!((cut_bytes as u64).abs_diff(TARGET) < TARGET / 8, "{cut_bytes}");
}

#[test]
fn there_are_never_more_parts_than_a_manifest_names() {
    let parts = parts(&[TARGET; 8]);
    let steps = plan(&parts, &changes(&[150]), TARGET, 7);
    assert_eq!(shape(&steps), "write 0..8");
    let Step::Rewrite { cut_bytes, .. } = steps[0] else { panic!("{steps:?}") };
    assert!(cut_bytes as u64 > 3 * TARGET, "{cut_bytes}");
}
