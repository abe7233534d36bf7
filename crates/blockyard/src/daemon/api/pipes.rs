//! Connections to the control socket that become pipes for a transfer.

use super::answer::{Body, Failure, Refused};
use super::{Shared, blocking, image_name};
use crate::daemon::Daemon;
use crate::daemon::transfers::{self, Call, WireToCome};
use axum::body::Body as HttpBody;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue, UPGRADE};
use axum::http::request::Parts;
use axum::response::Response;
use blockyard_api::{
    AnswerPipe, CallThroughPipe, ErrorBody, Job, PIPE_JOB, PIPE_PROTOCOL, PipeDirection,
};
use blockyard_block::Result;
use blockyard_transfer::{Allowed, wire_over};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::mpsc;

/// A connection that can become a pipe.
pub(super) struct Upgradable(OnUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgradable {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Upgradable, Refused> {
        let named = parts.headers.get(UPGRADE).is_some_and(|value| value == PIPE_PROTOCOL);
        let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| named);
        upgrade.map(Upgradable).ok_or_else(Refused::no_pipe)
    }
}

/// Makes this connection a pipe through which the daemon pushes or pulls an image, as a job. What comes out of it is for
/// a daemon that answers another pipe. The job is named in the header `blockyard-job`.
#[utoipa::path(post, path = "/v1/pipes/call", request_body = CallThroughPipe, responses(
    (status = 101), (status = "4XX", body = ErrorBody)))]
pub(super) async fn call(
    State(daemon): Shared,
    upgradable: Upgradable,
    Body(request): Body<CallThroughPipe>,
) -> Result<Response, Failure> {
    let here = image_name(&request.image)?;
    let there = image_name(request.there.as_deref().unwrap_or(&request.image))?;
    let direction = request.direction;
    let call = Call { direction, here, there, quote: request.quote, terms: request.terms };
    become_pipe(daemon, upgradable, |daemon, pipe| transfers::call_through(daemon, call, pipe))
        .await
}

/// Makes this connection a pipe through which a daemon that calls another pipe may push, or pull, as a job.
#[utoipa::path(post, path = "/v1/pipes/answer", request_body = AnswerPipe, responses(
    (status = 101), (status = "4XX", body = ErrorBody)))]
pub(super) async fn answer(
    State(daemon): Shared,
    upgradable: Upgradable,
    Body(request): Body<AnswerPipe>,
) -> Result<Response, Failure> {
    let AnswerPipe { direction, images } = request;
    let (push, pull) = (direction == PipeDirection::Push, direction == PipeDirection::Pull);
    let allowed = Allowed { push, pull, images };
    become_pipe(daemon, upgradable, |daemon, pipe| transfers::answer_through(daemon, allowed, pipe))
        .await
}

/// Starts the job, says so, and gives it the connection.
async fn become_pipe(
    daemon: Arc<Daemon>,
    Upgradable(upgrade): Upgradable,
    start: impl FnOnce(&Arc<Daemon>, WireToCome) -> Result<Job> + Send + 'static,
) -> Result<Response, Failure> {
    let (pipe, to_come) = mpsc::channel();
    let (job, runtime) = blocking(daemon, move |daemon| {
        let runtime = daemon.peers.runtime()?;
        Ok((start(daemon, to_come)?, runtime))
    })
    .await?;
    tokio::spawn(async move {
        // Whoever asked went away; the job notices that the sender did, too.
        if let Ok(stream) = upgrade.await {
            let _ = pipe.send(wire_over(&runtime, TokioIo::new(stream))); // it may have been cancelled
        }
    });
    let mut response = Response::new(HttpBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PIPE_PROTOCOL));
    headers.insert(PIPE_JOB, HeaderValue::from(job.id));
    Ok(response)
}
