//! The targets of the design, and whether a run holds them. A target that a run did not measure is
//! said to be not measured, never to hold.

use super::Measured;
use crate::sample::Sample;
use crate::servers::Kind;

/// At least or at most so much.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Least(f64),
    Most(f64),
}

struct Target {
    row: &'static str,
    /// What is compared.
    words: &'static str,
    limit: Limit,
    figure: fn(&Measured) -> Option<f64>,
}

const CACHED_READ: &str = "4K random read QD32, cached";
const DIRECT_READ: &str = "4K random read QD32, O_DIRECT";
const OVERWRITE: &str = "4K random overwrite QD32, O_DIRECT";
const ALLOCATE: &str = "4K random write QD32, allocating";
const SEQUENTIAL: &str = "1M sequential, O_DIRECT";
const COPY: &str = "nbdcopy, 4 connections";
use Limit::{Least, Most};

const TARGETS: &[Target] = &[
    Target {
        row: CACHED_READ,
        words: "CPU per request / qemu-nbd",
        limit: Most(0.25),
        figure: |run| cpu(run, "read-4k-qd32-cached", Kind::QemuNbd),
    },
    Target {
        row: CACHED_READ,
        words: "CPU per request / nbdkit",
        limit: Most(0.4),
        figure: |run| cpu(run, "read-4k-qd32-cached", Kind::Nbdkit),
    },
    Target {
        row: CACHED_READ,
        words: "IOPS / qemu-nbd",
        limit: Least(4.0),
        figure: |run| rate(run, "read-4k-qd32-cached", Kind::QemuNbd),
    },
    Target {
        row: DIRECT_READ,
        words: "IOPS / no-engine loop",
        limit: Least(0.92),
        figure: |run| rate(run, "read-4k-qd32-direct", Kind::NoEngine),
    },
    Target {
        row: DIRECT_READ,
        words: "IOPS / fio raw (stretch 0.85)",
        limit: Least(0.7),
        figure: |run| rate(run, "read-4k-qd32-direct", Kind::Raw),
    },
    Target {
        row: DIRECT_READ,
        words: "IOPS / qemu-nbd",
        limit: Least(1.8),
        figure: |run| rate(run, "read-4k-qd32-direct", Kind::QemuNbd),
    },
    Target {
        row: OVERWRITE,
        words: "IOPS / no-engine loop",
        limit: Least(0.9),
        figure: |run| rate(run, "write-4k-qd32-direct", Kind::NoEngine),
    },
    Target {
        row: OVERWRITE,
        words: "IOPS / fio raw (stretch 0.75)",
        limit: Least(0.5),
        figure: |run| rate(run, "write-4k-qd32-direct", Kind::Raw),
    },
    Target {
        row: OVERWRITE,
        words: "IOPS / qemu-nbd",
        limit: Least(2.0),
        figure: |run| rate(run, "write-4k-qd32-direct", Kind::QemuNbd),
    },
    Target {
        row: OVERWRITE,
        words: "CPU per request / qemu-nbd",
        limit: Most(0.4),
        figure: |run| cpu(run, "write-4k-qd32-direct", Kind::QemuNbd),
    },
    Target {
        row: ALLOCATE,
        words: "IOPS / qcow2 under qemu-nbd",
        limit: Least(2.0),
        figure: |run| rate(run, "allocate-4k-qd32-direct", Kind::QemuNbdQcow2),
    },
    Target {
        row: ALLOCATE,
        words: "IOPS / our own overwrite",
        limit: Least(0.8),
        figure: |run| {
            let ours = |row| run.row(row)?.median(Kind::Blockyard, |sample| Some(sample.rate));
            Some(ours("allocate-4k-qd32-direct")? / ours("write-4k-qd32-direct")?)
        },
    },
    Target {
        row: SEQUENTIAL,
        words: "read, MB/s / fio raw",
        limit: Least(0.95),
        figure: |run| rate(run, "read-1m-direct", Kind::Raw),
    },
    Target {
        row: SEQUENTIAL,
        words: "write, MB/s / fio raw",
        limit: Least(0.95),
        figure: |run| rate(run, "write-1m-direct", Kind::Raw),
    },
    Target {
        row: "4K write + flush QD1, O_DIRECT",
        words: "p50 latency / no-engine loop",
        limit: Most(1.1),
        figure: |run| latency(run, "flush-4k-direct", Kind::NoEngine),
    },
    Target {
        row: "4K write + flush QD1, O_DIRECT",
        words: "p50 latency / pwrite + fdatasync (no target)",
        limit: Most(f64::INFINITY),
        figure: |run| latency(run, "flush-4k-direct", Kind::Raw),
    },
    Target {
        row: COPY,
        words: "cached, MB/s / best peer",
        limit: Least(1.0),
        figure: |run| best_peer(run, "copy-cached"),
    },
    Target {
        row: COPY,
        words: "O_DIRECT, MB/s / best peer",
        limit: Least(1.0),
        figure: |run| best_peer(run, "copy-direct"),
    },
    Target {
        row: "16 connections x QD1, cached",
        words: "CPU per request / qemu-nbd",
        limit: Most(0.5),
        figure: |run| cpu(run, "many-16x1-cached", Kind::QemuNbd),
    },
    Target {
        row: "write amplification",
        words: "bytes to disk / bytes written, 4K random overwrite",
        limit: Most(1.1),
        figure: |run| figure(run, "write-amplification"),
    },
    Target {
        row: "memory",
        words: "anonymous MiB per TiB of allocated data",
        limit: Most(128.0),
        figure: |run| figure(run, "anonymous-mib-per-tib"),
    },
];

/// Blockyard's median of a figure, divided by that of `peer` in the same row.
fn ratio(
    run: &Measured,
    row: &str,
    peer: Kind,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<f64> {
    let row = run.row(row)?;
    let peer = row.median(peer, &figure).filter(|peer| *peer > 0.0)?;
    Some(row.median(Kind::Blockyard, &figure)? / peer)
}

fn rate(run: &Measured, row: &str, peer: Kind) -> Option<f64> {
    ratio(run, row, peer, |sample| Some(sample.rate))
}

fn cpu(run: &Measured, row: &str, peer: Kind) -> Option<f64> {
    ratio(run, row, peer, |sample| sample.cpu_us)
}

fn latency(run: &Measured, row: &str, peer: Kind) -> Option<f64> {
    ratio(run, row, peer, |sample| sample.p50_us)
}

fn best_peer(run: &Measured, row: &str) -> Option<f64> {
    let peers = [Kind::QemuNbd, Kind::StorageDaemon, Kind::Nbdkit];
    peers.iter().filter_map(|peer| rate(run, row, *peer)).reduce(f64::min)
}

fn figure(run: &Measured, name: &str) -> Option<f64> {
    Some(run.figures.iter().find(|figure| figure.name == name)?.value)
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Least(limit) => value >= limit,
            Most(limit) => value <= limit,
        }
    }

    fn words(self) -> String {
        match self {
            Least(limit) => format!(">= {limit}"),
            Most(limit) if limit.is_finite() => format!("<= {limit}"),
            Most(_) => "-".to_owned(),
        }
    }
}

/// As Markdown.
pub(super) fn table(run: &Measured) -> String {
    let mut text =
        "| row | ratio | target | measured | holds |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for target in TARGETS {
        let value = (target.figure)(run);
        let holds = match value {
            None => "not measured",
            Some(_) if target.limit.words() == "-" => "",
            Some(value) if target.limit.holds(value) => "yes",
            Some(_) => "**no**",
        };
        let value = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let (row, words) = (target.row, target.words);
        text += &format!("| {row} | {words} | {} | {value} | {holds} |\n", target.limit.words());
    }
    text
}
