//! Content hashes: 32 bytes of a cluster's content, by the algorithm the pool was made with.

mod wide;

use crate::CLUSTER_SIZE;
use sha1::Digest as _;
use std::fmt;

/// The content hash of one cluster. SHA-1 digests are padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// BLAKE3 of `content` under a key: where the hash alone is not believed because whoever made the content could make
/// another of the same hash.
pub fn keyed_hash(key: &[u8; 32], content: &[u8]) -> ContentHash {
    ContentHash(*blake3::keyed_hash(key, content).as_bytes())
}

/// How a pool computes content hashes; chosen when the pool is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Blake3,
    Sha256,
    Sha1,
}

impl HashAlgorithm {
    /// The hash of `content`, a whole cluster or the concatenation of hashes.
    pub fn hash(self, content: &[u8]) -> ContentHash {
        match self {
            HashAlgorithm::Blake3 => ContentHash(*blake3::hash(content).as_bytes()),
            HashAlgorithm::Sha256 => ContentHash(sha2::Sha256::digest(content).into()),
            HashAlgorithm::Sha1 => {
                let mut padded = [0; 32];
                padded[..20].copy_from_slice(&sha1::Sha1::digest(content));
                ContentHash(padded)
            }
        }
    }

    /// The hashes of whole clusters, appended to `hashes` in order: the same as of each alone, in less
    /// time.
    pub fn hash_clusters(self, clusters: &[&[u8; CLUSTER_SIZE]], hashes: &mut Vec<ContentHash>) {
        if self == HashAlgorithm::Blake3 && wide::is_worth_while(clusters.len()) {
            return wide::hash_clusters(clusters, hashes);
        }
        hashes.extend(clusters.iter().map(|cluster| self.hash(*cluster)));
    }

    /// The name used on the command line, in the API and in docs.
    pub fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Blake3 => "blake3",
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha1 => "sha1",
        }
    }

    /// The inverse of [`HashAlgorithm::name`].
    pub fn from_name(name: &str) -> Option<HashAlgorithm> {
        [Self::Blake3, Self::Sha256, Self::Sha1]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::HashAlgorithm;
    use crate::CLUSTER_SIZE;

    #[test]
    fn clusters_hashed_together_have_the_hashes_they_have_alone() {
        let mut random = 0x1234_5678_9abc_def1_u64;
        let clusters: Vec<[u8; CLUSTER_SIZE]> = (0..70)
            .map(|_| {
                std::array::from_fn(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 56) as u8
                })
            })
            .collect();
        for algorithm in [HashAlgorithm::Blake3, HashAlgorithm::Sha256, HashAlgorithm::Sha1] {
            for count in [0, 1, 3, 4, 7, 8, 15, 16, 17, 33, 70] {
                let group: Vec<_> = clusters[..count].iter().collect();
                let mut hashes = Vec::new();
                algorithm.hash_clusters(&group, &mut hashes);
                let alone: Vec<_> = group.iter().map(|one| algorithm.hash(*one)).collect();
                assert_eq!(hashes, alone, "{count} clusters by {}", algorithm.name());
            }
        }
    }
}
