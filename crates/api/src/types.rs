//! Everything that travels, by subject. Plain values: checking them is the daemon's business.

mod error;
mod image;
mod job;
mod map;
mod peer;
mod pipe;
mod pool;

pub use error::{ErrorBody, ErrorDetail};
pub use image::{
    CloneImage, CreateImage, Image, ImageAccess, ImageClient, ImageDependant, ImageDigest,
    ImageKind, ImageLazy, ImageList, ImageProfile, ImageTree, ImageTreeNode, OrderProfile,
    ProfileOrder, RenameImage, ResizeImage, SnapshotImage,
};
pub use job::{
    Damage, DamagePlace, ExportFile, ExportReport, FileFormat, ImportFile, ImportReport, Job,
    JobKind, JobList, JobReport, JobState, ProgressUnit, ReclaimReport, ReclaimSpace, ScrubReport,
    TransferProgress, UnreadableRun,
};
pub use map::{DiffRun, DiffState, ImageDiff, ImageMap, MapRun, MapState};
pub use peer::{
    Compression, DaemonIdentity, LazyTerms, Peer, PeerAllow, PeerList, PullImage, PushImage,
    TransferReport, TransferTerms,
};
pub use pipe::{AnswerPipe, CallThroughPipe, PIPE_JOB, PIPE_PROTOCOL, PipeDirection};
pub use pool::{DaemonStatus, PoolStatus};
