//! `blockyard reclaim`: has the daemon turn equal clusters into free space, and waits.

use crate::commands::Session;
use crate::output::job;
use crate::size::{Size, human};
use anyhow::Result;
use blockyard_api::{JobReport, ReclaimReport, ReclaimSpace};
use blockyard_block::{Error, ErrorKind};
use clap::Args;
use std::fmt::Write as _;

/// Turn clusters of equal content into free space, while the pool is served
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Stop when about this much was freed; long runs of equal clusters go first
    #[arg(long, value_name = "SIZE", value_parser = more_than_nothing)]
    target: Option<Size>,

    /// Share only runs of at least N equal clusters (of 4 KiB), so that sequential reads stay fast
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    runs_only: u64,

    /// Count what has an equal, by hash; read no data and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn more_than_nothing(text: &str) -> Result<Size, String> {
    match text.parse::<Size>()? {
        Size(0) => {
            Err("it must be more than 0; without it all is freed that has an equal".to_owned())
        }
        size => Ok(size),
    }
}

fn at_least_one(text: &str) -> Result<u64, String> {
    match text.parse().map_err(|_| "it must be a number of clusters".to_owned())? {
        0 => Err("it must be at least 1, which shares all".to_owned()),
        count => Ok(count),
    }
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let request = ReclaimSpace {
        target_bytes: flags.target.map(|size| size.0),
        runs_min: flags.runs_only,
        dry_run: flags.dry_run,
    };
    let mut client = session.client()?;
    let started = client.reclaim(&request)?;
    let Some(JobReport::Reclaim(report)) = job::wait(&mut client, started, "reclaim")? else {
        return Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into());
    };
    session.output.print(&report, || text(&report))
}

pub(super) fn text(report: &ReclaimReport) -> String {
    let (scanned, equal) = (human(report.bytes_scanned), human(report.bytes_equal));
    let freed = human(report.bytes_freed);
    let mut text = match report.target_bytes {
        _ if report.dry_run => {
            format!("{scanned} looked at, {equal} have an equal; nothing was changed\n")
        }
        None => format!("{scanned} looked at, {equal} have an equal, {freed} freed\n"),
        // It stops on its way: what it met until then is not what has an equal.
        Some(target) if report.bytes_freed >= target => {
            format!("{freed} freed, of {} asked for; more may have an equal\n", human(target))
        }
        Some(target) => {
            format!("{scanned} looked at, {freed} freed, of {} asked for\n", human(target))
        }
    };
    let kept = [
        (report.bytes_untrusted, "left out: their hash is not trusted now"),
        (report.bytes_busy, "kept: in use or changed meanwhile"),
        (report.bytes_differed, "kept: equal hash but other bytes; run `blockyard scrub`"),
        (report.bytes_unreadable, "kept: they cannot be read"),
    ];
    for (bytes, why) in kept.into_iter().filter(|(bytes, _)| *bytes > 0) {
        let _ = writeln!(text, "{} {why}", human(bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::text;
    use blockyard_api::ReclaimReport;

    #[test]
    fn what_was_met_before_the_target_was_reached_is_not_told_as_all_that_has_an_equal() {
        let mut report = ReclaimReport {
            dry_run: false,
            target_bytes: None,
            bytes_scanned: 64 << 20,
            bytes_untrusted: 0,
            bytes_equal: 8 << 20,
            bytes_freed: 5 << 20,
            bytes_differed: 0,
            bytes_busy: 0,
            bytes_unreadable: 0,
        };
        assert_eq!(text(&report), "64.0 MiB looked at, 8.0 MiB have an equal, 5.0 MiB freed\n");
        report.target_bytes = Some(5 << 20);
        let reached = "5.0 MiB freed, of 5.0 MiB asked for; more may have an equal\n";
        assert_eq!(text(&report), reached);
        report.target_bytes = Some(6 << 20);
        assert_eq!(text(&report), "64.0 MiB looked at, 5.0 MiB freed, of 6.0 MiB asked for\n");
        report.dry_run = true;
        let dry = "64.0 MiB looked at, 8.0 MiB have an equal; nothing was changed\n";
        assert_eq!(text(&report), dry);
    }
}
