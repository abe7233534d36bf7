//! From an image into a file, a block device or a stream.
//!
//! A file is written without a name beside its place, made durable, and only then named: an export
//! that ends early leaves nothing, and what was there before stays until it is replaced as a whole.
//! A block device is written in place. qcow2 is written by `imago`, in this process: the way
//! through `qemu-img` would need that program and a socket of our own, for the same file.

use super::copy::{CHUNK_BYTES, Shape, Sink, copy};
use super::progress::Progress;
use super::publish::NewFile;
use super::source::{Run, Source};
use super::stream::write_stream;
use super::unreadable::Unreadable;
pub(crate) use super::unreadable::UnreadableRun;
use crate::daemon::jobs::JobHandle;
use blockyard_api::{ExportFile, FileFormat};
use blockyard_block::{
    AllocationState, BlockDevice, Buffer, CLUSTER_SIZE, Error, ErrorKind, ImageName, Result,
    Segment,
};
use blockyard_io::Directory;
use blockyard_pool::{Client, Pool};
use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use pollster::block_on;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: usize = 3;
/// The cluster size that qemu-img chooses too.
const QCOW2_CLUSTER: u64 = 64 << 10;
const _: () = assert!(CHUNK_BYTES.is_multiple_of(QCOW2_CLUSTER));

/// What an export wrote. The file is durable.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) size_bytes: u64,
    /// Bytes that were not zero and so were written.
    pub(crate) bytes_written: u64,
    /// Bytes that could not be read, and the first places of them.
    pub(crate) bytes_unreadable: u64,
    pub(crate) unreadable: Vec<UnreadableRun>,
}

/// Writes the image to `request.path`: whole, or not at all. What clients write meanwhile may or
/// may not be in it; export a snapshot to have one moment.
pub(crate) fn export_file<D: Directory>(
    pool: &Arc<Pool<D>>,
    name: &ImageName,
    request: &ExportFile,
    job: &JobHandle,
) -> Result<Exported> {
    let volume = pool.open_image(name, client())?;
    let read_cluster = |cluster| block_on(volume.read_compared(cluster));
    write_file(&volume, &read_cluster, request, &Progress::of(job))
}

/// Writes the image to `target`, raw and with its zeros.
pub(crate) fn export_stream<D: Directory>(
    pool: &Arc<Pool<D>>,
    name: &ImageName,
    target: &mut dyn Write,
) -> Result<()> {
    let volume = pool.open_image(name, client())?;
    write_stream(&DeviceSource { device: &volume, salvage: None }, target, &Progress::unseen())
}

/// An export is listed among the image's clients. Its number cannot meet one of a connection,
/// which are counted from 1.
fn client() -> Client {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
    Client {
        connection: NEXT.fetch_add(1, Ordering::Relaxed),
        pid: None,
        uid: None,
        writes: false,
        purpose: "export".to_owned(),
    }
}

/// One whole cluster, compared with its hash.
type ReadCluster<'a> = &'a (dyn Fn(u64) -> Result<Buffer> + Sync);

fn write_file<B: BlockDevice>(
    device: &B,
    read_cluster: ReadCluster<'_>,
    request: &ExportFile,
    progress: &Progress<'_>,
) -> Result<Exported> {
    let unreadable = Unreadable::default();
    let salvage = Salvage { read_cluster, unreadable: &unreadable };
    let source = DeviceSource { device, salvage: request.damaged.then_some(salvage) };
    let path = Path::new(&request.path);
    progress.set_total(source.size());
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        write_device(&source, request, progress)?;
    } else {
        let new = NewFile::create(path, request.overwrite)?;
        match request.format {
            FileFormat::Raw => write_raw(&source, new.file(), progress)?,
            FileFormat::Qcow2 => write_qcow2(&source, new.file(), progress)?,
            FileFormat::Vmdk => {
                let message = "vmdk is not exported; raw and qcow2 are";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        new.publish()?;
    }
    let size_bytes = source.size();
    let (bytes_unreadable, unreadable) = unreadable.told();
    let bytes_written = progress.moved_bytes();
    Ok(Exported { size_bytes, bytes_written, bytes_unreadable, unreadable })
}

fn write_raw(source: &dyn Source, file: &File, progress: &Progress<'_>) -> Result<()> {
    let size = source.size();
    file.set_len(size).map_err(|error| Error::io("size of the new file", error))?;
    let shape = Shape { size, granularity: CLUSTER_SIZE as u64, threads: THREADS };
    copy(source, &RawSink(file), shape, progress)
}

fn write_qcow2(source: &dyn Source, file: &File, progress: &Progress<'_>) -> Result<()> {
    let failed = |error| Error::io("write of qcow2", error);
    let storage = file.try_clone().and_then(ImagoFile::try_from).map_err(failed)?;
    let size = source.size();
    let disk = Qcow2::<ImagoFile>::create_builder(storage)
        .size(size)
        .cluster_size(QCOW2_CLUSTER as usize)
        .create_open(DenyImplicitOpenGate::default(), |image| {
            Ok(Qcow2::<ImagoFile>::builder(image).backing(None).write(true))
        })
        .map_err(failed)?;
    let disk = FormatAccess::new(disk);
    // One writer: imago holds a table's lock over the write of its data.
    let shape = Shape { size, granularity: QCOW2_CLUSTER, threads: 1 };
    copy(source, &Qcow2Sink(&disk), shape, progress)?;
    disk.flush().map_err(failed)
}

/// Writes raw bytes over a block device, zeros too, as it may hold anything.
fn write_device(source: &dyn Source, request: &ExportFile, progress: &Progress<'_>) -> Result<()> {
    let place = &request.path;
    if request.format != FileFormat::Raw {
        let message = format!("{place} is a block device: only raw is written there");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if !request.overwrite {
        let message = format!("{place} is a block device; --overwrite replaces what is on it");
        return Err(Error::new(ErrorKind::Exists, message));
    }
    let at_place = |error| Error::io(place, error);
    // On a block device O_EXCL fails if it is mounted or otherwise claimed.
    let mut device = File::options()
        .write(true)
        .custom_flags(OFlags::EXCL.bits().cast_signed())
        .open(place)
        .map_err(at_place)?;
    let room = device.seek(SeekFrom::End(0)).map_err(at_place)?;
    if room < source.size() {
        let message = format!("{place} has {room} bytes, {} are needed", source.size());
        return Err(Error::new(ErrorKind::NoSpace, message));
    }
    device.rewind().map_err(at_place)?;
    write_stream(source, &mut device, progress)?;
    device.sync_all().map_err(at_place)
}

struct RawSink<'a>(&'a File);

impl Sink for RawSink<'_> {
    fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        self.0
            .write_all_at(&data, offset)
            .map_err(|error| Error::io(format_args!("write at {offset}"), error))
    }
}

struct Qcow2Sink<'a>(&'a FormatAccess<ImagoFile>);

impl Sink for Qcow2Sink<'_> {
    fn write(&self, offset: u64, data: Buffer) -> Result<()> {
        self.0
            .write(&data[..], offset)
            .map_err(|error| Error::io(format_args!("write of qcow2 at {offset}"), error))
    }
}

/// An image as something to read.
struct DeviceSource<'a, B> {
    device: &'a B,
    salvage: Option<Salvage<'a>>,
}

/// Goes on after what cannot be read, or is not what was written, and notes it.
struct Salvage<'a> {
    read_cluster: ReadCluster<'a>,
    unreadable: &'a Unreadable,
}

impl Salvage<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let size = CLUSTER_SIZE as u64;
        self.unreadable.read_around(offset, buffer, |at, part| {
            match (self.read_cluster)(at / size) {
                Ok(cluster) => {
                    let within = (at % size) as usize;
                    part.copy_from_slice(&cluster[within..within + part.len()]);
                    Ok(true)
                }
                Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt) => {
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        })
    }
}

impl<B: BlockDevice> Source for DeviceSource<'_, B> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        let runs = block_on(self.device.allocation(offset, self.size() - offset, 1))?;
        let run = runs.first().ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the image has no allocation at {offset}"))
        })?;
        Ok(Run { length: run.length, zero: run.state != AllocationState::Data })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.salvage {
            Some(salvage) => salvage.read(offset, buffer),
            None => self.read_whole(offset, buffer),
        }
    }
}

impl<B: BlockDevice> DeviceSource<'_, B> {
    fn read_whole(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        for segment in block_on(self.device.read(offset, rest.len() as u64))? {
            let (part, after) = rest.split_at_mut(segment.length() as usize);
            match segment {
                Segment::Data(data) => part.copy_from_slice(&data),
                Segment::Zeroes(_) => part.fill(0),
            }
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
