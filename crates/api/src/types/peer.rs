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
    /// That of its certificate: `blockyard identity` there. This or a certificate's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The DNS name in its certificate, which the daemon's authority has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_name: Option<String>,
    #[serde(default)]
    pub allow: PeerAllow,
    /// Names of the images that it may push or pull, where `*` stands for any characters and `?` for one; all if there
    /// are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
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
    #[serde(default)]
    pub terms: TransferTerms,
}

/// How an image shall cross.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransferTerms {
    pub compress: Compression,
    /// Bytes a second that the sender sends at most, at least 65536; no limit if absent. A quote tells how long that takes.
    pub rate: Option<u64>,
    /// Connections that clusters may cross on, 1 to 6; if absent one, and one more for each 10 ms of a round trip. There are no more than
    /// one, and one more for each 16 MiB that are missing. A pipe is one, and so is what fills an image that is used before it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u8>,
    /// Do not read what the receiver takes by reference, to compare it with its hash.
    pub unverified: bool,
    /// Of a quote: read some clusters to estimate how small the missing ones become.
    pub sample: bool,
}

/// How clusters are compressed on their way, where that makes them smaller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    #[default]
    Zstd,
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
    #[serde(default)]
    pub terms: TransferTerms,
    /// Show the image before it is there, and fill it while it is used.
    #[serde(default)]
    pub lazy: Option<LazyTerms>,
}

/// How an image is filled that is used before it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LazyTerms {
    /// Bring what nobody has asked for, too, in the background.
    pub fill: bool,
    /// A read of what is missing waits this long for an origin that cannot be reached, then it fails.
    pub wait_s: u64,
}

impl Default for LazyTerms {
    fn default() -> LazyTerms {
        LazyTerms { fill: true, wait_s: 30 }
    }
}

/// What a transfer took, or a quote says that it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferReport {
    pub quote: bool,
    /// The image can be used before it is there: what is missing is to come.
    #[serde(default)]
    pub lazy: bool,
    /// Size of the image.
    pub size_bytes: u64,
    /// Clusters of the image that hold data; absent if its side did not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_data: Option<u64>,
    /// Extents (4 MiB) that do not read zero and that the receiver had whole.
    pub extents_whole: u64,
    /// Clusters of other extents that the receiver had somewhere.
    pub bytes_found: u64,
    /// Clusters that the receiver lacked and whose content came with another.
    pub bytes_repeated: u64,
    /// Clusters that crossed, or would, before compression. Of an image that is used before it is there: those that are to come.
    pub bytes_missing: u64,
    /// Of those that crossed, the ones that the receiver seemed to have: they were damaged, or changed meanwhile.
    pub bytes_damaged: u64,
    /// Of a quote with a sample: what the missing clusters would take when they are compressed. An estimate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_compressed_estimate: Option<u64>,
    /// Of a quote at a rate: how long what would cross takes, before compression, or after it by the estimate if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds_at_rate: Option<u64>,
    /// How often it was cut off and went on.
    pub cuts: u64,
    /// All that was sent and received, before TLS, as the daemon that was asked counted it.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Connections that carried it, the last time if it was cut off.
    #[serde(default)]
    pub streams: u64,
}
