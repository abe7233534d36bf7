//! From a directory to an open pool: locks, the data, the journal memory; and back.
//!
//! The pool lock is taken first and given back last, so everything in the directory, sockets
//! included, belongs to one daemon at a time. Where the data lies is kept as a symbolic link `data`
//! in the pool's directory. A pool that was being made when its daemon died is recognised by the
//! file `unfinished` and made anew; anything else that is not a whole pool is left alone.

use crate::config::IoMode;
use crate::daemon::engine::{EngineThreads, HostPool};
use crate::daemon::plan::Plan;
use anyhow::{Context, Result};
use blockyard_block::{Error, ErrorKind, HashAlgorithm};
use blockyard_io::{Fence, HostDirectory, HostDisk, HostOptions, MappedFile, PoolLock, boot_id};
use blockyard_pool::{CreateOptions, OpenOptions, Pool, PoolId};
use pollster::block_on;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a predecessor may take to go away before it counts as alive.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long requests of a killed predecessor may still be in flight.
pub(crate) const FENCE_WAIT: Duration = Duration::from_secs(15);
/// Together the 64 MiB of log that are replayed at most.
const LOG_SEGMENTS: u32 = 8;
const LOG_SEGMENT_BYTES: u64 = 8 << 20;
/// Present while a pool is being made.
pub(crate) const UNFINISHED: &str = "unfinished";

/// An open pool and what keeps others away from it.
pub(crate) struct Storage {
    pub(crate) pool: Arc<HostPool>,
    journal_path: PathBuf,
    _lock: PoolLock,
}

impl Storage {
    /// Opens the pool; makes it if there is none.
    pub(crate) fn open(plan: &Plan) -> Result<Storage> {
        let place = plan.pool.display();
        let options = host_options(true);
        let directory = HostDirectory::create(&plan.pool, options)
            .map_err(|error| Error::io(format_args!("pool {place}"), error))?;
        let lock = PoolLock::acquire(&plan.pool, LOCK_WAIT)?;
        if !block_on(Pool::exists(&directory))? {
            make(plan, &directory)?;
        }
        let data = open_data(plan)?;
        let journal_path = journal_path(&plan.pool, &plan.journal_folder)?;
        let journal = MappedFile::open(&journal_path, HostPool::JOURNAL_BYTES as u64, FENCE_WAIT)
            .map_err(|error| Error::io("journal memory", error))
            .context("name another folder in memory with --journal-dir")?;
        let open_options = OpenOptions {
            capacity_bytes: plan.capacity_bytes,
            data_elsewhere: data_is_elsewhere(plan)?,
            boot_id: boot_id()?,
            verify_reads: plan.verify_reads,
            ..OpenOptions::default()
        };
        let pool = block_on(Pool::open(directory, data, Box::new(journal), open_options)).map_err(
            |error| match data_target(plan) {
                Some(data) => error.at(format_args!("pool {place} with data {}", data.display())),
                None => error.at(format_args!("pool {place}")),
            },
        )?;
        check_hash(plan, pool.status()?.hash)?;
        remember_data(plan)?;
        Ok(Storage { pool, journal_path, _lock: lock })
    }

    /// Closes the pool in order. The journal memory has done its duty then.
    pub(crate) fn close(self, engine: EngineThreads) -> Result<()> {
        block_on(self.pool.shutdown()).context("the pool could not be closed in order")?;
        engine.join();
        if let Err(error) = fs::remove_file(&self.journal_path) {
            tracing::debug!(%error, "journal memory stays");
        }
        tracing::info!("pool closed in order");
        Ok(())
    }
}

fn host_options(direct: bool) -> HostOptions {
    HostOptions { direct, read_only: false, fence: Some(Fence::Exclusive), fence_wait: FENCE_WAIT }
}

/// Makes the pool, or makes it anew if that was cut off before.
fn make(plan: &Plan, directory: &HostDirectory) -> Result<()> {
    let unfinished = plan.pool.join(UNFINISHED);
    if unfinished.exists() {
        remove_unfinished(plan)?;
    } else {
        refuse_foreign_files(&plan.pool)?;
        fs::write(&unfinished, "This pool is being made; it holds nothing yet.\n")?;
        fs::File::open(&plan.pool)?.sync_all()?;
    }
    let data = make_data(plan)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Error::io("random id", error.into()))?;
    let options = CreateOptions {
        id: PoolId(id),
        hash: plan.hash.unwrap_or(HashAlgorithm::Blake3),
        log_segments: LOG_SEGMENTS,
        log_segment_bytes: LOG_SEGMENT_BYTES,
        data_on_device: data.is_block_device(),
        now_unix_s: now_unix_s(),
    };
    block_on(Pool::create(directory, &data, &options))
        .map_err(|error| error.at(format_args!("making pool {}", plan.pool.display())))?;
    fs::remove_file(&unfinished)?;
    fs::File::open(&plan.pool)?.sync_all()?;
    tracing::info!(pool = %plan.pool.display(), id = %options.id, hash = options.hash.name(), "pool made");
    Ok(())
}

/// Whatever is not ours to overwrite must not be there.
fn refuse_foreign_files(pool: &Path) -> Result<()> {
    for entry in fs::read_dir(pool)? {
        let name = entry?.file_name();
        let harmless = ["lock", "api.sock", "nbd.sock", "lost+found"].map(OsStr::new);
        if !harmless.contains(&name.as_os_str()) {
            let message = format!(
                "{} holds {} but not the log of a pool: put it back if there was one, look with \
                 blockyard check, or name an empty folder",
                pool.display(),
                name.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, message).into());
        }
    }
    Ok(())
}

fn remove_unfinished(plan: &Plan) -> Result<()> {
    tracing::warn!("the pool was being made when its daemon ended; making it anew");
    for name in ["data", "hashes", "log"] {
        match fs::remove_file(plan.pool.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    for name in ["checkpoint", "index"] {
        match fs::remove_dir_all(plan.pool.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The data of a new pool: a new file, an empty file, or a block device.
fn make_data(plan: &Plan) -> Result<HostDisk> {
    let options = host_options(plan.io == IoMode::Direct);
    let link = plan.pool.join("data");
    let Some(target) = &plan.data else {
        return Ok(HostDisk::create(&link, &options).map_err(|error| at(&link, error))?);
    };
    match fs::metadata(target) {
        Ok(found) if found.is_file() && found.len() > 0 => {
            let message = format!("{} holds something; name a new file", target.display());
            return Err(Error::new(ErrorKind::Exists, message).into());
        }
        Ok(_) => refuse_read_only_device(target)?,
        Err(_) => drop(HostDisk::create(target, &options).map_err(|error| at(target, error))?),
    }
    std::os::unix::fs::symlink(target, &link).map_err(|error| at(&link, error))?;
    Ok(HostDisk::open(&link, &options).map_err(|error| at(target, error))?)
}

/// The data of a pool that exists: where it was, or where it is said to be now.
fn open_data(plan: &Plan) -> Result<HostDisk> {
    let kept = plan.pool.join("data");
    let path = plan.data.as_ref().unwrap_or(&kept);
    let direct = plan.io == IoMode::Direct;
    refuse_read_only_device(path)?;
    let data = HostDisk::open(path, &host_options(direct)).map_err(|error| {
        let error = at(path, error);
        match fs::read_link(&kept) {
            Ok(known) if plan.data.is_none() => {
                let known = known.display();
                error.at(format_args!("the data was at {known}; name where it is with --data"))
            }
            _ => error,
        }
    })?;
    if direct && !data.is_direct() {
        tracing::warn!(data = %path.display(), "direct I/O is refused here; data goes through the page cache");
    }
    Ok(data)
}

/// Where the data is, if that is not in the pool's directory.
fn data_target(plan: &Plan) -> Option<PathBuf> {
    plan.data.clone().or_else(|| fs::read_link(plan.pool.join("data")).ok())
}

/// Whether the data is on another file system than the rest of the pool.
fn data_is_elsewhere(plan: &Plan) -> Result<bool> {
    let kept = plan.pool.join("data");
    let path = plan.data.as_ref().unwrap_or(&kept);
    let file_system =
        |path: &Path| Ok::<_, Error>(fs::metadata(path).map_err(|error| at(path, error))?.dev());
    Ok(file_system(path)? != file_system(&plan.pool)?)
}

/// The kernel lets one be opened for writing, and only the first write finds out.
fn refuse_read_only_device(path: &Path) -> Result<()> {
    // What cannot be looked at fails to open, with a reason.
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    if !found.file_type().is_block_device() {
        return Ok(());
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let flag = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    if flag.is_ok_and(|flag| flag.trim() == "1") {
        let message = format!("{} is a read-only device; a pool is written to", path.display());
        return Err(Error::new(ErrorKind::ReadOnly, message).into());
    }
    Ok(())
}

/// Data that was named, and found to be the pool's, is found without being named from now on.
fn remember_data(plan: &Plan) -> Result<()> {
    let (Some(target), link) = (&plan.data, plan.pool.join("data")) else { return Ok(()) };
    if fs::read_link(&link).is_ok_and(|known| known != *target) {
        let fresh = plan.pool.join("data.new");
        let _ = fs::remove_file(&fresh); // usually there is none
        std::os::unix::fs::symlink(target, &fresh).map_err(|error| at(&fresh, error))?;
        fs::rename(&fresh, &link).map_err(|error| at(&link, error))?;
        fs::File::open(&plan.pool)?.sync_all()?;
    }
    Ok(())
}

fn check_hash(plan: &Plan, made_with: HashAlgorithm) -> Result<()> {
    match plan.hash {
        Some(asked) if asked != made_with => {
            let (made_with, asked) = (made_with.name(), asked.name());
            let message = format!("the pool was made with {made_with}; it cannot become {asked}");
            Err(Error::new(ErrorKind::InvalidArgument, message).into())
        }
        _ => Ok(()),
    }
}

/// In memory that outlives the process. Named after the directory itself, so that a pool which is
/// moved finds its journal and a copy does not find the original's.
pub(crate) fn journal_path(pool: &Path, folder: &Path) -> Result<PathBuf> {
    let found = fs::metadata(pool).map_err(|error| at(pool, error))?;
    let name = format!("blockyard-{:x}-{:x}-{}", found.dev(), found.ino(), found.uid());
    Ok(folder.join(name))
}

/// Wall clock, seconds since 1970; 0 on a host whose clock is before that.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::io(path.display(), error)
}
