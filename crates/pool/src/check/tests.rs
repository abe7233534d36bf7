//! Metadata that contradicts itself: written by hand, since the engine does not make it.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use crate::extent::{Extent, Slot};
use crate::headers::{Header, HeaderOf};
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::records::{ImageRecord, MapPage, RecordKey, RegionRecord, pages_for};
use crate::store::{Change, Key, StoreOptions};
use crate::types::{ImageKind, PoolId};
use blockyard_block::{ClusterIndex, ExtentId, HashAlgorithm, ImageId, MapPageId, RegionIndex};
use blockyard_sim::{Executor, SimDirectory, SimWorld};
use std::sync::Arc;

const POOL: PoolId = PoolId([5; 16]);
/// The header's and three more.
const REGIONS: u64 = 4;

async fn make_pool(directory: &SimDirectory, changes: Vec<Change>) {
    let header = Header {
        pool: POOL,
        hash: HashAlgorithm::Blake3,
        data_on_device: false,
        created_unix_s: 0,
        epoch: 1,
    };
    for (of, block) in [(HeaderOf::Data, EXTENT_SIZE), (HeaderOf::Hashes, HASH_BLOCK_BYTES)] {
        let disk = directory.create(of.file()).await.unwrap();
        disk.allocate(0, REGIONS * block).await.unwrap();
        header.write(of, &disk).await.unwrap();
    }
    let options = StoreOptions { segment_bytes: 64 << 10, segments: 4, ..StoreOptions::default() };
    let directory = Arc::new(directory.clone());
    Store::create(&*directory, POOL, &options).await.unwrap();
    let (store, _) = Store::open(directory, &mut |_, _| Ok(())).await.unwrap();
    store.commit(changes).await.unwrap();
    store.vouch(true).await.unwrap();
}

fn check_records(records: Vec<(RecordKey, Vec<u8>)>) -> CheckReport {
    let world = SimWorld::new(1);
    let directory = world.directory();
    let change = |(key, value): (RecordKey, Vec<u8>)| {
        let (kind, id) = key.parts();
        Change { key: Key { kind, id }, value: Some(value) }
    };
    let changes = records.into_iter().map(change).collect();
    Executor::new(&world).run(async move {
        make_pool(&directory, changes).await;
        let data = directory.open("data").await.unwrap();
        let options = CheckOptions { read_data: true, boot_id: [0; 16] };
        check(&directory, &data, None, &options, &mut |_| {}).await.unwrap()
    })
}

fn image(id: u64, name: &str, size: u64, page: u64) -> (RecordKey, Vec<u8>) {
    let mut pages = vec![None; pages_for(size)];
    pages[0] = Some(MapPageId(page));
    let record = ImageRecord {
        name: ImageName::parse(name).unwrap(),
        kind: ImageKind::Writable,
        hidden: false,
        kept: false,
        lazy: false,
        size,
        created_unix_s: 0,
        pages,
    };
    (RecordKey::Image(ImageId(id)), record.encode())
}

fn page(id: u64, extents: &[(usize, u64)]) -> (RecordKey, Vec<u8>) {
    let mut page = MapPage::empty();
    extents.iter().for_each(|(index, extent)| page.set(*index, Some(ExtentId(*extent))));
    (RecordKey::Page(MapPageId(id)), page.encode())
}

fn extent(id: u64, home: Option<u32>, slots: &[(usize, Slot)]) -> (RecordKey, Vec<u8>) {
    let mut extent = Extent::empty(home.map(RegionIndex));
    slots.iter().for_each(|(slot, target)| extent.set(*slot, *target));
    let mut bytes = Vec::new();
    extent.encode(&mut bytes);
    (RecordKey::Extent(ExtentId(id)), bytes)
}

fn intent(region: u32) -> (RecordKey, Vec<u8>) {
    (RecordKey::Region(RegionIndex(region)), RegionRecord::Intent.encode())
}

fn data(cluster: u64) -> Slot {
    Slot::Data(ClusterIndex(cluster))
}

/// The one finding: image, offset, and a word of the message.
fn assert_found(report: &CheckReport, image: Option<&str>, offset: Option<u64>, word: &str) {
    let found = report.findings.iter().any(|finding| {
        finding.image.as_ref().map(ToString::to_string).as_deref() == image
            && finding.offset == offset
            && finding.message.contains(word)
    });
    assert!(found, "{image:?} at {offset:?}: {word}: {:#?}", report.findings);
}

#[test]
fn a_sound_pool_written_by_hand_is_sound() {
    let slots = [(0, data(1024)), (7, Slot::Reserved(ClusterIndex(2048)))];
    let report = check_records(vec![
        image(1, "a", 8192 * 4, 2),
        page(2, &[(0, 3)]),
        extent(3, Some(1), &slots),
        intent(1),
    ]);
    assert!(report.is_sound(), "{report:?}");
    let counts = report.counts;
    assert_eq!((counts.clusters_used, counts.clusters_reserved), (2, 1));
    assert_eq!((counts.clusters_untrusted, counts.clusters_verified), (1, 0));
}

#[test]
fn pages_and_extents_that_are_missing_are_found_where_they_are_missed() {
    let report = check_records(vec![
        image(1, "a", 16 << 20, 2),
        image(4, "b", 16 << 20, 99),
        page(2, &[(0, 3), (2, 98)]),
        extent(3, None, &[]),
        page(7, &[(0, 97)]),
    ]);
    assert_found(&report, Some("a"), Some(8 << 20), "extent 98 is missing");
    assert_found(&report, Some("b"), Some(0), "map page 99 is missing");
    assert_found(&report, None, None, "extent 97");
    assert_eq!(report.findings.len(), 3, "{report:?}");
    assert_eq!(report.counts.records_unheld, 1);
}

#[test]
fn names_and_homes_that_two_have_are_found() {
    let report = check_records(vec![
        image(1, "a", 4 << 20, 2),
        image(2, "a", 4 << 20, 3),
        page(2, &[(0, 3)]),
        page(3, &[(0, 4)]),
        extent(3, Some(1), &[]),
        extent(4, Some(1), &[]),
        extent(5, Some(9), &[]),
    ]);
    assert_found(&report, Some("a"), Some(0), "two images");
    assert_found(&report, None, None, "extents 3 and 4 have the same home");
    assert_found(&report, None, None, "extent 5 has its home");
    assert_eq!(report.findings.len(), 3, "{report:?}");
}

#[test]
fn data_beyond_the_images_end_or_the_pools_is_found() {
    let report = check_records(vec![
        image(1, "a", 8192, 2),
        image(2, "b", 4 << 20, 3),
        page(2, &[(0, 3), (1, 4)]),
        page(3, &[(0, 5)]),
        extent(3, Some(1), &[(1, data(1025)), (2, data(1026))]),
        extent(4, None, &[(0, data(2048))]),
        extent(5, None, &[(9, data(4095)), (10, data(4096)), (11, data(4097))]),
        extent(6, None, &[(0, data(9999))]),
        intent(1),
        intent(2),
        intent(3),
    ]);
    assert_found(&report, Some("a"), Some(8192), "extent 3 holds data beyond the image's end");
    assert_found(&report, Some("a"), Some(4 << 20), "extent 4 holds data beyond the image's end");
    assert_found(&report, Some("b"), Some(10 * 4096), "(8192 bytes) is not there");
    assert_found(&report, None, None, "extent 6, which no image holds");
    assert_eq!(report.findings.len(), 4, "{report:?}");
}

#[test]
fn data_without_hashes_and_records_that_cannot_be_read_are_found() {
    let report = check_records(vec![
        image(1, "a", 4 << 20, 2),
        page(2, &[(0, 3)]),
        extent(3, None, &[(4, data(3000))]),
        (RecordKey::Extent(ExtentId(9)), vec![255; 9]),
    ]);
    assert_found(&report, Some("a"), Some(4 * 4096), "knows of no hashes");
    assert_found(&report, None, None, "Extent(ExtentId(9))");
    assert_eq!(report.findings.len(), 2, "{report:?}");
}

#[test]
fn a_newer_format_is_no_verdict() {
    let world = SimWorld::new(1);
    let directory = world.directory();
    Executor::new(&world).run(async move {
        let mut pool = vec![9, 0, 0, 0];
        pool.resize(60, 0);
        let change = Change { key: Key { kind: 0, id: 0 }, value: Some(pool) };
        make_pool(&directory, vec![change]).await;
        let data = directory.open("data").await.unwrap();
        let options = CheckOptions::default();
        let error = check(&directory, &data, None, &options, &mut |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}
