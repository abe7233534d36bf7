//! The control API: REST and JSON over a unix socket that only the daemon's user can reach.
//!
//! Every route is declared together with its documentation, so `/v1/openapi.json` cannot lag
//! behind. Whatever is sent gets an answer in JSON: a body is bounded, unknown fields are refused.
//! The engine's futures stay on the thread that drives them, so each call runs on a blocking one.

mod answer;
mod content;
mod describe;
mod images;
mod jobs;
mod peers;
mod pipes;
mod pool;

pub(super) use pool::start_reclaim;

use crate::daemon::Daemon;
use answer::{Failure, Refused};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Json;
use axum::routing::get;
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Of a request in JSON. The largest holds a name and a path.
const REQUEST_BYTES_MAX: usize = 64 << 10;

type Shared = State<Arc<Daemon>>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Blockyard",
    description = "Control of one pool. Errors are `{\"error\": {\"kind\", \"message\"}}`; long work is a job: asking for it answers 202 with the job's id."
))]
struct Documentation;

/// Serves until told to stop, then until the requests in flight are answered.
pub(crate) async fn serve(
    listener: UnixListener,
    daemon: Arc<Daemon>,
    mut stopping: watch::Receiver<bool>,
) {
    let stopped = async move {
        let _ = stopping.wait_for(|stop| *stop).await; // whoever could tell is gone: stop, too
    };
    let listener =
        listener.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(listener));
    let served = match listener {
        Ok(listener) => axum::serve(listener, router(daemon)).with_graceful_shutdown(stopped).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the control API ended");
    }
}

fn router(daemon: Arc<Daemon>) -> Router {
    let (router, documentation) = documented().split_for_parts();
    let documentation = Arc::new(documentation);
    router
        .route("/v1/openapi.json", get(move || async move { Json((*documentation).clone()) }))
        .fallback(|| async { Refused::no_such_route() })
        .method_not_allowed_fallback(|| async { Refused::no_such_method() })
        .with_state(daemon)
}

/// All routes with their documentation.
fn documented() -> OpenApiRouter<Arc<Daemon>> {
    let json = OpenApiRouter::with_openapi(Documentation::openapi())
        .routes(routes!(pool::status))
        .routes(routes!(pool::scrub))
        .routes(routes!(pool::reclaim))
        .routes(routes!(images::list, images::create))
        .routes(routes!(images::tree))
        .routes(routes!(images::get, images::remove))
        .routes(routes!(images::fill))
        .routes(routes!(images::remove_dependant))
        .routes(routes!(images::profile, images::order_profile))
        .routes(routes!(images::rename))
        .routes(routes!(images::resize))
        .routes(routes!(images::snapshot))
        .routes(routes!(images::clone))
        .routes(routes!(images::digest))
        .routes(routes!(images::map))
        .routes(routes!(images::diff))
        .routes(routes!(content::import))
        .routes(routes!(content::export))
        .routes(routes!(peers::identity))
        .routes(routes!(peers::list, peers::add))
        .routes(routes!(peers::remove))
        .routes(routes!(peers::push))
        .routes(routes!(peers::pull))
        .routes(routes!(pipes::call))
        .routes(routes!(pipes::answer))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get, jobs::cancel))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX));
    // An upload is as large as its image and is never held in memory.
    json.routes(routes!(content::upload, content::download))
}

/// Runs engine work on a thread that may block.
async fn blocking<T: Send + 'static>(
    daemon: Arc<Daemon>,
    work: impl FnOnce(&Arc<Daemon>) -> Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(move || work(&daemon)).await {
        Ok(result) => result.map_err(Failure),
        Err(_) => Err(Failure(Error::new(
            ErrorKind::Io,
            "the request ended by a bug; see the daemon's log",
        ))),
    }
}

/// A name from a path.
fn image_name(name: &str) -> Result<ImageName, Failure> {
    ImageName::parse(name).map_err(Failure)
}

#[cfg(test)]
mod tests;
