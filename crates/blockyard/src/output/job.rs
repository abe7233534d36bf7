//! Waiting for a job, showing how far it is. Ctrl-C cancels one that the command itself started.

use crate::output::Cancelled;
use crate::output::progress::Progress;
use anyhow::Result;
use blockyard_api::{Client, Job, JobKind, JobReport, JobState};
use blockyard_block::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One answer about a job takes at most this long.
const WAIT_MS: u64 = 200;
/// The daemon of a transfer may be away for this long.
const DAEMON_WAIT: Duration = Duration::from_secs(300);

/// Whether a job is waited for that its daemon does not know any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The job ends with its daemon.
    OneDaemon,
    /// The next daemon goes on with it.
    NextDaemon,
}

impl Patience {
    pub(crate) fn of(kind: JobKind) -> Patience {
        match kind {
            JobKind::Push | JobKind::Pull => Patience::NextDaemon,
            _ => Patience::OneDaemon,
        }
    }
}

/// Waits until the job has ended and returns its report. `what` names it: `import`.
pub(crate) fn wait(client: &mut Client, started: Job, what: &str) -> Result<Option<JobReport>> {
    let patience = Patience::of(started.kind);
    wait_with(client, started, what, patience)
}

/// The same, with other patience.
pub(crate) fn wait_with(
    client: &mut Client,
    started: Job,
    what: &str,
    patience: Patience,
) -> Result<Option<JobReport>> {
    let job = follow(client, started, what, patience, Interrupt::Cancels)?;
    Ok(succeeded(job, what)?.report)
}

/// Waits until the job of another command has ended, however it does; Ctrl-C leaves it as it is.
pub(crate) fn watch(client: &mut Client, job: Job, what: &str) -> Result<Job> {
    let patience = Patience::of(job.kind);
    follow(client, job, what, patience, Interrupt::Leaves)
}

/// The job, or why it did not come to its end.
pub(crate) fn succeeded(job: Job, what: &str) -> Result<Job> {
    match job.state {
        JobState::Cancelled => Err(Cancelled(cancelled(what, &job)).into()),
        JobState::Failed => {
            let unexplained = || Error::new(ErrorKind::Io, format!("{what} failed"));
            Err(job.error.map_or_else(unexplained, Error::from).into())
        }
        JobState::Done | JobState::Running => Ok(job),
    }
}

fn follow(
    client: &mut Client,
    mut job: Job,
    what: &str,
    patience: Patience,
    interrupt: Interrupt,
) -> Result<Job> {
    let interrupted = interrupts()?;
    let mut progress = Progress::new(what, job.unit);
    let mut waiting = Waiting { interrupted, interrupt, cancelling: false, patience };
    let mut told: Vec<String> = Vec::new();
    while job.state == JobState::Running {
        job = waiting.ask(client, &job)?;
        progress.show_job(&job);
        if let Some(new) = job.notes.last().filter(|new| !told.contains(new)) {
            progress.end();
            eprintln!("note: {new}");
            told.push(new.clone());
        }
    }
    progress.end();
    for note in job.notes.iter().filter(|note| !told.contains(note)) {
        eprintln!("note: {note}");
    }
    Ok(job)
}

/// What Ctrl-C does to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interrupt {
    Cancels,
    Leaves,
}

/// How a job is waited for.
struct Waiting {
    interrupted: Arc<AtomicBool>,
    interrupt: Interrupt,
    /// The daemon was told.
    cancelling: bool,
    patience: Patience,
}

impl Waiting {
    /// The job now, or when something happened. A transfer outlives its daemon: the next one is waited for, and
    /// told at once if it shall not go on.
    fn ask(&mut self, client: &mut Client, job: &Job) -> Result<Job> {
        let started = Instant::now();
        let (mut told, mut told_cancel) = (false, false);
        loop {
            let interrupted = self.interrupted.load(Ordering::Relaxed);
            if interrupted && self.interrupt == Interrupt::Leaves {
                let id = job.id;
                let message = format!("job {id} goes on; `blockyard job cancel {id}` stops it");
                return Err(Cancelled(message).into());
            }
            let error = match self.ask_once(client, job, interrupted) {
                Ok(found) if (found.kind, &found.image) == (job.kind, &job.image) => {
                    return Ok(found);
                }
                Ok(_) => Error::new(ErrorKind::NotFound, "the daemon was started anew"),
                Err(error) => error,
            };
            let waits = self.patience == Patience::NextDaemon && started.elapsed() < DAEMON_WAIT;
            match error.kind() {
                ErrorKind::ShutDown | ErrorKind::Io if waits => {}
                ErrorKind::NotFound if told => {
                    let message = "the transfer had ended when its daemon did: see whether the image is there";
                    return Err(Error::new(ErrorKind::NotFound, message).into());
                }
                _ => return Err(error.into()),
            }
            if !told {
                eprintln!(
                    "note: the daemon does not answer; the transfer goes on when it is started again"
                );
            }
            if interrupted && !told_cancel {
                told_cancel = true;
                eprintln!(
                    "note: it is cancelled as soon as the daemon answers; Ctrl-C again leaves it as it is"
                );
            }
            told = true;
            thread::sleep(Duration::from_millis(WAIT_MS));
        }
    }

    fn ask_once(
        &mut self,
        client: &mut Client,
        job: &Job,
        interrupted: bool,
    ) -> Result<Job, Error> {
        if interrupted && !self.cancelling {
            // Another daemon may have other work of that number.
            let found = client.job(job.id, 0)?;
            if (found.kind, &found.image) != (job.kind, &job.image) {
                return Ok(found);
            }
            client.cancel_job(job.id)?;
            self.cancelling = true;
        }
        client.job(job.id, WAIT_MS)
    }
}

/// What is said of a job that was cancelled.
pub(crate) fn cancelled(what: &str, job: &Job) -> String {
    match job.kind {
        // It makes nothing, and has no verdict before its end.
        JobKind::Scrub => format!("{what} cancelled after {} clusters", job.done),
        kind => format!("{what} cancelled; {}", kind.left_when_cancelled()),
    }
}

/// True from the first SIGINT or SIGTERM on; the second ends the program at once.
pub(crate) fn interrupts() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use super::cancelled;
    use blockyard_api::{Job, JobKind, JobState, ProgressUnit};

    #[test]
    fn a_cancelled_job_says_what_is_left_of_it() {
        let mut job = Job {
            id: 1,
            kind: JobKind::Scrub,
            image: None,
            state: JobState::Cancelled,
            unit: ProgressUnit::Clusters,
            done: 12,
            total: Some(40),
            transfer: None,
            notes: Vec::new(),
            error: None,
            report: None,
        };
        assert_eq!(cancelled("scrub", &job), "scrub cancelled after 12 clusters");
        job.kind = JobKind::Import;
        assert_eq!(cancelled("import", &job), "import cancelled; nothing of it remains");
    }
}
