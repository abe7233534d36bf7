//! Other daemons, and moving images to and from them.

use super::answer::{Body, Failure, InPath};
use super::{Shared, blocking, image_name};
use crate::daemon::transfers::{self, Wanted};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use blockyard_api::{DaemonIdentity, ErrorBody, Job, Peer, PeerList, PullImage, PushImage};
use blockyard_transfer::Direction;

/// The fingerprint by which peers know this daemon.
#[utoipa::path(get, path = "/v1/identity", responses(
    (status = 200, body = DaemonIdentity), (status = "5XX", body = ErrorBody)))]
pub(super) async fn identity(State(daemon): Shared) -> Result<Json<DaemonIdentity>, Failure> {
    let identity = blocking(daemon, |daemon| {
        let fingerprint = daemon.peers.identity()?.fingerprint().to_string();
        Ok(DaemonIdentity { fingerprint, address: daemon.peers.address().map(str::to_owned) })
    });
    identity.await.map(Json)
}

/// All peers by name.
#[utoipa::path(get, path = "/v1/peers", responses((status = 200, body = PeerList)))]
pub(super) async fn list(State(daemon): Shared) -> Json<PeerList> {
    Json(PeerList { peers: daemon.peers.list() })
}

/// Makes another daemon known. It counts at once and is kept.
#[utoipa::path(post, path = "/v1/peers", request_body = Peer, responses(
    (status = 201, body = Peer), (status = "4XX", body = ErrorBody)))]
pub(super) async fn add(
    State(daemon): Shared,
    Body(peer): Body<Peer>,
) -> Result<(StatusCode, Json<Peer>), Failure> {
    let added = blocking(daemon, move |daemon| daemon.peers.add(peer)).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Forgets a peer. It is served no more, and what it is doing ends.
#[utoipa::path(delete, path = "/v1/peers/{name}", params(("name" = String, Path)), responses(
    (status = 204), (status = "4XX", body = ErrorBody)))]
pub(super) async fn remove(
    State(daemon): Shared,
    InPath(name): InPath<String>,
) -> Result<StatusCode, Failure> {
    blocking(daemon, move |daemon| daemon.peers.remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends an image as it is now to a peer, as a job. Only what the peer lacks crosses; cut off, also by a restart of either
/// daemon, it goes on.
#[utoipa::path(post, path = "/v1/images/{name}/push", params(("name" = String, Path)),
    request_body = PushImage,
    responses((status = 202, body = Job), (status = "4XX", body = ErrorBody)))]
pub(super) async fn push(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<PushImage>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let here = image_name(&name)?;
    let there = image_name(request.target.as_deref().unwrap_or(&name))?;
    let (peer, quote, terms) = (request.peer, request.quote, request.terms);
    let wanted = Wanted { direction: Direction::Push, peer, here, there, quote, terms, lazy: None };
    let job = blocking(daemon, move |daemon| transfers::start(daemon, wanted)).await?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// Makes this image of one that a peer has, as a job. Only what is missing here crosses; cut off, also by a restart of
/// either daemon, it goes on.
#[utoipa::path(post, path = "/v1/images/{name}/pull", params(("name" = String, Path)),
    request_body = PullImage,
    responses((status = 202, body = Job), (status = "4XX", body = ErrorBody)))]
pub(super) async fn pull(
    State(daemon): Shared,
    InPath(name): InPath<String>,
    Body(request): Body<PullImage>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let here = image_name(&name)?;
    let there = image_name(request.source.as_deref().unwrap_or(&name))?;
    let (peer, quote, terms) = (request.peer, request.quote, request.terms);
    let lazy = request.lazy.filter(|_| !quote);
    let wanted = Wanted { direction: Direction::Pull, peer, here, there, quote, terms, lazy };
    let job = blocking(daemon, move |daemon| transfers::start(daemon, wanted)).await?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}
