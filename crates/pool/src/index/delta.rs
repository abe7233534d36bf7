//! Clusters hashed since the index on disk was made: a table of a fixed size that forgets.
//!
//! A hash has one place in it, and who comes later has the place. So nobody can make a look-up slow, or the
//! table large, by choosing hashes; at worst something that is stored is not found.

use blockyard_block::ClusterIndex;

/// A cluster in the lower 40 bits and a part of its hash above; zero where there is none.
#[derive(Default)]
pub(crate) struct Delta {
    places: Vec<u64>,
}

const CLUSTER_BITS: u32 = 40;

impl Delta {
    /// Nothing is kept before this. Eight bytes a place.
    pub(crate) fn start(&mut self, places: usize) {
        if self.places.is_empty() {
            self.places = vec![0; places];
        }
    }

    pub(crate) fn is_kept(&self) -> bool {
        !self.places.is_empty()
    }

    pub(crate) fn insert(&mut self, prefix: u64, cluster: ClusterIndex) {
        let at = self.place(prefix);
        if let Some(place) = self.places.get_mut(at) {
            *place = tag(prefix) | cluster.0;
        }
    }

    /// The cluster that had this hash last, as far as is known.
    pub(crate) fn find(&self, prefix: u64) -> Option<ClusterIndex> {
        let place = *self.places.get(self.place(prefix))?;
        let cluster = place & ((1 << CLUSTER_BITS) - 1);
        (place & !((1 << CLUSTER_BITS) - 1) == tag(prefix) && cluster > 0)
            .then_some(ClusterIndex(cluster))
    }

    /// Hashes are uniform: the upper bits choose the place, the lower ones are kept.
    fn place(&self, prefix: u64) -> usize {
        ((u128::from(prefix) * self.places.len() as u128) >> 64) as usize
    }
}

fn tag(prefix: u64) -> u64 {
    prefix << CLUSTER_BITS
}

#[cfg(test)]
mod tests {
    use super::Delta;
    use blockyard_block::ClusterIndex;

    #[test]
    fn what_comes_later_has_the_place() {
        let mut delta = Delta::default();
        delta.insert(7, ClusterIndex(1024));
        assert_eq!(delta.find(7), None, "not kept before it is started");
        delta.start(16);
        delta.insert(7, ClusterIndex(1024));
        delta.insert(u64::MAX, ClusterIndex((1 << 40) - 1));
        assert_eq!(delta.find(7), Some(ClusterIndex(1024)));
        assert_eq!(delta.find(u64::MAX), Some(ClusterIndex((1 << 40) - 1)));
        assert_eq!(delta.find(8), None);
        delta.insert(8, ClusterIndex(1025));
        assert_eq!((delta.find(7), delta.find(8)), (None, Some(ClusterIndex(1025))));
    }
}
