//! Programs of the host beside our own. What they set up (loop devices, mounts, servers) is undone when
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

/// A loop device over a file.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    pub(crate) fn over(file: &Path) -> LoopDevice {
        let path = run("losetup", &["--find", "--show", text(file)]);
        LoopDevice { path: PathBuf::from(path.trim()) }
    }

    /// How many sectors were read from it since it was made.
    pub(crate) fn sectors_read(&self) -> u64 {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        let counters = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        counters.split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        finish("losetup", &["--detach", text(&self.path)]); // it goes when its last user goes
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    pub(crate) folder: PathBuf,
}

impl Mount {
    pub(crate) fn new(device: &Path, folder: PathBuf, options: &[&str]) -> Mount {
        std::fs::create_dir_all(&folder).unwrap();
        run("mount", &[options, &[text(device), text(&folder)]].concat());
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
