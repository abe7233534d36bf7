//! The quick account of what images have in common against the slow obvious one.

use super::{Holders, Relative, SETS_MAX};
use blockyard_block::{EXTENT_SIZE, ExtentId, ImageId};
use std::collections::BTreeSet;

type Images = Vec<(ImageId, Vec<ExtentId>)>;

fn quick(images: &Images, sets_max: usize) -> Vec<Relative> {
    let mut holders = Holders::new(sets_max);
    let relative = |(image, extents): &(ImageId, Vec<ExtentId>)| {
        holders.begin(*image);
        extents.chunks(3).for_each(|some| holders.add(some.iter().copied()));
        holders.end()
    };
    images.iter().map(relative).collect()
}

/// Each compared with each.
fn slow(images: &Images) -> Vec<Relative> {
    let mut family = Vec::new();
    for (number, (image, extents)) in images.iter().enumerate() {
        let own: BTreeSet<&ExtentId> = extents.iter().collect();
        let mut relative = Relative { image: *image, parent: None, bytes_in_common: 0 };
        for (older, extents) in &images[..number] {
            let bytes = extents.iter().filter(|it| own.contains(it)).count() as u64 * EXTENT_SIZE;
            if bytes > relative.bytes_in_common {
                (relative.parent, relative.bytes_in_common) = (Some(*older), bytes);
            }
        }
        family.push(relative);
    }
    family
}

/// A pool's images and what is done to them; extents are numbered as they are made.
struct World {
    images: Images,
    extents: u64,
}

impl World {
    fn with_base(length: u64) -> World {
        let extents = (1..=length).map(ExtentId).collect();
        World { images: vec![(ImageId(1), extents)], extents: length }
    }

    fn copy(&mut self, image: usize) -> ImageId {
        let id = ImageId(self.images.len() as u64 + 1);
        self.images.push((id, self.images[image].1.clone()));
        id
    }

    fn write(&mut self, image: usize, place: usize) {
        self.extents += 1;
        self.images[image].1[place] = ExtentId(self.extents);
    }
}

#[test]
fn a_clone_of_a_late_snapshot_is_shown_under_that_snapshot() {
    let mut world = World::with_base(128);
    let mut snapshots = Vec::new();
    for number in 0..40 {
        snapshots.push(world.copy(0));
        world.write(0, number);
    }
    let cloned = snapshots.len() - 1; // images begin with the base
    let kid = world.copy(cloned);
    let family = quick(&world.images, SETS_MAX);
    let of = |id| family.iter().find(|relative| relative.image == id).unwrap();
    assert_eq!(of(kid).parent, Some(snapshots[cloned - 1]));
    assert_eq!(of(kid).bytes_in_common, 128 * EXTENT_SIZE);
    // The last differs as little from the base.
    for pair in snapshots[..cloned].windows(2) {
        assert_eq!(of(pair[1]).parent, Some(pair[0]));
    }
    assert_eq!(family, slow(&world.images));
}

#[test]
fn the_parent_has_most_in_common_whatever_was_copied_and_written() {
    for seed in 0..40_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % bound
        };
        let length = 1 + below(20);
        let mut world = World::with_base(length as u64);
        for _ in 0..200 {
            let image = below(world.images.len());
            match below(3) {
                0 if world.images.len() < 60 => drop(world.copy(image)),
                _ => world.write(image, below(length)),
            }
        }
        assert_eq!(quick(&world.images, SETS_MAX), slow(&world.images), "seed {seed}");
    }
}

#[test]
fn beyond_the_bound_on_sets_the_answer_is_only_less_good() {
    let mut world = World::with_base(20);
    for number in 0..40 {
        world.copy(0);
        world.write(0, number % 20);
    }
    let mut holders = Holders::new(30);
    for ((image, extents), exact) in world.images.iter().zip(slow(&world.images)) {
        holders.begin(*image);
        holders.add(extents.iter().copied());
        let relative = holders.end();
        assert!(relative.bytes_in_common <= exact.bytes_in_common);
        assert!(relative.parent.is_none_or(|parent| parent < *image));
        assert!(holders.sets.len() <= 30);
    }
}
