//! Image files in and out of the pool, on the thread of a job (or of an upload).
//!
//! All of it happens on the blocking side: drive the engine's futures with `pollster::block_on`.
//! Report progress through the job, which also says when to stop; cut off at any point, nothing
//! remains.

pub(crate) mod export;
pub(crate) mod import;
