//! From a file or a stream of raw bytes into an image.
//!
//! The image is hidden until its last byte is durable: an import that ends early, for whatever
//! reason, leaves nothing. The engine sees to that; this only reveals at the very end.

use super::copy::{Shape, Sink, copy};
use super::detect::Detected;
use super::progress::Progress;
use super::raw::RawSource;
use super::source::{Opened, SourceOptions, open};
use super::stream::spool;
use crate::daemon::jobs::JobHandle;
use blockyard_api::{FileFormat, ImportFile};
use blockyard_block::{
    BlockDevice, Buffer, CLUSTER_SIZE, Error, ErrorKind, ImageName, Result, SECTOR_SIZE,
};
use blockyard_io::Directory;
use blockyard_pool::Pool;
use pollster::block_on;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Reading, hashing and writing of several chunks overlap, and the disk always has one to write; more
/// threads than that only compete with the guests.
const THREADS: usize = 4;

/// What an import stored. The image is visible under its name.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) format: FileFormat,
    /// Bytes that were not zero and so were stored.
    pub(crate) bytes_stored: u64,
}

/// Imports `request.path` as `name`. Formats that only `qemu-img` reads are first converted into
/// an unnamed file in `temporary_folder`.
pub(crate) fn import_file<D: Directory>(
    pool: &Arc<Pool<D>>,
    name: &ImageName,
    request: &ImportFile,
    temporary_folder: &Path,
    job: &JobHandle,
) -> Result<Imported> {
    let options = SourceOptions { format: request.format, ..SourceOptions::new(temporary_folder) };
    let opened = open(Path::new(&request.path), &options, &|| job.is_cancelled())
        .map_err(|error| error.at(&request.path))?;
    if let Some(note) = rounding_note(opened.source.size()) {
        job.note(note);
    }
    import_source(pool, name, &opened, &Progress::of(job))
}

/// Imports raw bytes until `source` ends; the size is what came, rounded up to 512. An error from
/// `source` means that the sender went away: nothing remains.
///
/// The size of an image is fixed before its first write, so the stream is kept in an unnamed sparse
/// file in `temporary_folder` first.
pub(crate) fn import_stream<D: Directory>(
    pool: &Arc<Pool<D>>,
    name: &ImageName,
    source: &mut dyn Read,
    temporary_folder: &Path,
) -> Result<Imported> {
    let (file, length) = spool(source, temporary_folder)?;
    let source = Box::new(RawSource::new(file, length));
    let opened = Opened { source, format: Detected::Raw };
    import_source(pool, name, &opened, &Progress::unseen())
}

fn import_source<D: Directory>(
    pool: &Arc<Pool<D>>,
    name: &ImageName,
    opened: &Opened,
    progress: &Progress<'_>,
) -> Result<Imported> {
    let size = rounded_size(opened.source.size())?;
    let volume = block_on(pool.begin_import(name, size, now_unix_s()))?;
    copy(&*opened.source, &VolumeSink(&volume), shape(size), progress)?;
    block_on(pool.reveal_import(volume))?;
    // Clusters of zeros among the data were dropped by the engine, which alone knows them all.
    let bytes_stored = pool.image(name).map_or(progress.moved_bytes(), |image| image.bytes_mapped);
    Ok(Imported { format: opened.format.named(), bytes_stored })
}

fn now_unix_s() -> u64 {
    // A clock before 1970 is no reason to refuse an import.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the user should know if the size of the disk is no size of an image.
fn rounding_note(size: u64) -> Option<String> {
    let rounded = size.checked_next_multiple_of(SECTOR_SIZE)?;
    (rounded != size).then(|| {
        format!("its {size} bytes are not a multiple of {SECTOR_SIZE}: rounded up to {rounded}")
    })
}

/// Images are whole sectors.
pub(super) fn rounded_size(size: u64) -> Result<u64> {
    if size == 0 {
        return Err(Error::new(ErrorKind::InvalidArgument, "the disk is empty (0 bytes)"));
    }
    size.checked_next_multiple_of(SECTOR_SIZE).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, format!("a disk of {size} bytes is too large"))
    })
}

pub(super) fn shape(size: u64) -> Shape {
    Shape { size, granularity: CLUSTER_SIZE as u64, threads: THREADS }
}

/// Writes into an image; durable only when it is revealed.
pub(super) struct VolumeSink<'a, B>(pub(super) &'a B);

impl<B: BlockDevice> Sink for VolumeSink<'_, B> {
    fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        block_on(self.0.write(offset, data, false))
    }
}

#[cfg(test)]
mod tests;
