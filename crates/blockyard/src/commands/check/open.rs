//! Opens a pool's files for reading, under shared locks (I13), and has the engine's judge read them.

use crate::daemon::storage::{FENCE_WAIT, LOCK_WAIT, UNFINISHED, journal_path};
use anyhow::Result;
use blockyard_block::{Error, ErrorKind};
use blockyard_io::{Fence, HostDirectory, HostDisk, HostOptions, Mapped, PoolLock, boot_id};
use blockyard_pool::{CheckOptions, CheckProgress, CheckReport, Finding, Pool};
use pollster::block_on;
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// More than any daemon's journal has.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Checks the pool; an error means that there is no verdict.
pub(super) fn check(
    pool: &Path,
    data_at: Option<&Path>,
    journal_folder: &Path,
    read_data: bool,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<CheckReport> {
    if !fs::metadata(pool).map_err(|error| at(pool, error))?.is_dir() {
        let message = format!("{} is not a directory", pool.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    let _lock = PoolLock::acquire_shared(pool, LOCK_WAIT)?;
    if pool.join(UNFINISHED).exists() {
        let message = "the pool was being made when its daemon ended; it holds nothing yet, and \
                       blockyard serve will make it anew";
        return Err(Error::new(ErrorKind::NotFound, message).into());
    }
    let directory = HostDirectory::open(pool, options()).map_err(|error| at(pool, error))?;
    let Some(data) = open_data(pool, data_at)? else {
        return match block_on(Pool::exists(&directory)) {
            Ok(false) => {
                let message = "there is no pool here: log and data are missing or empty";
                Err(Error::new(ErrorKind::NotFound, message).into())
            }
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error.into()),
            Ok(true) | Err(_) => Ok(without_data(pool)),
        };
    };
    let mut journal = read_journal(pool, journal_folder)?;
    let journal = journal.as_mut().map(|journal| journal as &mut dyn Mapped);
    let options = CheckOptions { read_data, boot_id: boot_id()? };
    Ok(block_on(blockyard_pool::check(&directory, &data, journal, &options, progress))?)
}

fn options() -> HostOptions {
    HostOptions {
        direct: true,
        read_only: true,
        fence: Some(Fence::Shared),
        fence_wait: FENCE_WAIT,
    }
}

/// The data where it is said to be, else where the pool remembers it. `None` if the pool has lost it:
/// a device that is not there now is no such case.
fn open_data(pool: &Path, data_at: Option<&Path>) -> Result<Option<HostDisk>> {
    let kept = pool.join("data");
    let path = data_at.unwrap_or(&kept);
    match HostDisk::open(path, &options()) {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if data_at.is_none() && fs::symlink_metadata(&kept).is_err() {
                return Ok(None);
            }
            let place = fs::read_link(path).unwrap_or_else(|_| path.to_owned());
            let message = format!(
                "the data is not at {}; say where it is now with --data-at PATH",
                place.display()
            );
            Err(Error::new(ErrorKind::NotFound, message).into())
        }
        Err(error) => Err(at(path, error).into()),
    }
}

fn without_data(pool: &Path) -> CheckReport {
    let message = format!(
        "{} is missing: nothing that is stored can be read; put it back, or say where it is with \
         --data-at PATH",
        pool.join("data").display()
    );
    let finding = Finding { image: None, offset: None, message };
    CheckReport { findings: vec![finding], ..CheckReport::default() }
}

/// A copy of the journal memory, so that the original stays as it is.
struct JournalCopy(Vec<u8>);

impl Mapped for JournalCopy {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// What a killed daemon left in the journal, if it left one.
fn read_journal(pool: &Path, folder: &Path) -> Result<Option<JournalCopy>> {
    let path = &journal_path(pool, folder)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| at(path, error))?,
    };
    check_owner(pool, path, &file)?;
    let mut bytes = Vec::new();
    file.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| at(path, error))?;
    Ok(Some(JournalCopy(bytes)))
}

/// /dev/shm is open to everybody: what another user planted there is not the pool's journal.
fn check_owner(pool: &Path, path: &Path, file: &File) -> Result<()> {
    let found = file.metadata().map_err(|error| at(path, error))?;
    let ours = rustix::process::geteuid().as_raw();
    let owner = fs::metadata(pool).map_err(|error| at(pool, error))?.uid();
    let trusted = [ours, 0, owner].contains(&found.uid());
    if found.is_file() && trusted && found.nlink() == 1 {
        return Ok(());
    }
    let message = format!("{} is not the journal of this pool's owner; remove it", path.display());
    Err(Error::new(ErrorKind::Denied, message).into())
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::io(path.display(), error)
}
