//! An image that is used while it is filled: who shares a fetch, who fails and when, and what a lost list leaves.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, ContentHash, ErrorKind, HashAlgorithm, ImageId};
use blockyard_io::Directory;
use blockyard_pool::{ExtentHashes, Fetch, Missing, root_hash};
use machine::{Machine, SimPool, client, name, pattern, read, write};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLUSTER: usize = 4096;
const CLUSTERS: usize = 100;
const SIZE: u64 = 4 << 20;

fn cluster(slot: usize) -> Vec<u8> {
    pattern(slot as u8, CLUSTER)
}

fn hash(slot: usize) -> ContentHash {
    HashAlgorithm::Blake3.hash(&cluster(slot))
}

/// Shows the image "web", of which nothing is there: its first clusters are missing.
async fn show(pool: &SimPool) -> ImageId {
    let mut bytes = vec![0; ExtentHashes::BYTES];
    for (slot, place) in bytes.chunks_exact_mut(32).take(CLUSTERS).enumerate() {
        place.copy_from_slice(&hash(slot).0);
    }
    let hashes = ExtentHashes::from_bytes(bytes).unwrap();
    let summary = hashes.summary(HashAlgorithm::Blake3);
    let mut receive = pool.begin_receive(&name("web"), SIZE, 1).await.unwrap();
    receive.lookup().add(0, summary, hashes).await.unwrap();
    let digest = root_hash(HashAlgorithm::Blake3, SIZE, &[(0, summary)]);
    let mut wrong = pool.begin_receive(&name("wrong"), SIZE, 1).await.unwrap();
    let refused = wrong.list_missing(digest, &[], Vec::new(), true, || Ok(())).await;
    let kind = refused.map(drop).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Corrupt, "lists of another digest");
    wrong.abandon().await;
    let (told, origin) = (&[(0, summary)], b"here".to_vec());
    let listed = receive.list_missing(digest, told, origin, true, || Ok(())).await.unwrap();
    receive.show_lazily(listed).await.unwrap()
}

async fn bring(pool: &SimPool, image: ImageId, missing: &Missing) -> usize {
    let mut refused = 0;
    for (slot, hash) in &missing.slots {
        let data = Buffer::copy_of(&cluster(*slot));
        refused += pool.keep_fetched(image, 0, *slot, &[*hash], &data).await.unwrap();
    }
    refused
}

#[test]
fn readers_share_a_fetch_and_what_is_written_first_is_not_overwritten() {
    let mut machine = Machine::new(1);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let id = machine.run(async move { show(&user).await });
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let volume = pool.open_image(&name("web"), client(false)).unwrap();
            machine.executor.spawn(async move { read(&volume, 5 * 4096, 8192).await })
        })
        .collect();
    machine.executor.run_until_idle();
    assert!(readers.iter().all(|reader| !reader.is_done()));
    let user = Arc::clone(&pool);
    machine.run(async move {
        let Fetch::Missing(missing) = user.next_fetch(id, 64, false).await.unwrap() else {
            panic!("nothing to fetch")
        };
        let slots: Vec<usize> = missing.slots.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, (5..7 + 32).collect::<Vec<_>>(), "both, and what follows");
        assert_eq!(user.next_fetch(id, 64, false).await.unwrap(), Fetch::Nothing, "only once");
        // Written, and discarded, while they are on their way.
        let volume = user.open_image(&name("web"), client(true)).unwrap();
        write(&volume, 9 * 4096, &pattern(200, CLUSTER)).await;
        volume.discard(10 * 4096, 4096, false).await.unwrap();
        assert_eq!(bring(&user, id, &missing).await, 0);
        assert_eq!(read(&volume, 9 * 4096, 4096).await, pattern(200, CLUSTER));
        assert_eq!(read(&volume, 10 * 4096, 4096).await, vec![0; CLUSTER]);
        // Another's bytes are neither kept nor told.
        let data = Buffer::copy_of(&cluster(51));
        assert_eq!(user.keep_fetched(id, 0, 50, &[hash(50)], &data).await.unwrap(), 1);
        let refused = volume.read(50 * 4096, 4096).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Io);
    });
    machine.executor.run_until_idle();
    for reader in readers {
        assert_eq!(reader.take().unwrap(), [cluster(5), cluster(6)].concat());
    }
}

#[test]
fn a_read_waits_for_its_time_and_a_lost_list_fails_what_is_missing_alone() {
    let mut machine = Machine::new(2);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let id = machine.run(async move {
        let id = show(&user).await;
        let volume = user.open_image(&name("web"), client(true)).unwrap();
        write(&volume, 0, &pattern(201, CLUSTER)).await;
        id
    });
    let volume = pool.open_image(&name("web"), client(false)).unwrap();
    let waits = machine.executor.spawn(async move { volume.read(0, 8192).await.map(drop) });
    machine.pass(&pool, 29_000);
    assert!(!waits.is_done());
    machine.pass(&pool, 2_000);
    assert_eq!(waits.take().unwrap().unwrap_err().kind(), ErrorKind::Io);
    machine.shut_down(pool);
    let directory = machine.world.directory();
    machine.run(async move {
        directory.remove(&format!("lazy/{:016x}", id.0)).await.unwrap();
        directory.sync().await.unwrap();
    });
    let pool = machine.open();
    machine.run(async move {
        let volume = pool.open_image(&name("web"), client(true)).unwrap();
        assert_eq!(read(&volume, 0, 4096).await, pattern(201, CLUSTER));
        for place in [4096, 2 << 20] {
            let lost = volume.read(place, 4096).await.unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::Io, "nothing is taken for zeros");
        }
        assert!(pool.lazy_image(id).unwrap().broken.is_some());
        assert_eq!(pool.digest(&name("web")).await.unwrap_err().kind(), ErrorKind::Busy);
        pool.remove_image(&name("web"), true).await.unwrap();
    });
}

/// Shows the image "large" of so many extents, of which nothing is there.
async fn show_large(pool: &SimPool, extents: u64) -> ImageId {
    let hashes = ExtentHashes::from_bytes(vec![7; ExtentHashes::BYTES]).unwrap();
    let (size, summary) = (extents * SIZE, hashes.summary(HashAlgorithm::Blake3));
    let summaries: Vec<_> = (0..extents).map(|index| (index, summary)).collect();
    let mut receive = pool.begin_receive(&name("large"), size, 1).await.unwrap();
    for (index, summary) in &summaries {
        receive.lookup().add(*index, *summary, hashes.clone()).await.unwrap();
    }
    let digest = root_hash(HashAlgorithm::Blake3, size, &summaries);
    let listed = receive.list_missing(digest, &summaries, Vec::new(), true, || Ok(())).await;
    receive.show_lazily(listed.unwrap()).await.unwrap()
}

/// Refuses all that there is to fetch; tells how long it took each time to find that.
async fn refuse_all(pool: &SimPool, image: ImageId) -> Vec<Duration> {
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        let Fetch::Missing(missing) = pool.next_fetch(image, 64, true).await.unwrap() else {
            return times;
        };
        times.push(started.elapsed());
        let slots: Vec<usize> = missing.slots.iter().map(|(slot, _)| *slot).collect();
        pool.refuse_fetched(image, missing.index, &slots);
    }
}

#[test]
fn what_is_refused_is_told_until_it_comes_and_makes_finding_the_rest_no_slower() {
    const EXTENTS: u64 = 32;
    const LISTED: u64 = EXTENTS * SIZE;
    let mut machine = Machine::new(3);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let (id, times) = machine.run(async move {
        let id = show_large(&user, EXTENTS).await;
        (id, refuse_all(&user, id).await)
    });
    assert_eq!(times.len() as u64, EXTENTS * 16);
    // The least of many, as others use the processor, too.
    let (first, last) = times.split_at(times.len() / 2);
    let (first, last) = (first[..64].iter().min().unwrap(), last[192..].iter().min().unwrap());
    assert!(*last < 4 * *first, "{first:?} at first, {last:?} at last");
    assert_eq!(pool.lazy_image(id).unwrap().bytes_refused, LISTED);
    // It is asked for again, and not forgotten meanwhile.
    machine.pass(&pool, 6_000);
    let user = Arc::clone(&pool);
    machine.run(async move {
        let Fetch::Missing(missing) = user.next_fetch(id, 64, true).await.unwrap() else {
            panic!("nothing is asked for again")
        };
        assert_eq!((missing.index, missing.slots.len()), (0, 64));
        assert_eq!(user.lazy_image(id).unwrap().bytes_refused, LISTED);
        let volume = user.open_image(&name("large"), client(true)).unwrap();
        write(&volume, 0, &pattern(1, 3 * CLUSTER)).await;
        assert_eq!(user.lazy_image(id).unwrap().bytes_refused, LISTED - 3 * CLUSTER as u64);
        assert_eq!(user.end_lazy(id).await.unwrap_err().kind(), ErrorKind::Busy);
        // All of it is given up.
        volume.discard(0, LISTED, false).await.unwrap();
        user.forget_fetches(id);
        assert_eq!(user.next_fetch(id, 64, true).await.unwrap(), Fetch::Filled);
        assert_eq!(user.lazy_image(id).unwrap().bytes_refused, 0);
        user.end_lazy(id).await.unwrap();
        assert!(!user.is_lazy(id));
        assert_eq!(read(&volume, 0, 4 * CLUSTER as u64).await, vec![0; 4 * CLUSTER]);
    });
}
