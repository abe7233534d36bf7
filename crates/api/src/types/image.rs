//! Images and who uses them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`
    #[schema(example = "web")]
    pub name: String,
    /// Never reused within a pool, and kept when the image is renamed.
    pub id: u64,
    pub kind: ImageKind,
    /// What a client sees, a multiple of 512.
    pub size_bytes: u64,
    /// What the image maps, in whole clusters, shared or not; a cluster to which it refers twice is counted twice.
    pub bytes_mapped: u64,
    /// Of these, what would stay if the image were removed; told of one image, null in lists.
    pub bytes_shared: Option<u64>,
    /// What removing the image would free, exactly; told of one image, null in lists.
    pub bytes_exclusive: Option<u64>,
    /// Seconds since 1970.
    pub created_unix_s: u64,
    /// Who has the image open now.
    pub clients: Vec<ImageClient>,
    /// Of an image that is used while it is filled: from where, and how far it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lazy: Option<ImageLazy>,
    /// Images of peers that are filled from this one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub dependants: Vec<ImageDependant>,
}

/// An image that is not all there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageLazy {
    /// The peer that has the rest, and the image's name there.
    pub peer: String,
    pub source: String,
    /// What was missing when it was pulled, and what is still, in whole clusters.
    pub bytes_listed: u64,
    pub bytes_missing: u64,
    /// Of those, what could not be had when it was last asked for: its origin could not read it, or gave another content
    /// than it had told, or there was no space for it. It is asked for again every few seconds.
    #[serde(default)]
    pub bytes_refused: u64,
    /// Whether the rest is brought in the background, or only what is read.
    pub fill: bool,
    /// The job that fetches.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<u64>,
    /// Why nothing can be fetched, for good.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broken: Option<String>,
}

/// Where an image is read first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageProfile {
    /// It is being recorded. Else it is what was kept.
    pub recording: bool,
    /// Length of each run.
    pub run_bytes: u64,
    /// Where runs begin, in the order of their first use.
    pub offsets: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderProfile {
    pub order: ProfileOrder,
}

/// What shall become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileOrder {
    /// Record from now on.
    Start,
    /// Record no more, and keep what was recorded with the image.
    Stop,
    /// Forget what was kept.
    Forget,
}

/// An image of a peer that is filled from this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDependant {
    pub peer: String,
    /// Made by the peer.
    pub id: String,
    /// Seconds since 1970.
    pub since_unix_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A plain image or a clone.
    Writable,
    /// Never changes.
    Snapshot,
}

/// Who has an image open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageClient {
    /// Unique within one run of the daemon.
    pub connection: u64,
    /// The client's process, if it is known.
    pub pid: Option<i32>,
    /// The client's user by number, if it is known.
    pub uid: Option<u32>,
    /// The client's user by name, if it has one on this host.
    pub user: Option<String>,
    pub access: ImageAccess,
    /// `nbd`, `import`, `export` and the like.
    pub purpose: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageAccess {
    Read,
    Write,
}

/// All images, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<Image>,
}

/// All images, the oldest first. A parent is older than its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageTree {
    pub images: Vec<ImageTreeNode>,
}

/// An image and the older one it shares most with. No record keeps what an image was made from: it is told by what
/// they still have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageTreeNode {
    pub name: String,
    pub id: u64,
    /// Null if it has no extent (4 MiB) in common with an older image.
    pub parent: Option<String>,
    /// Bytes of image in extents that both have.
    pub bytes_in_common: u64,
    pub kind: ImageKind,
    pub size_bytes: u64,
    /// What the image maps, in whole clusters, shared or not; a cluster to which it refers twice is counted twice.
    pub bytes_mapped: u64,
    /// Of these, what would stay if the image were removed.
    pub bytes_shared: u64,
    /// What removing the image would free, exactly.
    pub bytes_exclusive: u64,
    /// Seconds since 1970.
    pub created_unix_s: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateImage {
    pub name: String,
    /// A multiple of 512.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameImage {
    /// The new name.
    pub name: String,
    /// Rename even while clients have the image open.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeImage {
    /// The new size, a multiple of 512.
    pub size_bytes: u64,
    /// Shrink even while clients have the image open.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotImage {
    /// The snapshot's name.
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneImage {
    /// The clone's name.
    pub name: String,
}

/// The image's root hash: the same for the same content and size, wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDigest {
    pub name: String,
    /// 64 hexadecimal digits.
    pub digest: String,
    /// `blake3`, `sha256` or `sha1`.
    pub hash: String,
}
