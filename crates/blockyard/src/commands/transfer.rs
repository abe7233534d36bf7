//! What `push`, `pull` and `quote` share: `PEER/NAME`, and telling what crossed.

use crate::commands::Session;
use crate::output::job;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{Client, Job, JobReport, TransferReport};
use blockyard_block::{Error, ErrorKind};

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
    match job::wait(client, started, what)? {
        Some(JobReport::Transfer(report)) => {
            session.output.print(&report, || format!("{done}\n{}", text(&report)))
        }
        _ => Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into()),
    }
}

fn text(report: &TransferReport) -> String {
    let crossed = if report.quote { "would cross" } else { "crossed" };
    let lists = report.bytes_sent + report.bytes_received;
    format!(
        "{} of data {crossed}; there already: {} extents of 4 MiB, and {} in other places\n{} went over the wire in all\n",
        human(report.bytes_missing),
        report.extents_whole,
        human(report.bytes_found),
        human(lists),
    )
}
