//! The metadata store: a durable, sorted set of keys and values in a log and a checkpoint.
//!
//! What always holds: a batch of changes is there whole or not at all; what `commit` answered `Ok`
//! for is there after any crash; damage is told from a torn write wherever a later batch vouches
//! for the damaged one; nothing is written after the log failed once (I12). What records mean is
//! the engine's business. The bytes are described in `docs/format-metadata.md`.
//!
//! - [`record`]: the one codec of keys and values, for log, checkpoint and `check`
//! - [`header`]: block 0 of the log; [`batch`]: what follows it; [`ring`]: where batches may go
//! - [`manifest`]: the batch that names a checkpoint; [`part`]: the files a checkpoint is made of
//! - [`recover`]: reading it all back; [`live`]: committing; [`fold`]: checkpointing

mod batch;
mod fold;
mod header;
mod live;
mod manifest;
mod overlay;
mod part;
mod record;
mod recover;
mod ring;
#[cfg(test)]
mod tests;

use crate::PoolId;

/// For fuzzers: decodes `bytes` as everything in log and checkpoint.
#[cfg(feature = "fuzzing")]
pub(crate) fn decode_any(bytes: &[u8]) {
    let _ = header::LogHeader::decode(bytes);
    let _ = manifest::Manifest::decode(&StoreOptions::default(), bytes);
    if let Ok(header) = batch::BatchHeader::decode(PoolId([0; 16]), 0, bytes) {
        let _ = header.payload(bytes);
    }
    let mut reader = record::Reader::new(bytes);
    while !reader.is_empty() && reader.record().is_ok() {}
}

pub use live::Store;

/// The only format version this build reads and writes, of log and parts alike.
pub const FORMAT_VERSION: u32 = 1;

/// Unit of alignment of everything in log and checkpoint.
pub const BLOCK_BYTES: usize = 4096;

/// Names a record; records are kept and visited in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub kind: u8,
    pub id: u64,
}

/// One change of one record; `None` deletes it (deleting what is not there is no error).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: Key,
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// What this change adds to a batch; compare sums with [`Store::batch_bytes_max`].
    pub fn encoded_bytes(&self) -> usize {
        record::encoded_bytes(self.value.as_deref())
    }
}

/// How a store is made; kept in the log's header for its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// A multiple of 4096, 16 KiB to 1 GiB. A batch is at most half of it.
    pub segment_bytes: u64,
    /// At least 4.
    pub segments: u32,
    /// About the size of a part; 4 KiB to 256 MiB.
    pub part_bytes_target: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { segment_bytes: 8 << 20, segments: 8, part_bytes_target: 4 << 20 }
    }
}

/// What reading the store back found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovery {
    pub pool: PoolId,
    /// The last thing written was the mark of a clean shutdown.
    pub clean: bool,
    /// The epoch of the last open before this one; 0 if the store was never opened. The store
    /// that `open` returns has the next one.
    pub epoch: u64,
    /// Number of the last batch of the log.
    pub batch: u64,
    /// Batches replayed on top of the checkpoint.
    pub batches_replayed: u64,
    /// After the last whole batch lies a part of another one, which nothing vouches for.
    pub torn_tail: bool,
    /// Records visited.
    pub records: u64,
}

/// Counters since open, and sizes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreStats {
    pub batches: u64,
    pub log_bytes_written: u64,
    /// Times the log came round to its first segment.
    pub log_wraps: u64,
    pub checkpoints: u64,
    pub checkpoints_failed: u64,
    pub checkpoint_bytes_written: u64,
    /// Memory of changes not yet in parts, keys and values.
    pub overlay_bytes: u64,
    pub parts: u64,
    /// Together with `overlay_bytes`, bounds what the next checkpoint may take on the file system.
    pub part_bytes: u64,
}
