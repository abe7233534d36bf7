//! Schedules that once broke a rule of the engine, each told as what must hold instead.

#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, ZeroOptions};
use blockyard_pool::MapState;
use blockyard_sim::{Fault, FaultError, OperationKind};
use machine::{Machine, client, name, pattern, read, write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Each in a region of its own, so that there is much to hash again.
const EXTENTS: u64 = 16;

#[test]
fn a_reserved_place_written_while_it_is_hashed_again_gets_the_hash_of_what_was_written() {
    for seed in 0..30 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.run(async move {
            pool.create_image(&name("a"), 64 << 20, 1).await.unwrap();
            let volume = pool.open_image(&name("a"), client(true)).unwrap();
            for extent in 0..EXTENTS {
                write(&volume, extent << 22, &pattern(1, 8 * 4096)).await;
            }
            volume.flush().await.unwrap();
        });
        machine.executor.cut_power();
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            let keep = ZeroOptions { keep_place: true, fua: false };
            for extent in 0..EXTENTS {
                volume.write_zeroes(extent << 22, 8 * 4096, keep).await.unwrap();
                write(&volume, extent << 22, &pattern(2, 8 * 4096)).await;
            }
        });
        machine.pass(&pool, 5_000);
        machine.run(async move {
            let scrub = pool.scrub(|_| true).await.unwrap();
            assert!(scrub.damage.is_empty(), "seed {seed}: {:?}", scrub.damage);
        });
    }
}

#[test]
fn a_digest_asked_for_during_a_write_is_not_remembered_afterwards() {
    for seed in 0..15 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            user.create_image(&name("a"), 4 << 20, 1).await.unwrap();
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 4 << 20)).await;
        });
        machine.pass(&pool, 5_000);
        let user = Arc::clone(&pool);
        let volume = machine.run(async move {
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 3 << 20, &pattern(2, 4096)).await;
            volume
        });
        let asker = Arc::clone(&pool);
        drop(machine.executor.spawn(async move { drop(asker.digest(&name("a")).await) }));
        machine.run(async move { write(&volume, 0, &pattern(3, 4096)).await });
        machine.executor.run_until_idle();
        machine.run(async move {
            let after = pool.digest(&name("a")).await.unwrap();
            pool.create_image(&name("b"), 4 << 20, 1).await.unwrap();
            let a = pool.open_image(&name("a"), client(false)).unwrap();
            let b = pool.open_image(&name("b"), client(true)).unwrap();
            write(&b, 0, &read(&a, 0, 4 << 20).await).await;
            assert_eq!(after, pool.digest(&name("b")).await.unwrap(), "seed {seed}");
        });
    }
}

#[test]
fn a_write_that_a_shrink_overtakes_is_refused_and_leaves_nothing_behind_the_end() {
    const OLD: u64 = 6 << 30;
    const NEW: u64 = (1 << 30) + 512;
    for seed in 0..60 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        let volume = machine.run(async move {
            user.create_image(&name("a"), OLD, 1).await.unwrap();
            let volume = Arc::new(user.open_image(&name("a"), client(true)).unwrap());
            write(&volume, NEW - 512, &pattern(1, 4096)).await;
            volume
        });
        for step in 0..8 {
            let volume = Arc::clone(&volume);
            let offset = if step % 2 == 0 { NEW + 1024 } else { OLD - (step << 20) };
            drop(machine.executor.spawn(async move {
                for tag in 0..4 {
                    let data = Buffer::copy_of(&pattern(tag, 2048));
                    drop(volume.write(offset, data, false).await);
                }
            }));
        }
        let user = Arc::clone(&pool);
        machine.run(async move { user.resize_image(&name("a"), NEW, true).await.unwrap() });
        machine.executor.run_until_idle();
        machine.run(async move {
            pool.resize_image(&name("a"), OLD, true).await.unwrap();
            for offset in [NEW, OLD - (1 << 20), OLD - (3 << 20), OLD - (7 << 20)] {
                let bytes = read(&volume, offset, 3584).await;
                assert!(bytes.iter().all(|byte| *byte == 0), "seed {seed}, at {offset}");
            }
        });
    }
}

#[test]
fn a_pool_that_was_shut_down_right_after_a_write_has_nothing_to_hash_again() {
    for seed in 0..15 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            user.create_image(&name("a"), 8 << 20, 1).await.unwrap();
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(2, 5 << 20)).await;
        });
        machine.pass(&pool, 1_000);
        machine.run(async move {
            let volume = pool.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 5 << 20)).await;
            pool.shutdown().await.unwrap();
        });
        machine.executor.cut_power();
        let status = machine.open().status().unwrap();
        assert_eq!((status.clusters_untrusted, status.regions_with_intent), (0, 0), "seed {seed}");
    }
}

#[test]
fn after_a_failed_sync_nothing_written_since_the_last_good_one_is_trusted() {
    for seed in 0..15 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        machine.run(async move {
            user.create_image(&name("a"), 4 << 20, 1).await.unwrap();
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 256 << 10)).await;
        });
        // Long enough for pages of the hash table to be written, too short for a sync.
        machine.pass(&pool, 200);
        machine.world.fail(Fault {
            kind: Some(OperationKind::Sync),
            name_contains: "data".to_owned(),
            nth: 1,
            error: FaultError::Io,
        });
        machine.run(async move {
            let volume = pool.open_image(&name("a"), client(true)).unwrap();
            assert!(volume.flush().await.is_err());
            let map = pool.map(&name("a"), 0, true).await.unwrap();
            let trusted = map.iter().filter(|run| matches!(run.state, MapState::Data(_))).count();
            assert_eq!(trusted, 0, "seed {seed}");
        });
    }
}

#[test]
fn a_checkpoint_without_space_is_told_once_and_made_once_there_is_space() {
    let mut machine = Machine::new(5);
    let pool = machine.open();
    let owned = Arc::clone(&pool);
    machine.run(async move {
        owned.create_image(&name("a"), 16 << 20, 1).await.unwrap();
    });
    machine.world.set_capacity(Some(0));
    for round in 0..70_u64 {
        let owned = Arc::clone(&pool);
        machine.run(async move {
            let volume = owned.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 4096)).await;
            volume.flush().await.unwrap();
            volume.discard(0, 4096, false).await.unwrap();
            volume.flush().await.unwrap();
        });
        machine.pass(&pool, 50 + round % 2 * 50);
    }
    let told = |pool: &machine::SimPool| pool.status().unwrap().activities;
    let activities = told(&pool);
    assert_eq!(activities.len(), 1, "{activities:?}");
    assert!(activities[0].contains("checkpoint"), "{activities:?}");
    assert_eq!(pool.status().unwrap().failed, None);
    machine.world.set_capacity(None);
    machine.pass(&pool, 2000);
    assert_eq!(told(&pool), Vec::<String>::new());
}

#[test]
fn a_pool_whose_log_waits_for_space_shuts_down_and_loses_nothing() {
    let mut machine = Machine::new(6);
    let pool = machine.open();
    let owned = Arc::clone(&pool);
    machine.run(async move {
        owned.create_image(&name("a"), 16 << 20, 1).await.unwrap();
    });
    machine.world.set_capacity(Some(0));
    let acknowledged = Arc::new(AtomicU8::new(0));
    let (owned, written) = (Arc::clone(&pool), Arc::clone(&acknowledged));
    machine.executor.spawn(async move {
        let volume = owned.open_image(&name("a"), client(true)).unwrap();
        for tag in 1..=u8::MAX {
            volume.discard(0, 4096, false).await.unwrap();
            write(&volume, 0, &pattern(tag, 4096)).await;
            written.store(tag, Ordering::Relaxed);
            if volume.flush().await.is_err() {
                break;
            }
        }
    });
    machine.pass(&pool, 3000);
    let activities = pool.status().unwrap().activities;
    assert!(activities.iter().any(|told| told.contains("wait for space")), "{activities:?}");
    let owned = Arc::clone(&pool);
    let refused = machine.run(async move { owned.shutdown().await }).unwrap_err();
    assert!(refused.message().contains("no storage space"), "{refused}");
    drop(pool);
    machine.executor.kill();
    machine.world.set_capacity(None);
    let pool = machine.open();
    let tag = acknowledged.load(Ordering::Relaxed);
    machine.run(async move {
        let volume = pool.open_image(&name("a"), client(false)).unwrap();
        assert_eq!(read(&volume, 0, 4096).await, pattern(tag, 4096), "tag {tag}");
    });
}

#[test]
fn a_slow_read_never_sees_what_is_written_to_a_clone_of_a_place_given_back() {
    let mut overtaken = 0;
    for seed in 0..400 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        let user = Arc::clone(&pool);
        let volume = machine.run(async move {
            user.create_image(&name("a"), 4 << 20, 1).await.unwrap();
            let volume = user.open_image(&name("a"), client(true)).unwrap();
            write(&volume, 0, &pattern(1, 8192)).await;
            volume.flush().await.unwrap();
            Arc::new(volume)
        });
        let reader = Arc::clone(&volume);
        let slow = machine.executor.spawn(async move { read(&reader, 0, 4096).await });
        let user = Arc::clone(&pool);
        machine.run(async move {
            volume.discard(0, 4096, false).await.unwrap();
            user.clone_image(&name("a"), &name("b"), 1).await.unwrap();
            // The extent's record stays with the clone.
            write(&volume, 4096, &pattern(3, 4096)).await;
            let clone = user.open_image(&name("b"), client(true)).unwrap();
            write(&clone, 0, &pattern(2, 4096)).await;
        });
        overtaken += u32::from(!slow.is_done());
        machine.executor.run_until(|| slow.is_done());
        assert_ne!(slow.take().unwrap(), pattern(2, 4096), "seed {seed}: another image's data");
    }
    assert!(overtaken > 0, "no read was overtaken");
}
