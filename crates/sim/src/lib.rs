//! Storage that can crash, and an executor that a seed drives: what the engine is tested on.
//!
//! [`SimWorld`] holds files in memory and answers the traits of `blockyard_io`. [`Executor`] polls
//! tasks and completes I/O in an order drawn from the world's seed; everything runs on one thread
//! and nothing depends on addresses, clocks or hash order, so a seed replays a run exactly.
//! A kill keeps what the page cache holds; a power cut keeps, loses or tears each unsynced sector.
//! What the engine promises about such crashes is for the models to judge, not for this crate's
//! storage.
#![forbid(unsafe_code)]

mod executor;
mod fault;
mod file;
mod handle;
mod names;
mod operation;
mod world;

pub use executor::{Executor, Task};
pub use fault::{Counters, Fault, FaultError, OperationKind};
pub use handle::{SimDirectory, SimDisk, SimMapped};
pub use world::SimWorld;
