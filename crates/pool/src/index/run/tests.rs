//! Runs of made-up entries: every one is found, and damage ends a run.

use super::{Entry, PAGE_ENTRIES, Run, RunWriter};
use crate::types::PoolId;
use blockyard_block::{BufferMut, CLUSTER_SIZE, ClusterIndex};
use blockyard_io::{Directory, Disk};
use blockyard_sim::{Executor, SimDirectory, SimWorld};

const POOL: PoolId = PoolId([3; 16]);

async fn make(
    directory: &SimDirectory,
    entries: &[Entry],
) -> Run<<SimDirectory as Directory>::Disk> {
    let mut writer = RunWriter::new(directory.create("index/hashes-1-1").await.unwrap());
    for entry in entries {
        writer.push(*entry).await.unwrap();
    }
    writer.finish(POOL, 5).await.unwrap()
}

/// Entries as an even hash gives them, or all within a sliver of what is possible.
fn entries(count: u64, ground: bool) -> Vec<Entry> {
    let step = u64::MAX / count;
    let prefix = |number: u64| if ground { (1 << 40) + number * 3 } else { number * step + number };
    (0..count)
        .map(|number| Entry { prefix: prefix(number), cluster: ClusterIndex(1024 + number) })
        .collect()
}

fn on_a_disk<T: 'static>(story: impl AsyncFnOnce(SimDirectory) -> T + 'static) -> T {
    let world = SimWorld::new(1);
    let directory = world.directory();
    Executor::new(&world).run(async move { story(directory).await })
}

#[test]
fn every_entry_is_found_and_nothing_else_however_the_prefixes_lie() {
    for (count, ground) in [(1, false), (313, false), (314, true), (30_000, false), (30_000, true)]
    {
        on_a_disk(async move |directory| {
            let entries = entries(count, ground);
            let run = make(&directory, &entries).await;
            for entry in entries.iter().step_by(97).chain(entries.last()) {
                assert_eq!(run.find(entry.prefix).await.unwrap(), [entry.cluster]);
                assert!(run.find(entry.prefix + 1).await.unwrap().is_empty());
            }
            assert!(run.find(u64::MAX).await.unwrap().is_empty());
        });
    }
}

#[test]
fn a_run_is_found_again_only_with_its_head_and_all_its_pages() {
    on_a_disk(async |directory| {
        let entries = entries(3 * PAGE_ENTRIES as u64, false);
        drop(make(&directory, &entries).await);
        let open = async || directory.open("index/hashes-1-1").await.unwrap();
        let run = Run::open(open().await, POOL).await.unwrap();
        assert_eq!(run.since, None);
        assert_eq!(run.find(entries[700].prefix).await.unwrap(), [entries[700].cluster]);
        drop(run);
        assert!(Run::open(open().await, PoolId([4; 16])).await.is_err(), "another pool's");
        open().await.set_length(3 * CLUSTER_SIZE as u64).await.unwrap();
        assert!(Run::open(open().await, POOL).await.is_err(), "cut short");
    });
}

#[test]
fn no_flipped_bit_is_believed() {
    on_a_disk(async |directory| {
        let entries = entries(PAGE_ENTRIES as u64, false);
        drop(make(&directory, &entries).await);
        let disk = directory.open("index/hashes-1-1").await.unwrap();
        for bit in (0..2 * CLUSTER_SIZE * 8).step_by(331) {
            let (page, within) = (bit / 8 / CLUSTER_SIZE, bit / 8 % CLUSTER_SIZE);
            // What lies behind the checksum means nothing.
            if within >= CLUSTER_SIZE - 4 {
                continue;
            }
            let offset = (page * CLUSTER_SIZE) as u64;
            let (read, mut bytes) = disk.read(offset, BufferMut::zeroed(CLUSTER_SIZE)).await;
            read.unwrap();
            let right = BufferMut::copy_of(&bytes).freeze();
            bytes[within] ^= 1 << (bit % 8);
            disk.write(offset, bytes.freeze()).await.unwrap();
            let again = directory.open("index/hashes-1-1").await.unwrap();
            let noticed = match Run::open(again, POOL).await {
                Ok(run) => run.find(entries[100].prefix).await.is_err(),
                Err(_) => true,
            };
            assert!(noticed, "bit {bit}");
            disk.write(offset, right).await.unwrap();
        }
    });
}
