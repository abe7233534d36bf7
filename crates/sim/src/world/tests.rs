//! What `world` promises, one test for each promise.

use super::SimWorld;
use crate::{Executor, Fault, FaultError, OperationKind, SimDisk};
use blockyard_block::{Buffer, BufferMut};
use blockyard_io::{Directory, Disk, Mapped};
use std::io;

const PAGE: usize = 4096;

/// A world with one durable, empty file `data`.
fn world_with_file(seed: u64) -> (SimWorld, Executor, SimDisk) {
    let world = SimWorld::new(seed);
    let mut executor = Executor::new(&world);
    let directory = world.directory();
    let disk = executor.run(async move {
        let disk = directory.create("data").await.unwrap();
        directory.sync().await.unwrap();
        disk
    });
    (world, executor, disk)
}

fn page(tag: u8) -> Buffer {
    Buffer::copy_of(&[tag; PAGE])
}

fn write(executor: &mut Executor, disk: &SimDisk, page_index: u64, tag: u8) -> io::Result<()> {
    let disk = disk.clone();
    executor.run(async move { disk.write(page_index * PAGE as u64, page(tag)).await })
}

fn sync(executor: &mut Executor, disk: &SimDisk) -> io::Result<()> {
    let disk = disk.clone();
    executor.run(async move { disk.sync().await })
}

fn read(executor: &mut Executor, disk: &SimDisk, page_index: u64) -> io::Result<Vec<u8>> {
    let disk = disk.clone();
    executor.run(async move {
        let buffer = BufferMut::zeroed(PAGE);
        let (result, buffer) = disk.read(page_index * PAGE as u64, buffer).await;
        result.map(|()| buffer.to_vec())
    })
}

/// The page after a crash, zeros if the file ends before it.
fn peek(world: &SimWorld, page_index: usize) -> Vec<u8> {
    world.peek("data", (page_index * PAGE) as u64, PAGE).unwrap_or(vec![0; PAGE])
}

fn next_sync_fails(world: &SimWorld) {
    fail_next(world, OperationKind::Sync, FaultError::Io);
}

fn fail_next(world: &SimWorld, kind: OperationKind, error: FaultError) {
    world.fail(Fault { kind: Some(kind), name_contains: String::new(), nth: 1, error });
}

#[test]
fn a_completed_write_is_read_back() {
    let (_, mut executor, disk) = world_with_file(1);
    write(&mut executor, &disk, 3, 7).unwrap();
    assert_eq!(read(&mut executor, &disk, 3).unwrap(), vec![7; PAGE]);
    assert_eq!(read(&mut executor, &disk, 0).unwrap(), vec![0; PAGE]);
    let error = read(&mut executor, &disk, 4).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_synced_write_survives_every_power_cut() {
    for seed in 0..200 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        sync(&mut executor, &disk).unwrap();
        executor.cut_power();
        assert_eq!(peek(&world, 0), vec![1; PAGE], "seed {seed}");
    }
}

#[test]
fn an_unsynced_sector_is_old_or_any_unsynced_version_and_all_of_them_happen() {
    let mut seen = [false; 3];
    for seed in 0..300 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 0).unwrap();
        sync(&mut executor, &disk).unwrap();
        write(&mut executor, &disk, 0, 1).unwrap();
        write(&mut executor, &disk, 0, 2).unwrap();
        executor.cut_power();
        for sector in peek(&world, 0).chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector, seed {seed}");
            seen[usize::from(sector[0])] = true;
        }
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn a_write_is_torn_at_some_power_cut() {
    let torn = (0..100).any(|seed| {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        executor.cut_power();
        let bytes = peek(&world, 0);
        assert!(world.counters().torn_writes <= 1);
        bytes.contains(&0) && bytes.contains(&1)
    });
    assert!(torn);
}

#[test]
fn a_kill_keeps_every_completed_write_and_a_later_power_cut_may_lose_it() {
    let mut lost = false;
    for seed in 0..100 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        executor.kill();
        assert_eq!(peek(&world, 0), vec![1; PAGE]);
        assert!(write(&mut executor, &disk, 0, 2).is_err(), "a handle outlived its process");
        executor.cut_power();
        lost |= peek(&world, 0) != vec![1; PAGE];
    }
    assert!(lost);
}

#[test]
fn a_write_in_flight_at_a_kill_happens_or_not_or_in_part() {
    let mut seen = [false; 3];
    for seed in 0..100 {
        let (world, mut executor, disk) = world_with_file(seed);
        drop(executor.spawn(async move { disk.write(0, page(1)).await }));
        executor.run_until(|| world.pending() == 1);
        executor.kill();
        let bytes = peek(&world, 0);
        seen[usize::from(bytes.contains(&1)) * (1 + usize::from(bytes.contains(&0)))] = true;
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn after_a_failed_sync_reads_show_what_no_later_sync_makes_durable() {
    let mut lost = 0;
    for seed in 0..100 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        next_sync_fails(&world);
        assert!(sync(&mut executor, &disk).is_err());
        assert_eq!(read(&mut executor, &disk, 0).unwrap(), vec![1; PAGE]);
        sync(&mut executor, &disk).unwrap();
        write(&mut executor, &disk, 1, 2).unwrap();
        sync(&mut executor, &disk).unwrap();
        executor.cut_power();
        lost += u32::from(peek(&world, 0) != vec![1; PAGE]);
        assert_eq!(peek(&world, 1), vec![2; PAGE]);
        assert_eq!(world.counters().injected_failures, 1);
    }
    assert!(lost > 50, "lost in {lost} of 100 worlds");
}

#[test]
fn no_sync_succeeds_that_overlaps_one_that_fails() {
    let mut both_failed = 0;
    for seed in 0..200 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        next_sync_fails(&world);
        let (first, second) = (disk.clone(), disk);
        let both = executor
            .spawn(async move { futures_lite::future::zip(first.sync(), second.sync()).await });
        executor.run_until(|| both.is_done());
        let (first, second) = both.take().unwrap();
        let failures = [first.is_err(), second.is_err()];
        executor.cut_power();
        let durable = peek(&world, 0) == vec![1; PAGE];
        assert!(durable || !failures.contains(&false), "seed {seed}: a sync that succeeded");
        both_failed += u32::from(failures == [true, true]);
    }
    assert!(both_failed > 20, "{both_failed} of 200 worlds");
}

#[test]
fn dropping_the_cache_shows_what_a_failed_sync_lost() {
    let shown = (0..50).any(|seed| {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 1, 1).unwrap();
        sync(&mut executor, &disk).unwrap();
        write(&mut executor, &disk, 0, 1).unwrap();
        next_sync_fails(&world);
        sync(&mut executor, &disk).unwrap_err();
        write(&mut executor, &disk, 1, 2).unwrap();
        let same = disk.clone();
        executor.run(async move { same.drop_cache().await }).unwrap();
        assert_eq!(read(&mut executor, &disk, 1).unwrap(), vec![2; PAGE]);
        read(&mut executor, &disk, 0).unwrap() == vec![0; PAGE]
    });
    assert!(shown);
}

#[test]
fn a_sync_covers_what_was_complete_when_it_was_asked_for() {
    let mut uncovered = false;
    for seed in 0..200 {
        let (world, mut executor, disk) = world_with_file(seed);
        write(&mut executor, &disk, 0, 1).unwrap();
        let (first, second) = (disk.clone(), disk);
        let synced = executor.spawn(async move { first.sync().await });
        let written = executor.spawn(async move { second.write(PAGE as u64, page(2)).await });
        executor.run_until(|| synced.is_done() && written.is_done());
        executor.cut_power();
        assert_eq!(peek(&world, 0), vec![1; PAGE], "seed {seed}");
        uncovered |= peek(&world, 1) != vec![2; PAGE];
    }
    assert!(uncovered);
}

#[test]
fn an_ignored_sync_loses_data_and_is_counted() {
    let lost = (0..50).any(|seed| {
        let (world, mut executor, disk) = world_with_file(seed);
        world.ignore_sync_of("data");
        write(&mut executor, &disk, 0, 1).unwrap();
        sync(&mut executor, &disk).unwrap();
        assert_eq!(world.counters().ignored_syncs, 1);
        executor.cut_power();
        peek(&world, 0) != vec![1; PAGE]
    });
    assert!(lost);
}

#[test]
fn names_are_durable_only_after_the_directory_is_synced() {
    let (mut kept, mut lost) = (false, false);
    for seed in 0..50 {
        let (world, mut executor, _) = world_with_file(seed);
        let directory = world.directory();
        executor.run(async move {
            directory.create("checkpoint/1").await.unwrap();
            directory.sync().await.unwrap();
            directory.create("checkpoint/2").await.unwrap();
            assert_eq!(directory.list("checkpoint").await.unwrap(), ["1", "2"]);
            assert_eq!(directory.list("").await.unwrap(), ["data"]);
            directory.remove("checkpoint/1").await.unwrap();
        });
        executor.cut_power();
        let directory = world.directory();
        let names = executor.run(async move { directory.list("checkpoint").await.unwrap() });
        kept |= names.contains(&"1".to_owned());
        lost |= !names.contains(&"2".to_owned());
    }
    assert!(kept && lost);
}

#[test]
fn names_are_unique_and_missing_files_are_not_found() {
    let (world, mut executor, _) = world_with_file(1);
    let directory = world.directory();
    executor.run(async move {
        let kind = |result: io::Result<SimDisk>| result.err().map(|error| error.kind());
        assert_eq!(kind(directory.create("data").await), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(kind(directory.open("other").await), Some(io::ErrorKind::NotFound));
        directory.remove("data").await.unwrap();
        assert_eq!(kind(directory.open("data").await), Some(io::ErrorKind::NotFound));
    });
}

#[test]
fn a_shrink_hides_the_tail_and_growing_again_shows_zeros() {
    let (world, mut executor, disk) = world_with_file(1);
    write(&mut executor, &disk, 0, 1).unwrap();
    write(&mut executor, &disk, 1, 1).unwrap();
    let same = disk.clone();
    executor.run(async move {
        same.set_length(512).await.unwrap();
        same.set_length(2 * PAGE as u64).await.unwrap();
        assert_eq!(same.length().await.unwrap(), 2 * PAGE as u64);
    });
    let bytes = peek(&world, 0);
    assert_eq!((bytes[511], bytes[512]), (1, 0));
    assert_eq!(peek(&world, 1), vec![0; PAGE]);
}

#[test]
fn the_capacity_is_enforced_and_punching_gives_space_back() {
    let (world, mut executor, disk) = world_with_file(1);
    world.set_capacity(Some(4 * PAGE as u64));
    let (directory, same) = (world.directory(), disk.clone());
    executor.run(async move {
        same.allocate(0, 3 * PAGE as u64).await.unwrap();
        let full = same.allocate(0, 5 * PAGE as u64).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        same.write(0, page(1)).await.unwrap();
        same.write(3 * PAGE as u64, page(1)).await.unwrap();
        assert_eq!(same.write(9 * PAGE as u64, page(1)).await.unwrap_err().raw_os_error(), None);
        assert_eq!(directory.space_available().await.unwrap(), 0);
        assert!(directory.create("other").await.is_err());
        same.punch(0, 2 * PAGE as u64).await.unwrap();
        assert_eq!(directory.space_available().await.unwrap(), 2 * PAGE as u64);
    });
    assert_eq!(read(&mut executor, &disk, 0).unwrap(), vec![0; PAGE]);
    assert_eq!(world.counters().storage_full, 3);
}

#[test]
fn the_nth_operation_of_a_kind_fails_once() {
    let (world, mut executor, disk) = world_with_file(1);
    let error = FaultError::StorageFull;
    let kind = Some(OperationKind::Write);
    world.fail(Fault { kind, name_contains: "dat".into(), nth: 2, error });
    world.fail(Fault { kind, name_contains: "log".into(), nth: 1, error });
    let codes = [0, 0, 0].map(|_| {
        write(&mut executor, &disk, 0, 1).err().and_then(|error| error.raw_os_error()).unwrap_or(0)
    });
    assert_eq!(codes, [0, 28, 0]);
}

#[test]
fn a_flipped_bit_is_read_and_stays() {
    let (world, mut executor, disk) = world_with_file(1);
    write(&mut executor, &disk, 0, 1).unwrap();
    sync(&mut executor, &disk).unwrap();
    assert!(world.flip_bit("data", 5, 1));
    assert!(!world.flip_bit("data", PAGE as u64, 1));
    assert_eq!(read(&mut executor, &disk, 0).unwrap()[5], 3);
    executor.cut_power();
    assert_eq!(peek(&world, 0)[5], 3);
}

#[test]
fn the_journal_memory_survives_a_kill_and_not_a_power_cut() {
    let (world, mut executor, _) = world_with_file(1);
    let boot = world.boot_id();
    let mut journal = world.mapped(8);
    journal.bytes()[0] = 9;
    drop(executor.spawn(async move {
        std::future::pending::<()>().await;
        drop(journal);
    }));
    executor.kill();
    let mut journal = world.mapped(8);
    assert_eq!(journal.bytes()[0], 9);
    assert_eq!(world.boot_id(), boot);
    executor.cut_power();
    drop(journal);
    assert_eq!(world.mapped(8).bytes(), [0; 8]);
    assert_ne!(world.boot_id(), boot);
}
