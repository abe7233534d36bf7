//! What `extent` promises, one test for each promise.

use super::{Extent, Slot};
use blockyard_block::{ClusterIndex, EXTENT_CLUSTERS, RegionIndex};

/// A small generator, so that runs replay from the printed seed.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *seed >> 33
}

#[test]
fn a_record_equals_the_array_of_its_slots_whatever_was_set() {
    for start in 1..200 {
        let mut seed = start;
        let home = RegionIndex(7);
        let mut extent = Extent::empty((start % 3 != 0).then_some(home));
        let mut model = vec![Slot::Zero; EXTENT_CLUSTERS];
        for _ in 0..300 {
            let slot = next(&mut seed) as usize % EXTENT_CLUSTERS;
            let length = 1 + next(&mut seed) as usize % 40;
            let kind = next(&mut seed) % 6;
            let elsewhere = 20_000 + next(&mut seed) % 500;
            for (index, entry) in model.iter_mut().enumerate().take(slot + length).skip(slot) {
                let target = match kind {
                    0 => Slot::Zero,
                    1 => Slot::Reserved(home.cluster(index)),
                    2 => Slot::Reserved(ClusterIndex(elsewhere + index as u64)),
                    3 => Slot::Data(ClusterIndex(elsewhere + index as u64)),
                    _ => Slot::Data(home.cluster(index)),
                };
                extent.set(index, target);
                *entry = target;
            }
        }
        let mut at = 0;
        while at < EXTENT_CLUSTERS {
            let (target, length) = extent.run(at, EXTENT_CLUSTERS);
            assert!(length > 0, "seed {start}");
            for step in 0..length {
                assert_eq!(model[at + step], target.further(step), "seed {start} slot {at}+{step}");
            }
            at += length;
        }
        let mut bytes = Vec::new();
        extent.encode(&mut bytes);
        assert_eq!(bytes.len(), extent.encoded_length());
        assert!(Extent::decode(&bytes).unwrap() == extent, "seed {start}");
        let counted = model.iter().filter(|slot| slot.cluster().is_some()).count();
        assert_eq!(extent.cluster_count(), counted, "seed {start}");
        let copy = extent.copy_with_home(None);
        for (slot, expected) in model.iter().enumerate() {
            assert_eq!(copy.slot(slot), *expected, "seed {start}");
        }
    }
}

#[test]
fn no_bytes_make_decoding_panic() {
    let mut seed = 5;
    let mut extent = Extent::empty(Some(RegionIndex(3)));
    for slot in (0..900).step_by(7) {
        extent.set(slot, Slot::Data(ClusterIndex(5000 + slot as u64 * 3)));
        extent.set(slot + 1, Slot::Data(RegionIndex(3).cluster(slot + 1)));
    }
    let mut bytes = Vec::new();
    extent.encode(&mut bytes);
    for _ in 0..20_000 {
        let mut mutated = bytes.clone();
        for _ in 0..1 + next(&mut seed) % 4 {
            let at = next(&mut seed) as usize % mutated.len();
            mutated[at] = next(&mut seed) as u8;
        }
        mutated.truncate(next(&mut seed) as usize % (mutated.len() + 1));
        if let Ok(decoded) = Extent::decode(&mutated) {
            let total: usize = decoded.runs().map(|(_, length, _)| length).sum();
            assert!(total <= EXTENT_CLUSTERS);
        }
    }
}
