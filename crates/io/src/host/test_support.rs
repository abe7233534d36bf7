//! Test support: small file systems and block devices on loop devices, and other processes that
//! hold locks. What this machine cannot do is skipped with the reason; under CI=true that fails.

pub(super) use blockyard_testing::skip;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// For taking again what was just let go: a child that another test is starting holds every open
/// description between its fork and its exec.
pub(super) const FORK_GRACE: Duration = Duration::from_secs(20);

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// A block device over a sparse file; detached when dropped.
pub(super) struct LoopDevice {
    path: PathBuf,
    _folder: TempDir,
}

impl LoopDevice {
    /// `None`, after saying so, where there are no loop devices for us.
    pub(super) fn new(length: u64) -> Option<LoopDevice> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(length).unwrap();
        match run("losetup", &["--find", "--show", image.to_str().unwrap()]) {
            Ok(path) => Some(LoopDevice { path: path.into(), _folder: folder }),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.path.to_str().unwrap()]).unwrap();
    }
}

/// An empty ext4 file system, unmounted when dropped.
pub(super) struct SmallFileSystem {
    folder: TempDir,
    _device: LoopDevice,
}

impl SmallFileSystem {
    /// `None`, after saying so, where we may not mount.
    pub(super) fn new(length: u64) -> Option<SmallFileSystem> {
        let device = LoopDevice::new(length)?;
        let folder = tempfile::tempdir().unwrap();
        let device_path = device.path().to_str().unwrap();
        let made = run("mkfs.ext4", &["-q", device_path])
            .and_then(|_| run("mount", &[device_path, folder.path().to_str().unwrap()]));
        match made {
            Ok(_) => Some(SmallFileSystem { folder, _device: device }),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let folder = self.folder.path().to_str().unwrap();
        for _ in 0..100 {
            if run("umount", &[folder]).is_ok() {
                return;
            }
            thread::sleep(FORK_GRACE / 100);
        }
        eprintln!("{folder} stays mounted");
    }
}

/// Another process with a lock on a file, by flock(1).
pub(super) struct Holder(Child);

impl Holder {
    /// `mode` is `--exclusive` or `--shared`. Returns once the lock is held.
    pub(super) fn new(mode: &str, path: &Path) -> Holder {
        // `exec cat` so that one process inherits the lock and ends with its input.
        let mut child = Command::new("flock")
            .args([mode, "--no-fork"])
            .arg(path)
            .args(["sh", "-c", "echo held; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Holder(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends without a chance to clean up.
    pub(super) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
