//! The pool as a whole.

use super::answer::{Body, Failure, InQuery};
use super::{Shared, blocking, describe};
use crate::daemon::Daemon;
use crate::daemon::damage_log::ScrubLog;
use crate::daemon::jobs::JobHandle;
use crate::size::human;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use blockyard_api::{ErrorBody, Job, JobKind, JobReport, PoolStatus, ProgressUnit, ReclaimSpace};
use blockyard_block::{Error, ErrorKind, Result};
use blockyard_pool::{ReclaimOptions, ScrubOptions};
use pollster::block_on;
use serde::Deserialize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use utoipa::IntoParams;

/// A scrub that was held up by a slow disk need not make up for it.
const REST_MAX: Duration = Duration::from_millis(200);

/// How full the pool is and what is being done.
#[utoipa::path(get, path = "/v1/pool", responses((status = 200, body = PoolStatus)))]
pub(super) async fn status(State(daemon): Shared) -> Result<Json<PoolStatus>, Failure> {
    blocking(daemon, |daemon| describe::pool_status(daemon)).await.map(Json)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ScrubQuery {
    /// Where hashes were lost with a damaged page of the hash table and cannot be restored, make them of the data as it is.
    #[serde(default)]
    rehash: bool,
}

/// Compares every cluster that has a trusted hash with it, as a job.
#[utoipa::path(post, path = "/v1/pool/scrub", params(ScrubQuery), responses(
    (status = 202, body = Job),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn scrub(
    State(daemon): Shared,
    InQuery(query): InQuery<ScrubQuery>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let options = ScrubOptions { rehash: query.rehash };
    let start = move |daemon: &Arc<Daemon>| {
        let scrubbed = Arc::clone(daemon);
        let work = move |job: &JobHandle| run_scrub(&scrubbed, options, job);
        daemon.jobs.start(JobKind::Scrub, None, ProgressUnit::Clusters, work)
    };
    Ok((StatusCode::ACCEPTED, Json(blocking(daemon, start).await?)))
}

/// Rests as long as it works, so that guests have the disk to themselves half of the time.
fn run_scrub(daemon: &Daemon, options: ScrubOptions, job: &JobHandle) -> Result<JobReport> {
    let mut rested = Instant::now();
    let mut log = ScrubLog::default();
    let scrub = block_on(daemon.pool.scrub_with(options, |scrub| {
        log.tell(scrub);
        job.set_total(scrub.clusters_total);
        let go_on = job.progress(scrub.clusters_done).is_ok();
        if go_on {
            thread::sleep(rested.elapsed().min(REST_MAX));
        }
        rested = Instant::now();
        go_on
    }))?;
    log.end(&scrub);
    job.check()?;
    Ok(JobReport::Scrub(describe::scrub(scrub)))
}

/// Turns equal clusters into free space, as a job; 409 while another such job runs. Cancelled, it keeps what it has
/// freed.
#[utoipa::path(post, path = "/v1/pool/reclaim", request_body = ReclaimSpace, responses(
    (status = 202, body = Job),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn reclaim(
    State(daemon): Shared,
    Body(request): Body<ReclaimSpace>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    if request.target_bytes == Some(0) || request.runs_min == 0 {
        let message = "target_bytes and runs_min must be more than 0, or absent";
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    let options = ReclaimOptions {
        target_bytes: request.target_bytes,
        runs_min: request.runs_min,
        dry_run: request.dry_run,
    };
    let start = move |daemon: &Arc<Daemon>| start_reclaim(daemon, options);
    Ok((StatusCode::ACCEPTED, Json(blocking(daemon, start).await?)))
}

/// Starts the job.
pub(crate) fn start_reclaim(daemon: &Arc<Daemon>, options: ReclaimOptions) -> Result<Job> {
    let reclaimed = Arc::clone(daemon);
    let work = move |job: &JobHandle| run_reclaim(&reclaimed, options, job);
    daemon.jobs.start(JobKind::Reclaim, None, ProgressUnit::Clusters, work)
}

/// While guests use the disk, seven eighths of the time are theirs.
fn run_reclaim(daemon: &Daemon, options: ReclaimOptions, job: &JobHandle) -> Result<JobReport> {
    let mut rested = Instant::now();
    let mut requests = daemon.pool.counters().requests;
    let account = block_on(daemon.pool.reclaim(options, |account| {
        job.set_total(account.total + account.pairs);
        let go_on = job.progress(account.scanned + account.pairs_done).is_ok();
        let begun = daemon.pool.counters().requests;
        if go_on && begun != requests {
            thread::sleep((rested.elapsed() * 7).min(REST_MAX));
        }
        requests = begun;
        rested = Instant::now();
        go_on
    }))?;
    let report = describe::reclaim(&account, &options);
    if job.is_cancelled() {
        job.note(format!("{} were freed before it was cancelled", human(report.bytes_freed)));
    }
    job.check()?;
    Ok(JobReport::Reclaim(report))
}
