//! The engine: images, extents, hashes, commits. It knows no sockets, no HTTP and no runtime.
//!
//! Everything is async over [`blockyard_io::Disk`]: the same code serves blocking threads, a ring
//! and the simulator. Time, randomness and I/O are passed in.
#![forbid(unsafe_code)]

mod alloc;
mod bitmap;
mod check;
mod checksum;
mod clear;
mod commit;
mod counts;
mod damage;
mod epochs;
mod extent;
mod family;
mod frees;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hashes;
mod hashing;
mod headers;
mod images;
mod index;
mod inspect;
mod journal;
mod lazy;
mod load;
mod lost_hashes;
mod maintenance;
mod maps;
mod open;
mod pending;
mod plan;
mod pool;
mod profile;
mod query;
mod ranges;
mod read;
mod reclaim;
mod records;
mod regions;
mod reserved;
mod scrub;
mod sharing;
mod state;
pub mod store;
mod stored;
mod streaming;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
mod types;
mod verified;
mod volume;
mod write;

pub use check::{CheckCounts, CheckOptions, CheckProgress, CheckReport, Finding, check};
pub use damage::DamageNews;
pub use family::Relative;
pub use images::check_image_size;
pub use inspect::{InspectedExtent, InspectedPage, InspectedSlot, Inspection, PoolCounters};
pub use lazy::{Fetch, Lazy};
pub use pool::Pool;
pub use profile::{PROFILE_RUN_CLUSTERS, PROFILE_RUNS_MAX};
pub use query::root_hash;
pub use reclaim::{Reclaim, ReclaimOptions};
pub use scrub::{Scrub, ScrubOptions};
pub use sharing::{DiffRun, DiffState, Sharing};
pub use streaming::{
    ExtentHashes, FoundHere, LeftImage, Listed, Lookup, Missing, Reader, Receive, Working, Writer,
};
pub use types::{
    Client, Contents, CreateOptions, Damage, ImageInfo, ImageKind, MapRun, MapState, OpenOptions,
    PoolId, PoolStatus,
};
pub use volume::Volume;
