//! For the tests of this folder: an image in memory, content to compare, files made by the real
//! programs. A test whose program is missing says so and is skipped; under CI it fails.

use super::copy::copy;
use super::import::{VolumeSink, rounded_size, shape};
use super::progress::Progress;
use super::source::{Opened, SourceOptions, open};
use blockyard_block::{
    AllocationRun, AllocationState, BlockDevice, Buffer, CLUSTER_SIZE, Result, Segment, ZeroOptions,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tempfile::TempDir;

/// An image in memory that knows which clusters were never written, as the engine does.
pub(super) struct MemoryImage {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryImage {
    pub(super) fn of(bytes: Vec<u8>) -> MemoryImage {
        MemoryImage { bytes: Mutex::new(bytes) }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl BlockDevice for MemoryImage {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<Segment>> {
        let bytes = self.bytes.lock().unwrap();
        let range = &bytes[offset as usize..(offset + length) as usize];
        Ok(range.chunks(64 << 10).map(|part| Segment::Data(Buffer::copy_of(part))).collect())
    }

    async fn write(&self, offset: u64, data: Buffer, _fua: bool) -> Result<()> {
        assert!(offset.is_multiple_of(CLUSTER_SIZE as u64), "a write at {offset} tears a cluster");
        let mut bytes = self.bytes.lock().unwrap();
        bytes[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _offset: u64, _length: u64, _fua: bool) -> Result<()> {
        Ok(())
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: ZeroOptions) -> Result<()> {
        Ok(())
    }

    async fn allocation(&self, offset: u64, length: u64, _: usize) -> Result<Vec<AllocationRun>> {
        let bytes = self.bytes.lock().unwrap();
        let zero = |part: &[u8]| part.iter().all(|&byte| byte == 0);
        let mut parts = bytes[offset as usize..(offset + length) as usize].chunks(CLUSTER_SIZE);
        let first = parts.next().expect("asked for at least a byte");
        let same = parts.take_while(|part| zero(part) == zero(first));
        let length = first.len() as u64 + same.map(|part| part.len() as u64).sum::<u64>();
        let state = if zero(first) { AllocationState::Hole } else { AllocationState::Data };
        Ok(vec![AllocationRun { length, state }])
    }
}

/// A folder with the files of one test.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub(super) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a file of that content.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn options(&self) -> SourceOptions {
        SourceOptions::new(self.folder())
    }

    /// As on a host without qemu-img.
    pub(super) fn options_alone(&self) -> SourceOptions {
        SourceOptions { qemu_img: None, ..self.options() }
    }
}

/// A generator of a reproducible sequence (splitmix64).
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A disk with long and short runs of data, text and zeros.
pub(super) fn disk_content(size: usize, seed: u64) -> Vec<u8> {
    let mut seeded = Seeded(seed);
    let mut content = vec![0; size];
    let mut position = 0;
    while position < size {
        let length = [512, 4096, 65536, 300_000, 1 << 20][seeded.below(5)].min(size - position);
        let part = &mut content[position..position + length];
        match seeded.below(4) {
            0 | 1 => seeded.fill(part),
            2 => part.fill(b'x'),
            _ => {}
        }
        position += length;
    }
    content
}

/// Imports the file into memory, as an import does into an image.
pub(super) fn import(path: &Path, options: &SourceOptions) -> Result<(Opened, Vec<u8>)> {
    let opened = open(path, options, &|| false)?;
    let size = rounded_size(opened.source.size())?;
    let image = MemoryImage::of(vec![0; size as usize]);
    let progress = Progress::unseen();
    copy(&*opened.source, &VolumeSink(&image), shape(size), &progress)?;
    assert!(progress.done_bytes() >= opened.source.size(), "the progress reaches the end");
    Ok((opened, image.content()))
}

/// Whether the program is there; says that the test is skipped if not.
pub(super) fn has(program: &str) -> bool {
    blockyard_testing::have_programs(&[program])
}

/// Runs `qemu-img` and expects it to succeed.
pub(super) fn run_qemu_img<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Vec<u8> {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Converts `source` (raw) to `target` with these options of `qemu-img convert`.
pub(super) fn convert(source: &Path, target: &Path, options: &[&str]) {
    let mut arguments: Vec<&OsStr> =
        vec![OsStr::new("convert"), OsStr::new("-f"), OsStr::new("raw")];
    arguments.extend(options.iter().map(OsStr::new));
    arguments.extend([source.as_os_str(), target.as_os_str()]);
    run_qemu_img(arguments);
}
