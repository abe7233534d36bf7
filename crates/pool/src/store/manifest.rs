//! The payload of the batch that names a checkpoint: which parts it consists of, and where in the
//! log the replay on top of it starts. Batches that were committed while the parts were written
//! lie before the manifest and are replayed too.

use super::batch::HEADER_BYTES;
use super::record::{Decoded, Flaw, KEY_BYTES, Reader, put_key};
use super::ring::{Position, manifest_bytes_max};
use super::{BLOCK_BYTES, Key, StoreOptions};
use std::ops::{Bound, Range};

const FIXED_BYTES: usize = 28;
const ENTRY_BYTES: usize = 28 + 2 * KEY_BYTES;

/// One part, as named by a manifest. Its checksum covers all of its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartEntry {
    pub(super) id: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) first: Key,
    pub(super) last: Key,
    pub(super) checksum: u32,
}

impl PartEntry {
    pub(super) fn name(&self) -> String {
        part_name(self.id)
    }
}

pub(super) const FOLDER: &str = "checkpoint";

pub(super) fn part_name(id: u64) -> String {
    format!("{FOLDER}/{id:012}")
}

/// The id in a name that `Directory::list` returned; `None` for a file that is not ours.
pub(super) fn part_id(name: &str) -> Option<u64> {
    let id = name.parse().ok()?;
    (format!("{id:012}") == name).then_some(id)
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Manifest {
    /// The last batch whose changes are in the parts, and its header's checksum.
    pub(super) covered: u64,
    pub(super) covered_checksum: u32,
    /// Where the log stood then.
    pub(super) replay_from: Position,
    /// In key order, without overlap.
    pub(super) parts: Vec<PartEntry>,
}

/// The keys that belong to a run of parts: from its first key (the first part: from the lowest
/// there is) up to the first key of the part after it.
pub(super) fn range_of(parts: &[PartEntry], group: Range<usize>) -> (Bound<Key>, Bound<Key>) {
    let from = match group.start {
        0 => Bound::Unbounded,
        at => Bound::Included(parts[at].first),
    };
    let to = parts.get(group.end).map_or(Bound::Unbounded, |next| Bound::Excluded(next.first));
    (from, to)
}

/// How many parts a manifest can name.
pub(super) fn parts_max(options: &StoreOptions) -> usize {
    (manifest_bytes_max(options) - HEADER_BYTES - FIXED_BYTES) / ENTRY_BYTES
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + self.parts.len() * ENTRY_BYTES);
        out.extend_from_slice(&self.covered.to_le_bytes());
        out.extend_from_slice(&self.covered_checksum.to_le_bytes());
        out.extend_from_slice(&self.replay_from.segment.to_le_bytes());
        out.extend_from_slice(&self.replay_from.within.to_le_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for part in &self.parts {
            for number in [part.id, part.bytes, part.records] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_key(&mut out, part.first);
            put_key(&mut out, part.last);
            out.extend_from_slice(&part.checksum.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(options: &StoreOptions, payload: &[u8]) -> Decoded<Manifest> {
        let mut reader = Reader::new(payload);
        let covered = reader.u64()?;
        let covered_checksum = reader.u32()?;
        let replay_from = Position { segment: reader.u32()?, within: reader.u64()? };
        let count = reader.u32()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(PartEntry {
                id: reader.u64()?,
                bytes: reader.u64()?,
                records: reader.u64()?,
                first: reader.key()?,
                last: reader.key()?,
                checksum: reader.u32()?,
            });
        }
        let manifest = Manifest { covered, covered_checksum, replay_from, parts };
        if !reader.is_empty() || !manifest.makes_sense(options) {
            return Err(Flaw::Damaged("a manifest that makes no sense"));
        }
        Ok(manifest)
    }

    fn makes_sense(&self, options: &StoreOptions) -> bool {
        self.replay_from.segment < options.segments
            && self.replay_from.within <= options.segment_bytes
            && self.replay_from.within.is_multiple_of(BLOCK_BYTES as u64)
            && self.parts.iter().all(|part| part.first <= part.last)
            && self.parts.windows(2).all(|pair| pair[0].last < pair[1].first)
    }
}
