//! What an image is made of, known without reading it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A page of an image's map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageMap {
    pub size_bytes: u64,
    /// Without gaps, in order of offset.
    pub runs: Vec<MapRun>,
    /// Ask for the next page from here; absent on the last one.
    pub next_offset: Option<u64>,
}

/// A run of clusters in one state. With hashes asked for, a run of data is one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapRun {
    pub offset: u64,
    pub length: u64,
    pub state: MapState,
    /// Of a cluster of data, if asked for: 64 hexadecimal digits.
    pub hash: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MapState {
    /// Reads zero, takes no space.
    Zero,
    /// Reads zero, keeps its place.
    Reserved,
    /// Data with a trusted hash.
    Data,
    /// Data that a crash left without a trusted hash, until it is hashed again.
    Untrusted,
}

/// A page of how two images differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDiff {
    pub size_bytes: u64,
    pub other_size_bytes: u64,
    /// In order of offset; what lies between them is equal.
    pub runs: Vec<DiffRun>,
    /// Ask for the next page from here; absent on the last one.
    pub next_offset: Option<u64>,
}

/// A run of clusters in which two images are not known to be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffRun {
    pub offset: u64,
    pub length: u64,
    pub state: DiffState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiffState {
    Differs,
    /// A crash left a cluster without a trusted hash, until it is hashed again.
    Unknown,
}
