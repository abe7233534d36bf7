//! The journal of acknowledged changes (I15): metadata changes that are completed but not committed,
//! in memory that outlives the process. A killed daemon's successor replays them before it serves.
//!
//! Two areas take the generations in turn: while one generation is being committed the next fills
//! the other area. An area is reset when the generation it held is durable, so replaying a whole area
//! again is always harmless: each entry is the full value of its records. Entries are appended under
//! the engine's lock, by copying memory; the length goes in last.

use crate::frees::Generation;
use crate::records::RecordKey;
use crate::types::PoolId;
use blockyard_block::Result;
use blockyard_io::Mapped;

const MAGIC: &[u8; 8] = b"BYJRNL01";
const HEADER_BYTES: usize = 64;
/// Length, checksum, generation.
const ENTRY_HEADER_BYTES: usize = 16;

/// A record and its new value; `None` deletes it.
pub(crate) type RecordChange = (RecordKey, Option<Vec<u8>>);

/// Whose journal it is. Any other pool, boot or epoch is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalIdentity {
    pub(crate) pool: PoolId,
    pub(crate) boot: [u8; 16],
    pub(crate) epoch: u64,
}

impl JournalIdentity {
    pub(crate) fn encode(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..8].copy_from_slice(MAGIC);
        out[8..24].copy_from_slice(&self.pool.0);
        out[24..40].copy_from_slice(&self.boot);
        out[40..].copy_from_slice(&self.epoch.to_le_bytes());
        out
    }
}

/// The open journal.
pub(crate) struct Journal {
    memory: Box<dyn Mapped>,
    /// Bytes used in each area.
    used: [usize; 2],
}

impl Journal {
    /// Reads what a killed process of the same boot left behind, oldest first: one that ran in an epoch
    /// from `epoch_min` (whose open is known complete) to that of `identity`, exclusive.
    pub(crate) fn recover(
        memory: &mut dyn Mapped,
        identity: JournalIdentity,
        epoch_min: u64,
    ) -> Result<Vec<Vec<RecordChange>>> {
        let bytes = memory.bytes();
        let epoch =
            bytes.get(40..48).and_then(|epoch| epoch.try_into().ok()).map(u64::from_le_bytes);
        let left_behind =
            epoch.filter(|epoch| (epoch_min..identity.epoch).contains(epoch)).is_some_and(
                |epoch| bytes.starts_with(&JournalIdentity { epoch, ..identity }.encode()),
            );
        if bytes.len() < 2 * HEADER_BYTES || !left_behind {
            return Ok(Vec::new());
        }
        let (first, second) = areas(bytes);
        let mut entries = read_area(first);
        entries.extend(read_area(second));
        entries.sort_by_key(|(generation, _)| *generation);
        entries.into_iter().map(|(_, payload)| decode_changes(payload)).collect()
    }

    /// Starts an empty journal under a new identity.
    pub(crate) fn start(mut memory: Box<dyn Mapped>, identity: JournalIdentity) -> Journal {
        let bytes = memory.bytes();
        bytes[..48].fill(0);
        let (first, second) = areas_mut(bytes);
        first[..ENTRY_HEADER_BYTES].fill(0);
        second[..ENTRY_HEADER_BYTES].fill(0);
        bytes[..48].copy_from_slice(&identity.encode());
        Journal { memory, used: [0, 0] }
    }

    /// Bytes one area holds.
    pub(crate) fn capacity(&mut self) -> usize {
        areas(self.memory.bytes()).0.len() - ENTRY_HEADER_BYTES
    }

    pub(crate) fn used(&self, generation: Generation) -> usize {
        self.used[area_of(generation)]
    }

    /// Bytes that `changes` will take as one entry.
    pub(crate) fn entry_bytes(changes: &[RecordChange]) -> usize {
        let payload: usize =
            changes.iter().map(|(_, value)| 13 + value.as_ref().map_or(0, Vec::len)).sum();
        ENTRY_HEADER_BYTES + payload.next_multiple_of(8)
    }

    /// Appends one entry: all of it is replayed or none. The caller has made sure that it fits.
    pub(crate) fn append(&mut self, generation: Generation, changes: &[RecordChange]) {
        let mut payload = Vec::with_capacity(Journal::entry_bytes(changes));
        encode_changes(changes, &mut payload);
        let area = area_of(generation);
        let start = self.used[area];
        let (first, second) = areas_mut(self.memory.bytes());
        let target = if area == 0 { first } else { second };
        let end = start + ENTRY_HEADER_BYTES + payload.len().next_multiple_of(8);
        assert!(
            end + ENTRY_HEADER_BYTES <= target.len(),
            "journal space is reserved before planning"
        );
        let body = start + ENTRY_HEADER_BYTES;
        target[body..body + payload.len()].copy_from_slice(&payload);
        target[end..end + ENTRY_HEADER_BYTES].fill(0);
        let number = generation.0.to_le_bytes();
        target[start + 4..start + 8].copy_from_slice(&checksum(&number, &payload).to_le_bytes());
        target[start + 8..start + 16].copy_from_slice(&number);
        target[start..start + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        self.used[area] = end;
    }

    /// The generation is durable: its area is free for the next but one.
    pub(crate) fn reset(&mut self, generation: Generation) {
        let area = area_of(generation);
        let (first, second) = areas_mut(self.memory.bytes());
        let target = if area == 0 { first } else { second };
        target[..ENTRY_HEADER_BYTES].fill(0);
        self.used[area] = 0;
    }

    /// Nothing is to be replayed, now or later: after a clean shutdown, or because data that the
    /// changes refer to may be lost.
    pub(crate) fn clear(&mut self) {
        Journal::discard(self.memory.as_mut());
    }

    /// The same for what another process left behind.
    pub(crate) fn discard(memory: &mut dyn Mapped) {
        let bytes = memory.bytes();
        let length = bytes.len().min(48);
        bytes[..length].fill(0);
    }
}

fn area_of(generation: Generation) -> usize {
    (generation.0 % 2) as usize
}

fn areas(bytes: &[u8]) -> (&[u8], &[u8]) {
    let half = (bytes.len() - HEADER_BYTES) / 2 / 8 * 8;
    bytes[HEADER_BYTES..HEADER_BYTES + 2 * half].split_at(half)
}

fn areas_mut(bytes: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let half = (bytes.len() - HEADER_BYTES) / 2 / 8 * 8;
    bytes[HEADER_BYTES..HEADER_BYTES + 2 * half].split_at_mut(half)
}

fn checksum(generation: &[u8; 8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(generation), payload)
}

/// The whole entries from the front of an area, up to the first that is not.
fn read_area(mut area: &[u8]) -> Vec<(u64, &[u8])> {
    let mut entries = Vec::new();
    while let Some((header, rest)) = area.split_first_chunk::<ENTRY_HEADER_BYTES>() {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        let mut number = [0; 8];
        number.copy_from_slice(&header[8..]);
        let padded = length.next_multiple_of(8);
        if length == 0 || padded > rest.len() || checksum(&number, &rest[..length]) != word(4) {
            break;
        }
        entries.push((u64::from_le_bytes(number), &rest[..length]));
        area = &rest[padded..];
    }
    entries
}

const DELETED: u32 = u32::MAX;

fn encode_changes(changes: &[RecordChange], out: &mut Vec<u8>) {
    for (key, value) in changes {
        let (kind, id) = key.parts();
        out.push(kind);
        out.extend_from_slice(&id.to_le_bytes());
        match value {
            Some(value) => {
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
            None => out.extend_from_slice(&DELETED.to_le_bytes()),
        }
    }
}

fn decode_changes(mut payload: &[u8]) -> Result<Vec<RecordChange>> {
    let mut changes = Vec::new();
    while let Some((head, rest)) = payload.split_first_chunk::<13>() {
        let mut id = [0; 8];
        id.copy_from_slice(&head[1..9]);
        let key = RecordKey::from_parts(head[0], u64::from_le_bytes(id))?;
        let length = u32::from_le_bytes([head[9], head[10], head[11], head[12]]);
        if length == DELETED {
            changes.push((key, None));
            payload = rest;
            continue;
        }
        let Some((value, rest)) = rest.split_at_checked(length as usize) else { break };
        changes.push((key, Some(value.to_vec())));
        payload = rest;
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockyard_block::ExtentId;

    struct Memory(Vec<u8>);
    impl Mapped for Memory {
        fn bytes(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    fn identity(epoch: u64) -> JournalIdentity {
        JournalIdentity { pool: PoolId([1; 16]), boot: [2; 16], epoch }
    }

    fn change(id: u64, value: &[u8]) -> Vec<RecordChange> {
        vec![(RecordKey::Extent(ExtentId(id)), Some(value.to_vec()))]
    }

    #[test]
    fn acknowledged_changes_are_replayed_in_order_and_torn_ones_are_not() {
        let mut journal = Journal::start(Box::new(Memory(vec![0xaa; 1 << 16])), identity(4));
        journal.append(Generation(1), &change(1, b"one"));
        journal.append(Generation(2), &change(1, b"two"));
        journal.append(Generation(2), &[(RecordKey::Extent(ExtentId(3)), None)]);
        let mut memory = Memory(journal.memory.bytes().to_vec());
        let all = Journal::recover(&mut memory, identity(5), 4).unwrap();
        assert_eq!(
            all,
            [change(1, b"one"), change(1, b"two"), vec![(RecordKey::Extent(ExtentId(3)), None)]]
        );
        assert!(Journal::recover(&mut memory, identity(9), 5).unwrap().is_empty());
        // An epoch that damage made huge is no reason to count up to it.
        assert_eq!(Journal::recover(&mut memory, identity(u64::MAX), 4).unwrap(), all);
        assert!(Journal::recover(&mut memory, identity(u64::MAX), 5).unwrap().is_empty());
        journal.reset(Generation(1));
        let mut memory = Memory(journal.memory.bytes().to_vec());
        assert_eq!(Journal::recover(&mut memory, identity(5), 4).unwrap().len(), 2);
        memory.0[HEADER_BYTES + ENTRY_HEADER_BYTES + 13] ^= 1;
        assert!(Journal::recover(&mut memory, identity(5), 4).unwrap().is_empty());
    }
}
