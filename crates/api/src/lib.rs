//! The control API: what travels, and a client that speaks it over a unix socket.
//!
//! The types are the documentation: the daemon serves them as OpenAPI, the command line prints them
//! as they are with `--json`, so their field names are stable. Fields may be added, never renamed;
//! requests with unknown fields are refused. This crate knows neither the engine nor the daemon.
#![forbid(unsafe_code)]

mod client;
mod types;

pub use client::{Client, Pipe, Upload};
pub use types::{
    AnswerPipe, CallThroughPipe, CloneImage, Compression, CreateImage, DaemonIdentity,
    DaemonStatus, Damage, DamagePlace, DiffRun, DiffState, ErrorBody, ErrorDetail, ExportFile,
    ExportReport, FileFormat, Image, ImageAccess, ImageClient, ImageDependant, ImageDiff,
    ImageDigest, ImageKind, ImageLazy, ImageList, ImageMap, ImageProfile, ImageTree, ImageTreeNode,
    ImportFile, ImportReport, Job, JobKind, JobList, JobReport, JobState, LazyTerms, MapRun,
    MapState, OrderProfile, PIPE_JOB, PIPE_PROTOCOL, Peer, PeerAllow, PeerList, PipeDirection,
    PoolStatus, ProfileOrder, ProgressUnit, PullImage, PushImage, ReclaimReport, ReclaimSpace,
    RenameImage, ResizeImage, ScrubReport, SnapshotImage, TransferProgress, TransferReport,
    TransferTerms, UnreadableRun,
};
