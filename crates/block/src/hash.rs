//! Content hashes: 32 bytes of a cluster's content, by the algorithm the pool was made with.

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
