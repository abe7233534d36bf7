//! How every refusal and failure travels.

use blockyard_block::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One of: `not found`, `exists`, `invalid argument`, `out of range`, `read-only`, `no space`,
    /// `busy`, `I/O error`, `corrupt`, `unsupported`, `denied`, `shutting down`.
    #[schema(example = "not found")]
    pub kind: String,
    /// For people: what, where, and what to do next.
    #[schema(example = "no image is called web")]
    pub message: String,
}

impl From<&Error> for ErrorDetail {
    fn from(error: &Error) -> ErrorDetail {
        ErrorDetail { kind: error.kind().label().to_owned(), message: error.message().to_owned() }
    }
}

impl From<ErrorDetail> for Error {
    /// A kind that this build does not know becomes `Io`.
    fn from(detail: ErrorDetail) -> Error {
        Error::new(ErrorKind::from_label(&detail.kind).unwrap_or(ErrorKind::Io), detail.message)
    }
}
