//! Which image came of which, as far as their maps show: no record keeps it.
//!
//! A snapshot or clone begins with all extents of its source, and each image keeps those that it has not changed.
//! So an image is shown under the older one with which it has most extents in common.

use crate::pool::Pool;
use crate::query::EXTENTS_AT_ONCE;
use blockyard_block::{EXTENT_SIZE, ExtentId, ImageId};
use blockyard_io::Directory;
use std::collections::HashMap;

/// Sets of images that are told apart, 16 bytes each. A chain of so many snapshots that change all their extents has some
/// half of the square: what is new to the images beyond is not noted, so that others are found to have less in
/// common with them.
const SETS_MAX: usize = 1 << 20;

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
    /// All visible images, oldest first. Walks all maps, some thousand extents at a time, so that requests go on.
    pub fn family(&self) -> Vec<Relative> {
        let mut images: Vec<ImageId> = self.lock().names.values().copied().collect();
        // Ids are counted up, in the order in which images are made.
        images.sort_unstable();
        let mut holders = Holders::new(SETS_MAX);
        let mut family = Vec::with_capacity(images.len());
        for image in images {
            holders.begin(image);
            let mut first = 0;
            loop {
                let extents = self.lock().image_extents_from(image, first, EXTENTS_AT_ONCE);
                let Some((last, _)) = extents.last() else { break };
                first = last + 1;
                holders.add(extents.into_iter().map(|(_, extent)| extent));
            }
            let relative = holders.end();
            // It may have been removed meanwhile.
            if self.lock().image(image).is_ok() {
                family.push(relative);
            }
        }
        family
    }
}

/// Who has which extent. Extents that the same images have are kept together as one set, so that what an image has in
/// common with hundreds of others takes no more than a walk over its extents and one over the sets.
struct Holders {
    images: Vec<ImageId>,
    /// The first is the empty set; each comes after the one that it was made of.
    sets: Vec<Set>,
    sets_max: usize,
    of_extent: HashMap<ExtentId, u32>,
    /// For each set that the image met: that set and the image.
    grown: HashMap<u32, u32>,
}

/// All images of an older set, and one more.
#[derive(Clone, Copy, Default)]
struct Set {
    older: u32,
    image: u32,
    /// Extents of the image that is being added which just these images have.
    extents: u64,
}

impl Holders {
    fn new(sets_max: usize) -> Holders {
        Holders {
            images: Vec::new(),
            sets: vec![Set::default()],
            sets_max,
            of_extent: HashMap::new(),
            grown: HashMap::new(),
        }
    }

    /// An image that is younger than all before.
    fn begin(&mut self, image: ImageId) {
        self.images.push(image);
        self.grown.clear();
    }

    /// Extents that it has.
    fn add(&mut self, extents: impl Iterator<Item = ExtentId>) {
        let image = self.images.len() as u32 - 1;
        for extent in extents {
            let of_extent = self.of_extent.entry(extent).or_insert(0);
            self.sets[*of_extent as usize].extents += 1;
            let (sets, sets_max) = (&mut self.sets, self.sets_max);
            *of_extent = *self.grown.entry(*of_extent).or_insert_with(|| {
                if sets.len() == sets_max {
                    return *of_extent;
                }
                sets.push(Set { older: *of_extent, image, extents: 0 });
                sets.len() as u32 - 1
            });
        }
    }

    /// The image is complete.
    fn end(&mut self) -> Relative {
        let mut in_common = vec![0; self.images.len()];
        for at in (1..self.sets.len()).rev() {
            let set = self.sets[at];
            if set.extents > 0 {
                in_common[set.image as usize] += set.extents;
                self.sets[set.older as usize].extents += set.extents;
                self.sets[at].extents = 0;
            }
        }
        self.sets[0].extents = 0;
        let image = in_common.len() - 1;
        let most = (0..image)
            .filter(|older| in_common[*older] > 0)
            .max_by_key(|older| (in_common[*older], std::cmp::Reverse(*older)));
        Relative {
            image: self.images[image],
            parent: most.map(|parent| self.images[parent]),
            bytes_in_common: most.map_or(0, |parent| in_common[parent] * EXTENT_SIZE),
        }
    }
}

#[cfg(test)]
mod tests;
