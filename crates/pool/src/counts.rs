//! How often each cluster of a region is counted, as narrow as the region's counts allow: nothing for
//! uniform regions, a bit a cluster where none counts twice, a list of the few that do beside the bits,
//! and 2, 8 or 32 bits a cluster beyond. Derived from extent records, never stored.

use crate::bitmap::Bitmap;
use blockyard_block::EXTENT_CLUSTERS;
use std::sync::Arc;

/// Counts of the 1024 clusters of one region.
pub(crate) enum Counts {
    /// All are zero.
    Zero,
    /// All are one.
    One,
    /// Zero or one. The bitmap may be that of the extent whose home this is, until one changes.
    Bits(Arc<Bitmap>),
    /// Whether counted at all (all are, without a bitmap); and the clusters that count more than
    /// once, by index.
    Few(Option<Arc<Bitmap>>, Box<[Shared]>),
    /// Two bits each.
    Two(Box<[u64; EXTENT_CLUSTERS / 32]>),
    Eight(Box<[u8; EXTENT_CLUSTERS]>),
    Wide(Box<[u32; EXTENT_CLUSTERS]>),
}

const _: () = assert!(size_of::<Counts>() == 32);

/// With more than these, two bits for all take no more memory than the list.
const FEW_MAX: usize = EXTENT_CLUSTERS / 16;

/// A cluster that counts more than once, in four bytes: count (22 bits), index (10).
#[derive(Clone, Copy)]
pub(crate) struct Shared(u32);

impl Shared {
    const COUNT_MAX: u32 = u32::MAX >> 10;

    fn new(index: usize, count: u32) -> Shared {
        Shared(count << 10 | index as u32)
    }

    fn index(self) -> usize {
        (self.0 & 0x3ff) as usize
    }

    fn count(self) -> u32 {
        self.0 >> 10
    }
}

impl Counts {
    pub(crate) fn get(&self, index: usize) -> u32 {
        match self {
            Counts::Zero => 0,
            Counts::One => 1,
            Counts::Bits(bits) => u32::from(bits.get(index)),
            Counts::Few(bits, few) => match find(few, index) {
                Ok(at) => few[at].count(),
                Err(_) => bits.as_ref().map_or(1, |bits| u32::from(bits.get(index))),
            },
            Counts::Two(words) => (words[index / 32] >> (index % 32 * 2) & 3) as u32,
            Counts::Eight(bytes) => u32::from(bytes[index]),
            Counts::Wide(words) => words[index],
        }
    }

    /// Clusters that are counted at all.
    pub(crate) fn used(&self) -> usize {
        match self {
            Counts::Zero => 0,
            Counts::One | Counts::Few(None, _) => EXTENT_CLUSTERS,
            Counts::Bits(bits) | Counts::Few(Some(bits), _) => bits.count(),
            _ => (0..EXTENT_CLUSTERS).filter(|index| self.get(*index) > 0).count(),
        }
    }

    pub(crate) fn set(&mut self, index: usize, count: u32) {
        while !self.has_room_for(index, count) {
            *self = self.wider();
        }
        match self {
            Counts::Zero | Counts::One => {}
            Counts::Bits(bits) => Arc::make_mut(bits).set(index, count == 1),
            Counts::Few(bits, few) => {
                set_few(few, index, count);
                let is_used = bits.as_ref().is_none_or(|bits| bits.get(index));
                if is_used != (count > 0) {
                    let bits = bits.get_or_insert_with(|| Arc::new(Bitmap::FULL));
                    Arc::make_mut(bits).set(index, count > 0);
                }
                if few.is_empty() {
                    *self = bits.take().map_or(Counts::One, Counts::Bits);
                }
            }
            Counts::Two(words) => {
                let shift = index % 32 * 2;
                words[index / 32] = words[index / 32] & !(3 << shift) | u64::from(count) << shift;
            }
            Counts::Eight(bytes) => bytes[index] = count as u8,
            Counts::Wide(words) => words[index] = count,
        }
    }

    fn has_room_for(&self, index: usize, count: u32) -> bool {
        match self {
            Counts::Zero => count == 0,
            Counts::One => count == 1,
            Counts::Bits(_) => count <= 1,
            Counts::Few(_, few) => {
                let is_place = count <= 1 || few.len() < FEW_MAX || find(few, index).is_ok();
                is_place && count <= Shared::COUNT_MAX
            }
            Counts::Two(_) => count <= 3,
            Counts::Eight(_) => count <= 255,
            Counts::Wide(_) => true,
        }
    }

    /// The same counts in the next wider form.
    fn wider(&mut self) -> Counts {
        match self {
            Counts::Zero => Counts::Bits(Arc::new(Bitmap::EMPTY)),
            Counts::One => Counts::Few(None, Box::default()),
            Counts::Bits(bits) => Counts::Few(Some(Arc::clone(bits)), Box::default()),
            Counts::Few(_, few) => match few.iter().map(|shared| shared.count()).max() {
                Some(256..) => self.to_wide(),
                Some(4..) => self.to_eight(),
                _ => self.to_two(),
            },
            Counts::Two(_) => self.to_eight(),
            Counts::Eight(_) | Counts::Wide(_) => self.to_wide(),
        }
    }

    fn to_two(&self) -> Counts {
        let mut words = Box::new([0; EXTENT_CLUSTERS / 32]);
        for index in 0..EXTENT_CLUSTERS {
            words[index / 32] |= u64::from(self.get(index)) << (index % 32 * 2);
        }
        Counts::Two(words)
    }

    fn to_eight(&self) -> Counts {
        let mut bytes = Box::new([0; EXTENT_CLUSTERS]);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.get(index) as u8;
        }
        Counts::Eight(bytes)
    }

    fn to_wide(&self) -> Counts {
        let mut words = Box::new([0; EXTENT_CLUSTERS]);
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.get(index);
        }
        Counts::Wide(words)
    }

    /// Goes back to a uniform form where one fits. For when all clusters or none are counted.
    pub(crate) fn narrow(&mut self) {
        match self {
            Counts::Bits(bits) if **bits == Bitmap::FULL => *self = Counts::One,
            Counts::Few(bits @ Some(_), _) if bits.as_deref() == Some(&Bitmap::FULL) => {
                *bits = None
            }
            _ if self.used() == 0 => *self = Counts::Zero,
            _ => {}
        }
    }
}

fn find(few: &[Shared], index: usize) -> Result<usize, usize> {
    few.binary_search_by_key(&index, |shared| shared.index())
}

fn set_few(few: &mut Box<[Shared]>, index: usize, count: u32) {
    match (find(few, index), count) {
        (Err(_), 0 | 1) => {}
        (Ok(at), 2..) => few[at] = Shared::new(index, count),
        (place, _) => {
            let mut list = std::mem::take(few).into_vec();
            match place {
                Ok(at) => drop(list.remove(at)),
                Err(at) => {
                    list.reserve_exact(1);
                    list.insert(at, Shared::new(index, count));
                }
            }
            *few = list.into_boxed_slice();
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
        for (step, value) in
            [1u32, 0, 1, 2, 3, 1, 4, 255, 0, 256, 70_000, 5_000_000, 1].iter().enumerate()
        {
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
    fn few_shared_clusters_take_a_list_and_many_take_bits() {
        let mut counts = Counts::One;
        for index in 0..64 {
            counts.set(index * 3, 2 + index as u32);
        }
        assert!(matches!(counts, Counts::Few(None, _)));
        counts.set(5, 0);
        assert_eq!((counts.get(5), counts.get(6), counts.used()), (0, 4, 1023));
        counts.set(5, 1);
        counts.narrow();
        assert!(matches!(counts, Counts::Few(None, _)));
        counts.set(7, 2);
        assert!(matches!(counts, Counts::Eight(_)));
        assert_eq!((counts.get(6), counts.get(7), counts.get(8)), (4, 2, 1));
        let mut counts = Counts::Zero;
        counts.set(9, 1);
        counts.set(9, 2);
        counts.set(9, 1);
        assert!(matches!(counts, Counts::Bits(_)));
        counts.set(9, 0);
        counts.narrow();
        assert!(matches!(counts, Counts::Zero));
    }

    #[test]
    fn uniform_regions_take_no_memory_of_their_own() {
        let mut counts = Counts::Zero;
        for index in 0..1024 {
            counts.set(index, 1);
        }
        counts.narrow();
        assert!(matches!(counts, Counts::One));
        for index in 0..1024 {
            counts.set(index, 0);
        }
        counts.narrow();
        assert!(matches!(counts, Counts::Zero));
    }
}
