//! Opening a file or block device: O_DIRECT where it works, the fence, and nothing inherited.

use super::at;
use super::fence::{self, Fence, retry_while_busy};
use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// How the host's files are opened. The default is direct, for reading and writing, unfenced.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Past the page cache (O_DIRECT) if the file system can. If it cannot, the file is opened
    /// buffered, and [`HostDisk::is_direct`](super::HostDisk::is_direct) says so.
    pub direct: bool,
    pub read_only: bool,
    /// The lock to take when a file is opened.
    pub fence: Option<Fence>,
    /// How long to wait for a file that somebody else holds.
    pub fence_wait: Duration,
}

impl Default for HostOptions {
    fn default() -> HostOptions {
        HostOptions { direct: true, read_only: false, fence: None, fence_wait: Duration::ZERO }
    }
}

/// An open file and what was found out about it.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) direct: bool,
    pub(super) block_device: bool,
}

/// Opens an existing file or block device.
pub(super) fn open(
    folder: BorrowedFd<'_>,
    path: &Path,
    options: &HostOptions,
) -> io::Result<Opened> {
    let block_device = is_block_device(rustix::fs::statat(folder, path, AtFlags::empty())?.st_mode);
    let mut flags = access(options);
    if block_device && !options.read_only {
        // Refused while the device is mounted, part of a RAID, or claimed by another daemon.
        flags |= OFlags::EXCL;
    }
    let opened = open_direct_or_buffered(folder, path, flags, options)?;
    if is_block_device(rustix::fs::fstat(&opened.file)?.st_mode) != block_device {
        return Err(at(path.display(), io::Error::other("was replaced while it was opened")));
    }
    fenced(Opened { block_device, ..opened }, path, options)
}

/// Makes a new file of length zero that only its owner may touch.
pub(super) fn create(
    folder: BorrowedFd<'_>,
    path: &Path,
    options: &HostOptions,
) -> io::Result<Opened> {
    let made = access(options) | OFlags::CREATE | OFlags::EXCL;
    let first = rustix::fs::openat(folder, path, made, Mode::RUSR | Mode::WUSR)?;
    set_nocow(first.as_fd());
    drop(first);
    // Opened a second time because the flag must be set before O_DIRECT and its checks, and
    // because a refused O_DIRECT may leave the name behind, which O_EXCL would then trip over.
    open(folder, path, options)
}

fn access(options: &HostOptions) -> OFlags {
    OFlags::CLOEXEC | if options.read_only { OFlags::RDONLY } else { OFlags::RDWR }
}

fn open_direct_or_buffered(
    folder: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    options: &HostOptions,
) -> io::Result<Opened> {
    let try_open = |flags: OFlags| {
        retry_while_busy(options.fence_wait, Errno::BUSY, || {
            rustix::fs::openat(folder, path, flags, Mode::empty()).map(File::from)
        })
    };
    if options.direct {
        match try_open(flags | OFlags::DIRECT) {
            Ok(file) if direct_suits(&file) => {
                return Ok(Opened { file, direct: true, block_device: false });
            }
            Ok(_) | Err(Errno::INVAL) => {}
            Err(error) => return Err(at(path.display(), error)),
        }
    }
    let file = try_open(flags).map_err(|error| at(path.display(), error))?;
    Ok(Opened { file, direct: false, block_device: false })
}

/// Whether the file takes O_DIRECT at multiples of 4096. Some file systems accept the flag and
/// refuse the I/O; kernels before 6.1 do not say, and are believed.
fn direct_suits(file: &File) -> bool {
    let Ok(found) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return true;
    };
    if found.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return true;
    }
    let suits = |align: u32| align != 0 && 4096 % align == 0;
    suits(found.stx_dio_mem_align) && suits(found.stx_dio_offset_align)
}

fn fenced(opened: Opened, path: &Path, options: &HostOptions) -> io::Result<Opened> {
    if let Some(fence) = options.fence {
        fence::lock(&opened.file, fence, options.fence_wait)
            .map_err(|error| at(path.display(), error))?;
    }
    Ok(opened)
}

fn is_block_device(mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::BlockDevice
}

/// In-place writes on btrfs are in place only with this flag. Other file systems refuse it, and
/// none needs it to be correct.
fn set_nocow(file: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        let _refused_elsewhere = rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}
