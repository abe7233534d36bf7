//! Storage that can crash, and an executor that a seed drives: what the engine is tested on.
//!
//! [`SimWorld`] holds files in memory and answers the traits of `blockyard_io`. [`Executor`] polls
//! tasks and completes I/O in an order drawn from the world's seed; everything runs on one thread
//! and nothing depends on addresses, clocks or hash order, so a seed replays a run exactly.
//! A kill keeps what the page cache holds; a power cut keeps, loses or tears each unsynced sector.
//! [`run_seed`] plays a random workload on the engine, crashes it, and compares it with an obvious
//! model. The storage knows nothing of the engine, and the model nothing of the storage.
#![forbid(unsafe_code)]

mod client;
mod content;
mod context;
mod executor;
mod fault;
mod file;
mod handle;
mod judge;
mod lazy;
mod manage;
mod model;
mod names;
mod operation;
mod receive;
mod report;
mod rot;
mod run;
mod scenario;
mod transfers;
mod verify;
mod world;

pub use executor::{Executor, Task};
pub use fault::{Counters, Fault, FaultError, OperationKind};
pub use handle::{SimDirectory, SimDisk, SimMapped};
pub use report::{Count, Play, Totals};
pub use run::{Outcome, run_seed};
pub use transfers::run_transfers;
pub use world::SimWorld;
