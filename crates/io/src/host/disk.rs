//! A file or block device of the host, with blocking calls.
//!
//! Offsets and lengths of reads, writes, allocations and punches must be multiples of 4096 in both
//! modes, so that what works buffered also works direct. Memory need not be aligned: what O_DIRECT
//! would refuse is copied.
//!
//! On a thread that has a [`Ring`](crate::Ring), reads, direct writes and syncs go to it; elsewhere, and
//! for all else, the calls block. Buffered data is read without waiting if it is cached, and written by a
//! plain call: file systems hand buffered writes of a ring to worker threads, which costs more.

use super::fence::{self, Fence};
use super::open::{self, HostOptions, Opened};
use super::sync_point::SyncPoint;
use super::transfer::{advance, read_whole, write_whole};
use super::{at, space};
use crate::Disk;
use crate::ring::{self, Core};
use blockyard_block::{Buffer, BufferMut, CLUSTER_SIZE};
use rustix::fs::{Advice, SeekFrom};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// One open description of one file or block device, closed when this is dropped.
pub struct HostDisk {
    file: Arc<File>,
    direct: bool,
    block_device: bool,
    syncs: SyncPoint,
}

impl HostDisk {
    /// Opens an existing file or block device. A device opened for writing is claimed (O_EXCL).
    pub fn open(path: impl AsRef<Path>, options: &HostOptions) -> io::Result<HostDisk> {
        HostDisk::open_in(rustix::fs::CWD, path.as_ref(), options)
    }

    /// Makes a new file of length zero with mode 0600; `AlreadyExists` if the name is taken.
    pub fn create(path: impl AsRef<Path>, options: &HostOptions) -> io::Result<HostDisk> {
        HostDisk::create_in(rustix::fs::CWD, path.as_ref(), options)
    }

    pub(super) fn open_in(
        folder: BorrowedFd<'_>,
        path: &Path,
        options: &HostOptions,
    ) -> io::Result<HostDisk> {
        Ok(HostDisk::from(open::open(folder, path, options)?))
    }

    pub(super) fn create_in(
        folder: BorrowedFd<'_>,
        path: &Path,
        options: &HostOptions,
    ) -> io::Result<HostDisk> {
        Ok(HostDisk::from(open::create(folder, path, options)?))
    }

    /// Whether I/O passes the page cache by. False although asked for means that the file system
    /// refused O_DIRECT, which deserves a warning.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Takes the fence, or changes its kind; `ResourceBusy` if somebody else is in the way.
    pub fn lock(&self, fence: Fence) -> io::Result<()> {
        self.lock_within(fence, Duration::ZERO)
    }

    /// As [`HostDisk::lock`], but gives somebody else the time to go away.
    pub fn lock_within(&self, fence: Fence, wait: Duration) -> io::Result<()> {
        fence::lock(&self.file, fence, wait)
    }

    fn read_now(&self, offset: u64, buffer: &mut BufferMut) -> io::Result<()> {
        let range = whole_clusters(offset, buffer.len() as u64)?;
        let result = if self.direct && !is_aligned(buffer) {
            let mut aligned = BufferMut::zeroed(buffer.len());
            let result = self.read_into(offset, &mut aligned);
            buffer.copy_from_slice(&aligned);
            result
        } else {
            self.read_into(offset, buffer)
        };
        self.judge_read(result, &range)
    }

    /// A bad sector inside a cluster shows as a short read, too.
    fn judge_read(&self, result: io::Result<()>, range: &Range<u64>) -> io::Result<()> {
        match result {
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    && range.end <= self.length_now()? =>
            {
                Err(rustix::io::Errno::IO.into())
            }
            result => result,
        }
    }

    async fn read_on(
        &self,
        ring: &Rc<Core>,
        offset: u64,
        mut buffer: BufferMut,
    ) -> (io::Result<()>, BufferMut) {
        let range = match whole_clusters(offset, buffer.len() as u64) {
            Ok(range) => range,
            Err(error) => return (Err(error), buffer),
        };
        if self.direct && !is_aligned(&buffer) {
            let aligned = BufferMut::zeroed(buffer.len());
            let (result, aligned) = self.fill_on(ring, offset, aligned).await;
            buffer.copy_from_slice(&aligned);
            return (self.judge_read(result, &range), buffer);
        }
        let (result, buffer) = self.fill_on(ring, offset, buffer).await;
        (self.judge_read(result, &range), buffer)
    }

    async fn fill_on(
        &self,
        ring: &Rc<Core>,
        offset: u64,
        mut buffer: BufferMut,
    ) -> (io::Result<()>, BufferMut) {
        let length = buffer.len();
        let mut done = if self.direct { 0 } else { self.read_cached(offset, &mut buffer) };
        while done < length {
            let (result, back) = ring.read(&self.file, offset + done as u64, buffer, done).await;
            buffer = back;
            match advance(done, length, self.step(), result) {
                Ok(Some(further)) => done = further,
                Ok(None) => return (Err(io::ErrorKind::UnexpectedEof.into()), buffer),
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Reads what is cached, without waiting; tells how many bytes that was.
    fn read_cached(&self, offset: u64, buffer: &mut BufferMut) -> usize {
        let mut slices = [io::IoSliceMut::new(buffer)];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        // Nothing cached, or nothing known of the flag: the ring finds out what is the matter.
        rustix::io::preadv2(&self.file, &mut slices, offset, flags).unwrap_or(0)
    }

    async fn write_on(&self, ring: &Rc<Core>, offset: u64, data: Buffer) -> io::Result<()> {
        whole_clusters(offset, data.len() as u64)?;
        let data = if data.is_aligned() { data } else { Buffer::copy_of(&data) };
        let mut done = 0;
        while done < data.len() {
            let place = offset + done as u64;
            let result = ring.write(&self.file, place, data.clone(), done).await;
            match advance(done, data.len(), self.step(), result)? {
                Some(further) => done = further,
                None => return Err(io::ErrorKind::WriteZero.into()),
            }
        }
        Ok(())
    }

    fn read_into(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        read_whole(offset, bytes, self.step(), |offset, bytes| {
            rustix::io::pread(&self.file, bytes, offset)
        })
    }

    fn write_now(&self, offset: u64, data: &Buffer) -> io::Result<()> {
        whole_clusters(offset, data.len() as u64)?;
        let aligned;
        let bytes: &[u8] = if self.direct && !data.is_aligned() {
            aligned = BufferMut::copy_of(data);
            &aligned
        } else {
            data
        };
        write_whole(offset, bytes, self.step(), |offset, bytes| {
            rustix::io::pwrite(&self.file, bytes, offset)
        })
    }

    /// Where a transfer cut short may go on.
    fn step(&self) -> usize {
        if self.direct { CLUSTER_SIZE } else { 1 }
    }

    fn length_now(&self) -> io::Result<u64> {
        if self.block_device {
            // Moves the file position, which nothing here uses.
            Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
        } else {
            Ok(self.file.metadata()?.len())
        }
    }

    fn set_length_now(&self, length: u64) -> io::Result<()> {
        if !self.block_device {
            return self.file.set_len(length);
        }
        if length == self.length_now()? {
            return Ok(());
        }
        Err(at("the length of a block device", io::Error::from(io::ErrorKind::Unsupported)))
    }

    fn allocate_now(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = whole_clusters(offset, length)?;
        if self.block_device {
            space::allocate_on_device(self.length_now()?, range)
        } else if range.is_empty() {
            Ok(())
        } else {
            space::allocate_in_file(&self.file, range)
        }
    }

    fn punch_now(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = whole_clusters(offset, length)?;
        if range.is_empty() {
            Ok(())
        } else if self.block_device {
            space::punch_device(&self.file, range)
        } else {
            space::punch_file(&self.file, range)
        }
    }
}

impl From<Opened> for HostDisk {
    fn from(opened: Opened) -> HostDisk {
        let Opened { file, direct, block_device } = opened;
        HostDisk { file: Arc::new(file), direct, block_device, syncs: SyncPoint::default() }
    }
}

impl Disk for HostDisk {
    async fn read(&self, offset: u64, mut buffer: BufferMut) -> (io::Result<()>, BufferMut) {
        if let Some(ring) = ring::current() {
            return self.read_on(&ring, offset, buffer).await;
        }
        let result = self.read_now(offset, &mut buffer);
        (result, buffer)
    }

    async fn write(&self, offset: u64, data: Buffer) -> io::Result<()> {
        match ring::current() {
            Some(ring) if self.direct => self.write_on(&ring, offset, data).await,
            _ => self.write_now(offset, &data),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        self.syncs
            .sync(|| async {
                match ring::current() {
                    Some(ring) => ring.sync(&self.file).await,
                    None => Ok(rustix::fs::fdatasync(&self.file)?),
                }
            })
            .await
    }

    async fn length(&self) -> io::Result<u64> {
        self.length_now()
    }

    async fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_length_now(length)
    }

    async fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.allocate_now(offset, length)
    }

    async fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.punch_now(offset, length)
    }

    async fn space_available(&self) -> io::Result<u64> {
        space::available_to_files(std::os::fd::AsFd::as_fd(&*self.file))
    }

    async fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}

/// The range, if it is one that every mode accepts.
fn whole_clusters(offset: u64, length: u64) -> io::Result<Range<u64>> {
    const CLUSTER: u64 = CLUSTER_SIZE as u64;
    match offset.checked_add(length) {
        Some(end) if offset.is_multiple_of(CLUSTER) && length.is_multiple_of(CLUSTER) => {
            Ok(offset..end)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes at {offset} are not whole clusters"),
        )),
    }
}

fn is_aligned(buffer: &BufferMut) -> bool {
    buffer.as_ptr().align_offset(CLUSTER_SIZE) == 0
}

#[cfg(test)]
mod tests;
