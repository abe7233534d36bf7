//! Synthetic pools are pools like others: the engine opens them and `check` finds nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use crate::check::{CheckOptions, check};
use crate::types::OpenOptions;
use blockyard_sim::{Executor, SimWorld};

#[test]
fn a_synthetic_pool_is_sound_and_opens_with_every_cluster_counted() {
    let plan =
        SyntheticPool { id: PoolId([8; 16]), extents: 1024, images: 3, seed: 7, regions_hashed: 4 };
    let world = SimWorld::new(1);
    let directory = Arc::new(world.directory());
    let journal = Box::new(world.mapped(1 << 20));
    let expected: u64 = (0..plan.extents).map(|extent| plan.home_bits(extent).count() as u64).sum();
    let status = Executor::new(&world).run(async move {
        let data = directory.create("data").await.unwrap();
        plan.make(&directory, &data).await.unwrap();
        let options = CheckOptions { read_data: false, boot_id: [0; 16] };
        let report = check(&*directory, &data, None, &options, &mut |_| {}).await.unwrap();
        assert_eq!(report.findings.len(), 0, "{:?}", report.findings);
        let options = OpenOptions::default();
        let pool = Pool::open((*directory).clone(), data, journal, options).await.unwrap();
        let of_image: u64 = pool.images().iter().map(|image| image.bytes_mapped).sum();
        let references = 1024_u64.div_ceil(10) * REFERENCES as u64;
        assert_eq!(of_image, (expected + references) * 4096);
        pool.status().unwrap()
    });
    assert_eq!(status.bytes_physical, expected * 4096);
    assert_eq!((status.images, status.clusters_untrusted), (3, 0));
}
