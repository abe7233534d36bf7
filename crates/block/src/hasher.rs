//! A hash of bytes that come one after the other, for what is too much to hold at once.

use crate::hash::{ContentHash, HashAlgorithm};
use sha1::Digest as _;

/// Takes bytes in any portions; the hash is [`HashAlgorithm::hash`] of all of them together.
pub struct Hasher(Inner);

enum Inner {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
}

impl Hasher {
    pub fn new(algorithm: HashAlgorithm) -> Hasher {
        Hasher(match algorithm {
            HashAlgorithm::Blake3 => Inner::Blake3(Box::default()),
            HashAlgorithm::Sha256 => Inner::Sha256(sha2::Sha256::new()),
            HashAlgorithm::Sha1 => Inner::Sha1(sha1::Sha1::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Blake3(hasher) => drop(hasher.update(bytes)),
            Inner::Sha256(hasher) => hasher.update(bytes),
            Inner::Sha1(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> ContentHash {
        let mut hash = [0; 32];
        match self.0 {
            Inner::Blake3(hasher) => hash = *hasher.finalize().as_bytes(),
            Inner::Sha256(hasher) => hash = hasher.finalize().into(),
            Inner::Sha1(hasher) => hash[..20].copy_from_slice(&hasher.finalize()),
        }
        ContentHash(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::Hasher;
    use crate::hash::HashAlgorithm;

    #[test]
    fn bytes_in_portions_have_the_hash_of_all_together() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for algorithm in [HashAlgorithm::Blake3, HashAlgorithm::Sha256, HashAlgorithm::Sha1] {
            for portion in [1, 31, 4096, 10_000] {
                let mut hasher = Hasher::new(algorithm);
                bytes.chunks(portion).for_each(|part| hasher.update(part));
                assert_eq!(hasher.finish(), algorithm.hash(&bytes), "{}", algorithm.name());
            }
        }
    }
}
