//! Waiting for a job: a progress bar on a terminal, plain lines elsewhere, Ctrl-C cancels.
//!
//! Nothing is shown for work that ends within two seconds.

use crate::output::Cancelled;
use anyhow::Result;
use blockyard_api::{Client, Job, JobReport, JobState, ProgressUnit};
use blockyard_block::{Error, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One answer about a job takes at most this long.
const WAIT_MS: u64 = 200;
const SILENCE: Duration = Duration::from_secs(2);
/// Between two plain lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Waits until the job has ended and returns its report. `what` names it: `import`.
pub(crate) fn wait(client: &mut Client, started: Job, what: &str) -> Result<Option<JobReport>> {
    let interrupted = interrupts()?;
    let mut progress = Progress::new(what);
    let mut job = started;
    let mut cancelling = false;
    while job.state == JobState::Running {
        if interrupted.load(Ordering::Relaxed) && !cancelling {
            cancelling = true;
            client.cancel_job(job.id)?;
        }
        job = client.job(job.id, WAIT_MS)?;
        progress.show(&job);
    }
    progress.end();
    for note in &job.notes {
        eprintln!("note: {note}");
    }
    match job.state {
        JobState::Cancelled => Err(Cancelled(what.to_owned()).into()),
        JobState::Failed => {
            let unexplained = || Error::new(ErrorKind::Io, format!("{what} failed"));
            Err(job.error.map_or_else(unexplained, Error::from).into())
        }
        JobState::Done | JobState::Running => Ok(job.report),
    }
}

/// True from the first SIGINT or SIGTERM on; the second ends the program at once.
fn interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

struct Progress<'a> {
    what: &'a str,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Progress<'_> {
    fn new(what: &str) -> Progress<'_> {
        let now = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        Progress { what, started: now, last_line: now, bar: None, terminal }
    }

    fn show(&mut self, job: &Job) {
        if self.started.elapsed() < SILENCE {
            return;
        }
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| new_bar(self.what, self.started, job));
            bar.set_length(job.total.unwrap_or(job.done).max(job.done));
            bar.set_position(job.done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}", line(self.what, job));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(what: &str, started: Instant, job: &Job) -> ProgressBar {
    let template = match job.unit {
        ProgressUnit::Bytes => {
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left"
        }
        ProgressUnit::Clusters => "{msg} {wide_bar} {pos} of {len} clusters {eta} left",
    };
    let bar = ProgressBar::new(job.total.unwrap_or(0)).with_elapsed(started.elapsed());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

/// `import: 512.0 MiB of 2.0 GiB`, `scrub: 512 of 1024 clusters`
fn line(what: &str, job: &Job) -> String {
    let (amount, unit): (fn(u64) -> String, _) = match job.unit {
        ProgressUnit::Bytes => (crate::size::human, ""),
        ProgressUnit::Clusters => (|count| count.to_string(), " clusters"),
    };
    match job.total {
        Some(total) => format!("{what}: {} of {}{unit}", amount(job.done), amount(total)),
        None => format!("{what}: {}{unit}", amount(job.done)),
    }
}
