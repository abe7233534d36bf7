//! Which image came of which, as far as their maps show: no record keeps it.
//!
//! A snapshot or clone begins with all extents of its source, and each image keeps those that it has not changed.
//! So an image is shown under the older one with which it has most extents in common.

use crate::pool::Pool;
use blockyard_block::{EXTENT_SIZE, ExtentId, ImageId};
use blockyard_io::Directory;
use std::collections::HashMap;

/// Of the images that have an extent, so many of the oldest are compared with a younger one.
const HOLDERS_MAX: usize = 32;

/// An image and the older one it shares most with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relative {
    pub image: ImageId,
    /// `None` if it shares no extent with an older image.
    pub parent: Option<ImageId>,
    /// Bytes of image in extents that both have; of equal ones the older image is the parent.
    pub bytes_in_common: u64,
}

impl<D: Directory> Pool<D> {
    /// All visible images, oldest first. Walks all maps, image by image, so that requests go on.
    pub fn family(&self) -> Vec<Relative> {
        let mut images: Vec<ImageId> = self.lock().names.values().copied().collect();
        // Ids are counted up, in the order in which images are made.
        images.sort_unstable();
        let mut holders: HashMap<ExtentId, Vec<ImageId>> = HashMap::new();
        let mut family = Vec::with_capacity(images.len());
        for image in images {
            let extents = {
                let state = self.lock();
                match state.image(image) {
                    Ok(_) => state.image_extents(image),
                    Err(_) => continue,
                }
            };
            let mut in_common: HashMap<ImageId, u64> = HashMap::new();
            for (_, extent) in extents {
                let older = holders.entry(extent).or_default();
                for image in older.iter() {
                    *in_common.entry(*image).or_insert(0) += 1;
                }
                if older.len() < HOLDERS_MAX {
                    older.push(image);
                }
            }
            let most =
                in_common.into_iter().max_by_key(|(id, count)| (*count, std::cmp::Reverse(*id)));
            family.push(Relative {
                image,
                parent: most.map(|(parent, _)| parent),
                bytes_in_common: most.map_or(0, |(_, count)| count * EXTENT_SIZE),
            });
        }
        family
    }
}
