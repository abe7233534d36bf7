//! A disk in memory that records every write and flush with its data and fails when told to. Served
//! over NBD ([`Server`]) it becomes, by nbdfuse and losetup, a block device of the host: so the real
//! program on a real file system can be attacked as the simulation attacks the engine.
//!
//! A disk promises what a real one does and no more: what was written before a flush began is there
//! after it; of everything later, any 512 bytes may be old or new ([`Replay`]). The NBD server is the
//! project's own a second time, on purpose: what judges shares nothing with what it judges.
#![forbid(unsafe_code)]

mod disk;
mod fault;
mod memory;
mod random;
mod replay;
mod server;
mod timeline;

pub use disk::{Disk, Errno};
pub use fault::{Effect, Kind, Rule};
pub use memory::Memory;
pub use random::Random;
pub use replay::{Loss, Replay};
pub use server::Server;
pub use timeline::{Change, Event, Timeline};
