//! Where clusters are shown: found by walking extents, then pages, then images, some at a time, so that requests go on.
//!
//! What changes meanwhile may be missed: the answer is for people.

use super::Place;
use crate::pool::Pool;
use crate::state::run_clusters;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, ExtentId, ImageId, ImageName, MAP_PAGE_EXTENTS,
    MapPageId,
};
use blockyard_io::Directory;
use std::collections::{BTreeMap, HashMap};

/// Extents, and pages, looked at under one lock.
const EXTENTS_AT_ONCE: usize = 16;
const PAGES_AT_ONCE: usize = 16;

impl<D: Directory> Pool<D> {
    /// The places of each of these sorted clusters that images show, in the order of images.
    pub(crate) fn places_of(
        &self,
        clusters: &[ClusterIndex],
    ) -> BTreeMap<ClusterIndex, Vec<Place>> {
        let mut places: BTreeMap<ClusterIndex, Vec<Place>> = BTreeMap::new();
        let extents = self.extents_that_show(clusters);
        if extents.is_empty() {
            return places;
        }
        let pages = self.pages_with(&extents);
        let images: Vec<ImageId> = self.lock().names.values().copied().collect();
        for image in images {
            let of_image = match self.lock().image(image) {
                Ok(found) => found.record.pages.clone(),
                Err(_) => continue,
            };
            for (number, page) in of_image.into_iter().enumerate() {
                for (within, extent) in page.and_then(|page| pages.get(&page)).into_iter().flatten()
                {
                    let index = number * MAP_PAGE_EXTENTS + within;
                    for (slot, cluster) in &extents[extent] {
                        let at = index * EXTENT_CLUSTERS + slot;
                        places.entry(*cluster).or_default().push((image, at as u64));
                    }
                }
            }
        }
        places
    }

    /// Places by name and byte offset, for a report.
    pub(crate) fn named_places(&self, places: &[Place]) -> Vec<(ImageName, u64)> {
        let state = self.lock();
        let named = places.iter().filter_map(|(image, at)| {
            let name = state.image(*image).ok()?.record.name.clone();
            Some((name, at * CLUSTER_SIZE as u64))
        });
        named.collect()
    }

    fn extents_that_show(
        &self,
        clusters: &[ClusterIndex],
    ) -> HashMap<ExtentId, Vec<(usize, ClusterIndex)>> {
        let mut showing: HashMap<ExtentId, Vec<(usize, ClusterIndex)>> = HashMap::new();
        if clusters.is_empty() {
            return showing;
        }
        let ids: Vec<ExtentId> = self.lock().extents.keys().copied().collect();
        for some in ids.chunks(EXTENTS_AT_ONCE) {
            let state = self.lock();
            for id in some {
                let Some(found) = state.extents.get(id) else { continue };
                for (slot, length, target) in found.extent.runs() {
                    let Some(first) = target.cluster() else { continue };
                    let from = clusters.partition_point(|cluster| *cluster < first);
                    if clusters.get(from).is_none_or(|next| next.0 >= first.0 + length as u64) {
                        continue;
                    }
                    for (step, cluster) in run_clusters(target, length).enumerate() {
                        if clusters.binary_search(&cluster).is_ok() {
                            showing.entry(*id).or_default().push((slot + step, cluster));
                        }
                    }
                }
            }
        }
        showing
    }

    /// The pages that have these extents, and at which of their places.
    fn pages_with(
        &self,
        extents: &HashMap<ExtentId, Vec<(usize, ClusterIndex)>>,
    ) -> HashMap<MapPageId, Vec<(usize, ExtentId)>> {
        let mut having: HashMap<MapPageId, Vec<(usize, ExtentId)>> = HashMap::new();
        let ids: Vec<MapPageId> = self.lock().pages.keys().copied().collect();
        for some in ids.chunks(PAGES_AT_ONCE) {
            let state = self.lock();
            for id in some {
                let Some(found) = state.pages.get(id) else { continue };
                let wanted: Vec<(usize, ExtentId)> =
                    found.page.iter().filter(|(_, extent)| extents.contains_key(extent)).collect();
                if !wanted.is_empty() {
                    having.insert(*id, wanted);
                }
            }
        }
        having
    }
}
