//! Long work: what is asked for, how far it is, what came of it.

use crate::types::error::ErrorDetail;
use crate::types::image::Image;
use crate::types::peer::TransferReport;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Work that outlives the request which started it. Finished jobs are kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: u64,
    pub kind: JobKind,
    /// The image it is about, if it is about one.
    pub image: Option<String>,
    pub state: JobState,
    /// How much is done, in `unit`.
    pub done: u64,
    /// How much there is to do, as soon as it is known.
    pub total: Option<u64>,
    pub unit: ProgressUnit,
    /// Of a transfer that moves clusters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transfer: Option<TransferProgress>,
    /// What the user should know, such as a size that was rounded up.
    pub notes: Vec<String>,
    /// Why it failed.
    pub error: Option<ErrorDetail>,
    /// What came of it, once it is done.
    pub report: Option<JobReport>,
}

/// How a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferProgress {
    /// Bytes of messages, both ways, since it began or went on.
    pub bytes_moved: u64,
    /// Clusters that need not cross.
    pub bytes_saved: u64,
    /// Bytes of messages a second, on average.
    pub rate: u64,
    /// If it goes on like that.
    pub seconds_left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    Import,
    Export,
    Scrub,
    Reclaim,
    Push,
    Pull,
    Quote,
    /// What a peer asked for.
    Answer,
    /// Fetching what is missing of an image that is in use. It ends when the image is filled or removed.
    Fill,
}

impl JobKind {
    /// As in JSON: `import`.
    pub fn name(self) -> &'static str {
        match self {
            JobKind::Import => "import",
            JobKind::Export => "export",
            JobKind::Scrub => "scrub",
            JobKind::Reclaim => "reclaim",
            JobKind::Push => "push",
            JobKind::Pull => "pull",
            JobKind::Quote => "quote",
            JobKind::Answer => "answer",
            JobKind::Fill => "fill",
        }
    }

    /// What is left of such a job that was cancelled, for people.
    pub fn left_when_cancelled(self) -> &'static str {
        match self {
            JobKind::Reclaim => "what it freed stays free",
            JobKind::Scrub => "what it healed stays healed",
            JobKind::Import
            | JobKind::Export
            | JobKind::Push
            | JobKind::Pull
            | JobKind::Quote
            | JobKind::Answer
            | JobKind::Fill => "nothing of it remains",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    Done,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProgressUnit {
    Bytes,
    Clusters,
}

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobReport {
    Import(ImportReport),
    Export(ExportReport),
    Scrub(ScrubReport),
    Reclaim(ReclaimReport),
    Transfer(TransferReport),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    pub jobs: Vec<Job>,
}

/// Formats of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Raw,
    Qcow2,
    Vmdk,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportFile {
    /// Absolute path on the daemon's host.
    pub path: String,
    /// Detected from the file's first bytes if absent.
    #[serde(default)]
    pub format: Option<FileFormat>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportFile {
    /// Absolute path on the daemon's host.
    pub path: String,
    /// `raw` or `qcow2`.
    pub format: FileFormat,
    /// Replace a file that exists.
    #[serde(default)]
    pub overwrite: bool,
    /// Write zeros for what cannot be read, and tell where, instead of failing.
    #[serde(default)]
    pub damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    pub image: Image,
    pub format: FileFormat,
    /// Bytes that were not zero and so were stored.
    pub bytes_stored: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportReport {
    pub path: String,
    pub format: FileFormat,
    pub size_bytes: u64,
    /// Bytes that were not zero and so were written.
    pub bytes_written: u64,
    /// Bytes that could not be read, and are zero in the file.
    #[serde(default)]
    pub bytes_unreadable: u64,
    /// Where they are: the first 1000 runs.
    #[serde(default)]
    pub unreadable: Vec<UnreadableRun>,
}

/// A part of an image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreadableRun {
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubReport {
    pub clusters_checked: u64,
    /// Clusters without a trusted hash cannot be checked.
    pub clusters_skipped_untrusted: u64,
    pub clusters_damaged: u64,
    /// The first 1000 of them.
    /// That no equal cluster could heal.
    pub damage: Vec<Damage>,
    /// Where the damaged clusters were that their images have an equal one for now.
    #[serde(default)]
    pub healed: Vec<Damage>,
    /// Clusters whose hash was lost with a damaged page of the hash table, and that were proved to be what was stored.
    #[serde(default)]
    pub hashes_restored: u64,
    /// That were not proved, and got a hash of the data as it is, because that was asked for.
    #[serde(default)]
    pub hashes_made: u64,
    /// That were not proved and have no hash.
    #[serde(default)]
    pub hashes_lost: u64,
}

/// What shall become free space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReclaimSpace {
    /// Stop when about this much was freed; long runs go first. Not 0; all that has an equal if absent.
    pub target_bytes: Option<u64>,
    /// Share only runs of at least this many equal clusters. Not 0; 1, which shares all, if absent.
    pub runs_min: u64,
    /// Count by hash only: read no data, change nothing.
    pub dry_run: bool,
}

impl Default for ReclaimSpace {
    fn default() -> ReclaimSpace {
        ReclaimSpace { target_bytes: None, runs_min: 1, dry_run: false }
    }
}

/// What a reclaim did, in bytes of whole clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReclaimReport {
    pub dry_run: bool,
    /// What was asked for, if not all.
    #[serde(default)]
    pub target_bytes: Option<u64>,
    /// Clusters whose hash was looked at.
    pub bytes_scanned: u64,
    /// Clusters without a trusted hash are left out.
    pub bytes_untrusted: u64,
    /// Clusters whose hash an earlier one has, too. With a target and without `dry_run`, not all there are: only those
    /// that were gone through last, before it stopped. It may be less than what was freed.
    pub bytes_equal: u64,
    /// Given up.
    pub bytes_freed: u64,
    /// Equal hash, other bytes: damage, or a collision. Kept.
    pub bytes_differed: u64,
    /// In use or changed while they were looked at. Kept.
    pub bytes_busy: u64,
    /// Kept.
    pub bytes_unreadable: u64,
}

/// A cluster that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// Every image that maps the cluster, and where.
    pub places: Vec<DamagePlace>,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagePlace {
    pub image: String,
    pub offset: u64,
}
