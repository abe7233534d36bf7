//! The list of what an extent holds: the hash of each of its 1024 slots.

use blockyard_block::{ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, HashAlgorithm};

const HASH_BYTES: usize = 32;

/// The hashes of an extent's slots in order; 32 zero bytes stand for a slot that reads zero. Its summary is
/// the hash of these bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct ExtentHashes(Vec<u8>);

impl ExtentHashes {
    /// Bytes of a list: 32 KiB.
    pub const BYTES: usize = HASH_BYTES * EXTENT_CLUSTERS;

    /// `None` unless there are [`ExtentHashes::BYTES`] of them.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<ExtentHashes> {
        (bytes.len() == ExtentHashes::BYTES).then_some(ExtentHashes(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The hash of a slot's content; `None` if it reads zero.
    pub fn get(&self, slot: usize) -> Option<ContentHash> {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&self.0[slot * HASH_BYTES..(slot + 1) * HASH_BYTES]);
        (hash != [0; HASH_BYTES]).then_some(ContentHash(hash))
    }

    /// The slots that hold data, and their hashes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, ContentHash)> + '_ {
        (0..EXTENT_CLUSTERS).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    pub fn summary(&self, algorithm: HashAlgorithm) -> ContentHash {
        algorithm.hash(&self.0)
    }

    /// The summary of an extent that reads zero.
    pub fn empty_summary(algorithm: HashAlgorithm) -> ContentHash {
        algorithm.hash(&[0; ExtentHashes::BYTES])
    }

    /// Extents of an image of `size` bytes.
    pub fn extents_of(size: u64) -> u64 {
        size.div_ceil(EXTENT_SIZE)
    }
}
