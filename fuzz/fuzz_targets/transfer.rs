//! A stranger's half of a conversation between daemons, to a side with a pool. What is asked: no panic, no hang;
//! whatever the stranger says, the pool's image stays what it is, what becomes an image has the content that its
//! hashes say, and of anything else nothing is left.
//!
//! Input: a byte for who listens and how, then messages: a length (2 bytes), and so many bytes of protobuf.
#![no_main]

use blockyard_block::{BlockDevice, Buffer, HashAlgorithm, ImageName, Segment};
use blockyard_io::{HostDirectory, HostDisk, HostOptions, MappedFile, block_on};
use blockyard_pool::{Client, CreateOptions, OpenOptions, Pool, PoolId, Volume};
use blockyard_transfer::Terms;
use blockyard_transfer::fuzzing::{Side, hear};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

type HostPool = Pool<HostDirectory>;

const EXTENT: u64 = 4 << 20;
/// Of larger images the content is not compared.
const READ_MAX: u64 = 64 << 20;
/// Whether space is used that nobody names is asked once in so many inputs: a commit must be waited for.
const SPACE_EACH: u64 = 64;
const SPACE_LOOKS: u32 = 20_000;

/// A pool with an image, and the threads that it needs. It lives as long as the process, and its folder is left to
/// whoever started that.
struct Sample {
    _folder: tempfile::TempDir,
    pool: Arc<HostPool>,
    source: Volume<HostDirectory>,
    digest: [u8; 32],
    hash: HashAlgorithm,
    inputs: AtomicU64,
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static BLAKE3: LazyLock<Sample> = LazyLock::new(|| make(HashAlgorithm::Blake3));
static SHA1: LazyLock<Sample> = LazyLock::new(|| make(HashAlgorithm::Sha1));

fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

fn client(writes: bool) -> Client {
    Client { connection: 1, pid: None, uid: None, writes, purpose: "fuzz".to_owned() }
}

fn make(hash: HashAlgorithm) -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let options = HostOptions { direct: false, ..HostOptions::default() };
    let directory = HostDirectory::create(folder.path(), options.clone()).unwrap();
    let data = HostDisk::create(folder.path().join("data"), &options).unwrap();
    let shape = CreateOptions {
        id: PoolId([7; 16]),
        hash,
        log_segments: 8,
        log_segment_bytes: 1 << 20,
        data_on_device: false,
        now_unix_s: 1,
    };
    block_on(Pool::create(&directory, &data, &shape)).unwrap();
    let length = HostPool::JOURNAL_BYTES as u64;
    let journal = MappedFile::open(&folder.path().join("journal"), length, Duration::ZERO);
    let opened = OpenOptions {
        capacity_bytes: Some(64 << 20),
        space_reserve_bytes: 0,
        commit_interval_ms: 50,
        ..OpenOptions::default()
    };
    let pool = block_on(Pool::open(directory, data, Box::new(journal.unwrap()), opened)).unwrap();
    start(&pool);
    block_on(pool.create_image(&name("web"), 1 << 20, 1)).unwrap();
    let volume = pool.open_image(&name("web"), client(true)).unwrap();
    for cluster in 0..10u8 {
        block_on(volume.write(u64::from(cluster) * 8192, content(cluster), false)).unwrap();
    }
    drop(volume);
    let source = pool.open_image(&name("web"), client(false)).unwrap();
    let digest = block_on(source.digest()).unwrap().0;
    Sample { _folder: folder, pool, source, digest, hash, inputs: AtomicU64::new(0) }
}

/// Does not compress below a byte for each four.
fn content(number: u8) -> Buffer {
    let bytes: Vec<u8> = (0..4096u32).map(|at| (at / 4) as u8 ^ number).collect();
    Buffer::copy_of(&bytes)
}

fn start(pool: &Arc<HostPool>) {
    for run in [
        |pool: &HostPool| block_on(pool.run_sync()),
        |pool: &HostPool| block_on(pool.run_commit()),
        |pool: &HostPool| block_on(pool.run_maintenance()),
    ] {
        let pool = Arc::clone(pool);
        thread::spawn(move || run(&pool));
    }
    let (pool, started) = (Arc::clone(pool), Instant::now());
    thread::spawn(move || {
        loop {
            pool.tick(started.elapsed().as_millis() as u64);
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// What the image's hashes say is what reading it gives.
fn judge_content(sample: &Sample, image: &ImageName) {
    let Ok(volume) = sample.pool.open_image(image, client(false)) else { return };
    if volume.size() > READ_MAX {
        return;
    }
    for (index, _) in block_on(volume.extent_summaries(0, 1 << 10)).unwrap() {
        let hashes = block_on(volume.extent_hashes(index)).unwrap();
        let (start, end) = (index * EXTENT, volume.size().min((index + 1) * EXTENT));
        let mut bytes = Vec::new();
        for segment in block_on(volume.read(start, end - start)).unwrap() {
            match segment {
                Segment::Data(data) => bytes.extend_from_slice(&data),
                Segment::Zeroes(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
            }
        }
        bytes.resize(EXTENT as usize, 0);
        for (slot, cluster) in bytes.chunks(4096).enumerate() {
            match hashes.get(slot) {
                Some(told) => assert_eq!(told, sample.hash.hash(cluster), "{index} {slot}"),
                None => assert!(cluster.iter().all(|byte| *byte == 0), "{index} {slot}"),
            }
        }
    }
}

/// Compares and removes what the stranger made, and looks whether anything else changed.
fn judge(sample: &Sample) {
    for image in sample.pool.images() {
        if image.name.to_string() != "web" {
            judge_content(sample, &image.name);
            block_on(sample.pool.remove_image(&image.name, false)).unwrap();
        }
    }
    assert_eq!(block_on(sample.source.digest()).unwrap().0, sample.digest);
    sample.pool.remove_left(1, |_| true);
    if sample.inputs.fetch_add(1, Ordering::Relaxed).is_multiple_of(SPACE_EACH) {
        // Counted, not timed: whoever stops the process for a while must not find anything.
        let mut looks = 0;
        while sample.pool.bytes_physical() != Some(10 * 4096) {
            assert!(looks < SPACE_LOOKS, "{:?}", sample.pool.status());
            thread::sleep(Duration::from_millis(1));
            looks += 1;
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, mut rest)) = bytes.split_first() else { return };
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (message, after) = after.split_at(length);
        messages.push(message);
        rest = after;
    }
    let sample: &Sample = if how & 4 == 0 { &BLAKE3 } else { &SHA1 };
    let target = name("new");
    let side = match how & 3 {
        0 => Side::Pushes(&sample.source),
        1 => Side::Pulls(&target),
        _ => Side::Called,
    };
    let terms = Terms { compress: how & 8 == 0, verify: how & 16 == 0, ..Terms::default() };
    let _ = hear(RUNTIME.handle(), &sample.pool, side, terms, &messages);
    judge(sample);
});
