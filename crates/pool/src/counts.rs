//! How often each cluster of a region is counted, as narrow as the region's counts allow: nothing for
//! uniform regions, then 1, 2, 8 and 32 bits a cluster. Derived from extent records, never stored.

use crate::bitmap::Bitmap;
use blockyard_block::EXTENT_CLUSTERS;

/// Counts of the 1024 clusters of one region.
pub(crate) enum Counts {
    /// All are zero.
    Zero,
    /// All are one.
    One,
    Bits(Box<Bitmap>),
    /// Two bits each.
    Two(Box<[u64; EXTENT_CLUSTERS / 32]>),
    Eight(Box<[u8; EXTENT_CLUSTERS]>),
    Wide(Box<[u32; EXTENT_CLUSTERS]>),
}

impl Counts {
    pub(crate) fn get(&self, index: usize) -> u32 {
        match self {
            Counts::Zero => 0,
            Counts::One => 1,
            Counts::Bits(bits) => u32::from(bits.get(index)),
            Counts::Two(words) => (words[index / 32] >> (index % 32 * 2) & 3) as u32,
            Counts::Eight(bytes) => u32::from(bytes[index]),
            Counts::Wide(words) => words[index],
        }
    }

    pub(crate) fn set(&mut self, index: usize, count: u32) {
        self.make_room_for(index, count);
        match self {
            Counts::Zero | Counts::One => {}
            Counts::Bits(bits) => bits.set(index, count == 1),
            Counts::Two(words) => {
                let shift = index % 32 * 2;
                words[index / 32] = words[index / 32] & !(3 << shift) | u64::from(count) << shift;
            }
            Counts::Eight(bytes) => bytes[index] = count as u8,
            Counts::Wide(words) => words[index] = count,
        }
    }

    /// Widens until `count` fits at `index`.
    fn make_room_for(&mut self, index: usize, count: u32) {
        loop {
            let wider = match self {
                Counts::Zero if count == 0 => return,
                Counts::One if count == 1 => return,
                Counts::Zero => Counts::Bits(Box::new(Bitmap::EMPTY)),
                Counts::One => Counts::Bits(Box::new(Bitmap::FULL)),
                Counts::Bits(_) if count <= 1 => return,
                Counts::Two(_) if count <= 3 => return,
                Counts::Eight(_) if count <= 255 => return,
                Counts::Wide(_) => return,
                Counts::Bits(bits) => {
                    let mut words = Box::new([0; EXTENT_CLUSTERS / 32]);
                    for one in bits.ones() {
                        words[one / 32] |= 1 << (one % 32 * 2);
                    }
                    Counts::Two(words)
                }
                Counts::Two(_) => {
                    let mut bytes = Box::new([0; EXTENT_CLUSTERS]);
                    for (at, byte) in bytes.iter_mut().enumerate() {
                        *byte = self.get(at) as u8;
                    }
                    Counts::Eight(bytes)
                }
                Counts::Eight(bytes) => {
                    let mut words = Box::new([0; EXTENT_CLUSTERS]);
                    for (word, byte) in words.iter_mut().zip(bytes.iter()) {
                        *word = u32::from(*byte);
                    }
                    Counts::Wide(words)
                }
            };
            debug_assert!(index < EXTENT_CLUSTERS);
            *self = wider;
        }
    }

    /// Goes back to a uniform form where one fits; cheap to call when `used` is 0 or 1024.
    pub(crate) fn narrow(&mut self, used: usize) {
        if used == 0 {
            *self = Counts::Zero;
        } else if used == EXTENT_CLUSTERS
            && matches!(self, Counts::Bits(bits) if bits.count() == EXTENT_CLUSTERS)
        {
            *self = Counts::One;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_keep_their_values_through_every_width() {
        let mut counts = Counts::Zero;
        let mut model = vec![0u32; 1024];
        for (step, value) in [1u32, 0, 1, 2, 3, 1, 4, 255, 0, 256, 70_000, 1].iter().enumerate() {
            for offset in 0..50 {
                let index = (step * 97 + offset * 13) % 1024;
                counts.set(index, *value);
                model[index] = *value;
            }
            for (index, expected) in model.iter().enumerate() {
                assert_eq!(counts.get(index), *expected);
            }
        }
    }

    #[test]
    fn uniform_regions_take_no_memory_of_their_own() {
        let mut counts = Counts::Zero;
        for index in 0..1024 {
            counts.set(index, 1);
        }
        counts.narrow(1024);
        assert!(matches!(counts, Counts::One));
        for index in 0..1024 {
            counts.set(index, 0);
        }
        counts.narrow(0);
        assert!(matches!(counts, Counts::Zero));
    }
}
