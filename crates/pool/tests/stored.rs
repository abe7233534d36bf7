//! Writing without space on simulated storage: what is stored already becomes a reference, with the help of
//! an index that may be missing, old or damaged.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, BufferMut, ErrorKind, Result, ZeroOptions};
use blockyard_io::{Directory, Disk};
use blockyard_pool::{ReclaimOptions, Volume};
use blockyard_sim::SimDirectory;
use machine::{Machine, SimPool, client, name, pattern, read, write};
use std::sync::Arc;

const CLUSTER: usize = 4096;

fn clusters(tags: impl IntoIterator<Item = u8>) -> Vec<u8> {
    tags.into_iter().flat_map(|tag| pattern(tag, CLUSTER)).collect()
}

async fn try_write(volume: &Volume<SimDirectory>, offset: u64, bytes: &[u8]) -> Result<()> {
    volume.write(offset, Buffer::copy_of(bytes), false).await
}

/// Fills a pool of so many clusters with different contents.
async fn fill(pool: &SimPool, count: u8) -> Volume<SimDirectory> {
    pool.create_image(&name("a"), 16 << 20, 1).await.unwrap();
    let a = pool.open_image(&name("a"), client(true)).unwrap();
    write(&a, 0, &clusters(0..count)).await;
    a
}

#[test]
fn a_pool_that_is_full_of_different_contents_takes_each_of_them_again_and_nothing_new() {
    for seed in 0..20 {
        let mut machine = Machine::with_capacity(seed, 200 * CLUSTER as u64);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            let a = fill(&user, 200).await;
            write(&a, 8 << 20, &clusters((0..200).rev())).await;
            write(&a, 12 << 20, &clusters(50..90)).await;
            let refused = try_write(&a, 4 << 20, &clusters([3, 250, 4])).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NoSpace, "seed {seed}");
            assert_eq!(read(&a, 4 << 20, 3 * 4096).await, vec![0; 3 * CLUSTER], "all or nothing");
            assert_eq!(user.counters().references_written, 240);
            // An edge is completed, and what comes of it is looked up like all else.
            write(&a, (12 << 20) + 40 * 4096 + 1, &pattern(0, CLUSTER)[1..]).await;
            let refused = try_write(&a, (12 << 20) + 5, b"new").await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NoSpace);
            a.flush().await.unwrap();
        });
        machine.shut_down(pool);
        let pool = machine.open();
        machine.run(async move {
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            assert_eq!(read(&a, 0, 200 * 4096).await, clusters(0..200));
            assert_eq!(read(&a, 8 << 20, 200 * 4096).await, clusters((0..200).rev()));
            assert_eq!(read(&a, 12 << 20, 40 * 4096).await, clusters(50..90));
            assert_eq!(pool.status().unwrap().bytes_physical, 200 * CLUSTER as u64);
            // What came by reference is copied on write like all that is shared.
            a.discard(0, 4096, false).await.unwrap();
            a.discard((8 << 20) + 199 * 4096, 4096, false).await.unwrap();
            a.discard((12 << 20) + 40 * 4096, 4096, false).await.unwrap();
            write(&a, 12 << 20, &clusters([251])).await;
            assert_eq!(read(&a, 50 * 4096, 4096).await, clusters([50]));
        });
    }
}

#[test]
fn a_place_that_is_only_reserved_is_no_content_though_its_bytes_are_still_there() {
    for reopened in [false, true] {
        let mut machine = Machine::with_capacity(3, 20 * CLUSTER as u64);
        let mut pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            let a = fill(&user, 20).await;
            user.reclaim(ReclaimOptions { dry_run: true, ..Default::default() }, |_| true)
                .await
                .unwrap();
            let kept = ZeroOptions { keep_place: true, fua: true };
            a.write_zeroes(5 * 4096, 4096, kept).await.unwrap();
        });
        if reopened {
            machine.shut_down(pool);
            pool = machine.open();
        }
        machine.run(async move {
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            let refused = try_write(&a, 8 << 20, &clusters([5])).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NoSpace);
            write(&a, 8 << 20, &clusters([6])).await;
            write(&a, 5 * 4096, &clusters([5])).await;
            write(&a, 9 << 20, &clusters([5])).await;
            assert_eq!(read(&a, 9 << 20, 4096).await, clusters([5]));
        });
    }
}

async fn index_files(directory: &SimDirectory) -> Vec<String> {
    let mut names = directory.list("index").await.unwrap();
    names.retain(|name| name.starts_with("hashes-"));
    names
}

#[test]
fn an_index_of_an_earlier_daemon_is_used_and_a_damaged_or_deleted_one_is_made_again() {
    for damage in ["none", "a page", "the head", "the file"] {
        let mut machine = Machine::with_capacity(4, 200 * CLUSTER as u64);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            let a = fill(&user, 200).await;
            write(&a, 8 << 20, &clusters([17])).await;
            assert_eq!(user.counters().indexes_made, 1);
        });
        machine.shut_down(pool);
        let directory = machine.world.directory();
        machine.run(async move {
            let files = index_files(&directory).await;
            assert_eq!(files.len(), 1);
            let path = format!("index/{}", files[0]);
            let disk = directory.open(&path).await.unwrap();
            match damage {
                "a page" => {
                    disk.write(4096, BufferMut::zeroed(CLUSTER).freeze()).await.unwrap();
                }
                "the head" => {
                    disk.write(0, BufferMut::zeroed(CLUSTER).freeze()).await.unwrap();
                }
                "the file" => directory.remove(&path).await.unwrap(),
                _ => {}
            }
        });
        let pool = machine.open();
        let (user, directory) = (Arc::clone(&pool), machine.world.directory());
        machine.run(async move {
            let a = user.open_image(&name("a"), client(true)).unwrap();
            for tag in 30..60u8 {
                write(&a, (9 << 20) + u64::from(tag) * 4096, &clusters([tag])).await;
            }
            assert_eq!(user.counters().references_written, 30, "damage of {damage}");
            assert_eq!(user.counters().no_space, 0);
            assert_eq!(index_files(&directory).await.len(), 1, "damage of {damage}");
        });
        machine.pass(&pool, 1_000);
        assert_eq!(pool.counters().indexes_made, 1, "damage of {damage}");
    }
}

#[test]
fn what_was_written_since_the_index_was_made_is_found_and_what_was_overwritten_is_not() {
    let mut machine = Machine::with_capacity(6, 100 * CLUSTER as u64);
    let pool = machine.open();
    machine.run(async move {
        let a = fill(&pool, 100).await;
        write(&a, 8 << 20, &clusters([1])).await;
        let passes = pool.counters().shortage_passes;
        // In place: no space is needed.
        write(&a, 50 * 4096, &clusters([200])).await;
        write(&a, (8 << 20) + 4096, &clusters([200])).await;
        assert_eq!(pool.counters().shortage_passes, passes, "the delta knew");
        let refused = try_write(&a, 9 << 20, &clusters([50])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(read(&a, (8 << 20) + 4096, 4096).await, clusters([200]));
    });
}

#[test]
fn an_overwrite_waits_for_a_comparison_of_its_cluster_and_needs_no_space() {
    for seed in 0..40 {
        let mut machine = Machine::with_capacity(seed, 40 * CLUSTER as u64);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        let a = machine.run(async move {
            let a = fill(&user, 40).await;
            // So that there is an index.
            write(&a, 8 << 20, &clusters([0])).await;
            Arc::new(a)
        });
        let at = |tag: u8| u64::from(tag) * 4096;
        let ended: Vec<_> = (1..40)
            .flat_map(|tag| {
                let (one, two) = (Arc::clone(&a), Arc::clone(&a));
                // Its first half is stored, its second is not, so that it fails in the end.
                let fails = async move {
                    try_write(&one, (9 << 20) + 2 * at(tag), &clusters([tag, 250])).await
                };
                let overwrites =
                    async move { try_write(&two, at(tag), &clusters([tag + 100])).await };
                [machine.executor.spawn(fails), machine.executor.spawn(overwrites)]
            })
            .collect();
        machine.executor.run_until(|| ended.iter().all(|one| one.is_done()));
        for (number, result) in ended.into_iter().enumerate() {
            let refused = result.take().unwrap().map_err(|error| error.kind());
            let expected = if number % 2 == 0 { Err(ErrorKind::NoSpace) } else { Ok(()) };
            assert_eq!(refused, expected, "seed {seed}, request {number}");
        }
    }
}
