//! From errors and malformed requests to answers: always JSON, always with the right status.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Json, Response};
use blockyard_api::{ErrorBody, ErrorDetail, PIPE_PROTOCOL};
use blockyard_block::{Error, ErrorKind};
use serde::de::DeserializeOwned;

/// An error on its way out: its kind decides the status.
pub(super) struct Failure(pub(super) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind().http_status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(error = %self.0, "control request failed");
        }
        (status, Json(ErrorBody { error: ErrorDetail::from(&self.0) })).into_response()
    }
}

/// A request that was not understood, with the status HTTP has for that.
pub(super) struct Refused {
    status: StatusCode,
    kind: ErrorKind,
    message: String,
}

impl Refused {
    pub(super) fn no_such_route() -> Refused {
        let message = "there is nothing at this path; see /v1/openapi.json".to_owned();
        Refused { status: StatusCode::NOT_FOUND, kind: ErrorKind::NotFound, message }
    }

    pub(super) fn no_such_method() -> Refused {
        let message = "this path has other methods; see /v1/openapi.json".to_owned();
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Refused { status, kind: ErrorKind::InvalidArgument, message }
    }

    pub(super) fn no_pipe() -> Refused {
        let message =
            format!("this connection cannot become a pipe: ask with `Upgrade: {PIPE_PROTOCOL}`");
        Refused::malformed(StatusCode::UPGRADE_REQUIRED, message)
    }

    fn malformed(status: StatusCode, message: String) -> Refused {
        Refused { status, kind: ErrorKind::InvalidArgument, message }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let detail = ErrorDetail { kind: self.kind.label().to_owned(), message: self.message };
        (self.status, Json(ErrorBody { error: detail })).into_response()
    }
}

macro_rules! refuse {
    ($($rejection:ty),*) => {
        $(impl From<$rejection> for Refused {
            fn from(rejection: $rejection) -> Refused {
                Refused::malformed(rejection.status(), rejection.body_text())
            }
        })*
    };
}

refuse!(JsonRejection, PathRejection, QueryRejection);

/// A body in JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refused> {
        let Json(value) = Json::from_request(request, state).await?;
        Ok(Body(value))
    }
}

/// What the path names.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InPath<T>, Refused> {
        let Path(value) = Path::from_request_parts(parts, state).await?;
        Ok(InPath(value))
    }
}

/// What the query asks for.
pub(super) struct InQuery<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<InQuery<T>, Refused> {
        let Query(value) = Query::from_request_parts(parts, state).await?;
        Ok(InQuery(value))
    }
}
