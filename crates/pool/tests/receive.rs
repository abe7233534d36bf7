//! Receiving an image from another pool's list of hashes: what is taken, what is asked for, what is refused.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, ContentHash, ErrorKind, HashAlgorithm};
use blockyard_io::Directory;
use blockyard_pool::{ExtentHashes, Missing, Receive, ReclaimOptions, Volume, root_hash};
use blockyard_sim::SimDirectory;
use machine::{Machine, SimPool, client, name, pattern, read, write};
use std::sync::Arc;

const CLUSTER: usize = 4096;
const EXTENT: u64 = 4 << 20;

/// What one pool tells another of an image.
struct Told {
    size: u64,
    digest: ContentHash,
    extents: Vec<(u64, ContentHash, ExtentHashes)>,
    bytes: Vec<u8>,
}

async fn tell(volume: &Volume<SimDirectory>) -> Told {
    let mut extents = Vec::new();
    for (index, summary) in volume.extent_summaries(0, usize::MAX).await.unwrap() {
        extents.push((index, summary, volume.extent_hashes(index).await.unwrap()));
    }
    let size = volume.size();
    let digest = volume.digest().await.unwrap();
    Told { size, digest, extents, bytes: read(volume, 0, size).await }
}

impl Told {
    fn cluster(&self, index: u64, slot: usize) -> Buffer {
        let at = index as usize * EXTENT as usize + slot * CLUSTER;
        let mut bytes = vec![0; CLUSTER];
        let end = self.bytes.len().min(at + CLUSTER);
        bytes[..end - at].copy_from_slice(&self.bytes[at..end]);
        Buffer::copy_of(&bytes)
    }
}

/// Extents taken whole, clusters taken, clusters written.
async fn fill(receive: &mut Receive<SimDirectory>, told: &Told) -> (usize, usize, usize) {
    let summaries: Vec<_> = told.extents.iter().map(|(index, sum, _)| (*index, *sum)).collect();
    let whole = receive.take_whole(&summaries, &mut || Ok(())).await.unwrap();
    let (mut taken, mut written) = (0, 0);
    for ((index, summary, hashes), whole) in told.extents.iter().zip(&whole) {
        if !whole {
            receive.lookup().add(*index, *summary, hashes.clone()).await.unwrap();
        }
    }
    receive.search(&mut || Ok(())).await.unwrap();
    while let Some(found) = receive.next_found().await.unwrap() {
        taken += receive.take(found, None).await.unwrap();
    }
    receive.remove_parts();
    while let Some(missing) = receive.next_missing(true).await.unwrap() {
        written += write_missing(receive, told, missing).await;
    }
    while let Some(missing) = receive.next_repeat().await.unwrap() {
        written += write_missing(receive, told, missing).await;
    }
    (whole.iter().filter(|whole| **whole).count(), taken, written)
}

async fn write_missing(receive: &Receive<SimDirectory>, told: &Told, missing: Missing) -> usize {
    for (slot, hash) in &missing.slots {
        let data = told.cluster(missing.index, *slot);
        receive.writer().write(missing.index, *slot, &[*hash], &data).await.unwrap();
    }
    missing.slots.len()
}

fn clusters(tags: impl IntoIterator<Item = u8>) -> Vec<u8> {
    tags.into_iter().flat_map(|tag| pattern(tag, CLUSTER)).collect()
}

async fn image(pool: &SimPool, text: &str, size: u64, parts: &[(u64, Vec<u8>)]) {
    pool.create_image(&name(text), size, 1).await.unwrap();
    let volume = pool.open_image(&name(text), client(true)).unwrap();
    for (offset, bytes) in parts {
        write(&volume, *offset, bytes).await;
    }
}

/// An image of four extents in a pool of its own.
fn told_by(hash: HashAlgorithm, size: u64, parts: Vec<(u64, Vec<u8>)>) -> Told {
    let mut machine = Machine::with_hash(1, hash);
    let pool = machine.open();
    machine.run(async move {
        image(&pool, "source", size, &parts).await;
        tell(&pool.open_image(&name("source"), client(false)).unwrap()).await
    })
}

fn parts() -> Vec<(u64, Vec<u8>)> {
    vec![
        (0, clusters(0..100)),
        (EXTENT, clusters(100..150)),
        (2 * EXTENT + 4096, clusters(150..170)),
    ]
}

#[test]
fn what_the_pool_has_is_taken_and_only_the_rest_is_asked_for() {
    let told = told_by(HashAlgorithm::Blake3, 4 * EXTENT, parts());
    for seed in 0..20 {
        let mut machine = Machine::new(100 + seed);
        let pool = machine.open();
        let (user, told) = (Arc::clone(&pool), &told);
        let copy = Told { extents: told.extents.clone(), bytes: told.bytes.clone(), ..*told };
        machine.run(async move {
            let pool = user;
            // The first extent is there at another place; of the second, clusters are.
            image(
                &pool,
                "other",
                16 * EXTENT,
                &[(9 * EXTENT, clusters(0..100)), (3 * EXTENT, clusters((100..140).rev()))],
            )
            .await;
            let before = pool.status().unwrap().bytes_physical;
            let mut receive = pool.begin_receive(&name("new"), copy.size, 1).await.unwrap();
            assert!(pool.image(&name("new")).is_err(), "hidden until it is whole");
            assert_eq!(fill(&mut receive, &copy).await, (1, 40, 30), "seed {seed}");
            receive.finish(copy.digest).await.unwrap();
            let grown = pool.status().unwrap().bytes_physical - before;
            assert_eq!(grown, 30 * CLUSTER as u64);
            // Each goes its own way from here.
            let other = pool.open_image(&name("other"), client(true)).unwrap();
            write(&other, 9 * EXTENT, &clusters([222; 100])).await;
            write(&other, 3 * EXTENT, &clusters([223; 40])).await;
            pool.reclaim(ReclaimOptions::default(), |_| true).await.unwrap();
            let new = pool.open_image(&name("new"), client(true)).unwrap();
            assert!(read(&new, 0, copy.size).await == copy.bytes, "seed {seed}");
            write(&new, 0, &clusters([1])).await;
            assert_eq!(read(&other, 9 * EXTENT, 4096).await, clusters([222]));
        });
        // An image that is there already under another name takes no space at all.
        let user = Arc::clone(&pool);
        machine.run(async move {
            let pool = user;
            pool.snapshot_image(&name("new"), &name("s"), 1).await.unwrap();
            let snapshot = pool.open_image(&name("s"), client(false)).unwrap();
            let told = tell(&snapshot).await;
            let before = pool.status().unwrap().bytes_physical;
            let mut receive = pool.begin_receive(&name("again"), told.size, 1).await.unwrap();
            assert_eq!(fill(&mut receive, &told).await, (3, 0, 0));
            receive.finish(told.digest).await.unwrap();
            assert_eq!(pool.status().unwrap().bytes_physical, before);
        });
        machine.shut_down(pool);
    }
}

#[test]
fn lists_longer_than_memory_are_joined_by_way_of_files() {
    let many: Vec<u8> = (0..600u32)
        .flat_map(|number| {
            let mut cluster = vec![7; CLUSTER];
            cluster[..4].copy_from_slice(&number.to_le_bytes());
            cluster
        })
        .collect();
    let told = told_by(HashAlgorithm::Sha256, 3 * EXTENT, vec![(EXTENT, many.clone())]);
    let mut machine = Machine::with_hash(5, HashAlgorithm::Sha256);
    let pool = machine.open();
    machine.run(async move {
        // Another slot each, so that the extent cannot be taken whole.
        image(&pool, "other", 3 * EXTENT, &[(40960, many)]).await;
        let mut receive = pool.begin_receive(&name("new"), told.size, 1).await.unwrap();
        assert_eq!(fill(&mut receive, &told).await, (0, 600, 0));
        receive.finish(told.digest).await.unwrap();
        let new = pool.open_image(&name("new"), client(false)).unwrap();
        assert!(read(&new, 0, told.size).await == told.bytes);
    });
}

#[test]
fn a_sha1_pool_takes_nothing_by_its_hash_alone() {
    let told = told_by(HashAlgorithm::Sha1, 4 * EXTENT, parts());
    let mut machine = Machine::with_hash(6, HashAlgorithm::Sha1);
    let pool = machine.open();
    machine.run(async move {
        image(&pool, "other", 4 * EXTENT, &parts()).await;
        let mut receive = pool.begin_receive(&name("new"), told.size, 1).await.unwrap();
        assert_eq!(fill(&mut receive, &told).await, (0, 0, 170));
        receive.finish(told.digest).await.unwrap();
    });
}

#[test]
fn an_end_within_a_cluster_is_never_taken_from_another_image() {
    let size = EXTENT + 4096 + 512;
    let told = told_by(HashAlgorithm::Blake3, size, vec![(EXTENT, vec![3; 4096 + 512])]);
    let mut machine = Machine::new(8);
    let pool = machine.open();
    machine.run(async move {
        let mut same = vec![3; 4096 + 512];
        same.resize(8192, 0);
        image(&pool, "other", 2 * EXTENT, &[(EXTENT, same)]).await;
        let mut receive = pool.begin_receive(&name("new"), size, 1).await.unwrap();
        assert_eq!(fill(&mut receive, &told).await, (0, 1, 1));
        receive.finish(told.digest).await.unwrap();
        let new = pool.open_image(&name("new"), client(false)).unwrap();
        assert!(read(&new, 0, size).await == told.bytes);
    });
}

#[test]
fn lies_are_refused_and_leave_nothing() {
    let told = told_by(HashAlgorithm::Blake3, 4 * EXTENT, parts());
    let mut machine = Machine::new(7);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    machine.run(async move {
        let pool = user;
        let (index, summary, hashes) = told.extents[0].clone();
        let kind = |result: Result<_, blockyard_block::Error>| result.err().map(|e| e.kind());
        // A list that does not have its summary, twice the same extent, one behind the end.
        let mut receive = pool.begin_receive(&name("new"), 4 * EXTENT, 1).await.unwrap();
        let wrong = receive.lookup().add(1, summary, told.extents[1].2.clone()).await;
        assert_eq!(kind(wrong), Some(ErrorKind::InvalidArgument));
        receive.lookup().add(index, summary, hashes.clone()).await.unwrap();
        let twice = receive.lookup().add(index, summary, hashes.clone()).await;
        assert_eq!(kind(twice), Some(ErrorKind::InvalidArgument));
        let behind = receive.lookup().add(4, summary, hashes.clone()).await;
        assert_eq!(kind(behind), Some(ErrorKind::InvalidArgument));
        // Data behind the end of a smaller image.
        let mut small = pool.begin_receive(&name("small"), 50 * 4096, 1).await.unwrap();
        let longer = small.lookup().add(index, summary, hashes).await;
        assert_eq!(kind(longer), Some(ErrorKind::InvalidArgument));
        small.abandon().await;
        // Bytes that are not what their hash says, then a digest that is not that of the whole.
        receive.search(&mut || Ok(())).await.unwrap();
        while let Some(found) = receive.next_found().await.unwrap() {
            receive.take(found, None).await.unwrap();
        }
        let missing = receive.next_missing(true).await.unwrap().unwrap();
        let (slot, hash) = missing.slots[0];
        let bytes = Buffer::copy_of(&clusters([99]));
        let refused = receive.writer().write(index, slot, &[hash], &bytes).await;
        assert_eq!(kind(refused), Some(ErrorKind::Corrupt));
        receive.writer().write(index, slot, &[hash], &told.cluster(index, slot)).await.unwrap();
        assert_eq!(kind(receive.finish(told.digest).await.map(drop)), Some(ErrorKind::Corrupt));
        assert!(pool.images().is_empty());
    });
    machine.pass(&pool, 1_000);
    assert_eq!(pool.status().unwrap().bytes_physical, 0);
}

#[test]
fn a_call_that_is_given_up_after_another_brought_the_image_leaves_no_part_of_it() {
    let told = told_by(HashAlgorithm::Blake3, 4 * EXTENT, parts());
    let mut machine = Machine::new(7);
    let pool = machine.open();
    machine.run(async move {
        let mut late = pool.begin_receive(&name("there"), told.size, 1).await.unwrap();
        fill(&mut late, &told).await;
        let mut next = pool.begin_receive(&name("there"), told.size, 1).await.unwrap();
        fill(&mut next, &told).await;
        next.finish(told.digest).await.unwrap();
        late.leave(2).await;
        assert_eq!(pool.left_images(), []);
        // Where it did not come, the part is of use.
        let mut cut = pool.begin_receive(&name("elsewhere"), told.size, 1).await.unwrap();
        fill(&mut cut, &told).await;
        cut.leave(2).await;
        assert_eq!(pool.left_images().len(), 1);
    });
}

#[test]
fn extents_of_one_content_are_found_at_one_place_and_not_looked_for_any_longer() {
    let told = told_by(HashAlgorithm::Blake3, EXTENT, vec![(0, clusters(0..3))]);
    let (summary, count) = (told.extents[0].1, 300);
    let mut machine = Machine::new(10);
    let pool = machine.open();
    machine.run(async move {
        image(&pool, "other", 2 * EXTENT, &[(EXTENT, clusters(0..3))]).await;
        // Each list adds extents of that content to the pool.
        let mut receive = pool.begin_receive(&name("new"), 3 * count * EXTENT, 1).await.unwrap();
        for first in [0, count, 2 * count] {
            let list: Vec<_> = (first..first + count).map(|index| (index, summary)).collect();
            let mut looks = 0;
            let mut look = || {
                looks += 1;
                Ok(())
            };
            let taken = receive.take_whole(&list, &mut look).await.unwrap();
            assert!(taken.iter().all(|taken| *taken), "from {first} on");
            assert_eq!(looks, 1, "from {first} on");
        }
    });
}

#[test]
fn lists_and_sorts_leave_alone_what_is_set_aside() {
    const RESERVE: u64 = 1 << 20;
    let mut machine = Machine::new(11);
    machine.reserve_space(RESERVE);
    let pool = machine.open();
    let hash = |slot: usize| HashAlgorithm::Blake3.hash(&slot.to_le_bytes()).0;
    let bytes: Vec<u8> = (0..1024).flat_map(hash).collect();
    let hashes = ExtentHashes::from_bytes(bytes).unwrap();
    let summary = hashes.summary(HashAlgorithm::Blake3);
    let digest = root_hash(HashAlgorithm::Blake3, EXTENT, &[(0, summary)]);
    let begin = |text: &str, hashes: &ExtentHashes| {
        let (pool, name, hashes) = (Arc::clone(&pool), name(text), hashes.clone());
        async move {
            let mut receive = pool.begin_receive(&name, EXTENT, 1).await.unwrap();
            let added = receive.lookup().add(0, summary, hashes).await;
            (receive, added)
        }
    };
    let list = |mut receive: Receive<SimDirectory>| async move {
        let told = &[(0, summary)];
        let listed = receive.list_missing(digest, told, Vec::new(), true, || Ok(())).await;
        (receive, listed)
    };
    // There is room, but not beside the reserve.
    machine.leave_room(RESERVE);
    let (receive, added) = machine.run(begin("sort", &hashes));
    let refused = added.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.message().contains("set aside"), "{refused}");
    machine.run(receive.abandon());
    machine.leave_room(8 * RESERVE);
    let (receive, added) = machine.run(begin("list", &hashes));
    added.unwrap();
    machine.leave_room(RESERVE);
    let (receive, listed) = machine.run(list(receive));
    assert_eq!(listed.map(drop).unwrap_err().kind(), ErrorKind::NoSpace);
    let directory = machine.world.directory();
    let files = machine.run(async move { directory.list("lazy").await.unwrap() });
    assert_eq!(files, [""; 0]);
    machine.leave_room(8 * RESERVE);
    let (receive, listed) = machine.run(list(receive));
    machine.run(async move { receive.show_lazily(listed.unwrap()).await.unwrap() });
    let directory = machine.world.directory();
    let files = machine.run(async move { directory.list("index").await.unwrap() });
    assert_eq!(files, [""; 0], "of either");
}
