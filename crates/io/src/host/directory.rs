//! The folder of a pool.
//!
//! A name is `file` or `folder/file`; a folder is made when its first file is. Every file is opened
//! with the same options, so one fence covers all that receives I/O (I13). Files are made with mode
//! 0600 and folders with 0700: what guests store is nobody else's business.

use super::at;
use super::disk::HostDisk;
use super::open::HostOptions;
use super::sync_point::SyncPoint;
use crate::Directory;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A folder that stays open, so that it stays the same one when its path is renamed.
pub struct HostDirectory {
    path: PathBuf,
    options: HostOptions,
    root: OwnedFd,
    folders: Mutex<BTreeMap<String, Folder>>,
    syncs: SyncPoint,
}

/// A sub-folder. Kept open: an error of writing it back is reported to this description.
struct Folder {
    open: Arc<OwnedFd>,
    /// Whether a name was made or removed in it since the last sync.
    touched: bool,
}

impl HostDirectory {
    /// Opens an existing folder; `options` go for every file opened through it.
    pub fn open(path: impl Into<PathBuf>, options: HostOptions) -> io::Result<HostDirectory> {
        let path = path.into();
        let root =
            open_folder(rustix::fs::CWD, &path).map_err(|error| at(path.display(), error))?;
        let folders = Mutex::default();
        Ok(HostDirectory { path, options, root, folders, syncs: SyncPoint::default() })
    }

    /// Makes the folder, and those above it, if they are missing; then opens it.
    pub fn create(path: impl Into<PathBuf>, options: HostOptions) -> io::Result<HostDirectory> {
        let path = path.into();
        make_durable_folders(&path).map_err(|error| at(path.display(), error))?;
        HostDirectory::open(path, options)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place in front of an error of opening or making a file.
    fn place(&self, name: &str, error: io::Error) -> io::Error {
        at(self.path.join(name).display(), error)
    }

    /// The open sub-folder; `NotFound` if there is none.
    fn folder(&self, name: &str) -> io::Result<Arc<OwnedFd>> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get(name) {
            return Ok(Arc::clone(&folder.open));
        }
        let open = Arc::new(open_folder(self.root.as_fd(), Path::new(name))?);
        let folder = Folder { open: Arc::clone(&open), touched: false };
        folders.insert(name.to_owned(), folder);
        Ok(open)
    }

    /// Remembers that the sub-folder must be synced.
    fn touch(&self, name: &str) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folders.get_mut(name) {
            folder.touched = true;
        }
    }

    fn open_now(&self, name: &Name<'_>) -> io::Result<HostDisk> {
        match name.folder {
            None => HostDisk::open_in(self.root.as_fd(), Path::new(name.file), &self.options),
            Some(folder) => {
                let folder = self.folder(folder)?;
                HostDisk::open_in(folder.as_fd(), Path::new(name.file), &self.options)
            }
        }
    }

    fn create_now(&self, name: &Name<'_>) -> io::Result<HostDisk> {
        let Some(folder) = name.folder else {
            return HostDisk::create_in(self.root.as_fd(), Path::new(name.file), &self.options);
        };
        match rustix::fs::mkdirat(&self.root, folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let open = self.folder(folder)?;
        let disk = HostDisk::create_in(open.as_fd(), Path::new(name.file), &self.options)?;
        self.touch(folder);
        Ok(disk)
    }

    fn remove_now(&self, name: &Name<'_>) -> io::Result<()> {
        let Some(folder) = name.folder else {
            return Ok(rustix::fs::unlinkat(&self.root, name.file, AtFlags::empty())?);
        };
        let open = self.folder(folder)?;
        rustix::fs::unlinkat(&open, name.file, AtFlags::empty())?;
        self.touch(folder);
        Ok(())
    }

    /// Names are synced from the inside out, so a durable folder is never missing its files.
    fn sync_now(&self) -> io::Result<()> {
        let touched: Vec<Arc<OwnedFd>> = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            let touched = folders.values_mut().filter(|folder| folder.touched);
            touched
                .map(|folder| {
                    folder.touched = false;
                    Arc::clone(&folder.open)
                })
                .collect()
        };
        for folder in touched {
            rustix::fs::fsync(folder)?;
        }
        Ok(rustix::fs::fsync(&self.root)?)
    }

    fn list_now(&self, folder: &str) -> io::Result<Vec<String>> {
        if folder.is_empty() {
            return files_of(self.root.as_fd());
        }
        check_part(folder)?;
        match self.folder(folder) {
            Ok(open) => files_of(open.as_fd()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Directory for HostDirectory {
    type Disk = HostDisk;

    async fn open(&self, name: &str) -> io::Result<HostDisk> {
        let parts = Name::parse(name)?;
        self.open_now(&parts).map_err(|error| self.place(name, error))
    }

    async fn create(&self, name: &str) -> io::Result<HostDisk> {
        let parts = Name::parse(name)?;
        self.create_now(&parts).map_err(|error| self.place(name, error))
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.list_now(folder).map_err(|error| self.place(folder, error))
    }

    fn forget_folder(&self, folder: &str) {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let parts = Name::parse(name)?;
        self.remove_now(&parts).map_err(|error| self.place(name, error))
    }

    async fn sync(&self) -> io::Result<()> {
        self.syncs.sync(|| async { self.sync_now() }).await
    }

    async fn space_available(&self) -> io::Result<u64> {
        super::space::available_to_files(self.root.as_fd())
    }
}

/// `file` or `folder/file`.
struct Name<'a> {
    folder: Option<&'a str>,
    file: &'a str,
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> io::Result<Name<'a>> {
        let (folder, file) = match name.split_once('/') {
            Some((folder, file)) => (Some(folder), file),
            None => (None, name),
        };
        folder.map_or(Ok(()), check_part)?;
        check_part(file)?;
        Ok(Name { folder, file })
    }
}

/// Refuses what would lead out of the folder or deeper than one.
fn check_part(part: &str) -> io::Result<()> {
    if part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']) {
        let message = format!("{part:?} is not the name of a file or folder");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn open_folder(parent: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, path, flags, Mode::empty())?)
}

fn files_of(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let found =
                    rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode)
            }
            kind => kind,
        };
        // A name that is not UTF-8 is not one of ours.
        if let (false, Ok(name)) = (kind == FileType::Directory, entry.file_name().to_str()) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Like `mkdir -p`, each new name durable.
fn make_durable_folders(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_durable_folders(parent)?;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests;
