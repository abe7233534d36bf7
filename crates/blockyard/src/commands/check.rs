//! `blockyard check DIR`: judges a pool that is not served. It needs no daemon and writes nothing.
//!
//! Exit codes: 0 sound, 1 unsound, 2 cannot tell (served, unreadable, of a newer format, no pool).

mod open;

use crate::config::Config;
use crate::daemon::plan::journal_folder;
use crate::output::progress::Progress;
use crate::output::{CannotTell, Output};
use crate::size;
use anyhow::{Context, Result, anyhow};
use blockyard_api::ProgressUnit;
use blockyard_pool::{CheckCounts, CheckProgress, CheckReport, Finding};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Check a pool that is not being served: all metadata, and with --data every cluster
///
/// Exits with 0 if the pool is sound, 1 if it is not, 2 if that cannot be told. Nothing is changed. A
/// pool whose daemon was killed is sound, too; the clusters that the next daemon will hash again are
/// counted as untrusted.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The pool's directory [default: as for the other commands]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Read every cluster and compare it with its hash
    #[arg(long)]
    data: bool,
    /// The data is in this file or on this block device now [default: where it was last]
    #[arg(long, value_name = "PATH")]
    data_at: Option<PathBuf>,
    /// The daemon kept its journal in this folder [env: BLOCKYARD_JOURNAL_DIR; default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    journal_dir: Option<PathBuf>,
}

pub(crate) fn run(flags: &Flags, config: &Config, output: Output) -> Result<()> {
    let pool = match &flags.directory {
        Some(directory) => directory.clone(),
        None => config.pool()?,
    };
    let report = check(flags, config, &pool).with_context(|| CannotTell(pool.clone()))?;
    let shown = Report::new(&report);
    output.print(&shown, || text(&pool, flags.data, &report))?;
    match report.is_sound() {
        true => Ok(()),
        false => {
            let count = report.findings.len() as u64 + report.findings_omitted;
            Err(anyhow!("{} is not sound: {count} findings; nothing was changed", pool.display()))
        }
    }
}

fn check(flags: &Flags, config: &Config, pool: &Path) -> Result<CheckReport> {
    let named = flags.journal_dir.clone().or(config.serve().journal_dir);
    let journal = journal_folder(named);
    let mut progress = Progress::new("check", ProgressUnit::Bytes);
    let mut show = |at: CheckProgress| progress.show(at.bytes_done, Some(at.bytes_total));
    let report = open::check(pool, flags.data_at.as_deref(), &journal, flags.data, &mut show);
    progress.end();
    report
}

/// The report as JSON.
#[derive(Serialize)]
struct Report<'a> {
    sound: bool,
    closed_clean: bool,
    images: u64,
    images_unfinished: u64,
    extents: u64,
    records_unheld: u64,
    clusters_used: u64,
    clusters_reserved: u64,
    clusters_shared: u64,
    clusters_untrusted: u64,
    clusters_verified: u64,
    regions_with_intent: u64,
    journal_changes: u64,
    findings: Vec<ShownFinding<'a>>,
    findings_omitted: u64,
}

#[derive(Serialize)]
struct ShownFinding<'a> {
    image: Option<&'a str>,
    offset: Option<u64>,
    message: &'a str,
}

impl Report<'_> {
    fn new(report: &CheckReport) -> Report<'_> {
        let counts: &CheckCounts = &report.counts;
        Report {
            sound: report.is_sound(),
            closed_clean: counts.closed_clean,
            images: counts.images,
            images_unfinished: counts.images_unfinished,
            extents: counts.extents,
            records_unheld: counts.records_unheld,
            clusters_used: counts.clusters_used,
            clusters_reserved: counts.clusters_reserved,
            clusters_shared: counts.clusters_shared,
            clusters_untrusted: counts.clusters_untrusted,
            clusters_verified: counts.clusters_verified,
            regions_with_intent: counts.regions_with_intent,
            journal_changes: counts.journal_changes,
            findings: report.findings.iter().map(ShownFinding::new).collect(),
            findings_omitted: report.findings_omitted,
        }
    }
}

impl ShownFinding<'_> {
    fn new(finding: &Finding) -> ShownFinding<'_> {
        let image = finding.image.as_ref().map(|name| name.as_str());
        ShownFinding { image, offset: finding.offset, message: &finding.message }
    }
}

fn text(pool: &Path, read_data: bool, report: &CheckReport) -> String {
    let counts = &report.counts;
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    for finding in &report.findings {
        line(match (&finding.image, finding.offset) {
            (Some(image), Some(offset)) => format!("{image} at {offset}: {}", finding.message),
            (Some(image), None) => format!("{image}: {}", finding.message),
            (None, _) => finding.message.clone(),
        });
    }
    if report.findings_omitted > 0 {
        line(format!("and {} more", report.findings_omitted));
    }
    line(format!(
        "{} images, {} extents, {} in {} clusters ({} shared, {} reserved)",
        counts.images,
        counts.extents,
        size::human(counts.clusters_used * 4096),
        counts.clusters_used,
        counts.clusters_shared,
        counts.clusters_reserved
    ));
    line(format!("{}{}", how_it_ended(counts), untrusted(counts)));
    if read_data {
        line(format!("{} clusters read and equal to their hash", counts.clusters_verified));
    }
    if report.is_sound() {
        line(format!("{} is sound", pool.display()));
    }
    text
}

fn how_it_ended(counts: &CheckCounts) -> String {
    let mut words = String::from(match counts.closed_clean {
        true => "closed in order",
        false => "not closed in order",
    });
    if counts.journal_changes > 0 {
        let changes = counts.journal_changes;
        let _ = write!(words, ", {changes} acknowledged changes wait in the journal");
    }
    if counts.images_unfinished > 0 {
        let _ = write!(words, ", {} imports not finished", counts.images_unfinished);
    }
    words
}

fn untrusted(counts: &CheckCounts) -> String {
    match counts.clusters_untrusted {
        0 => ", every hash is trusted".to_owned(),
        count => format!(
            ", {count} clusters untrusted in {} regions: the next daemon hashes them again",
            counts.regions_with_intent
        ),
    }
}
