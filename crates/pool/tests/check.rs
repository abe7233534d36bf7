//! `check` on simulated storage: what it must find, what it must not mistake for damage, and that it
//! changes nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use blockyard_block::{BlockDevice, Buffer, ErrorKind, HashAlgorithm, ImageName, Segment};
use blockyard_io::{Directory, Disk};
use blockyard_pool::{
    CheckOptions, CheckProgress, CheckReport, Client, CreateOptions, Finding, OpenOptions, Pool,
    PoolId, check,
};
use blockyard_sim::{Executor, SimDirectory, SimWorld};
use std::collections::BTreeMap;
use std::sync::Arc;

type SimPool = Arc<Pool<SimDirectory>>;

const FILES: [&str; 3] = ["log", "hashes", "data"];
const IMAGE_BYTES: u64 = (9 << 20) + 512;

struct Machine {
    world: SimWorld,
    executor: Executor,
    now_ms: u64,
}

/// The bytes of every image.
type Contents = BTreeMap<String, Vec<u8>>;

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

fn client(writes: bool) -> Client {
    Client { connection: 1, pid: None, uid: None, writes, purpose: "test".to_owned() }
}

fn pattern(tag: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| tag ^ (at % 251) as u8 | 1).collect()
}

impl Machine {
    fn new(seed: u64) -> Machine {
        Machine::with_id(seed, 9)
    }

    fn with_id(seed: u64, id: u8) -> Machine {
        let world = SimWorld::new(seed);
        let executor = Executor::new(&world);
        let mut machine = Machine { world, executor, now_ms: 0 };
        let directory = machine.world.directory();
        machine.executor.run(async move {
            let data = directory.create("data").await.unwrap();
            let options = CreateOptions {
                id: PoolId([id; 16]),
                hash: HashAlgorithm::Blake3,
                log_segments: 4,
                log_segment_bytes: 64 << 10,
                data_on_device: false,
                now_unix_s: 1,
            };
            Pool::create(&directory, &data, &options).await.unwrap();
        });
        machine
    }

    fn open(&mut self) -> SimPool {
        let directory = self.world.directory();
        let journal = Box::new(self.world.mapped(1 << 20));
        let options = OpenOptions {
            boot_id: self.world.boot_id(),
            grow_regions: 1,
            space_reserve_bytes: 0,
            region_cool_ms: 500,
            ..OpenOptions::default()
        };
        let pool = self.executor.run(async move {
            let data = directory.open("data").await.unwrap();
            Pool::open(directory, data, journal, options).await.unwrap()
        });
        let [sync, commit, maintenance] = [0, 1, 2].map(|_| Arc::clone(&pool));
        self.executor.spawn(async move { sync.run_sync().await });
        self.executor.spawn(async move { commit.run_commit().await });
        self.executor.spawn(async move { maintenance.run_maintenance().await });
        pool
    }

    fn pass(&mut self, pool: &SimPool, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            pool.tick(self.now_ms);
            self.executor.run_until_idle();
        }
    }

    /// Writes an image `a`, a snapshot `s` of it and a clone `c` of that.
    fn fill(&mut self, pool: &SimPool) {
        let pool = Arc::clone(pool);
        self.executor.run(async move {
            pool.create_image(&name("a"), IMAGE_BYTES, 1).await.unwrap();
            let volume = pool.open_image(&name("a"), client(true)).unwrap();
            let write = async |offset: u64, bytes: Vec<u8>| {
                volume.write(offset, Buffer::copy_of(&bytes), false).await.unwrap();
            };
            write(0, pattern(2, 100_000)).await;
            write(5 << 20, pattern(4, 300_000)).await;
            write(IMAGE_BYTES - 512, pattern(6, 512)).await;
            pool.snapshot_image(&name("a"), &name("s"), 2).await.unwrap();
            pool.clone_image(&name("s"), &name("c"), 2).await.unwrap();
            write(8192, pattern(8, 20_000)).await;
            for round in 0..60 {
                // Enough batches for a checkpoint.
                write((6 << 20) + 4096 * round, pattern(12, 4096)).await;
                volume.flush().await.unwrap();
            }
        });
    }

    fn contents(&mut self, pool: &SimPool) -> Contents {
        let pool = Arc::clone(pool);
        self.executor.run(async move {
            let mut contents = Contents::new();
            for image in pool.images() {
                let volume = pool.open_image(&image.name, client(false)).unwrap();
                let mut bytes = Vec::new();
                for segment in volume.read(0, image.size_bytes).await.unwrap() {
                    match segment {
                        Segment::Data(data) => bytes.extend_from_slice(&data),
                        Segment::Zeroes(count) => bytes.resize(bytes.len() + count as usize, 0),
                    }
                }
                contents.insert(image.name.to_string(), bytes);
            }
            contents
        })
    }

    /// Closes the pool in order.
    fn close(&mut self, pool: SimPool) {
        self.pass(&pool, 2_000);
        let closer = Arc::clone(&pool);
        self.executor.run(async move { closer.shutdown().await.unwrap() });
        drop(pool);
        self.executor.kill();
    }

    fn kill(&mut self, pool: SimPool) {
        drop(pool);
        self.executor.kill();
    }

    fn try_check(&mut self, read_data: bool) -> Result<CheckReport, blockyard_block::Error> {
        let directory = self.world.directory();
        let mut journal = self.world.mapped(1 << 20);
        let options = CheckOptions { read_data, boot_id: self.world.boot_id() };
        self.executor.run(async move {
            let data = directory.open("data").await.unwrap();
            let mut done = 0;
            let mut watch = |progress: CheckProgress| {
                assert!(progress.bytes_done >= done, "progress goes forward");
                assert!(progress.bytes_done <= progress.bytes_total);
                done = progress.bytes_done;
            };
            check(&directory, &data, Some(&mut journal), &options, &mut watch).await
        })
    }

    fn check(&mut self) -> CheckReport {
        self.try_check(true).unwrap()
    }

    /// The only finding about a place in an image; whatever else was found is of no place.
    fn places(report: &CheckReport) -> Vec<(String, u64)> {
        let places = report
            .findings
            .iter()
            .filter_map(|finding| Some((finding.image.as_ref()?.to_string(), finding.offset?)));
        let mut places: Vec<_> = places.collect();
        places.sort();
        places
    }

    /// All files as they are now.
    fn files(&mut self) -> BTreeMap<String, Vec<u8>> {
        let directory = self.world.directory();
        let parts = self.executor.run(async move { directory.list("checkpoint").await.unwrap() });
        let mut names: Vec<String> = FILES.iter().map(|name| (*name).to_owned()).collect();
        names.extend(parts.iter().map(|part| format!("checkpoint/{part}")));
        let read = |name: String| {
            let length = self.world.peek_length(&name)?;
            let bytes = self.world.peek(&name, 0, length as usize)?;
            Some((name, bytes))
        };
        names.into_iter().filter_map(read).collect()
    }

    /// Where `bytes` lie in a file, at a multiple of their length.
    fn find(&self, file: &str, bytes: &[u8]) -> u64 {
        let length = self.world.peek_length(file).unwrap();
        let all = self.world.peek(file, 0, length as usize).unwrap();
        let at = all.chunks(bytes.len()).position(|chunk| chunk == bytes);
        (at.expect("the content is stored") * bytes.len()) as u64
    }

    fn overwrite(&mut self, file: &str, bytes: Vec<u8>) {
        let (directory, file) = (self.world.directory(), file.to_owned());
        self.executor.run(async move {
            let disk = directory.open(&file).await.unwrap();
            disk.set_length(0).await.unwrap();
            disk.set_length(bytes.len() as u64).await.unwrap();
            disk.write(0, Buffer::copy_of(&bytes)).await.unwrap();
        });
    }

    fn cut(&mut self, file: &'static str, length: u64) {
        let directory = self.world.directory();
        self.executor.run(async move {
            directory.open(file).await.unwrap().set_length(length).await.unwrap();
        });
    }

    fn remove(&mut self, file: &str) {
        let (directory, file) = (self.world.directory(), file.to_owned());
        self.executor.run(async move { directory.remove(&file).await.unwrap() });
    }

    /// Puts all files back as they were.
    fn restore(&mut self, files: &BTreeMap<String, Vec<u8>>) {
        for (file, bytes) in self.files() {
            match files.get(&file) {
                None => self.remove(&file),
                Some(before) if *before != bytes => self.overwrite(&file, before.clone()),
                Some(_) => {}
            }
        }
    }
}

fn closed(seed: u64) -> Machine {
    let mut machine = Machine::new(seed);
    let pool = machine.open();
    machine.fill(&pool);
    machine.close(pool);
    machine
}

fn messages(report: &CheckReport) -> String {
    report.findings.iter().map(|Finding { message, .. }| format!("{message}\n")).collect()
}

#[test]
fn a_pool_that_was_never_opened_is_sound() {
    let report = Machine::new(1).check();
    assert!(report.is_sound(), "{report:?}");
    assert!(report.counts.closed_clean);
}

#[test]
fn a_closed_pool_is_sound_and_every_cluster_is_verified() {
    for seed in 0..10 {
        let report = closed(seed).check();
        assert!(report.is_sound(), "seed {seed}: {report:?}");
        let counts = report.counts;
        assert!(counts.closed_clean);
        assert_eq!((counts.images, counts.clusters_untrusted), (3, 0), "seed {seed}");
        assert!(counts.clusters_used > 90 && counts.clusters_shared > 50, "{counts:?}");
        assert_eq!(counts.clusters_verified, counts.clusters_used);
    }
}

#[test]
fn a_crashed_pool_is_sound_and_its_untrusted_clusters_are_counted() {
    for seed in 0..30 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.fill(&pool);
        machine.pass(&pool, if seed % 2 == 0 { 2_000 } else { 0 });
        let writer = Arc::clone(&pool);
        machine.executor.run(async move {
            let volume = writer.open_image(&name("c"), client(true)).unwrap();
            let bytes = Buffer::copy_of(&pattern(10, 50_000));
            volume.write(3 << 20, bytes, false).await.unwrap();
        });
        drop(pool);
        if seed % 3 == 0 {
            machine.executor.cut_power()
        } else {
            machine.executor.kill()
        }
        let report = machine.check();
        assert!(report.is_sound(), "seed {seed}: {report:?}");
        let counts = report.counts;
        assert!(!counts.closed_clean);
        if seed % 3 != 0 {
            assert!(counts.journal_changes > 0, "seed {seed}: {counts:?}");
            assert!(counts.clusters_untrusted >= 13, "seed {seed}: {counts:?}");
        }
        let pool = machine.open();
        let status = pool.status().unwrap();
        assert_eq!(status.clusters_untrusted, counts.clusters_untrusted, "seed {seed}");
        assert_eq!(status.bytes_physical, counts.clusters_used * 4096, "seed {seed}");
    }
}

#[test]
fn checking_changes_no_byte() {
    for killed in [false, true] {
        let mut machine = Machine::new(4);
        let pool = machine.open();
        machine.fill(&pool);
        if killed {
            machine.kill(pool)
        } else {
            machine.close(pool)
        }
        let (before, journal) = (machine.files(), machine.journal());
        assert!(machine.check().is_sound());
        assert!(before == machine.files() && journal == machine.journal());
    }
}

impl Machine {
    fn journal(&self) -> Vec<u8> {
        use blockyard_io::Mapped;
        self.world.mapped(1 << 20).bytes().to_vec()
    }
}

#[test]
fn a_flipped_bit_in_data_is_found_with_every_image_and_offset_that_shows_it() {
    let mut machine = closed(5);
    let at = machine.find("data", &pattern(4, 300_000)[8192..12_288]);
    machine.world.flip_bit("data", at + 77, 3);
    assert!(machine.try_check(false).unwrap().is_sound(), "only --data reads the data");
    let report = machine.check();
    let offset = (5 << 20) + 8192;
    let expected = ["a", "c", "s"].map(|image| (image.to_owned(), offset));
    assert_eq!(Machine::places(&report), expected, "{report:?}");
    assert!(messages(&report).contains(&format!("data at {at} ")), "{report:?}");
}

#[test]
fn a_flipped_bit_in_hashes_is_found_without_reading_data() {
    let mut machine = closed(6);
    let hash = HashAlgorithm::Blake3.hash(&pattern(8, 20_000)[..4096]);
    let at = machine.find("hashes", &hash.0);
    machine.world.flip_bit("hashes", at, 0);
    for read_data in [false, true] {
        let report = machine.try_check(read_data).unwrap();
        assert!(Machine::places(&report).contains(&("a".to_owned(), 8192)), "{report:?}");
        assert!(messages(&report).contains("hash table"), "{report:?}");
    }
}

#[test]
fn behind_an_intent_stale_hashes_are_no_damage() {
    let mut machine = Machine::new(7);
    let pool = machine.open();
    machine.fill(&pool);
    machine.kill(pool);
    let length = machine.world.peek_length("hashes").unwrap();
    for page in (32_768 / 4096)..length / 4096 {
        machine.world.flip_bit("hashes", page * 4096 + 5, 1);
    }
    let report = machine.check();
    let counts = &report.counts;
    assert!(counts.regions_with_intent > 0);
    let trusted = counts.clusters_used - counts.clusters_untrusted - counts.clusters_reserved;
    assert_eq!((trusted, Machine::places(&report)), (0, Vec::new()), "{report:?}");
}

#[test]
fn files_that_were_cut_short_are_named_with_what_is_lost() {
    let mut machine = closed(8);
    let at = machine.find("data", &pattern(4, 300_000)[8192..12_288]);
    machine.cut("data", at);
    let report = machine.check();
    assert!(!Machine::places(&report).is_empty(), "{report:?}");
    assert!(messages(&report).contains("cut short"), "{report:?}");

    let mut machine = closed(8);
    machine.cut("hashes", 32_768);
    let report = machine.check();
    assert!(Machine::places(&report).contains(&("a".to_owned(), 0)), "{report:?}");

    for file in FILES {
        let mut machine = closed(8);
        machine.cut(file, 0);
        assert!(!machine.check().is_sound(), "{file}");
        let mut machine = closed(8);
        machine.cut(file, 4096);
        assert!(!machine.check().is_sound(), "{file}");
    }
}

#[test]
fn a_missing_log_or_hash_table_is_unsound_and_an_empty_folder_is_no_pool() {
    for (file, word) in [("log", "log is"), ("hashes", "hashes is missing")] {
        let mut machine = closed(9);
        machine.remove(file);
        let report = machine.check();
        assert!(messages(&report).contains(word), "{report:?}");
    }
    let mut machine = Machine { world: SimWorld::new(1), ..Machine::new(1) };
    machine.executor = Executor::new(&machine.world);
    let directory = machine.world.directory();
    machine.executor.run(async move { drop(directory.create("data").await.unwrap()) });
    assert_eq!(machine.try_check(true).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn files_of_another_pool_are_told_apart() {
    let mut other = Machine::with_id(10, 10);
    let pool = other.open();
    other.fill(&pool);
    other.close(pool);
    let others = other.files();
    for file in FILES {
        let mut machine = closed(10);
        machine.overwrite(file, others[file].clone());
        let report = machine.check();
        assert!(messages(&report).contains("belongs to"), "{file}: {report:?}");
        assert!(Machine::places(&report).is_empty(), "no flood: {report:?}");
    }
}

#[test]
fn older_copies_are_told_apart() {
    let mut machine = closed(11);
    let older = machine.files();
    let pool = machine.open();
    machine.close(pool);
    let newer = machine.files();
    for file in FILES {
        machine.overwrite(file, older[file].clone());
        let report = machine.check();
        assert!(messages(&report).contains("older copy"), "{file}: {report:?}");
        machine.overwrite(file, newer[file].clone());
        assert!(machine.check().is_sound());
    }
}

/// Flips one bit at a time in a pool that was closed in order. Whatever `check` calls sound opens and
/// reads as before.
#[test]
fn no_flipped_bit_makes_a_closed_pool_pass_with_another_content() {
    let mut found = 0;
    let mut harmless = 0;
    for seed in 0..3 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.fill(&pool);
        let contents = machine.contents(&pool);
        machine.close(pool);
        let files = machine.files();
        assert!(files.len() > FILES.len(), "there is a checkpoint");
        for flip in 0..40 {
            let (file, offset) = pick(&machine.world, &files);
            let bit = machine.world.random_below(8) as u8;
            assert!(machine.world.flip_bit(&file, offset, bit));
            if machine.try_check(true).is_ok_and(|report| report.is_sound()) {
                harmless += 1;
                let pool = machine.open();
                let place = format!("seed {seed}, flip {flip}: bit {bit} of {file} at {offset}");
                assert!(machine.contents(&pool) == contents, "{place}");
                machine.kill(pool);
                machine.restore(&files);
            } else {
                found += 1;
                machine.world.flip_bit(&file, offset, bit);
            }
        }
    }
    assert!(found > 50 && harmless > 10, "found {found}, harmless {harmless}");
}

/// The same while a daemon's work is half done: trusted content never passes as what it is not.
#[test]
fn no_flipped_bit_in_a_killed_pool_makes_check_panic() {
    for seed in 0..6 {
        let mut machine = Machine::new(seed);
        let pool = machine.open();
        machine.fill(&pool);
        machine.kill(pool);
        let files = machine.files();
        for _ in 0..40 {
            let (file, offset) = pick(&machine.world, &files);
            machine.world.flip_bit(&file, offset, 1);
            let _ = machine.try_check(true); // it may find or miss it: nothing vouches for all
            machine.world.flip_bit(&file, offset, 1);
        }
        assert!(machine.check().is_sound(), "seed {seed}");
    }
}

/// A random place, mostly in blocks that hold something.
fn pick(world: &SimWorld, files: &BTreeMap<String, Vec<u8>>) -> (String, u64) {
    let (file, bytes) = files.iter().nth(world.random_below(files.len() as u64) as usize).unwrap();
    if world.random_below(8) == 0 {
        return (file.clone(), world.random_below(bytes.len() as u64));
    }
    let blocks: Vec<usize> = (0..bytes.len() / 4096)
        .filter(|block| bytes[block * 4096..(block + 1) * 4096].iter().any(|byte| *byte != 0))
        .collect();
    let block = blocks[world.random_below(blocks.len() as u64) as usize];
    let within = world.random_below(if file == "log" { 256 } else { 4096 });
    (file.clone(), (block * 4096) as u64 + within)
}
