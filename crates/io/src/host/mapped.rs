//! The mapped file on tmpfs that outlives a killed daemon (I15), and the name of this boot.
//!
//! All its pages are there before it is mapped: a full tmpfs is an error at open and never a
//! SIGBUS later. Whether what it holds is of this boot and this pool is for the engine to say.

use super::at;
use super::fence::{self, Fence};
use crate::Mapped;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A mapping that only this process can change.
pub struct MappedFile {
    map: memmap2::MmapMut,
    /// Holds the fence for as long as the mapping lives.
    _file: File,
}

impl MappedFile {
    /// Maps the file, made if missing, with exactly `length` bytes and mode 0600. Bytes that are
    /// there stay; new ones are zero. `ResourceBusy` if another process still has it after `wait`,
    /// `PermissionDenied` if it is not ours alone, `StorageFull` if the tmpfs has no room.
    pub fn open(path: impl AsRef<Path>, length: u64, wait: Duration) -> io::Result<MappedFile> {
        let path = path.as_ref();
        open(path, length, wait).map_err(|error| at(path.display(), error))
    }
}

impl Mapped for MappedFile {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

fn open(path: &Path, length: u64, wait: Duration) -> io::Result<MappedFile> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    check_ours(&file)?;
    fence::lock(&file, Fence::Exclusive, wait)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    reserve(&file, length)?;
    let size = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the file is ours, has mode 0600 and is locked exclusively for as long as the mapping
    // lives, so no other process that keeps to the lock changes or truncates it; in this process
    // only the `MmapMut` reaches it, and it borrows as a `&mut [u8]` does. All its pages are
    // allocated. A process of the same user that ignores the lock would break it, and could as
    // well write to our memory.
    let map = unsafe { memmap2::MmapOptions::new().len(size).map_mut(&file)? };
    Ok(MappedFile { map, _file: file })
}

/// /dev/shm is open to everybody: a planted link or another user's file must not get our journal.
fn check_ours(file: &File) -> io::Result<()> {
    let found = rustix::fs::fstat(file)?;
    let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    let user = rustix::process::geteuid().as_raw();
    if regular && found.st_uid == user && found.st_nlink == 1 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "is not a plain file of this user alone; remove it or name another",
    ))
}

fn reserve(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing to map"));
    }
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length)?)
}

/// The kernel's name for this boot of the machine.
pub fn boot_id() -> io::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).map_err(|error| at(PATH, error))?;
    parse_boot_id(&text).ok_or_else(|| at(PATH, io::Error::from(io::ErrorKind::InvalidData)))
}

/// Reads `8-4-4-4-12` hexadecimal digits.
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|character| *character != '-')
        .map(|character| character.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(id)
}

#[cfg(test)]
mod tests;
