//! The engine: images, extents, hashes, commits. It knows no sockets, no HTTP and no runtime.
//!
//! Everything is async over [`blockyard_io::Disk`]: the same code serves blocking threads, a ring
//! and the simulator. Time, randomness and I/O are passed in.
#![forbid(unsafe_code)]

mod breaks;
mod pool;
pub mod store;
mod types;

pub use pool::{Pool, Scrub, Volume};
pub use types::{
    Client, CreateOptions, Damage, ImageInfo, ImageKind, MapRun, MapState, OpenOptions, PoolId,
    PoolStatus,
};
