//! Reclaim on simulated storage: what is shared, what is left alone, and what a full pool does with it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, ErrorKind, HashAlgorithm};
use blockyard_io::{Directory, Disk};
use blockyard_pool::{Reclaim, ReclaimOptions};
use blockyard_sim::{Fault, FaultError, OperationKind};
use machine::{Machine, SimPool, client, name, pattern, read, unique, write};
use std::sync::Arc;

const CLUSTER: usize = 4096;

async fn reclaim(pool: &SimPool, options: ReclaimOptions) -> Reclaim {
    pool.reclaim(options, |_| true).await.unwrap()
}

fn clusters(tags: impl IntoIterator<Item = u8>) -> Vec<u8> {
    tags.into_iter().flat_map(|tag| pattern(tag, CLUSTER)).collect()
}

#[test]
fn equal_clusters_become_one_and_their_images_keep_their_content() {
    for seed in 0..20 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.run(async move {
            for image in ["a", "b"] {
                pool.create_image(&name(image), 16 << 20, 1).await.unwrap();
            }
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            let b = pool.open_image(&name("b"), client(true)).unwrap();
            write(&a, 0, &clusters(0..200)).await;
            write(&b, 5 << 20, &clusters(0..200)).await;
            write(&b, 0, &clusters([1, 1, 1, 250])).await;
            pool.snapshot_image(&name("b"), &name("s"), 1).await.unwrap();
            let dry = reclaim(&pool, ReclaimOptions { dry_run: true, ..Default::default() }).await;
            assert_eq!((dry.scanned, dry.equal, dry.freed), (404, 203, 0));
            assert_eq!((dry.pairs, dry.pairs_done), (203, 203));
            let runs = ReclaimOptions { runs_min: 50, ..Default::default() };
            // If the first of the ones is known to be shared already it stays, which breaks a run.
            let long = reclaim(&pool, runs).await;
            assert_eq!(long.pairs_done, long.pairs);
            let freed = long.freed;
            assert!(freed == 198 || freed == 200, "{freed}");
            let singles = reclaim(&pool, ReclaimOptions::default()).await;
            assert_eq!((singles.freed + freed, singles.busy, singles.differed), (203, 0, 0));
            assert_eq!(pool.status().unwrap().bytes_physical, 201 * CLUSTER as u64);
            assert_eq!(unique(&pool).await, 201 * CLUSTER as u64);
            // Both go their own ways from here.
            write(&a, 0, &clusters([77])).await;
            let s = pool.open_image(&name("s"), client(false)).unwrap();
            for volume in [&b, &s] {
                let expected = clusters(0..200);
                assert_eq!(read(volume, 5 << 20, 200 * 4096).await, expected, "seed {seed}");
                assert_eq!(read(volume, 0, 4 * 4096).await, clusters([1, 1, 1, 250]));
            }
            assert_eq!(read(&a, 0, 4096).await, clusters([77]));
        });
    }
}

#[test]
fn of_equal_clusters_one_that_is_shared_already_stays() {
    for snapshot in [false, true] {
        let mut machine = Machine::new(7);
        let pool = machine.open();
        machine.run(async move {
            for image in ["a", "b"] {
                pool.create_image(&name(image), 4 << 20, 1).await.unwrap();
                let volume = pool.open_image(&name(image), client(true)).unwrap();
                write(&volume, 0, &clusters((0..100).chain([3, 3, 3]))).await;
            }
            if snapshot {
                pool.snapshot_image(&name("b"), &name("s"), 1).await.unwrap();
            }
            assert_eq!(reclaim(&pool, ReclaimOptions::default()).await.freed, 106);
            let told = pool.inspect();
            let homes: Vec<_> = told.owners.iter().map(|(region, _)| *region).collect();
            let stays = if snapshot { homes[1] } else { homes[0] };
            assert_eq!(told.counts.len(), 100);
            assert!(told.counts.iter().all(|(cluster, _)| cluster.region() == stays));
            for image in ["a", "b"] {
                let volume = pool.open_image(&name(image), client(false)).unwrap();
                let expected = clusters((0..100).chain([3, 3, 3]));
                assert_eq!(read(&volume, 0, 103 * 4096).await, expected);
            }
        });
    }
}

#[test]
fn a_full_pool_takes_what_it_has_already_and_refuses_only_what_is_new() {
    let mut machine = Machine::with_capacity(1, 400 * CLUSTER as u64);
    let pool = machine.open();
    machine.run(async move {
        pool.create_image(&name("a"), 64 << 20, 1).await.unwrap();
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        for round in 0..40u64 {
            write(&a, round << 20, &clusters(0..50)).await;
        }
        assert!(pool.counters().shortage_passes > 0);
        let mut written = 0u64;
        let refused = loop {
            let mut new = vec![0; CLUSTER];
            new[..8].copy_from_slice(&(written + 1).to_le_bytes());
            match a.write((41 << 20) + written * 4096, Buffer::copy_of(&new), false).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(written, 350, "50 contents are there, 400 fit");
        for round in 0..40u64 {
            assert_eq!(read(&a, round << 20, 50 * 4096).await, clusters(0..50));
        }
    });
}

#[test]
fn an_index_whose_file_was_removed_is_made_again_by_the_next_pass() {
    let mut machine = Machine::new(4);
    let pool = machine.open();
    let directory = machine.world.directory();
    machine.run(async move {
        pool.create_image(&name("a"), 16 << 20, 1).await.unwrap();
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        write(&a, 0, &clusters(0..50)).await;
        for _ in 0..2 {
            reclaim(&pool, ReclaimOptions::default()).await;
            let files = directory.list("index").await.unwrap();
            assert!(files.len() == 1 && files[0].starts_with("hashes-"), "{files:?}");
            directory.remove(&format!("index/{}", files[0])).await.unwrap();
        }
    });
}

/// Of clusters that are compared together, the one that cannot be read is left alone.
#[test]
fn what_cannot_be_read_is_counted_alone_and_the_rest_is_shared() {
    let mut machine = Machine::new(5);
    let pool = machine.open();
    let world = machine.world.clone();
    machine.run(async move {
        pool.create_image(&name("a"), 16 << 20, 1).await.unwrap();
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        write(&a, 0, &clusters(0..40)).await;
        write(&a, 8 << 20, &clusters(0..40)).await;
        a.flush().await.unwrap();
        let fail = |nth| {
            let (kind, error) = (Some(OperationKind::Read), FaultError::Io);
            world.fail(Fault { kind, name_contains: "data".to_owned(), nth, error });
        };
        // The first read is that of 16 losers; then each is read alone, with its survivor, and one fails.
        fail(1);
        fail(11);
        let account = reclaim(&pool, ReclaimOptions::default()).await;
        assert_eq!((account.unreadable, account.freed), (1, 39), "{account:?}");
    });
}

/// A part of a write was found and the rest had to wait for what was trimmed: it is found once more when there is space.
#[test]
fn a_write_of_stored_data_and_little_new_waits_for_what_was_trimmed() {
    for seed in 0..20 {
        let mut machine = Machine::with_capacity(seed, 400 * CLUSTER as u64);
        let pool = machine.open();
        machine.run(async move {
            for image in ["a", "c"] {
                pool.create_image(&name(image), 64 << 20, 1).await.unwrap();
            }
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            let c = pool.open_image(&name("c"), client(true)).unwrap();
            let distinct = |tags: std::ops::Range<u64>| -> Vec<u8> {
                let of = |tag: u64| [&(tag + 1).to_le_bytes()[..], &[0; CLUSTER - 8]].concat();
                tags.flat_map(of).collect()
            };
            write(&a, 0, &distinct(0..400)).await;
            let refused = c.write(0, Buffer::copy_of(&distinct(1000..1001)), false).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
            a.discard(0, 20 * CLUSTER as u64, false).await.unwrap();
            write(&c, 0, &[distinct(100..163), distinct(2000..2001)].concat()).await;
            assert_eq!(read(&c, 62 * 4096, 2 * 4096).await[..8], 163u64.to_le_bytes());
            assert_eq!(read(&c, 63 * 4096, 4096).await[..8], 2001u64.to_le_bytes());
        });
    }
}

/// A sort that cannot use its files does with what fits into memory, a part of all hashes at a time.
#[test]
fn a_full_pool_takes_what_it_has_already_while_no_file_of_the_index_can_be_used() {
    for kind in [OperationKind::Create, OperationKind::Write, OperationKind::Read] {
        let mut machine = Machine::with_capacity(3, 400 * CLUSTER as u64);
        let pool = machine.open();
        for nth in 1..5000 {
            let name_contains = "index/".to_owned();
            machine.world.fail(Fault {
                kind: Some(kind),
                name_contains,
                nth,
                error: FaultError::Io,
            });
        }
        machine.run(async move {
            pool.create_image(&name("a"), 64 << 20, 1).await.unwrap();
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            for round in 0..40u64 {
                write(&a, round << 20, &clusters(0..50)).await;
            }
            assert!(pool.counters().shortage_passes > 0, "{kind:?}");
            for round in 0..40u64 {
                assert_eq!(read(&a, round << 20, 50 * 4096).await, clusters(0..50));
            }
        });
    }
}

#[test]
fn without_space_to_sort_in_a_content_that_fills_the_memory_is_shared_all_the_same() {
    for seed in 0..10 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let world = machine.world.clone();
        machine.run(async move {
            pool.create_image(&name("a"), 16 << 20, 1).await.unwrap();
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            // Sorts keep 100 records in memory.
            let content: Vec<u8> =
                (0..900).map(|at| if at % 9 == 0 { at as u8 } else { 7 }).collect();
            write(&a, 0, &clusters(content.clone())).await;
            a.flush().await.unwrap();
            let distinct = content.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
            world.set_capacity(Some(0));
            let dry = ReclaimOptions { dry_run: true, ..Default::default() };
            let refused = pool.reclaim(dry, |_| true).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NoSpace);
            let found = reclaim(&pool, ReclaimOptions::default()).await;
            assert_eq!(found.freed, 900 - distinct, "seed {seed}: {found:?}");
            world.set_capacity(None);
            assert_eq!(unique(&pool).await, distinct * CLUSTER as u64);
            assert_eq!(read(&a, 0, 900 * CLUSTER as u64).await, clusters(content));
        });
    }
}

/// Makes the hash table say that two clusters of different content have the same hash, with the checksum
/// that the metadata knows: CRC-32C is linear, so four bytes of an unused place can make up for it.
fn forge(page: &mut [u8], from: usize, to: usize, unused: usize) {
    let target = crc32c::crc32c(page);
    let hash: Vec<u8> = page[from * 32..from * 32 + 32].to_vec();
    page[to * 32..to * 32 + 32].copy_from_slice(&hash);
    let at = unused * 32;
    page[at..at + 4].fill(0);
    let base = crc32c::crc32c(page);
    let mut rows: Vec<(u32, u32)> = (0..32u32)
        .map(|bit| {
            page[at..at + 4].copy_from_slice(&(1u32 << bit).to_le_bytes());
            (crc32c::crc32c(page) ^ base, 1 << bit)
        })
        .collect();
    let (mut wanted, mut bits) = (target ^ base, 0);
    for pivot in (0..32).rev() {
        let Some(row) = rows.iter().position(|(effect, _)| *effect >> pivot & 1 == 1) else {
            continue;
        };
        let (effect, bit) = rows.swap_remove(row);
        for other in rows.iter_mut().filter(|(other, _)| *other >> pivot & 1 == 1) {
            *other = (other.0 ^ effect, other.1 ^ bit);
        }
        if wanted >> pivot & 1 == 1 {
            (wanted, bits) = (wanted ^ effect, bits ^ bit);
        }
    }
    page[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    assert_eq!(crc32c::crc32c(page), target);
}

#[test]
fn a_forged_equal_hash_never_makes_two_clusters_one() {
    for hash in [HashAlgorithm::Sha1, HashAlgorithm::Blake3] {
        let mut machine = Machine::with_hash(3, hash);
        let pool = machine.open();
        let writer = Arc::clone(&pool);
        machine.run(async move {
            writer.create_image(&name("a"), 8 << 20, 1).await.unwrap();
            let a = writer.open_image(&name("a"), client(true)).unwrap();
            write(&a, 0, &clusters([1, 2, 3])).await;
        });
        machine.pass(&pool, 6_000);
        machine.shut_down(pool);
        let directory = machine.world.directory();
        machine.run(async move {
            let hashes = directory.open("hashes").await.unwrap();
            let length = hashes.length().await.unwrap();
            let mut forged = 0;
            for offset in (32768..length).step_by(CLUSTER) {
                let (read, mut page) =
                    hashes.read(offset, blockyard_block::BufferMut::zeroed(CLUSTER)).await;
                read.unwrap();
                if page[..32].iter().any(|byte| *byte != 0) {
                    forge(&mut page, 0, 1, 100);
                    hashes.write(offset, page.freeze()).await.unwrap();
                    forged += 1;
                }
            }
            hashes.sync().await.unwrap();
            assert_eq!(forged, 1);
        });
        machine.limit_capacity(3 * CLUSTER as u64);
        let pool = machine.open();
        machine.run(async move {
            let account = reclaim(&pool, ReclaimOptions::default()).await;
            assert_eq!((account.equal, account.differed, account.freed), (1, 1, 0));
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            assert_eq!(read(&a, 0, 3 * 4096).await, clusters([1, 2, 3]));
            // The pool is full: what is written again can only refer to the first. Once that is gone, the
            // second is all that seems to have the content.
            write(&a, 4 << 20, &clusters([1])).await;
            assert_eq!(pool.counters().references_written, 1);
            for place in [0, 4 << 20] {
                a.discard(place, 4096, true).await.unwrap();
            }
            write(&a, 8192 + 4096, &clusters([9])).await;
            let refused = a.write(4 << 20, Buffer::copy_of(&clusters([1])), false).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
            assert_eq!(read(&a, 4096, 2 * 4096).await, clusters([2, 3]));
        });
    }
}

/// What the two published files of equal SHA-1 begin with, <https://shattered.io>; whatever follows in both, the hashes
/// stay equal.
const COLLIDING: [&[u8]; 2] =
    [include_bytes!("data/shattered-1"), include_bytes!("data/shattered-2")];

#[test]
fn the_published_collision_of_sha1_is_never_made_one() {
    let mut machine = Machine::with_hash(8, HashAlgorithm::Sha1);
    machine.limit_capacity(2 * CLUSTER as u64);
    let pool = machine.open();
    machine.run(async move {
        let [one, other] = COLLIDING.map(|start| {
            let mut cluster = start.to_vec();
            cluster.resize(CLUSTER, 0);
            cluster
        });
        assert_eq!(HashAlgorithm::Sha1.hash(&one), HashAlgorithm::Sha1.hash(&other));
        assert_ne!(one, other);
        pool.create_image(&name("a"), 8 << 20, 1).await.unwrap();
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        write(&a, 0, &one).await;
        write(&a, 4096, &other).await;
        let account = reclaim(&pool, ReclaimOptions::default()).await;
        assert_eq!((account.equal, account.differed, account.freed), (1, 1, 0));
        // Nor by a write without space.
        a.discard(4096, 4096, true).await.unwrap();
        write(&a, 8192, &clusters([9])).await;
        let refused = a.write(4096, Buffer::copy_of(&other), false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        write(&a, 4096, &one).await;
        assert_eq!(read(&a, 0, 4096).await, one);
        assert_eq!(read(&a, 4096, 4096).await, one);
        assert_eq!(pool.counters().references_written, 1);
        assert!(pool.status().unwrap().activities.is_empty(), "no damage");
    });
}

/// Changes bytes of the closed pool's data where they are first found; true if they were.
async fn rot(directory: &blockyard_sim::SimDirectory, content: &[u8], which: usize) -> bool {
    let data = directory.open("data").await.unwrap();
    let length = data.length().await.unwrap();
    let mut seen = 0;
    for offset in (0..length).step_by(CLUSTER) {
        let (read, mut bytes) =
            data.read(offset, blockyard_block::BufferMut::zeroed(CLUSTER)).await;
        read.unwrap();
        if bytes[..] == *content {
            if seen == which {
                bytes[17] ^= 4;
                data.write(offset, bytes.freeze()).await.unwrap();
                data.sync().await.unwrap();
                return true;
            }
            seen += 1;
        }
    }
    false
}

#[test]
fn rot_is_healed_from_an_equal_cluster_and_told_of_where_there_is_none() {
    for by_scrub in [true, false] {
        let mut machine = Machine::new(5);
        let pool = machine.open();
        let writer = Arc::clone(&pool);
        machine.run(async move {
            writer.create_image(&name("a"), 8 << 20, 1).await.unwrap();
            let a = writer.open_image(&name("a"), client(true)).unwrap();
            write(&a, 0, &clusters([1, 2, 1])).await;
            writer.snapshot_image(&name("a"), &name("s"), 1).await.unwrap();
        });
        machine.pass(&pool, 6_000);
        machine.shut_down(pool);
        let directory = machine.world.directory();
        machine.run(async move {
            assert!(rot(&directory, &pattern(1, CLUSTER), 1).await);
            assert!(rot(&directory, &pattern(2, CLUSTER), 0).await);
        });
        let pool = machine.open();
        machine.run(async move {
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            let s = pool.open_image(&name("s"), client(false)).unwrap();
            if by_scrub {
                let scrub = pool.scrub(|_| true).await.unwrap();
                assert_eq!((scrub.clusters_healed, scrub.clusters_damaged), (1, 1));
                assert_eq!(scrub.healed[0].places.len(), 2, "image and snapshot");
                assert_eq!(scrub.damage[0].places[0].1, 4096);
                assert_eq!(read(&a, 2 * 4096, 4096).await, pattern(1, CLUSTER));
            } else {
                write(&a, 2 * 4096 + 100, b"part").await;
                let told = pool.status().unwrap().activities;
                let healed =
                    "a at 8192 did not match its hash; it was healed from an equal cluster";
                assert!(told.iter().any(|line| line == healed), "{told:?}");
            }
            assert_eq!(read(&s, 2 * 4096, 4096).await, pattern(1, CLUSTER));
            let refused = a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt);
            assert_eq!(read(&a, 0, 4096).await, pattern(1, CLUSTER));
        });
    }
}

#[test]
fn what_removal_would_free_is_told_exactly_and_differences_without_data() {
    let mut machine = Machine::new(6);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let told = machine.run(async move {
        let pool = user;
        for image in ["a", "b"] {
            pool.create_image(&name(image), 16 << 20, 1).await.unwrap();
            let volume = pool.open_image(&name(image), client(true)).unwrap();
            write(&volume, 0, &clusters(0..100)).await;
            write(&volume, 8 << 20, &clusters((0..10).map(|_| image.as_bytes()[0]))).await;
        }
        let b = pool.open_image(&name("b"), client(true)).unwrap();
        pool.clone_image(&name("b"), &name("c"), 1).await.unwrap();
        write(&b, 4096, &clusters([200, 201])).await;
        reclaim(&pool, ReclaimOptions::default()).await;
        let diff = pool.diff(&name("a"), &name("b"), 0).await.unwrap();
        let ranges: Vec<(u64, u64)> = diff.iter().map(|run| (run.offset, run.length)).collect();
        assert_eq!(ranges, [(4096, 8192)]);
        assert_eq!(pool.diff(&name("a"), &name("b"), 9 << 20).await.unwrap()[0].length, 40960);
        assert!(pool.diff(&name("a"), &name("b"), 4 << 20).await.unwrap().is_empty());
        drop(b);
        (pool.sharing(&name("b")).unwrap(), pool.status().unwrap().bytes_physical)
    });
    let (sharing, before) = told;
    assert_eq!(sharing.bytes_exclusive, 2 * 4096);
    assert_eq!(sharing.bytes_shared, 108 * 4096);
    let user = Arc::clone(&pool);
    machine.run(async move { user.remove_image(&name("b"), false).await.unwrap() });
    machine.pass(&pool, 1_000);
    let after = pool.status().unwrap().bytes_physical;
    assert_eq!(before - after, sharing.bytes_exclusive);
}
