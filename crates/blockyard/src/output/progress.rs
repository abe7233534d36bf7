//! How far long work is: a progress bar on a terminal, plain lines elsewhere.
//!
//! Nothing is shown for work that ends within two seconds.

use crate::size;
use blockyard_api::ProgressUnit;
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
        if self.started.elapsed() < SILENCE {
            return;
        }
        if self.terminal {
            let new_bar = || new_bar(self.what, self.unit, total.is_some(), self.started);
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_length(total.unwrap_or(done).max(done));
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}", line(self.what, self.unit, done, total));
        }
    }

    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(what: &str, unit: ProgressUnit, known: bool, started: Instant) -> ProgressBar {
    let template = match unit {
        ProgressUnit::Bytes if !known => "{msg} {binary_bytes} {binary_bytes_per_sec}",
        ProgressUnit::Bytes => {
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left"
        }
        ProgressUnit::Clusters => "{msg} {wide_bar} {pos} of {len} clusters {eta} left",
    };
    let bar = ProgressBar::new(0).with_elapsed(started.elapsed());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

/// `import: 512.0 MiB of 2.0 GiB`, `scrub: 512 of 1024 clusters`
fn line(what: &str, unit: ProgressUnit, done: u64, total: Option<u64>) -> String {
    let (amount, unit): (fn(u64) -> String, _) = match unit {
        ProgressUnit::Bytes => (size::human, ""),
        ProgressUnit::Clusters => (|count| count.to_string(), " clusters"),
    };
    match total {
        Some(total) => format!("{what}: {} of {}{unit}", amount(done), amount(total)),
        None => format!("{what}: {}{unit}", amount(done)),
    }
}
