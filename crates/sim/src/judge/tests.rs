//! What `judge` promises, one test for each promise.

use super::judge_counts;
use blockyard_block::{ClusterIndex, ExtentId, ImageId, MapPageId, RegionIndex};
use blockyard_pool::{InspectedExtent, InspectedPage, InspectedSlot, Inspection};

/// Two images with one page, one extent at home and one cluster in it.
fn sound() -> Inspection {
    let (page, extent, cluster) = (MapPageId(1), ExtentId(2), ClusterIndex(1030));
    Inspection {
        images: vec![(ImageId(3), vec![page]), (ImageId(4), vec![page])],
        pages: vec![InspectedPage { id: page, holders: 2, extents: vec![extent] }],
        extents: vec![InspectedExtent {
            id: extent,
            holders: 1,
            home: Some(RegionIndex(1)),
            clusters: vec![InspectedSlot { cluster, reserved: false }],
        }],
        counts: vec![(cluster, 1)],
        owners: vec![(RegionIndex(1), extent)],
        clusters_used: 1,
        clusters_free: 1023,
        regions_provisioned: 1,
        ..Inspection::default()
    }
}

#[test]
fn a_sound_pool_is_found_sound() {
    judge_counts(&sound()).unwrap();
}

#[test]
fn every_wrong_number_is_found() {
    let breaks: [fn(&mut Inspection); 8] = [
        |told| told.pages[0].holders = 1,
        |told| told.extents[0].holders = 2,
        |told| told.extents_to_sweep.push(ExtentId(2)),
        |told| told.counts[0].1 = 2,
        |told| told.counts.push((ClusterIndex(1031), 1)),
        |told| told.owners.clear(),
        |told| told.clusters_free = 1024,
        |told| told.clusters_used = 2,
    ];
    for (index, damage) in breaks.into_iter().enumerate() {
        let mut told = sound();
        damage(&mut told);
        assert!(judge_counts(&told).is_err(), "break {index}");
    }
}
