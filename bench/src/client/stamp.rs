//! What each cluster starts with: its place, then a number that makes its content new. A reply that
//! bears another stamp is one for another place, or made up.

pub(crate) const CLUSTER: usize = 4096;
const MAGIC: u64 = 0xb10c_c1a5_7e57_0001;

/// Makes `bytes`, whole clusters at `offset`, what a write of them should carry.
pub(crate) fn put(bytes: &mut [u8], offset: u64, number: u64) {
    for (index, cluster) in bytes.chunks_exact_mut(CLUSTER).enumerate() {
        cluster[..8].copy_from_slice(&expected(offset + (index * CLUSTER) as u64));
        cluster[8..16].copy_from_slice(&number.to_le_bytes());
    }
}

/// Whether the cluster that starts with `bytes` was written for `offset`.
pub(crate) fn holds(bytes: &[u8], offset: u64) -> bool {
    bytes.get(..8) == Some(&expected(offset))
}

fn expected(offset: u64) -> [u8; 8] {
    (offset ^ MAGIC).to_le_bytes()
}

/// Bytes without a pattern, so that neither zeros nor equal clusters can be made use of.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// xorshift64: the same seed gives the same row of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
