//! Clusters that some slot may keep as its place without data: they count, but nobody shows what they hold,
//! and the one who has the place may write there without being seen as an overwriter.
//!
//! A mark is set when a slot becomes reserved, or is loaded so, and is taken away when data is written there. So
//! what is marked may be reserved no more, but what is reserved is marked.

use crate::bitmap::Bitmap;
use blockyard_block::{ClusterIndex, RegionIndex};
use std::collections::BTreeMap;

/// The marks, by region.
#[derive(Default)]
pub(crate) struct ReservedPlaces {
    regions: BTreeMap<RegionIndex, Box<Bitmap>>,
    changes: u64,
}

impl ReservedPlaces {
    pub(crate) fn mark(&mut self, cluster: ClusterIndex) {
        let bits = self.regions.entry(cluster.region()).or_insert_with(|| Box::new(Bitmap::EMPTY));
        bits.set(cluster.within_region(), true);
        self.changes += 1;
    }

    /// The cluster holds data that a slot shows.
    pub(crate) fn unmark(&mut self, cluster: ClusterIndex) {
        let Some(bits) = self.regions.get_mut(&cluster.region()) else { return };
        bits.set(cluster.within_region(), false);
        if bits.is_empty() {
            self.regions.remove(&cluster.region());
        }
    }

    pub(crate) fn may_be(&self, cluster: ClusterIndex) -> bool {
        let bits = self.regions.get(&cluster.region());
        bits.is_some_and(|bits| bits.get(cluster.within_region()))
    }

    /// Differs once another place was reserved.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }
}
