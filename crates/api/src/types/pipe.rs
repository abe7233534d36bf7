//! Transfers through a connection that becomes a pipe.

use crate::types::TransferTerms;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What such a connection is upgraded to.
pub const PIPE_PROTOCOL: &str = "blockyard-transfer";
/// The header that names the job.
pub const PIPE_JOB: &str = "blockyard-job";

/// Which way an image goes, as whoever calls sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PipeDirection {
    Push,
    Pull,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallThroughPipe {
    pub direction: PipeDirection,
    /// Its name here.
    pub image: String,
    /// Its name at the other end; the same as here if absent.
    #[serde(default)]
    pub there: Option<String>,
    /// Only tell what it would take.
    #[serde(default)]
    pub quote: bool,
    #[serde(default)]
    pub terms: TransferTerms,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerPipe {
    /// What the other end may do.
    pub direction: PipeDirection,
    /// With which images, by their names here, where `*` stands for any characters and `?` for one; all if there are none.
    #[serde(default)]
    pub images: Vec<String>,
}
