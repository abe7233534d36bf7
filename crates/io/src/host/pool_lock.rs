//! The pool's `lock` file: says who owns the pool, in words for people.
//!
//! It turns two owners away early and by name. What keeps their I/O apart is the fence on each
//! file (I13), which also waits for the requests of a killed owner.

use super::at;
use super::fence::{self, Fence};
use blockyard_block::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct PoolLock {
    _file: Option<File>,
}

impl PoolLock {
    /// Takes the pool for this process alone, waiting as long as `wait`, and writes its name into
    /// the file. `Busy` naming the owner if there is one.
    pub fn acquire(pool: &Path, wait: Duration) -> Result<PoolLock> {
        let path = pool.join("lock");
        let place = path.display();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mut file = open(&path, flags).map_err(|error| Error::io(&place, error))?;
        lock(pool, &mut file, Fence::Exclusive, wait)?;
        record_owner(&mut file).map_err(|error| Error::io(&place, error))?;
        Ok(PoolLock { _file: Some(file) })
    }

    /// Takes the pool together with other readers, changing nothing. A pool without a lock file (a
    /// copy, say) needs none. `Busy` naming the owner if the pool is served.
    pub fn acquire_shared(pool: &Path, wait: Duration) -> Result<PoolLock> {
        let path = pool.join("lock");
        let mut file = match open(&path, OFlags::RDONLY | OFlags::CLOEXEC) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(PoolLock { _file: None });
            }
            result => result.map_err(|error| Error::io(path.display(), error))?,
        };
        lock(pool, &mut file, Fence::Shared, wait)?;
        Ok(PoolLock { _file: Some(file) })
    }
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(File::from)?)
}

fn lock(pool: &Path, file: &mut File, fence: Fence, wait: Duration) -> Result<()> {
    fence::lock(&*file, fence, wait).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => Error::new(
            ErrorKind::Busy,
            format!("pool {} is in use by {}; stop that first", pool.display(), owner(file)),
        ),
        _ => Error::io(pool.join("lock").display(), error),
    })
}

/// The file is for reading by people and by [`owner`]: the pid, then the command.
fn record_owner(file: &mut File) -> io::Result<()> {
    let command = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let command = command.collect::<Vec<_>>().join(" ");
    file.set_len(0)?;
    let text = format!("{}\n{command}\n", std::process::id());
    file.write_all(text.as_bytes()).map_err(|error| at("writing the owner", error))
}

/// Names the process that holds the file: the kernel's word before the file's, because `check`
/// cannot write its name, and a killed owner's name stays.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let recorded = match file.take(4096).read_to_string(&mut text) {
        Ok(_) => parse_owner(&text),
        Err(_) => None,
    };
    match (holder(file), recorded) {
        (Some(pid), Some((owner, command))) if pid == owner => format!("process {pid} ({command})"),
        (Some(pid), _) => match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim()),
            Err(_) => format!("process {pid}"),
        },
        (None, Some((owner, command))) => {
            format!("another process, last recorded as {owner} ({command})")
        }
        (None, None) => "another process".to_owned(),
    }
}

fn parse_owner(text: &str) -> Option<(u32, &str)> {
    let (pid, rest) = text.split_once('\n')?;
    Some((pid.parse().ok()?, rest.trim_end()))
}

/// The pid of the process that locked the file, as far as the kernel shows it to us.
fn holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| flock_holder(line, inode))
}

/// Reads `1: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF`. The device is not compared: btrfs shows
/// another one here than in stat.
fn flock_holder(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if words.next()? != "FLOCK" {
        return None;
    }
    let pid = words.nth(2)?;
    let (_, locked) = words.next()?.rsplit_once(':')?;
    if locked.parse() == Ok(inode) { pid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
