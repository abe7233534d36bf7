//! What `push`, `pull` and `quote` share: `PEER/NAME`, and telling what crossed.

use crate::commands::Session;
use crate::output::job::{self, Patience};
use crate::size::{Size, human};
use anyhow::Result;
use blockyard_api::{Client, Compression, Job, JobReport, TransferReport, TransferTerms};
use blockyard_block::{Error, ErrorKind};
use clap::{Args, ValueEnum, value_parser};

/// How an image shall cross.
#[derive(Debug, Args)]
pub(crate) struct TermsFlags {
    /// Compress what becomes smaller on the way
    #[arg(long, value_enum, default_value_t = Compress::Zstd)]
    compress: Compress,
    /// Send at most so many bytes a second: 10M, 512K
    #[arg(long)]
    rate: Option<Size>,
    /// Cross on up to so many connections at the same time, 1 to 6: one is slow where the way is long [default: one, and one
    /// more for each 10 ms of a round trip]
    #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=6))]
    streams: Option<u8>,
    /// Do not read what the receiver takes by reference, to compare it with its hash
    #[arg(long)]
    no_verify: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compress {
    None,
    Zstd,
}

impl TermsFlags {
    pub(crate) fn terms(&self) -> TransferTerms {
        TransferTerms {
            compress: match self.compress {
                Compress::None => Compression::None,
                Compress::Zstd => Compression::Zstd,
            },
            rate: self.rate.map(|size| size.0),
            streams: self.streams,
            unverified: self.no_verify,
            sample: false,
        }
    }
}

/// `PEER/NAME` in two.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once('/').filter(|(peer, name)| !peer.is_empty() && !name.is_empty())
}

pub(crate) fn malformed(text: &str, form: &str) -> anyhow::Error {
    Error::new(ErrorKind::InvalidArgument, format!("{text:?} is not {form}")).into()
}

/// Waits for the job and prints what it came to. `done` is the first line for people.
pub(crate) fn finish(
    session: &Session,
    client: &mut Client,
    started: Job,
    what: &str,
    done: &str,
) -> Result<()> {
    let patience = Patience::of(started.kind);
    finish_within(session, client, started, (what, done), patience)
}

/// The same, with other patience.
pub(crate) fn finish_within(
    session: &Session,
    client: &mut Client,
    started: Job,
    (what, done): (&str, &str),
    patience: Patience,
) -> Result<()> {
    match job::wait_with(client, started, what, patience)? {
        Some(JobReport::Transfer(report)) => {
            session.output.print(&report, || format!("{done}\n{}", text(&report)))
        }
        _ => Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into()),
    }
}

pub(super) fn text(report: &TransferReport) -> String {
    let crossed = match (report.quote, report.lazy) {
        (true, _) => "would cross",
        (false, true) => "is still to come",
        (false, false) => "crossed",
    };
    let lists = report.bytes_sent + report.bytes_received;
    let mut text = format!(
        "{} of data {crossed}; there already: {} extents of 4 MiB, and {} in other places\n",
        human(report.bytes_missing),
        report.extents_whole,
        human(report.bytes_found),
    );
    if let Some(data) = report.bytes_data {
        let stays = data.saturating_sub(report.bytes_missing);
        let share = stays as f64 * 100.0 / data as f64;
        text.push_str(&format!("{share:.1} % of its {} need not cross\n", human(data)));
    }
    let mut line = |bytes: u64, what: &str| {
        if bytes > 0 {
            text.push_str(&format!("{} {what}\n", human(bytes)));
        }
    };
    line(report.bytes_repeated, "more have the content of others that cross");
    line(
        report.bytes_damaged,
        "of these seemed to be there, but were damaged or changed: `blockyard scrub` there tells",
    );
    line(
        report.bytes_compressed_estimate.unwrap_or(0),
        "would be left after compression, by an estimate",
    );
    line(lists, "went over the wire in all");
    if let Some(seconds) = report.seconds_at_rate {
        text.push_str(&format!("{seconds} s at this rate\n"));
    }
    text
}
