//! `blockyard scrub`: has the daemon compare every cluster with its hash, and waits.

use crate::commands::Session;
use crate::output::job;
use anyhow::Result;
use blockyard_api::{JobReport, ScrubReport};
use blockyard_block::{Error, ErrorKind};
use clap::Args;
use std::fmt::Write as _;

/// Compare every stored cluster with its hash, while the pool is served
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Make hashes that were lost with a part of the hash table, and that nothing proves, anew of the data as it is:
    /// should some of it have rotted, that is not noticed any more
    #[arg(long)]
    rehash: bool,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let mut client = session.client()?;
    let started = client.scrub(flags.rehash)?;
    let Some(JobReport::Scrub(report)) = job::wait(&mut client, started, "scrub")? else {
        return Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into());
    };
    session.output.print(&report, || text(&report))?;
    verdict(&report)
}

/// The error for data that is damaged.
pub(super) fn verdict(report: &ScrubReport) -> Result<()> {
    match report.clusters_damaged {
        0 if report.hashes_lost > 0 => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "the hash table is damaged: the hashes of {} clusters are lost, so nobody knows whether they are \
                 what was stored; they can be read and written; --rehash makes hashes of them as they are",
                report.hashes_lost
            ),
        )
        .into()),
        0 => Ok(()),
        count => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{count} clusters are not what was stored, and no equal cluster has their content"
            ),
        )
        .into()),
    }
}

pub(super) fn text(report: &ScrubReport) -> String {
    let mut text = format!("{} clusters checked", report.clusters_checked);
    if report.clusters_skipped_untrusted > 0 {
        let skipped = report.clusters_skipped_untrusted;
        let _ = write!(text, ", {skipped} skipped: their hash is not trusted");
    }
    text.push('\n');
    let hashes = [
        (report.hashes_restored, "had lost their hash and are proved to be what was stored"),
        (report.hashes_made, "had lost their hash and got one of what they hold now"),
        (report.hashes_lost, "have lost their hash"),
    ];
    for (count, what) in hashes.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "{count} clusters {what}");
    }
    for healed in report.healed.iter().flat_map(|damage| &damage.places) {
        let _ =
            writeln!(text, "{} at {}: healed from an equal cluster", healed.image, healed.offset);
    }
    for damage in &report.damage {
        for place in &damage.places {
            let _ = writeln!(text, "{} at {}: {}", place.image, place.offset, damage.message);
        }
        if damage.places.is_empty() {
            let _ = writeln!(text, "{}", damage.message);
        }
    }
    let omitted = report.clusters_damaged.saturating_sub(report.damage.len() as u64);
    if omitted > 0 {
        let _ = writeln!(text, "and {omitted} more");
    }
    text
}
