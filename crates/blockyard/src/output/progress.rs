//! How far long work is: a progress bar on a terminal, plain lines elsewhere.
//!
//! Nothing is shown for work that ends within two seconds.

use crate::size;
use blockyard_api::{Job, ProgressUnit, TransferProgress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const SILENCE: Duration = Duration::from_secs(2);
/// Between two plain lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shown on standard error until [`Progress::end`].
pub(crate) struct Progress<'a> {
    what: &'a str,
    unit: ProgressUnit,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Progress<'_> {
    /// `what` names the work: `import`.
    pub(crate) fn new(what: &str, unit: ProgressUnit) -> Progress<'_> {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Progress { what, unit, started: now, last_line: now, bar: None, terminal }
    }

    /// So much of the total is done, as far as that is known.
    pub(crate) fn show(&mut self, done: u64, total: Option<u64>) {
        self.show_with(done, total, None);
    }

    /// How far a job is.
    pub(crate) fn show_job(&mut self, job: &Job) {
        self.show_with(job.done, job.total, job.transfer.as_ref());
    }

    fn show_with(&mut self, done: u64, total: Option<u64>, transfer: Option<&TransferProgress>) {
        if self.started.elapsed() < SILENCE {
            return;
        }
        if self.terminal {
            let numbers = match (transfer, total) {
                (Some(_), _) => Numbers::InMessage,
                (None, Some(_)) => Numbers::OfTotal,
                (None, None) => Numbers::Alone,
            };
            let new_bar = || new_bar(self.what, self.unit, numbers, self.started);
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_length(total.unwrap_or(done).max(done));
            bar.set_position(done);
            if let Some(transfer) = transfer {
                bar.set_message(format!("{}{}", self.what, of_transfer(transfer)));
            }
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let transfer = transfer.map(of_transfer).unwrap_or_default();
            eprintln!("{}{transfer}", line(self.what, self.unit, done, total));
        }
    }

    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What a bar tells beside how far it is.
#[derive(Clone, Copy)]
enum Numbers {
    /// Rate and time left are known better by the job: the message has them.
    InMessage,
    OfTotal,
    Alone,
}

fn new_bar(what: &str, unit: ProgressUnit, numbers: Numbers, started: Instant) -> ProgressBar {
    let template = match (unit, numbers) {
        (_, Numbers::InMessage) => "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}",
        (ProgressUnit::Bytes, Numbers::Alone) => "{msg} {binary_bytes} {binary_bytes_per_sec}",
        (ProgressUnit::Bytes, Numbers::OfTotal) => {
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left"
        }
        (ProgressUnit::Clusters, _) => "{msg} {wide_bar} {pos} of {len} clusters {eta} left",
    };
    let bar = ProgressBar::new(0).with_elapsed(started.elapsed());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

/// `, 3.0 GiB saved, 80.0 MiB/s, 12 s left`
pub(crate) fn of_transfer(transfer: &TransferProgress) -> String {
    let (saved, rate) = (size::human(transfer.bytes_saved), size::human(transfer.rate));
    let left = transfer.seconds_left.map(|seconds| format!(", {seconds} s left"));
    format!(", {saved} saved, {rate}/s{}", left.unwrap_or_default())
}

/// `import: 512.0 MiB of 2.0 GiB`, `scrub: 512 of 1024 clusters`
fn line(what: &str, unit: ProgressUnit, done: u64, total: Option<u64>) -> String {
    format!("{what}: {}", progress_of(unit, done, total))
}

/// `512.0 MiB of 2.0 GiB`, `512 of 1024 clusters`
pub(crate) fn progress_of(unit: ProgressUnit, done: u64, total: Option<u64>) -> String {
    let (amount, unit): (fn(u64) -> String, _) = match unit {
        ProgressUnit::Bytes => (size::human, ""),
        ProgressUnit::Clusters => (|count| count.to_string(), " clusters"),
    };
    match total {
        Some(total) => format!("{} of {}{unit}", amount(done), amount(total)),
        None => format!("{}{unit}", amount(done)),
    }
}
