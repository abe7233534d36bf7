//! Programs of the host beside our own. What they set up (mounts, servers) is undone when
//! dropped, also by a test that fails; drop in the opposite order of making.

use super::{Daemon, Finished, eventually, skip};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a program that takes NBD addresses finds an export of the daemon.
pub(crate) fn uri(daemon: &Daemon, export: &str) -> String {
    socket_uri(&daemon.nbd_socket(), export)
}

pub(crate) fn socket_uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// What a program that must succeed printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    finish(program, arguments).ok()
}

/// What came of a program.
pub(crate) fn finish(program: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Finished::of(command)
}

/// What a program that must succeed printed as JSON.
pub(crate) fn json(program: &str, arguments: &[&str]) -> Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

/// Whether the test may set up loop devices and mounts; skips it if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("only root has loop devices and mounts");
    }
    root
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mounted file system.
pub(crate) struct Mount {
    pub(crate) folder: PathBuf,
}

impl Mount {
    pub(crate) fn new(device: &str, folder: PathBuf, options: &[&str]) -> Mount {
        std::fs::create_dir_all(&folder).unwrap();
        run("mount", &[options, &[device, text(&folder)]].concat());
        Mount { folder }
    }

    /// Unmounts it, which must succeed: all that was written has then reached the device.
    pub(crate) fn unmount(self) {
        run("umount", &[text(&self.folder)]);
        std::mem::forget(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        finish("umount", &["--lazy", text(&self.folder)]);
    }
}

/// An NBD export as a file, by nbdfuse.
pub(crate) struct Fuse {
    pub(crate) disk: PathBuf,
    folder: PathBuf,
    server: Option<Server>,
}

impl Fuse {
    pub(crate) fn of(uri: &str, folder: PathBuf) -> Fuse {
        std::fs::create_dir_all(&folder).unwrap();
        let disk = folder.join("disk");
        let server = Some(Server::start("nbdfuse", &[text(&disk), uri], &disk));
        Fuse { disk, folder, server }
    }

    /// Ends it once all that was written has reached the export.
    pub(crate) fn close(mut self) {
        // A loop device leaves its file a moment after it was detached.
        let umount = || finish("umount", &[text(&self.folder)]).status.success();
        eventually("the end of nbdfuse", umount);
        self.server.take().into_iter().for_each(Server::ends);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.server.is_some() {
            finish("umount", &["--lazy", text(&self.folder)]);
        }
    }
}

/// A program that serves until it is told to stop; killed when dropped.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits until `sign` is there.
    pub(crate) fn start(program: &str, arguments: &[&str], sign: &Path) -> Server {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        let mut server = Server { child };
        eventually(program, || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} {arguments:?} ended: {ended:?}");
            sign.exists()
        });
        server
    }

    /// Waits until it has ended by itself, in order.
    pub(crate) fn ends(mut self) {
        let mut status = None;
        eventually("the end of a server", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
