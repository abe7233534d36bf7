//! The raw file with no server before it: making it, and writing it durably.

use crate::Result;
use crate::client::stamp::{self, Random};
use crate::histogram::Histogram;
use crate::servers::Mode;
use blockyard_block::BufferMut;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

fn open(path: &Path, mode: Mode) -> Result<File> {
    let flags = if mode == Mode::Direct { OFlags::DIRECT.bits() as i32 } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
    Ok(options.open(path).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Writes `size` bytes, past the cache, so that no block of the file is a hole or fallocated.
pub(crate) fn fill(path: &Path, size: u64) -> Result<()> {
    let file = open(path, Mode::Direct)?;
    let mut buffer = BufferMut::copy_of(&stamp::noise(1 << 20, 1));
    let length = buffer.len() as u64;
    for part in 0..size / length {
        stamp::put(&mut buffer, part * length, 0);
        file.write_all_at(&buffer, part * length)?;
    }
    Ok(file.sync_all()?)
}

/// Random overwrites of 4 KiB, each followed by fdatasync.
pub(crate) fn durable_writes(
    path: &Path,
    mode: Mode,
    size: u64,
    time: Duration,
) -> Result<(Histogram, Duration)> {
    let file = open(path, mode)?;
    let mut buffer = BufferMut::copy_of(&stamp::noise(stamp::CLUSTER, 2));
    let mut random = Random::new(3);
    let mut latencies = Histogram::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let offset = random.next() % (size / stamp::CLUSTER as u64) * stamp::CLUSTER as u64;
        stamp::put(&mut buffer, offset, latencies.total());
        let began = Instant::now();
        file.write_all_at(&buffer, offset)?;
        file.sync_data()?;
        latencies.record(began.elapsed().as_nanos() as u64);
    }
    Ok((latencies, begun.elapsed()))
}
