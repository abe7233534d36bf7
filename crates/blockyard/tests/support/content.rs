//! What tests fill disks with: random, but the same for the same seed.

/// Xorshift: enough to scatter writes and to fill clusters that are all different.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A number from 0 up to, but not including, `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// A disk with random data, text and zeros.
pub(crate) fn disk_content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        let (kind, length) = (random.below(4), [4096, 65536, 300 << 10][random.below(3) as usize]);
        match kind {
            0 => content.resize(content.len() + length, 0),
            1 => content.resize(content.len() + length, b'x'),
            _ => content.extend(random.bytes(length)),
        }
    }
    content.truncate(bytes);
    content
}
