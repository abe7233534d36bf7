//! Records with good checksums that say what cannot be.

#![allow(clippy::unwrap_used, reason = "a test")]

use crate::commit::store_key;
use crate::pool::Pool;
use crate::records::{MapPage, RecordKey, RegionRecord};
use crate::store::{Change, Store};
use crate::types::{CreateOptions, OpenOptions, PoolId};
use blockyard_block::{ErrorKind, HashAlgorithm, MapPageId, RegionIndex};
use blockyard_io::{Directory, Mapped};
use blockyard_sim::{Executor, SimWorld};
use std::sync::Arc;

struct Memory(Vec<u8>);

impl Mapped for Memory {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[test]
fn a_region_that_no_pool_can_have_is_refused_before_memory_is_taken_for_it() {
    for record in [RegionRecord::Intent, RegionRecord::Clear([7; 8])] {
        let said = refusal_of(RecordKey::Region(RegionIndex(u32::MAX)), record.encode());
        assert!(said.contains("region 4294967295"), "{said}");
    }
}

#[test]
fn an_id_after_which_there_is_no_other_is_refused() {
    let said = refusal_of(RecordKey::Page(MapPageId(u64::MAX)), MapPage::empty().encode());
    assert!(said.contains("the id 18446744073709551615"), "{said}");
}

/// What a pool says that has this record and is not opened for it.
fn refusal_of(key: RecordKey, value: Vec<u8>) -> String {
    let world = SimWorld::new(1);
    let directory = Arc::new(world.directory());
    let options = CreateOptions {
        id: PoolId([8; 16]),
        hash: HashAlgorithm::Blake3,
        log_segments: 4,
        log_segment_bytes: 64 << 10,
        data_on_device: false,
        now_unix_s: 1,
    };
    let opened = Executor::new(&world).run(async move {
        let data = directory.create("data").await.unwrap();
        Pool::create(&*directory, &data, &options).await.unwrap();
        let (store, _) = Store::open(Arc::clone(&directory), &mut |_, _| Ok(())).await.unwrap();
        store.commit(vec![Change { key: store_key(key), value: Some(value) }]).await.unwrap();
        drop(store);
        let journal = Box::new(Memory(vec![0; 1 << 20]));
        let directory = Arc::into_inner(directory).unwrap();
        Pool::open(directory, data, journal, OpenOptions::default()).await.map(drop)
    });
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    error.to_string()
}
