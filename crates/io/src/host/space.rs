//! Taking space before it is used and giving it back: on files and on block devices.
//!
//! Space is taken on the file system so that ENOSPC arises in the engine's allocator and never in
//! the middle of a guest's write (I10).

use super::is_unsupported;
use super::transfer::{read_whole, write_whole};
use blockyard_block::BufferMut;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Space for the range of a file, which grows if needed. Nobody may write to the range meanwhile.
pub(super) fn allocate_in_file(file: &File, range: Range<u64>) -> io::Result<()> {
    match fallocate_whole(file.as_fd(), FallocateFlags::empty(), &range) {
        Err(error) if is_unsupported(error) => fill_holes(file, range),
        result => Ok(result?),
    }
}

/// What the file system of `file` has left for anybody.
pub(super) fn available_to_files(file: BorrowedFd<'_>) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(file)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A block device has all its space already.
pub(super) fn allocate_on_device(length: u64, range: Range<u64>) -> io::Result<()> {
    if range.end <= length { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

/// Gives the space of the range of a file back.
pub(super) fn punch_file(file: &File, range: Range<u64>) -> io::Result<()> {
    supported(fallocate_whole(file.as_fd(), PUNCH, &range))
}

/// Tells a block device that the range is not needed. Punching is tried first because the kernel
/// then promises zeros; a discard promises nothing.
pub(super) fn punch_device(file: &File, range: Range<u64>) -> io::Result<()> {
    match fallocate_whole(file.as_fd(), PUNCH, &range) {
        Err(error) if is_unsupported(error) => supported(discard(file.as_fd(), &range)),
        result => Ok(result?),
    }
}

fn fallocate_whole(
    file: BorrowedFd<'_>,
    flags: FallocateFlags,
    range: &Range<u64>,
) -> Result<(), Errno> {
    loop {
        match fallocate(file, flags, range.start, range.end - range.start) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn supported(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(error) if is_unsupported(error) => Err(io::ErrorKind::Unsupported.into()),
        result => Ok(result?),
    }
}

fn discard(device: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    /// `_IO(0x12, 119)` of linux/fs.h; takes offset and length in bytes.
    const BLKDISCARD: rustix::ioctl::Opcode = 0x1277;
    // SAFETY: BLKDISCARD reads two u64 behind the pointer, which is what `Setter` of this type
    // passes; it keeps no reference. A wrong number or type here would break it.
    let request = unsafe {
        rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([range.start, range.end - range.start])
    };
    // SAFETY: the request lives until the call returns, and the kernel writes to no memory of
    // ours. The descriptor is borrowed, so it is open; on one that is not a block device the
    // kernel answers ENOTTY.
    unsafe { rustix::ioctl::ioctl(device, request) }
}

/// For file systems without fallocate: writes over every hole of the range what it reads as.
///
/// Whole pieces are read and written back rather than zeroed, because a hole may end inside a
/// cluster and O_DIRECT writes only whole ones. The file is never extended by truncation, which
/// could cut off what another call has just extended it by.
fn fill_holes(file: &File, range: Range<u64>) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let length_before = file.metadata()?.len();
    let mut position = range.start;
    while let Some(hole) = next_hole(file, position..range.end, length_before)? {
        position = hole.start / 4096 * 4096;
        let end = hole.end.next_multiple_of(4096).min(range.end);
        while position < end {
            let length = PIECE.min(end - position);
            rewrite(file, position, length as usize)?;
            position += length;
        }
    }
    Ok(())
}

/// The first hole of the range. What lies past the file's end is one, also on a file system that
/// cannot tell holes from data.
fn next_hole(file: &File, range: Range<u64>, length_before: u64) -> io::Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    if range.start >= length_before {
        return Ok(Some(range));
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(range.start))?.min(length_before);
    if hole >= range.end {
        return Ok(None);
    }
    let data = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
        Ok(data) => data.min(range.end),
        Err(Errno::NXIO) => range.end,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(hole..data.max(hole + 1)))
}

fn rewrite(file: &File, offset: u64, length: usize) -> io::Result<()> {
    let mut piece = BufferMut::zeroed(length);
    let pread = |offset, bytes: &mut [u8]| rustix::io::pread(file, bytes, offset);
    match read_whole(offset, &mut piece, 4096, pread) {
        // Past the end of the file the piece stays zero.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    write_whole(offset, &piece, 4096, |offset, bytes| rustix::io::pwrite(file, bytes, offset))
}

#[cfg(test)]
mod tests;
