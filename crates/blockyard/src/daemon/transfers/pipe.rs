//! Transfers through a pipe that a command holds open: one end is a stream of bytes out of the control socket, the
//! other whatever that command reaches. Whoever may open the control socket may do all that these can.
//!
//! The pipe is the command's, so none of these goes on by itself after a cut. Asked for again, what came is found.

use super::{OfJob, now_unix_s, report, run_answer, terms_of};
use crate::daemon::Daemon;
use crate::daemon::jobs::JobHandle;
use blockyard_api::{Job, JobKind, JobReport, PipeDirection, ProgressUnit, TransferTerms};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_transfer::{Allowed, Failed, Wire, pull, push};
use pollster::block_on;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// From the answer to a request until its connection has become a pipe.
const PIPE_TIME: Duration = Duration::from_secs(10);
const THERE: &str = "the other end of a pipe";

/// The pipe, once there is one.
pub(crate) type WireToCome = Receiver<Wire>;

/// What a user wants to be moved through a pipe.
pub(crate) struct Call {
    pub(crate) direction: PipeDirection,
    /// Its name here, and at the other end.
    pub(crate) here: ImageName,
    pub(crate) there: ImageName,
    pub(crate) quote: bool,
    pub(crate) terms: TransferTerms,
}

/// Starts the job that calls the other end.
pub(crate) fn call_through(daemon: &Arc<Daemon>, call: Call, pipe: WireToCome) -> Result<Job> {
    terms_of(&call.terms).check()?;
    let kind = match (call.quote, call.direction) {
        (true, _) => JobKind::Quote,
        (false, PipeDirection::Push) => JobKind::Push,
        (false, PipeDirection::Pull) => JobKind::Pull,
    };
    if call.direction == PipeDirection::Push {
        daemon.pool.image(&call.here)?;
    }
    let (title, caller) = (call.here.to_string(), Arc::clone(daemon));
    let work = move |job: &JobHandle| run_call(&caller, &call, come(&pipe)?, job);
    daemon.jobs.start(kind, Some(&title), ProgressUnit::Bytes, work)
}

/// Starts the job that does what the other end asks for.
pub(crate) fn answer_through(
    daemon: &Arc<Daemon>,
    allowed: Allowed,
    pipe: WireToCome,
) -> Result<Job> {
    let answering = Arc::clone(daemon);
    let work =
        move |job: &JobHandle| run_answer(&answering, None, THERE, &allowed, come(&pipe)?, job);
    daemon.jobs.start_answer(None, work)
}

fn come(pipe: &WireToCome) -> Result<Wire> {
    let gone = |_| Error::new(ErrorKind::Io, "whoever wanted a pipe went away");
    pipe.recv_timeout(PIPE_TIME).map_err(gone)
}

fn run_call(daemon: &Daemon, call: &Call, wire: Wire, job: &JobHandle) -> Result<JobReport> {
    let progress = OfJob::new(daemon, job, None);
    // It may have been: nobody here remembers.
    let caller = progress.caller(&call.terms, call.quote, !call.quote);
    let done = match call.direction {
        PipeDirection::Push => {
            let source = block_on(daemon.pool.hold_snapshot(&call.here, false, now_unix_s()))?;
            block_on(push(wire, &caller, &source, &call.there))
        }
        PipeDirection::Pull => block_on(pull(wire, &caller, &call.there, &call.here)),
    };
    daemon.parts_left.notify_one();
    match done {
        Ok(account) => Ok(JobReport::Transfer(report(&account, call.quote, 0))),
        Err(failed) => Err(ended(failed, call)),
    }
}

fn ended(failed: Failed, call: &Call) -> Error {
    let Failed { error, cut, bytes_received, .. } = failed;
    if !cut || bytes_received == 0 || call.quote {
        return error;
    }
    let message = format!("{error}; what came is kept for a day: the same command goes on with it");
    Error::new(error.kind(), message)
}
