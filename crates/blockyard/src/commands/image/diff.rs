//! `blockyard image diff ONE OTHER`: where two images differ, from maps and hashes.

use crate::commands::Session;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{DiffRun, DiffState};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;

/// Show where two images differ, without reading their data
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// One image or snapshot
    one: String,
    /// The other. Beyond the end of the shorter one, what is not zero differs
    other: String,

    /// Print only how much differs
    #[arg(long)]
    count: bool,
}

#[derive(Serialize)]
struct Difference {
    bytes_differing: u64,
    /// In clusters whose hash is not trusted now.
    bytes_unknown: u64,
    /// Empty with `--count`.
    runs: Vec<DiffRun>,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let mut client = session.client()?;
    let mut runs = Vec::new();
    let mut next = Some(0);
    while let Some(offset) = next {
        let page = client.image_diff(&flags.one, &flags.other, offset)?;
        runs.extend(page.runs);
        next = page.next_offset;
    }
    let total = |state| runs.iter().filter(|run| run.state == state).map(|run| run.length).sum();
    let (bytes_differing, bytes_unknown) = (total(DiffState::Differs), total(DiffState::Unknown));
    if flags.count {
        runs.clear();
    }
    let difference = Difference { bytes_differing, bytes_unknown, runs };
    session.output.print(&difference, || text(&difference))
}

fn text(difference: &Difference) -> String {
    let mut text = String::new();
    for run in &difference.runs {
        let state = match run.state {
            DiffState::Differs => "differs",
            DiffState::Unknown => "unknown",
        };
        let _ = writeln!(text, "{:>20} {:>16} {state}", run.offset, run.length);
    }
    let _ = writeln!(text, "{} differ", human(difference.bytes_differing));
    if difference.bytes_unknown > 0 {
        let unknown = human(difference.bytes_unknown);
        let _ = writeln!(text, "{unknown} not known: still to be hashed again after a crash");
    }
    text
}
