//! A file that appears under its name all at once.
//!
//! It is made without a name (O_TMPFILE), so that nothing is left however the daemon ends; on file
//! systems that cannot do that, under a temporary name beside its place, which is removed on error
//! and only stays if the daemon is killed.

use blockyard_block::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file being written. Dropped before [`NewFile::publish`], it is gone.
pub(super) struct NewFile {
    file: File,
    place: PathBuf,
    /// Replace what is at `place`.
    force: bool,
    /// The temporary name, while the file has one.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Starts a file that is to be at `path`. `Exists` if something is there, unless `force`; then
    /// it must be a plain file.
    pub(super) fn create(path: &Path, force: bool) -> Result<NewFile> {
        let place = replaced(path, force)?;
        let folder = folder_of(&place);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (file, temporary) = match rustix::fs::open(folder, flags, mode()) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = temporary_name(&place);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = rustix::fs::open(&name, flags, mode())
                    .map_err(|error| Error::io(name.display(), error.into()))?;
                (file, Some(name))
            }
            Err(error) => return Err(Error::io(folder.display(), error.into())),
        };
        Ok(NewFile { file: file.into(), place, force, temporary })
    }

    /// Open for reading and writing, empty at first.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable, then the name.
    pub(super) fn publish(mut self) -> Result<()> {
        let place = self.place.clone();
        let at_place = |error| Error::io(place.display(), error);
        self.file.sync_all().map_err(at_place)?;
        if self.force {
            let name = self.named()?;
            std::fs::rename(&name, &place).map_err(at_place)?;
            self.temporary = None;
        } else {
            self.link(&place).map_err(|error| at_place(error.into()))?;
        }
        File::open(folder_of(&place)).and_then(|folder| folder.sync_all()).map_err(at_place)
    }

    /// A name beside the place, which `Drop` removes until it is given up.
    fn named(&mut self) -> Result<PathBuf> {
        if let Some(name) = &self.temporary {
            return Ok(name.clone());
        }
        let name = temporary_name(&self.place);
        self.link(&name).map_err(|error| Error::io(name.display(), error.into()))?;
        self.temporary = Some(name.clone());
        Ok(name)
    }

    /// Fails if `name` is taken.
    fn link(&self, name: &Path) -> rustix::io::Result<()> {
        match &self.temporary {
            Some(temporary) => rustix::fs::linkat(CWD, temporary, CWD, name, AtFlags::empty()),
            None => {
                let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, descriptor, CWD, name, AtFlags::SYMLINK_FOLLOW)
            }
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Nothing more can be done about a name that stays.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Where the file is to be: behind a symbolic link, what it points to.
fn replaced(path: &Path, force: bool) -> Result<PathBuf> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(path.to_path_buf()) };
    if !force {
        let message = format!("{} exists; --overwrite replaces it", path.display());
        return Err(Error::new(ErrorKind::Exists, message));
    }
    let place = if found.is_symlink() {
        path.canonicalize().map_err(|error| Error::io(path.display(), error))?
    } else {
        path.to_path_buf()
    };
    if !place.is_file() {
        let message = format!("{} is not a plain file", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(place)
}

fn folder_of(place: &Path) -> &Path {
    match place.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name that no other export of this process uses.
fn temporary_name(place: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".{}-{number}.part", std::process::id()));
    folder_of(place).join(name)
}

/// As for any new file: what the umask leaves.
fn mode() -> Mode {
    Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH
}

#[cfg(test)]
mod tests;
