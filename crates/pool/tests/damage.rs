//! Rotten data and lost hashes on simulated storage: what is told of them, to whom, and for how long.
#![allow(clippy::unwrap_used, reason = "a test")]

mod machine;

use blockyard_block::{BlockDevice, Buffer, BufferMut, ErrorKind, HashAlgorithm};
use blockyard_io::{Directory, Disk};
use blockyard_pool::{ReclaimOptions, ScrubOptions};
use blockyard_sim::SimDirectory;
use machine::{Machine, SimPool, client, name, pattern, read, write};
use std::sync::Arc;

const CLUSTER: usize = 4096;

fn clusters(tags: impl IntoIterator<Item = u8>) -> Vec<u8> {
    tags.into_iter().flat_map(|tag| pattern(tag, CLUSTER)).collect()
}

/// Images of 8 MiB that begin with these clusters, in a pool that was closed in order.
fn made(machine: &mut Machine, images: &'static [(&'static str, &'static [u8])]) {
    let pool = machine.open();
    let writer = Arc::clone(&pool);
    machine.run(async move {
        for (image, tags) in images {
            writer.create_image(&name(image), 8 << 20, 1).await.unwrap();
            let volume = writer.open_image(&name(image), client(true)).unwrap();
            write(&volume, 0, &clusters(tags.iter().copied())).await;
        }
    });
    machine.pass(&pool, 6_000);
    machine.shut_down(pool);
}

/// Changes a byte of the data where a content is found for the `which`th time.
async fn rot(directory: &SimDirectory, tag: u8, which: usize) {
    let data = directory.open("data").await.unwrap();
    let length = data.length().await.unwrap();
    let mut left = which;
    for offset in (0..length).step_by(CLUSTER) {
        let (read, mut bytes) = data.read(offset, BufferMut::zeroed(CLUSTER)).await;
        read.unwrap();
        if bytes[..] == pattern(tag, CLUSTER) {
            if left == 0 {
                bytes[17] ^= 4;
                data.write(offset, bytes.freeze()).await.unwrap();
                return data.sync().await.unwrap();
            }
            left -= 1;
        }
    }
    panic!("the content of {tag} is not there {} times", which + 1);
}

/// Rots clusters, of which these are tag and number, in a pool that is closed.
fn rotten(machine: &mut Machine, which: &'static [(u8, usize)]) {
    let directory = machine.world.directory();
    machine.run(async move {
        for (tag, which) in which {
            rot(&directory, *tag, *which).await;
        }
    });
}

fn told(pool: &SimPool) -> Vec<String> {
    pool.status().unwrap().activities
}

async fn reclaim(pool: &SimPool) {
    pool.reclaim(ReclaimOptions::default(), |_| true).await.unwrap();
}

#[test]
fn the_status_tells_of_damage_until_it_is_healed_overwritten_or_gone() {
    let mut machine = Machine::new(5);
    made(&mut machine, &[("a", &[1, 2, 1, 9]), ("b", &[7, 9])]);
    rotten(&mut machine, &[(1, 1), (2, 0), (9, 1)]);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    machine.run(async move {
        let pool = user;
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        reclaim(&pool).await;
        let lines = told(&pool);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("does not match its hash: run `blockyard")));
        // The only one of its content.
        for _ in 0..2 {
            let refused = a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt);
        }
        let lines = told(&pool);
        assert_eq!(lines.len(), 3, "{lines:?}");
        let alone = lines.iter().find(|line| line.starts_with("a at 4096: data at ")).unwrap();
        assert!(alone.contains("no equal cluster has its content"), "{alone}");
        write(&a, 4096, &clusters([3])).await;
        assert_eq!(told(&pool).len(), 2, "overwritten");
        pool.remove_image(&name("b"), true).await.unwrap();
    });
    machine.pass(&pool, 6_000);
    machine.run(async move {
        assert_eq!(told(&pool).len(), 1, "gone: {:?}", told(&pool));
        let scrub = pool.scrub(|_| true).await.unwrap();
        assert_eq!((scrub.clusters_healed, scrub.clusters_damaged), (1, 0));
        assert_eq!(told(&pool), [""; 0], "healed");
    });
}

#[test]
fn what_a_scrub_cannot_heal_is_told_until_the_medium_returns_it_as_it_was() {
    let mut machine = Machine::new(6);
    made(&mut machine, &[("a", &[1, 2])]);
    rotten(&mut machine, &[(2, 0)]);
    let pool = machine.open();
    let (user, directory) = (Arc::clone(&pool), machine.world.directory());
    machine.run(async move {
        let pool = user;
        assert_eq!(pool.scrub(|_| true).await.unwrap().clusters_damaged, 1);
        let lines = told(&pool);
        assert!(lines.len() == 1 && lines[0].starts_with("a at 4096: data at "), "{lines:?}");
        let data = directory.open("data").await.unwrap();
        let place: u64 = lines[0].split(' ').nth(5).unwrap().parse().unwrap();
        data.write(place, Buffer::copy_of(&clusters([2]))).await.unwrap();
        assert_eq!(pool.scrub(|_| true).await.unwrap().clusters_damaged, 0);
        assert_eq!(told(&pool), [""; 0]);
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        assert_eq!(read(&a, 0, 8192).await, clusters([1, 2]));
    });
}

#[test]
fn news_of_damage_name_image_and_offset_once_whoever_finds_it() {
    let mut machine = Machine::new(7);
    made(&mut machine, &[("a", &[1, 2, 1, 9, 3, 3]), ("b", &[7, 9])]);
    rotten(&mut machine, &[(1, 1), (2, 0), (9, 1), (3, 1)]);
    let pool = machine.open();
    machine.run(async move {
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        // By a partial write: one is healed, one cannot be, and that is tried again.
        write(&a, 5 * 4096 + 100, b"part").await;
        for _ in 0..3 {
            a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
        }
        // By reclaim.
        reclaim(&pool).await;
        reclaim(&pool).await;
        let (mut news, omitted) = pool.take_damage_news();
        news.sort_by_key(|one| one.places.clone());
        let places: Vec<_> = news.iter().map(|one| (one.places.clone(), one.healed)).collect();
        let at = |image: &str, cluster: u64| vec![(name(image), cluster * 4096)];
        let expected =
            [(at("a", 1), false), (at("a", 2), false), (at("a", 5), true), (at("b", 1), false)];
        assert_eq!((places, omitted), (expected.to_vec(), 0), "{news:?}");
        assert_eq!(pool.take_damage_news(), (Vec::new(), 0), "told once");
        // From now on the status knows the places, too.
        let lines = told(&pool);
        assert!(lines.iter().any(|line| line.starts_with("b at 4096: data at ")), "{lines:?}");
    });
}

#[test]
fn a_verified_read_returns_the_right_bytes_or_fails_for_that_cluster_alone() {
    for verify in [true, false] {
        let mut machine = Machine::new(8);
        made(&mut machine, &[("a", &[1, 2, 1, 3, 0, 4])]);
        rotten(&mut machine, &[(1, 1), (2, 0)]);
        machine.verify_reads = verify;
        let pool = machine.open();
        machine.run(async move {
            let a = pool.open_image(&name("a"), client(true)).unwrap();
            if !verify {
                assert_ne!(read(&a, 0, 2 * 4096).await, clusters([1, 2]));
                assert_eq!(pool.take_damage_news().0, []);
                return;
            }
            assert_eq!(
                read(&a, 2 * 4096 + 5, 3 * 4096).await,
                clusters([1, 3, 0, 4])[5..3 * 4096 + 5]
            );
            assert_eq!(read(&a, 0, 4096).await, clusters([1]));
            for (offset, length) in [(0, 8192), (4096 + 9, 1)] {
                let refused = a.read(offset, length).await.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Corrupt);
            }
            assert_eq!(read(&a, 4096 * 1000, 4096).await, vec![0; CLUSTER]);
            let (news, _) = pool.take_damage_news();
            let places: Vec<_> = news.iter().map(|one| (one.places[0].1, one.healed)).collect();
            assert_eq!(places, [(2 * 4096, true), (4096, false)]);
        });
    }
}

/// Bytes and hash of an overwrite in flight are of two moments: nobody is accused, and nothing old is healed in.
#[test]
fn a_verified_read_beside_overwrites_sees_one_of_the_contents_and_accuses_nobody() {
    for seed in 0..30 {
        let mut machine = Machine::new(seed);
        machine.verify_reads = true;
        let pool = machine.open();
        let user = Arc::clone(&pool);
        let a = machine.run(async move {
            user.create_image(&name("a"), 8 << 20, 1).await.unwrap();
            let a = user.open_image(&name("a"), client(true)).unwrap();
            write(&a, 0, &clusters([0; 8])).await;
            Arc::new(a)
        });
        let mut ended = Vec::new();
        for round in 1..20u8 {
            let (writer, reader) = (Arc::clone(&a), Arc::clone(&a));
            ended.push(machine.executor.spawn(async move {
                write(&writer, u64::from(round % 8) * 4096, &clusters([round])).await;
            }));
            ended.push(machine.executor.spawn(async move {
                let bytes = read(&reader, 0, 8 * 4096).await;
                for cluster in bytes.chunks(CLUSTER) {
                    assert!((0..20).any(|tag| cluster == pattern(tag, CLUSTER)), "a mixture");
                }
            }));
        }
        machine.executor.run_until(|| ended.iter().all(|one| one.is_done()));
        assert_eq!(pool.take_damage_news().0, [], "seed {seed}");
    }
}

#[test]
fn an_equal_cluster_is_looked_for_by_a_pass_once_and_again_when_one_was_stored() {
    let mut machine = Machine::new(9);
    made(&mut machine, &[("a", &[1, 2, 3])]);
    rotten(&mut machine, &[(2, 0)]);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    machine.run(async move {
        let a = user.open_image(&name("a"), client(true)).unwrap();
        for _ in 0..5 {
            a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
        }
        assert_eq!(user.counters().heal_passes, 1);
    });
    machine.pass(&pool, 61_000);
    let user = Arc::clone(&pool);
    machine.run(async move {
        let a = user.open_image(&name("a"), client(true)).unwrap();
        for _ in 0..5 {
            a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
        }
        assert_eq!(user.counters().heal_passes, 2, "after a minute");
        write(&a, 4 << 20, &clusters([7])).await;
        a.write(4096 + 100, Buffer::copy_of(b"part"), false).await.unwrap_err();
        assert_eq!(user.counters().heal_passes, 2, "another content");
        write(&a, 5 << 20, &clusters([2])).await;
        write(&a, 4096 + 100, b"part").await;
        assert_eq!(user.counters().heal_passes, 3, "the same content");
    });
}

#[test]
fn an_equal_cluster_that_the_index_knows_heals_without_a_pass() {
    let mut machine = Machine::new(10);
    made(&mut machine, &[("a", &[1, 2, 3, 2])]);
    let pool = machine.open();
    let directory = machine.world.directory();
    machine.run(async move {
        let dry = ReclaimOptions { dry_run: true, ..Default::default() };
        pool.reclaim(dry, |_| true).await.unwrap();
        assert_eq!(pool.counters().indexes_made, 1);
        rot(&directory, 2, 0).await;
        let a = pool.open_image(&name("a"), client(true)).unwrap();
        write(&a, 4096 + 100, b"part").await;
        let mut expected = clusters([2]);
        expected[100..104].copy_from_slice(b"part");
        assert_eq!(read(&a, 4096, 4096).await, expected);
        assert_eq!(pool.counters().heal_passes, 0);
    });
}

/// Flips a bit of the hash table at the hash of what has this content.
fn lose_hashes(machine: &mut Machine, tag: u8) {
    let directory = machine.world.directory();
    machine.run(async move {
        let hash = HashAlgorithm::Blake3.hash(&pattern(tag, CLUSTER)).0;
        let hashes = directory.open("hashes").await.unwrap();
        let length = hashes.length().await.unwrap();
        for offset in (0..length).step_by(CLUSTER) {
            let (read, mut page) = hashes.read(offset, BufferMut::zeroed(CLUSTER)).await;
            read.unwrap();
            if let Some(at) = page.chunks(32).position(|found| found == hash) {
                page[at * 32 + 5] ^= 8;
                hashes.write(offset, page.freeze()).await.unwrap();
                return hashes.sync().await.unwrap();
            }
        }
        panic!("no hash of {tag}");
    });
}

#[test]
fn hashes_lost_with_a_page_accuse_nobody_and_a_scrub_restores_what_it_proves() {
    let mut machine = Machine::new(11);
    made(&mut machine, &[("a", &[1, 2, 3, 4, 5, 6, 7, 8])]);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    let digest = machine.run(async move { user.digest(&name("a")).await.unwrap() });
    machine.shut_down(pool);
    lose_hashes(&mut machine, 3);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    machine.run(async move {
        let a = user.open_image(&name("a"), client(true)).unwrap();
        let refused = user.digest(&name("a")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains("hashes of 8 clusters are lost"), "{refused}");
        assert_eq!(user.status().unwrap().clusters_untrusted, 8);
        let (news, _) = user.take_damage_news();
        assert_eq!((news.len(), &news[0].places), (1, &vec![(name("a"), 0)]), "{news:?}");
        // Bytes that are there already.
        write(&a, 5 * 4096 + 100, &pattern(6, CLUSTER)[100..200]).await;
    });
    machine.pass(&pool, 61_000);
    let user = Arc::clone(&pool);
    machine.run(async move {
        let lines = told(&user);
        assert!(
            lines.len() == 1 && lines[0].contains("hashes of 7 clusters are lost"),
            "{lines:?}"
        );
        let scrub = user.scrub(|_| true).await.unwrap();
        assert_eq!((scrub.clusters_damaged, scrub.hashes_restored, scrub.hashes_lost), (0, 7, 0));
        assert_eq!(told(&user), [""; 0]);
        assert_eq!(user.status().unwrap().clusters_untrusted, 0);
        assert_eq!(user.digest(&name("a")).await.unwrap(), digest);
    });
    machine.pass(&pool, 6_000);
    machine.shut_down(pool);
    let pool = machine.open();
    machine.run(async move {
        assert_eq!(pool.digest(&name("a")).await.unwrap(), digest);
        let scrub = pool.scrub(|_| true).await.unwrap();
        assert_eq!((scrub.clusters_damaged, scrub.clusters_skipped_untrusted), (0, 0));
    });
}

/// Those who find the damage at the same time all go on.
#[test]
fn writes_that_meet_a_damaged_page_of_hashes_together_go_on() {
    for seed in 0..30 {
        let mut machine = Machine::new(seed);
        made(&mut machine, &[("a", &[1, 2, 3, 4, 5, 6, 7, 8])]);
        lose_hashes(&mut machine, 3);
        let pool = machine.open();
        let writes: Vec<_> = (0..8u64)
            .map(|at| {
                let pool = Arc::clone(&pool);
                machine.executor.spawn(async move {
                    let a = pool.open_image(&name("a"), client(true)).unwrap();
                    a.write(at * 4096 + 100, Buffer::copy_of(&[9; 50]), false).await
                })
            })
            .collect();
        machine.pass(&pool, 1000);
        for write in writes {
            assert_eq!(write.take().unwrap().map_err(|error| error.to_string()), Ok(()));
        }
    }
}

#[test]
fn lost_hashes_that_cannot_be_proved_are_made_anew_only_when_asked_for() {
    let mut machine = Machine::new(12);
    made(&mut machine, &[("a", &[1, 2, 3, 4])]);
    lose_hashes(&mut machine, 3);
    rotten(&mut machine, &[(2, 0)]);
    let pool = machine.open();
    let user = Arc::clone(&pool);
    machine.run(async move {
        for _ in 0..2 {
            let scrub = user.scrub(|_| true).await.unwrap();
            assert_eq!((scrub.clusters_damaged, scrub.hashes_lost), (0, 4));
            assert_eq!((scrub.hashes_restored, scrub.hashes_made), (0, 0));
        }
        let a = user.open_image(&name("a"), client(true)).unwrap();
        assert_eq!(read(&a, 8192, 8192).await, clusters([3, 4]));
        write(&a, 8192 + 7, b"part").await;
        write(&a, 0, &clusters([9])).await;
    });
    machine.pass(&pool, 61_000);
    machine.run(async move {
        assert!(told(&pool)[0].contains("hashes of 2 clusters are lost"), "{:?}", told(&pool));
        assert!(told(&pool)[0].contains("scrub --rehash"), "{:?}", told(&pool));
        let options = ScrubOptions { rehash: true };
        let scrub = pool.scrub_with(options, |_| true).await.unwrap();
        assert_eq!((scrub.hashes_made, scrub.hashes_lost), (2, 0));
        pool.digest(&name("a")).await.unwrap();
        assert_eq!(told(&pool), [""; 0]);
    });
}
