//! The words of Blockyard as types.
//!
//! Every quantity that could be mistaken for another has a type of its own; errors carry a kind,
//! a place and a cause; [`BlockDevice`] is all that an export (NBD, vhost-user-blk) knows of an
//! image. This crate does no I/O and depends on nothing of ours.
#![forbid(unsafe_code)]

mod buffer;
mod device;
mod error;
mod hash;
mod hasher;
mod name;
mod units;

pub use buffer::{Buffer, BufferMut};
pub use device::{AllocationRun, AllocationState, BlockDevice, Segment, ZeroOptions};
pub use error::{Error, ErrorKind, Result};
pub use hash::{ContentHash, HashAlgorithm, keyed_hash};
pub use hasher::Hasher;
pub use name::ImageName;
pub use units::{
    CLUSTER_SIZE, CLUSTERS_MAX, ClusterIndex, EXTENT_CLUSTERS, EXTENT_SIZE, ExtentId, ImageId,
    MAP_PAGE_EXTENTS, MapPageId, RegionIndex, SECTOR_SIZE,
};
