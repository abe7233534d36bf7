//! The daemon's unix sockets: who may use them, and replacing those a dead daemon left.
//!
//! A socket appears under its name only once it has its owner and mode: it is bound under another
//! name first and moved. A name that a live process serves, or that is not a socket, is left alone.

use crate::daemon::plan::Plan;
use blockyard_block::{Error, ErrorKind, Result};
use nix::unistd::{Group, User};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who may connect.
pub(crate) struct Access {
    owner: Option<u32>,
    group: Option<u32>,
    mode: u32,
}

impl Access {
    /// The user of the daemon alone (and root).
    pub(crate) fn owner_only() -> Access {
        Access { owner: None, group: None, mode: 0o600 }
    }

    /// As configured for NBD.
    pub(crate) fn of_nbd(plan: &Plan) -> Result<Access> {
        let owner = plan.socket_owner.as_deref().map(user_id).transpose()?;
        let group = plan.socket_group.as_deref().map(group_id).transpose()?;
        Ok(Access { owner, group, mode: plan.socket_mode })
    }
}

impl Access {
    /// A socket in the pool's own folder, which is closed to all but its owner, would be out of
    /// reach of the group it is meant for: the group may pass through, but not look.
    pub(crate) fn open_way_to(&self, socket: &Path, pool: &Path) -> Result<()> {
        let (Some(group), true) = (self.group, socket.parent() == Some(pool)) else {
            return Ok(());
        };
        std::os::unix::fs::chown(pool, None, Some(group))
            .and_then(|()| fs::set_permissions(pool, Permissions::from_mode(0o710)))
            .map_err(|error| Error::io(format_args!("opening {}", pool.display()), error))
    }
}

/// A listening socket under its name, which is removed when this is dropped.
pub(crate) struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Tells our name from one that replaced it.
    inode: u64,
}

impl BoundSocket {
    pub(crate) fn bind(path: &Path, access: &Access) -> Result<BoundSocket> {
        bind(path, access).map_err(|error| error.at(format_args!("socket {}", path.display())))
    }

    /// The listener; the name stays this socket's business.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path); // a stale one is replaced at the next start
        }
    }
}

fn bind(path: &Path, access: &Access) -> Result<BoundSocket> {
    refuse_if_taken(path)?;
    let unfinished = unfinished_name(path)?;
    let _ = fs::remove_file(&unfinished); // usually there is none
    let listener = UnixListener::bind(&unfinished).map_err(|error| Error::io("bind", error))?;
    let prepared = prepare(&unfinished, path, access);
    if prepared.is_err() {
        let _ = fs::remove_file(&unfinished); // the error that matters is on its way
    }
    let inode = prepared.map_err(|error| Error::io("cannot set it up", error))?;
    Ok(BoundSocket { listener, path: path.to_owned(), inode })
}

/// Whoever finds the socket finds it with its final owner and mode. Until then the daemon's umask
/// keeps others out.
fn prepare(unfinished: &Path, path: &Path, access: &Access) -> io::Result<u64> {
    std::os::unix::fs::chown(unfinished, access.owner, access.group)?;
    fs::set_permissions(unfinished, Permissions::from_mode(access.mode))?;
    fs::rename(unfinished, path)?;
    Ok(fs::symlink_metadata(path)?.ino())
}

/// Beside the real name, with a name not longer: a socket's path has 107 bytes at most.
fn unfinished_name(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "that is a folder; name the socket in it")
    })?;
    let first = name.to_string_lossy().chars().next().unwrap_or('s');
    Ok(path.with_file_name(format!(".{first}new")))
}

fn refuse_if_taken(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("look", error)),
        Ok(found) if !found.file_type().is_socket() => {
            Err(Error::new(ErrorKind::Exists, "something else has this name; it is left alone"))
        }
        // Refused means that nobody listens any more.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => Err(Error::new(ErrorKind::Busy, "another process serves it")),
        },
    }
}

fn user_id(name: &str) -> Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(Error::new(ErrorKind::NotFound, format!("there is no user {name}"))),
        Err(error) => Err(Error::io(format_args!("user {name}"), error.into())),
    }
}

fn group_id(name: &str) -> Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(Error::new(ErrorKind::NotFound, format!("there is no group {name}"))),
        Err(error) => Err(Error::io(format_args!("group {name}"), error.into())),
    }
}

#[cfg(test)]
mod tests;
