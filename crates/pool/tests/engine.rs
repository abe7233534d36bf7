//! The engine end to end on simulated storage: small stories, each a promise. The random workload
//! with its model is in `blockyard-sim`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, ContentHash, HashAlgorithm, ZeroOptions};
use blockyard_io::Directory;
use blockyard_pool::{Contents, MapState};
use machine::{Machine, client, name, pattern, read, unique, write};
use std::sync::Arc;

#[test]
fn what_was_written_is_read_at_any_alignment() {
    for seed in 0..20 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.run(async move {
            pool.create_image(&name("a"), 20 << 20, 1).await.unwrap();
            let volume = pool.open_image(&name("a"), client(true)).unwrap();
            let mut model = vec![0u8; 20 << 20];
            for (tag, offset, length) in [
                (1u8, 0usize, 4096usize),
                (2, 512, 100),
                (3, 4_190_000, 20_000),
                (4, 12_000_001, 70_001),
            ] {
                let bytes = pattern(tag, length);
                write(&volume, offset as u64, &bytes).await;
                model[offset..offset + length].copy_from_slice(&bytes);
            }
            volume.discard(4_192_000, 9000, false).await.unwrap();
            model[4_192_000..4_201_000].fill(0);
            let keep = ZeroOptions { keep_place: true, fua: true };
            volume.write_zeroes(12_010_000, 30_000, keep).await.unwrap();
            model[12_010_000..12_040_000].fill(0);
            assert_eq!(read(&volume, 0, 20 << 20).await, model, "seed {seed}");
            assert!(volume.read(20 << 20, 1).await.is_err());
        });
    }
}

#[test]
fn a_killed_daemon_loses_nothing_acknowledged_and_a_power_cut_nothing_flushed() {
    for seed in 0..60 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let writer = Arc::clone(&pool);
        machine.run(async move {
            writer.create_image(&name("a"), 16 << 20, 1).await.unwrap();
            let volume = writer.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 40_000)).await;
            volume.flush().await.unwrap();
            write(&volume, 5 << 20, &pattern(2, 10_000)).await;
            write(&volume, 4096, &pattern(3, 4096)).await;
        });
        drop(pool);
        machine.executor.kill();
        let pool = machine.open();
        let reader = Arc::clone(&pool);
        machine.run(async move {
            let volume = reader.open_image(&name("a"), client(true)).unwrap();
            let mut expected = pattern(1, 40_000);
            expected[4096..8192].copy_from_slice(&pattern(3, 4096));
            assert_eq!(read(&volume, 0, 40_000).await, expected, "seed {seed}");
            assert_eq!(read(&volume, 5 << 20, 10_000).await, pattern(2, 10_000), "seed {seed}");
            volume.flush().await.unwrap();
            write(&volume, 8 << 20, &pattern(4, 4096)).await;
        });
        drop(pool);
        machine.executor.cut_power();
        let pool = machine.open();
        machine.pass(&pool, 5_000);
        assert_eq!(pool.status().unwrap().clusters_untrusted, 0, "seed {seed}");
        let reader = Arc::clone(&pool);
        machine.run(async move {
            let volume = reader.open_image(&name("a"), client(false)).unwrap();
            assert_eq!(read(&volume, 5 << 20, 10_000).await, pattern(2, 10_000), "seed {seed}");
            let unflushed = read(&volume, 8 << 20, 4096).await;
            let written = pattern(4, 4096);
            for (at, sector) in unflushed.chunks(512).enumerate() {
                let new = &written[at * 512..(at + 1) * 512];
                assert!(sector == new || sector.iter().all(|byte| *byte == 0), "seed {seed}");
            }
            assert_eq!(reader.scrub(|_| true).await.unwrap().damage.len(), 0, "seed {seed}");
        });
    }
}

#[test]
fn snapshots_and_clones_keep_their_content_and_removal_gives_all_space_back() {
    for seed in 0..20 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            user.create_image(&name("a"), 12 << 20, 1).await.unwrap();
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 100_000)).await;
            user.snapshot_image(&name("a"), &name("s"), 2).await.unwrap();
            user.clone_image(&name("s"), &name("c"), 2).await.unwrap();
            write(&volume, 4096, &pattern(2, 8192)).await;
            let clone = user.open_image(&name("c"), client(true)).unwrap();
            write(&clone, 0, &pattern(3, 4096)).await;
            assert!(user.open_image(&name("s"), client(true)).is_err());
            let snapshot = user.open_image(&name("s"), client(false)).unwrap();
            assert_eq!(read(&snapshot, 0, 100_000).await, pattern(1, 100_000));
            let mut expected = pattern(1, 100_000);
            expected[..4096].copy_from_slice(&pattern(3, 4096));
            assert_eq!(read(&clone, 0, 100_000).await, expected);
            let mut expected = pattern(1, 100_000);
            expected[4096..12288].copy_from_slice(&pattern(2, 8192));
            assert_eq!(read(&volume, 0, 100_000).await, expected);
            drop((volume, snapshot, clone));
            for image in ["s", "a", "c"] {
                user.remove_image(&name(image), false).await.unwrap();
            }
        });
        machine.pass(&pool, 3_000);
        assert_eq!(pool.status().unwrap().bytes_physical, 0, "seed {seed}");
    }
}

#[test]
fn hashes_and_digest_are_those_of_the_content() {
    let mut machine = Machine::new(3);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let before = machine.run(async move {
        user.create_image(&name("a"), 5 << 20, 1).await.unwrap();
        let volume = user.open_image(&name("a"), client(true)).unwrap();
        let bytes = pattern(7, 3 * 4096);
        write(&volume, 8192, &bytes).await;
        let map = user.map(&name("a"), 0, true).await.unwrap();
        let hashes: Vec<ContentHash> = map
            .iter()
            .filter_map(|run| match run.state {
                MapState::Data(hash) => Some(hash),
                _ => None,
            })
            .collect();
        let expected: Vec<ContentHash> =
            bytes.chunks(4096).map(|cluster| HashAlgorithm::Blake3.hash(cluster)).collect();
        assert_eq!(hashes, expected);
        user.digest(&name("a")).await.unwrap()
    });
    machine.pass(&pool, 5_000);
    assert_eq!(pool.status().unwrap().regions_with_intent, 0);
    let closer = Arc::clone(&pool);
    machine.run(async move { closer.shutdown().await.unwrap() });
    drop(pool);
    machine.executor.cut_power();
    let pool = machine.open();
    let status = pool.status().unwrap();
    assert!(status.opened_clean);
    assert_eq!(status.clusters_untrusted, 0);
    let after = machine.run(async move {
        let digest = pool.digest(&name("a")).await.unwrap();
        let volume = pool.open_image(&name("a"), client(true)).unwrap();
        write(&volume, 8192, &pattern(8, 100)).await;
        assert_ne!(pool.digest(&name("a")).await.unwrap(), digest);
        write(&volume, 8192, &pattern(7, 100)).await;
        assert_eq!(pool.digest(&name("a")).await.unwrap(), digest);
        digest
    });
    assert_eq!(before, after);
}

#[test]
fn a_place_that_was_kept_and_never_written_is_no_damage() {
    let mut machine = Machine::new(5);
    let pool = machine.open();
    machine.run(async move {
        pool.create_image(&name("a"), 8 << 20, 1).await.unwrap();
        let volume = pool.open_image(&name("a"), client(true)).unwrap();
        let keep = ZeroOptions { keep_place: true, fua: true };
        volume.write_zeroes(0, 1 << 20, keep).await.unwrap();
        write(&volume, 2 << 20, &pattern(1, 8192)).await;
        let scrub = pool.scrub(|_| true).await.unwrap();
        assert!(scrub.damage.is_empty(), "{:?}", scrub.damage);
        assert_eq!(pool.status().unwrap().bytes_physical, (1 << 20) + 8192);
        assert_eq!(unique(&pool).await, 8192);
        // What the snapshot keeps as one run, the image keeps in pieces.
        pool.snapshot_image(&name("a"), &name("s"), 2).await.unwrap();
        for cluster in [100, 102] {
            write(&volume, cluster * 4096, &pattern(2, 4096)).await;
        }
        volume.flush().await.unwrap();
        let scrub = pool.scrub(|_| true).await.unwrap();
        assert!(scrub.damage.is_empty(), "{:?}", scrub.damage);
    });
}

#[test]
fn an_image_that_is_mostly_nothing_is_described_in_few_steps() {
    let mut machine = Machine::new(6);
    let pool = machine.open();
    machine.run(async move {
        let size = 1 << 40;
        pool.create_image(&name("a"), size, 1).await.unwrap();
        let volume = pool.open_image(&name("a"), client(true)).unwrap();
        let places = [(8 << 20) + 4096, (3 << 30) - 4096, 5 << 37, size - 4096];
        for (tag, offset) in places.iter().enumerate() {
            write(&volume, *offset, &pattern(tag as u8 + 1, 4096)).await;
        }
        let (mut offset, mut data, mut steps) = (0, Vec::new(), 0);
        while offset < size {
            for run in pool.map(&name("a"), offset, false).await.unwrap() {
                assert_eq!(run.offset, offset);
                offset += run.length;
                if run.state != MapState::Zero {
                    data.push((run.offset, run.length));
                }
            }
            steps += 1;
        }
        assert_eq!(data, places.map(|offset| (offset, 4096)));
        assert!(steps < 10, "{steps} steps");
    });
}

#[test]
fn distinct_contents_are_counted_outside_memory_and_leave_an_index() {
    let mut machine = Machine::new(7);
    let directory = machine.world.directory();
    let pool = machine.open();
    machine.run(async move {
        pool.create_image(&name("a"), 8 << 20, 1).await.unwrap();
        let volume = pool.open_image(&name("a"), client(true)).unwrap();
        for cluster in 0..470_u64 {
            let content = vec![(cluster % 201) as u8 + 1; 4096];
            write(&volume, cluster * 3 * 4096, &content).await;
        }
        assert_eq!(unique(&pool).await, 201 * 4096);
        let files = directory.list("index").await.unwrap();
        assert!(files.len() == 1 && files[0].starts_with("hashes-"), "{files:?}");
        let exact = Contents { clusters: 470, distinct: 201 };
        assert_eq!(pool.counted_contents(), Some(exact));
        write(&volume, 3 * 4096, &[201; 4096]).await;
        assert_eq!(pool.counted_contents(), None, "something was written");
        assert_eq!(unique(&pool).await, 201 * 4096);
        assert!(pool.counted_contents().is_some());
        volume.discard(3 * 4096, 4096, false).await.unwrap();
        assert_eq!(pool.counted_contents(), None, "something was freed");
    });
}
