//! `blockyard job ...`: the daemon's long work, whoever asked for it.
//!
//! A job outlives the command that started it. Whoever looks at one or waits for it leaves it as it is: only
//! `job cancel` stops it.

use crate::commands::{Session, image, reclaim, scrub, transfer};
use crate::output::job;
use crate::output::progress::{of_transfer, progress_of};
use crate::output::table::Table;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{Client, Job, JobList, JobReport, JobState};
use blockyard_block::{Error, ErrorKind};
use clap::Subcommand;

/// List, watch and cancel long work: imports, transfers, reclaims, scrubs
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the jobs that run, and those that ended lately
    List,
    /// Show how far a job is, or what came of it
    Show {
        /// Its number, as `job list` tells it
        id: u64,
    },
    /// Wait until a job has ended, showing how far it is; ends as the command that started it would have ended
    ///
    /// Ctrl-C ends the waiting, not the job.
    Wait {
        /// Its number, as `job list` tells it
        id: u64,
    },
    /// Stop a job, and wait until it has stopped
    ///
    /// Nothing of it remains, but what a reclaim freed stays free, and what a scrub healed stays healed. Filling an
    /// image cannot be stopped: it ends with the image.
    Cancel {
        /// Its number, as `job list` tells it
        id: u64,
    },
}

pub(crate) fn run(command: &Command, session: &Session) -> Result<()> {
    let mut client = session.client()?;
    match command {
        Command::List => {
            let list = client.jobs()?;
            session.output.print(&list, || table(&list))
        }
        Command::Show { id } => {
            let job = client.job(*id, 0)?;
            session.output.print(&job, || details(&job))
        }
        Command::Wait { id } => wait(*id, &mut client, session),
        Command::Cancel { id } => cancel(*id, &mut client, session),
    }
}

fn wait(id: u64, client: &mut Client, session: &Session) -> Result<()> {
    let started = client.job(id, 0)?;
    let what = name(&started);
    let job = job::watch(client, started, &what)?;
    let job = job::succeeded(job, &what)?;
    session.output.print(&job, || format!("{what}: done\n{}", outcome(&job)))?;
    match &job.report {
        Some(JobReport::Scrub(report)) => scrub::verdict(report),
        _ => Ok(()),
    }
}

fn cancel(id: u64, client: &mut Client, session: &Session) -> Result<()> {
    let asked = client.job(id, 0)?;
    if asked.state != JobState::Running {
        return Err(too_late(&asked));
    }
    let cancelled = client.cancel_job(id)?;
    let what = name(&cancelled);
    let job = job::watch(client, cancelled, &what)?;
    match job.state {
        JobState::Cancelled => {
            session.output.print(&job, || format!("{}\n", job::cancelled(&what, &job)))
        }
        _ => Err(too_late(&job)),
    }
}

fn too_late(job: &Job) -> anyhow::Error {
    let message = format!("job {} ({}) has ended already: {}", job.id, name(job), state(job.state));
    Error::new(ErrorKind::InvalidArgument, message).into()
}

fn table(list: &JobList) -> String {
    if list.jobs.is_empty() {
        return "no jobs run, and none ended lately\n".to_owned();
    }
    let mut table = Table::with_header(["ID", "KIND", "IMAGE", "STATE", "PROGRESS"]);
    for job in &list.jobs {
        table.row([
            job.id.to_string(),
            job.kind.name().to_owned(),
            job.image.clone().unwrap_or_else(|| "-".to_owned()),
            state(job.state).to_owned(),
            progress(job),
        ]);
    }
    table.to_string()
}

/// Of a job that has ended, the rate and the time left say nothing.
fn progress(job: &Job) -> String {
    let far = progress_of(job.unit, job.done, job.total);
    match &job.transfer {
        Some(transfer) if job.state == JobState::Running => {
            format!("{far}{}", of_transfer(transfer))
        }
        _ => far,
    }
}

fn details(job: &Job) -> String {
    let mut rows = Table::pairs();
    rows.pair("job", job.id);
    rows.pair("kind", job.kind.name());
    if let Some(image) = &job.image {
        rows.pair("image", image);
    }
    rows.pair("state", state(job.state));
    rows.pair("progress", progress_of(job.unit, job.done, job.total));
    if let Some(transfer) = &job.transfer {
        rows.pair("moved", format!("{} over the wire, both ways", human(transfer.bytes_moved)));
        rows.pair("saved", format!("{} need not cross", human(transfer.bytes_saved)));
        rows.pair("rate", format!("{}/s", human(transfer.rate)));
        let left = transfer.seconds_left.filter(|_| job.state == JobState::Running);
        if let Some(seconds) = left {
            rows.pair("time left", format!("{seconds} s, if it goes on like that"));
        }
    }
    for note in &job.notes {
        rows.pair("note", note);
    }
    if let Some(error) = &job.error {
        rows.pair("error", &error.message);
    }
    format!("{rows}{}", outcome(job))
}

/// What the command that started it would have printed.
fn outcome(job: &Job) -> String {
    match &job.report {
        None => String::new(),
        Some(JobReport::Import(report)) => image::imported(&report.image),
        Some(JobReport::Export(report)) => {
            image::exported(job.image.as_deref().unwrap_or_default(), report)
        }
        Some(JobReport::Scrub(report)) => scrub::text(report),
        Some(JobReport::Reclaim(report)) => reclaim::text(report),
        Some(JobReport::Transfer(report)) => transfer::text(report),
    }
}

/// `push of web`
fn name(job: &Job) -> String {
    let image = job.image.as_ref().map(|image| format!(" of {image}")).unwrap_or_default();
    format!("{}{image}", job.kind.name())
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}
