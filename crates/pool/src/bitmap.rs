//! One bit for each of the 1024 clusters of an extent or a region.

use blockyard_block::EXTENT_CLUSTERS;

const WORDS: usize = EXTENT_CLUSTERS / 64;

/// 1024 bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bitmap([u64; WORDS]);

impl Bitmap {
    /// Bytes of the encoded form: little-endian words, bit 0 first.
    pub(crate) const BYTES: usize = EXTENT_CLUSTERS / 8;
    pub(crate) const EMPTY: Bitmap = Bitmap([0; WORDS]);
    pub(crate) const FULL: Bitmap = Bitmap([u64::MAX; WORDS]);

    pub(crate) fn get(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    pub(crate) fn set(&mut self, index: usize, value: bool) {
        let bit = 1 << (index % 64);
        if value {
            self.0[index / 64] |= bit;
        } else {
            self.0[index / 64] &= !bit;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many bits from `start` on, at most `length`, equal the bit at `start`.
    pub(crate) fn run(&self, start: usize, length: usize) -> usize {
        let value = self.get(start);
        let end = (start + length).min(EXTENT_CLUSTERS);
        let mut at = start;
        while at < end {
            let word = if value { !self.0[at / 64] } else { self.0[at / 64] } >> (at % 64);
            if word == 0 {
                at = (at / 64 + 1) * 64;
            } else {
                at += word.trailing_zeros() as usize;
                break;
            }
        }
        at.min(end) - start
    }

    /// The positions of set bits in order.
    pub(crate) fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        (0..WORDS).flat_map(move |index| {
            let mut word = self.0[index];
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                Some(index * 64 + bit)
            })
        })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for word in self.0 {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn decode(bytes: &[u8; Bitmap::BYTES]) -> Bitmap {
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *word = u64::from_le_bytes(eight);
        }
        Bitmap(words)
    }
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn runs_end_where_the_bit_changes() {
        let mut bits = Bitmap::EMPTY;
        for index in 60..130 {
            bits.set(index, true);
        }
        assert_eq!(bits.run(0, 1024), 60);
        assert_eq!(bits.run(60, 1024), 70);
        assert_eq!(bits.run(60, 10), 10);
        assert_eq!(bits.run(130, 2000), 894);
        assert_eq!(Bitmap::FULL.run(1, 1023), 1023);
        assert_eq!(bits.ones().count(), bits.count());
        assert_eq!(bits.ones().next(), Some(60));
    }
}
