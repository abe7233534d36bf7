//! A Linux guest whose disk is an export: QEMU's emulator boots the kernel that `script/guest-kernel`
//! fetched.

use super::host::text;
use super::{Daemon, Place, has_program, skip};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Whether a guest can be booted; skips the test if not.
pub(crate) fn has_guest() -> bool {
    let fetched = guest_folder().join("vmlinuz").exists();
    if !fetched {
        skip("no guest kernel: run script/guest-kernel");
    }
    fetched && ["qemu-system-x86_64", "mkfs.ext4", "e2fsck", "debugfs"].into_iter().all(has_program)
}

fn guest_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("guest")
}

/// A booted guest whose first disk is the image "web"; killed when dropped.
pub(crate) struct Guest {
    child: Child,
    console: BufReader<ChildStdout>,
    /// All it has said.
    pub(crate) said: String,
}

impl Guest {
    /// Boots it to run `job`, a shell script.
    pub(crate) fn boot(place: &Place, daemon: &Daemon, job: &str) -> Guest {
        Guest::boot_with(place, daemon, job, 60, None)
    }

    /// As [`Guest::boot`]. Its NBD client waits `reconnect_s` for a daemon that is gone; `tools` is a
    /// disk more, to be read only.
    pub(crate) fn boot_with(
        place: &Place,
        daemon: &Daemon,
        job: &str,
        reconnect_s: u32,
        tools: Option<&Path>,
    ) -> Guest {
        let job_disk = place.path("job");
        let mut padded = job.as_bytes().to_vec();
        padded.resize(padded.len().next_multiple_of(4096), 0);
        std::fs::write(&job_disk, padded).unwrap();
        let export = format!(
            "driver=nbd,node-name=web,server.type=unix,server.path={},export=web,\
             reconnect-delay={reconnect_s},discard=unmap",
            daemon.nbd_socket().display()
        );
        let job_disk =
            format!("driver=file,node-name=job,read-only=on,filename={}", text(&job_disk));
        let guest = guest_folder();
        // A guest that hangs ends, and its test with it.
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "120", "qemu-system-x86_64", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "qemu64", "-machine", "q35", "-m", "256", "-nodefaults"])
            .args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(guest.join("vmlinuz"))
            .arg("-initrd")
            .arg(guest.join("initramfs"))
            .args(["-append", "console=ttyS0 quiet panic=1"])
            .args(["-blockdev", &export, "-device", "virtio-blk-pci,drive=web"])
            .args(["-blockdev", &job_disk, "-device", "virtio-blk-pci,drive=job"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(tools) = tools {
            let disk = format!("driver=file,node-name=tools,read-only=on,filename={}", text(tools));
            command.args(["-blockdev", &disk, "-device", "virtio-blk-pci,drive=tools"]);
        }
        let mut child = command.spawn().unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        Guest { child, console, said: String::new() }
    }

    /// Waits until it has said a line with `words`.
    pub(crate) fn hears(&mut self, words: &str) {
        loop {
            let mut line = Vec::new();
            let length = self.console.read_until(b'\n', &mut line).unwrap();
            assert!(length > 0, "the guest never said {words:?}: {}", self.said);
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            self.said += &line;
            if line.contains(words) {
                return;
            }
        }
    }

    /// Waits until its job has ended; true if it succeeded.
    pub(crate) fn succeeds(mut self) -> bool {
        self.hears("job: ");
        self.said.contains("job: 0")
    }

    /// Waits until it has powered off; its job must have succeeded. Returns all it has said.
    pub(crate) fn ends(mut self) -> String {
        self.hears("job: ");
        assert!(self.said.contains("job: 0"), "{}", self.said);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SIGTERM, which timeout passes on to QEMU; SIGKILL would leave QEMU behind.
        let pid = Pid::from_child(&self.child);
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}
