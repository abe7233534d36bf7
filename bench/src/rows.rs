//! What is measured: the rows of the table.

use crate::client::{Load, Operation, Pattern};
use crate::servers::{Kind, Mode};

/// The image that a row works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// All of it has been written; servers stay up over all such rows.
    Written,
    /// Nothing in it and nothing under it: made for each round.
    Empty,
    /// Made for each round and then written.
    Scratch,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// Our client.
    Batches(Load),
    /// fio's nbd engine with the same kind of load.
    FioNbd(Load),
    /// nbdcopy to nowhere, with 4 connections.
    NbdCopy,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) mode: Mode,
    pub(crate) content: Content,
    pub(crate) work: Work,
    pub(crate) kinds: Vec<Kind>,
    /// Whether MB/s tell more than requests a second.
    pub(crate) by_bytes: bool,
    quick: bool,
}

/// Those of a run.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = [Mode::Direct, Mode::Cached].into_iter().flat_map(rows_of).collect();
    if quick {
        rows.retain(|row| row.quick);
        // Peers that no target names would cost a third of the time.
        rows.iter_mut().for_each(keep_what_targets_name);
    }
    rows
}

fn keep_what_targets_name(row: &mut Row) {
    row.kinds.retain(|kind| match kind {
        Kind::QemuNbdQcow2 => row.content == Content::Empty,
        Kind::StorageDaemon => row.work == Work::NbdCopy,
        Kind::NbdServer => false,
        Kind::Nbdkit => row.by_bytes || row.name.starts_with("read-4k"),
        Kind::Raw | Kind::NoEngine | Kind::Blockyard | Kind::QemuNbd => true,
    });
}

fn rows_of(mode: Mode) -> Vec<Row> {
    use Operation::{DurableWrite, Read, Trim, Write};
    use Pattern::{Once, Random, Sequential};
    let direct = mode == Mode::Direct;
    let small = |operation, depth| Load::new(operation, Random, 4 << 10, depth);
    let long = |operation, block, depth| Load::new(operation, Sequential, block, depth);
    let batches = |name: &str, title: &str, load, quick| Row {
        name: format!("{name}-{}", if direct { "direct" } else { "cached" }),
        title: title.to_owned(),
        mode,
        content: Content::Written,
        work: Work::Batches(load),
        kinds: kinds(mode),
        by_bytes: load.block > 4 << 10,
        quick,
    };
    let own_image = |row: Row, content| Row { content, kinds: on_files(mode), ..row };
    let fio = |row: Row, load| Row { work: Work::FioNbd(load), kinds: few(), ..row };
    let copy = batches("copy", "nbdcopy to null, 4 connections", long(Read, 256 << 10, 1), true);
    let mut rows = vec![
        batches("read-4k-qd1", "4K random read, depth 1", small(Read, 1), false),
        batches("read-4k-qd32", "4K random read, depth 32", small(Read, 32), true),
        batches("write-4k-qd1", "4K random overwrite, depth 1", small(Write, 1), false),
        batches("write-4k-qd32", "4K random overwrite, depth 32", small(Write, 32), direct),
        batches(
            "mixed-4k-qd32",
            "4K random, 70 % reads, depth 32",
            small(Write, 32).mixed(70),
            false,
        ),
        batches("read-64k", "64K sequential read, depth 8", long(Read, 64 << 10, 8), false),
        batches("write-64k", "64K sequential overwrite, depth 8", long(Write, 64 << 10, 8), false),
        batches("read-1m", "1M sequential read, depth 8", long(Read, 1 << 20, 8), direct),
        batches("write-1m", "1M sequential overwrite, depth 8", long(Write, 1 << 20, 8), direct),
        batches(
            "flush-4k",
            "4K random overwrite and flush, depth 1",
            small(DurableWrite, 1),
            direct,
        ),
        batches(
            "many-16x1",
            "4K random read, 16 connections x depth 1",
            small(Read, 1).over(16),
            !direct,
        ),
        batches(
            "many-4x16",
            "4K random read, 4 connections x depth 16",
            small(Read, 16).over(4),
            false,
        ),
        batches(
            "many-write-4x16",
            "4K random overwrite, 4 x depth 16",
            small(Write, 16).over(4),
            false,
        ),
        Row { work: Work::NbdCopy, ..copy },
        own_image(
            batches(
                "allocate-4k-qd32",
                "4K random write into an empty image, depth 32",
                Load::new(Write, Once, 4 << 10, 32),
                direct,
            ),
            Content::Empty,
        ),
        own_image(
            batches(
                "allocate-1m",
                "1M sequential write into an empty image, depth 8",
                Load::new(Write, Pattern::Through, 1 << 20, 8),
                false,
            ),
            Content::Empty,
        ),
        own_image(
            batches(
                "trim-64k",
                "64K random trim, depth 8",
                Load::new(Trim, Once, 64 << 10, 8),
                false,
            ),
            Content::Scratch,
        ),
        fio(
            batches(
                "fio-read-4k",
                "4K random read, depth 32, fio's nbd engine",
                small(Read, 32),
                false,
            ),
            small(Read, 32),
        ),
    ];
    // fio's writes bear no stamps: after this row nothing of the image can be checked.
    if direct {
        rows.push(fio(
            batches(
                "fio-write-4k",
                "4K random overwrite, depth 32, fio's nbd engine",
                small(Write, 32),
                false,
            ),
            small(Write, 32),
        ));
    }
    for row in &mut rows {
        let has_raw = matches!(row.work, Work::Batches(load) if load.operation != Trim)
            && row.content == Content::Written;
        row.kinds.retain(|kind| *kind != Kind::Raw || has_raw);
        if row.work == Work::NbdCopy {
            // To libnbd it says that its export has 0 bytes.
            row.kinds.retain(|kind| *kind != Kind::NbdServer);
        }
    }
    rows
}

fn kinds(mode: Mode) -> Vec<Kind> {
    let all = [
        Kind::Raw,
        Kind::NoEngine,
        Kind::Blockyard,
        Kind::QemuNbd,
        Kind::QemuNbdQcow2,
        Kind::StorageDaemon,
        Kind::Nbdkit,
        Kind::NbdServer,
    ];
    all.into_iter().filter(|kind| mode == Mode::Cached || kind.knows_direct()).collect()
}

/// Those whose own image or file grows and shrinks.
fn on_files(mode: Mode) -> Vec<Kind> {
    let grow = [Kind::NoEngine, Kind::Blockyard, Kind::QemuNbd, Kind::QemuNbdQcow2, Kind::Nbdkit];
    grow.into_iter().filter(|kind| mode == Mode::Cached || kind.knows_direct()).collect()
}

fn few() -> Vec<Kind> {
    vec![Kind::NoEngine, Kind::Blockyard, Kind::QemuNbd]
}

#[cfg(test)]
mod tests {
    use super::{Content, Work, rows};
    use crate::servers::{Kind, Mode};
    use std::collections::BTreeSet;

    #[test]
    fn names_tell_rows_apart_and_quick_rows_are_among_the_full() {
        let names =
            |quick| -> Vec<String> { rows(quick).into_iter().map(|row| row.name).collect() };
        let full: BTreeSet<String> = names(false).into_iter().collect();
        assert_eq!(full.len(), rows(false).len());
        assert!(names(true).iter().all(|name| full.contains(name)));
    }

    #[test]
    fn every_row_has_blockyard_and_somebody_else() {
        for row in rows(true).into_iter().chain(rows(false)) {
            assert!(row.kinds.contains(&Kind::Blockyard) && row.kinds.len() > 1, "{}", row.name);
        }
    }

    #[test]
    fn who_cannot_go_past_the_cache_is_not_in_direct_rows() {
        for row in rows(false).iter().filter(|row| row.mode == Mode::Direct) {
            assert!(row.kinds.iter().all(|kind| kind.knows_direct()), "{}", row.name);
        }
    }

    #[test]
    fn writes_that_bear_no_stamps_come_last_of_their_mode() {
        let full = rows(false);
        for (index, row) in full.iter().enumerate() {
            if matches!(row.work, Work::FioNbd(load) if load.writes()) {
                let later = full[index + 1..].iter().find(|later| later.mode == row.mode);
                assert!(later.is_none_or(|later| later.content != Content::Written));
            }
        }
    }
}
