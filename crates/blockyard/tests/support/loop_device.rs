//! Loop devices and small file systems on them. They need root, and go away with the test.

use super::{Finished, has_program, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Detached when dropped.
pub(crate) struct LoopDevice {
    pub(crate) path: String,
}

impl LoopDevice {
    /// `None` where nobody may make one; the test is then skipped.
    pub(crate) fn attach(file: &Path, options: &[&str]) -> Option<LoopDevice> {
        if !rustix::process::geteuid().is_root() {
            skip("loop devices need root");
            return None;
        }
        if !has_program("losetup") {
            return None;
        }
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).args(options).arg(file);
        let attached = Finished::of(command);
        if !attached.status.success() {
            skip("this machine lets nobody make loop devices");
            return None;
        }
        Some(LoopDevice { path: attached.out.trim().to_owned() })
    }

    /// How many sectors were read from it since the kernel made it.
    pub(crate) fn sectors_read(&self) -> u64 {
        let name = self.path.trim_start_matches("/dev/");
        let counters = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        counters.split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

/// An ext4 on a loop device, mounted at `folder`; unmounted when dropped.
pub(crate) struct SmallFileSystem {
    pub(crate) folder: PathBuf,
    /// Detached after the file system is unmounted.
    _device: LoopDevice,
}

impl SmallFileSystem {
    /// Made of a new file `disk`.
    pub(crate) fn mount(disk: &Path, folder: PathBuf, size: u64) -> Option<SmallFileSystem> {
        if !has_program("mkfs.ext4") || !has_program("mount") {
            return None;
        }
        std::fs::File::create(disk).unwrap().set_len(size).unwrap();
        let device = LoopDevice::attach(disk, &[])?;
        run("mkfs.ext4", &["-q", &device.path]);
        std::fs::create_dir(&folder).unwrap();
        run("mount", &[&device.path, folder.to_str().unwrap()]);
        Some(SmallFileSystem { folder, _device: device })
    }

    /// No longer writable, for anybody.
    pub(crate) fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro", self.folder.to_str().unwrap()]);
    }

    /// Bytes that anybody may still use.
    pub(crate) fn bytes_available(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.folder).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// A file beside the pool takes everything that is left.
    pub(crate) fn eat_all(&self) -> PathBuf {
        let path = self.folder.join("greedy");
        let file = std::fs::File::create(&path).unwrap();
        let mut offset = 0;
        for step in [1 << 20, 64 << 10, 4096] {
            let none = rustix::fs::FallocateFlags::empty();
            while rustix::fs::fallocate(&file, none, offset, step).is_ok() {
                offset += step;
            }
        }
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    Finished::of(command).ok();
}
