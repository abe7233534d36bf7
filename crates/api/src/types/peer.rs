//! Other daemons, and moving images to and from them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who this daemon is to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonIdentity {
    /// SHA-256 of its certificate, in hexadecimal.
    pub fingerprint: String,
    /// Where it listens for peers, if it does.
    pub address: Option<String>,
}

/// What a peer may do here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerAllow {
    /// Nothing: it is only called.
    #[default]
    None,
    /// Make images here.
    Push,
    /// Read any image here.
    Pull,
    Both,
}

/// A daemon that this one knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// As an image's name.
    pub name: String,
    /// `HOST:PORT`, to call it.
    pub address: String,
    /// That of its certificate: `blockyard identity` there.
    pub fingerprint: String,
    #[serde(default)]
    pub allow: PeerAllow,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerList {
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushImage {
    pub peer: String,
    /// Its name there; the same as here if absent.
    #[serde(default)]
    pub target: Option<String>,
    /// Only tell what it would take.
    #[serde(default)]
    pub quote: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    pub peer: String,
    /// Its name there; the same as here if absent.
    #[serde(default)]
    pub source: Option<String>,
    /// Only tell what it would take.
    #[serde(default)]
    pub quote: bool,
}

/// What a transfer took, or a quote says that it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferReport {
    pub quote: bool,
    /// Size of the image.
    pub size_bytes: u64,
    /// Extents (4 MiB) that do not read zero and that the receiver had whole.
    pub extents_whole: u64,
    /// Clusters of other extents that the receiver had somewhere.
    pub bytes_found: u64,
    /// Clusters that crossed, or would.
    pub bytes_missing: u64,
    /// All that was sent and received, before TLS, as the daemon that was asked counted it.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}
