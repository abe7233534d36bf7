//! Jobs: how far they are, and stopping them.

use super::answer::{Failure, InPath, InQuery};
use super::{Shared, blocking};
use axum::extract::State;
use axum::response::Json;
use blockyard_api::{ErrorBody, Job, JobList};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// One question waits at most this long.
const WAIT_MS_MAX: u64 = 10_000;

/// Jobs that run, and those that ended lately.
#[utoipa::path(get, path = "/v1/jobs", responses((status = 200, body = JobList)))]
pub(super) async fn list(State(daemon): Shared) -> Json<JobList> {
    Json(JobList { jobs: daemon.jobs.list() })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer when the job has ended, but after this many milliseconds at the latest (at most
    /// 10000).
    #[serde(default)]
    wait_ms: u64,
}

/// One job.
#[utoipa::path(get, path = "/v1/jobs/{id}", params(("id" = u64, Path), WaitQuery), responses(
    (status = 200, body = Job),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn get(
    State(daemon): Shared,
    InPath(id): InPath<u64>,
    InQuery(query): InQuery<WaitQuery>,
) -> Result<Json<Job>, Failure> {
    let wait = Duration::from_millis(query.wait_ms.min(WAIT_MS_MAX));
    blocking(daemon, move |daemon| daemon.jobs.get(id, wait)).await.map(Json)
}

/// Asks a job to stop. It has stopped when its state is `cancelled`, and then nothing of it remains; but what a
/// reclaim freed stays free, and what a scrub healed stays healed.
#[utoipa::path(delete, path = "/v1/jobs/{id}", params(("id" = u64, Path)), responses(
    (status = 202, body = Job),
    (status = "4XX", body = ErrorBody)))]
pub(super) async fn cancel(
    State(daemon): Shared,
    InPath(id): InPath<u64>,
) -> Result<(axum::http::StatusCode, Json<Job>), Failure> {
    let job = daemon.jobs.cancel(id).map_err(Failure)?;
    Ok((axum::http::StatusCode::ACCEPTED, Json(job)))
}
