//! A whole small pool with bytes changed in its files (checksums do not protect it here), checked,
//! opened and read. What is asked: no panic and no hang, whatever the answer.
//!
//! Input: pieces of 5 bytes: which file, where (2 bytes, in steps of 4), what byte, how many.
#![no_main]

use blockyard_block::{BlockDevice, Buffer, HashAlgorithm, ImageName};
use blockyard_io::{HostDirectory, HostDisk, HostOptions, MappedFile, block_on};
use blockyard_pool::{CheckOptions, Client, CreateOptions, OpenOptions, Pool, PoolId, check};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

const FILES: [&str; 4] = ["log", "data", "hashes", "checkpoint"];

/// The pool as it was made, file by file.
struct Sample {
    folder: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(make);

fn options() -> HostOptions {
    HostOptions { direct: false, ..HostOptions::default() }
}

fn client() -> Client {
    let purpose = "fuzz".to_owned();
    Client { connection: 1, pid: None, uid: None, writes: true, purpose }
}

fn open(folder: &Path) -> blockyard_block::Result<Arc<Pool<HostDirectory>>> {
    let at = |error| blockyard_block::Error::io("pool", error);
    let directory = HostDirectory::open(folder.join("pool"), options()).map_err(at)?;
    let data = HostDisk::open(folder.join("pool/data"), &options()).map_err(at)?;
    let length = Pool::<HostDirectory>::JOURNAL_BYTES as u64;
    let journal = MappedFile::open(&folder.join("journal"), length, Duration::ZERO).map_err(at)?;
    let options = OpenOptions { space_reserve_bytes: 0, ..OpenOptions::default() };
    block_on(Pool::open(directory, data, Box::new(journal), options))
}

fn make() -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("pool");
    let directory = HostDirectory::create(&place, options()).unwrap();
    let data = HostDisk::create(place.join("data"), &options()).unwrap();
    let shape = CreateOptions {
        id: PoolId([7; 16]),
        hash: HashAlgorithm::Blake3,
        log_segments: 8,
        log_segment_bytes: 64 << 10,
        data_on_device: false,
        now_unix_s: 1,
    };
    block_on(Pool::create(&directory, &data, &shape)).unwrap();
    drop((directory, data));
    fill(&open(folder.path()).unwrap());
    let mut files = Vec::new();
    collect(&place, &mut files);
    Sample { folder, files }
}

fn fill(pool: &Arc<Pool<HostDirectory>>) {
    let filled = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What is due in the engine is started by its clock.
        scope.spawn(|| {
            let start = Instant::now();
            while !filled.load(Ordering::Relaxed) {
                pool.tick(start.elapsed().as_millis() as u64);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(|| block_on(pool.run_sync()));
        scope.spawn(|| block_on(pool.run_commit()));
        scope.spawn(|| block_on(pool.run_maintenance()));
        let name = ImageName::parse("web").unwrap();
        block_on(pool.create_image(&name, 8 << 20, 1)).unwrap();
        let volume = pool.open_image(&name, client()).unwrap();
        for at in 0..20 {
            let data = Buffer::copy_of(&vec![at as u8; 4096]);
            block_on(volume.write(at * 12288, data, false)).unwrap();
        }
        block_on(volume.flush()).unwrap();
        drop(volume);
        block_on(pool.shutdown()).unwrap();
        filled.store(true, Ordering::Relaxed);
    });
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(256 << 10);
            files.push((path, bytes));
        }
    }
}

/// Puts every file back as it was, but for what `input` changes.
fn write_files(sample: &Sample, input: &[u8]) {
    for (path, bytes) in &sample.files {
        let name = path.strip_prefix(sample.folder.path().join("pool")).unwrap();
        let mut bytes = bytes.clone();
        for piece in input.chunks_exact(5) {
            let file = FILES[usize::from(piece[0]) % FILES.len()];
            if name.starts_with(file) {
                let at = usize::from(u16::from_le_bytes([piece[1], piece[2]])) * 4;
                let count = usize::from(piece[4] % 8) + 1;
                let end = (at + count).min(bytes.len());
                if at < end {
                    bytes[at..end].fill(piece[3]);
                }
            }
        }
        let file = fs::File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
    let _ = fs::remove_file(sample.folder.path().join("journal")); // none at first
}

fuzz_target!(|input: &[u8]| {
    let sample = &*SAMPLE;
    write_files(sample, &input[..input.len().min(100)]);
    let place = sample.folder.path().join("pool");
    let directory = HostDirectory::open(&place, options()).unwrap();
    let data = HostDisk::open(place.join("data"), &options()).unwrap();
    let how = CheckOptions { read_data: true, ..CheckOptions::default() };
    let _ = block_on(check(&directory, &data, None, &how, &mut |_| {}));
    let Ok(pool) = open(sample.folder.path()) else { return };
    for image in pool.images() {
        let Ok(volume) = pool.open_image(&image.name, client()) else { continue };
        let length = volume.size().min(1 << 20);
        let _ = block_on(volume.read(0, length));
    }
});
