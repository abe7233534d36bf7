//! A Linux guest on an export: QEMU's emulator boots the kernel that `script/guest-kernel` fetched, and
//! the guest's own ext4 and virtio driver do what real ones do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::host::{self, text};
use support::{Daemon, Place, has_program, skip};

/// Whether a guest can be booted; skips the test if not.
fn has_guest() -> bool {
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
struct Guest {
    child: Child,
    console: BufReader<ChildStdout>,
    /// All it has said.
    said: String,
}

impl Guest {
    /// Boots it to run `job`, a shell script.
    fn boot(place: &Place, daemon: &Daemon, job: &str) -> Guest {
        let job_disk = place.path("job");
        let mut padded = job.as_bytes().to_vec();
        padded.resize(padded.len().next_multiple_of(4096), 0);
        std::fs::write(&job_disk, padded).unwrap();
        let export = format!(
            "driver=nbd,node-name=web,server.type=unix,server.path={},export=web,\
             reconnect-delay=60,discard=unmap",
            daemon.nbd_socket().display()
        );
        let job_disk =
            format!("driver=file,node-name=job,read-only=on,filename={}", text(&job_disk));
        let guest = guest_folder();
        // A guest that hangs ends, and its test with it.
        let mut child = Command::new("timeout")
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
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        Guest { child, console, said: String::new() }
    }

    /// Waits until it has said a line with `words`.
    fn hears(&mut self, words: &str) {
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

    /// Waits until it has powered off; its job must have succeeded. Returns all it has said.
    fn ends(mut self) -> String {
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

/// Makes the image "web" with an empty ext4.
fn import_ext4(place: &Place) {
    let disk = place.path("ext4");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    host::run("mkfs.ext4", &["-q", "-F", text(&disk)]);
    place.ok(&["image", "import", text(&disk), "web"]);
}

/// The image "web" as a file.
fn exported(place: &Place) -> PathBuf {
    let disk = place.path("exported");
    place.ok(&["image", "export", "web", text(&disk)]);
    disk
}

/// The file system must be sound, and every file what the guest said it wrote, as `sha256sum` prints it.
fn assert_sound_with_files(place: &Place, disk: &Path, said: &str) {
    host::run("e2fsck", &["-f", "-n", text(disk)]);
    let mut files = 0;
    for line in said.lines() {
        let Some((sum, path)) = line.split_once("  /mnt/") else { continue };
        let copy = place.path("copy");
        let dump = format!("dump /{path} {}", text(&copy));
        host::run("debugfs", &["-R", &dump, text(disk)]);
        let found = host::run("sha256sum", &[text(&copy)]);
        assert_eq!(found.split_whitespace().next(), Some(sum), "{path}");
        files += 1;
    }
    assert!(files >= 10, "{files} files in {said}");
}

/// A disk without a volatile cache would never be flushed, and the test would prove nothing.
const MOUNT: &str = "
    set -e
    grep -q 'write back' /sys/block/vda/queue/write_cache
    mount -t ext4 /dev/vda /mnt
";

/// Prints a checksum of each file once all are synced.
const WRITE_FILES: &str = "
    mkdir /mnt/deep
    for i in 1 2 3 4 5 6; do
        dd if=/dev/urandom of=/mnt/one-$i bs=1000 count=$((i * i * 40)) 2>/dev/null
        dd if=/dev/urandom of=/mnt/deep/$i bs=3 count=$i 2>/dev/null
    done
    cat /mnt/one-* >/mnt/all
    rm /mnt/one-3
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sha256sum /mnt/one-* /mnt/deep/* /mnt/all
";

#[test]
fn a_guest_that_writes_syncs_and_powers_off_leaves_a_sound_disk() {
    if !has_guest() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    import_ext4(&place);
    let job = format!("{MOUNT}{WRITE_FILES}umount /mnt");
    let said = Guest::boot(&place, &daemon, &job).ends();
    assert_sound_with_files(&place, &exported(&place), &said);
}

#[test]
fn what_a_guest_synced_survives_its_sudden_end_and_the_daemons() {
    if !has_guest() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    import_ext4(&place);
    let job = format!(
        "{MOUNT}{WRITE_FILES}
         echo synced
         dd if=/dev/urandom of=/mnt/more bs=64k
         sleep 60"
    );
    let mut guest = Guest::boot(&place, &daemon, &job);
    guest.hears("synced");
    std::thread::sleep(Duration::from_millis(300));
    daemon.kill();
    let said = guest.said.clone();
    drop(guest);
    let _daemon = place.serve(&[]);
    let disk = exported(&place);
    // The next mount would replay the journal, too; that is no damage.
    let replay = host::finish("e2fsck", &["-p", text(&disk)]);
    assert!(matches!(replay.status.code(), Some(0 | 1)), "{replay:?}");
    assert_sound_with_files(&place, &disk, &said);
}

#[test]
fn a_guest_notices_nothing_of_a_daemon_that_was_killed_and_started_again() {
    if !has_guest() {
        return;
    }
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    import_ext4(&place);
    let job = format!(
        "{MOUNT}
         for i in $(seq 1 60); do
             dd if=/dev/urandom of=/mnt/$i bs=50000 count=2 conv=fsync 2>/dev/null
             echo wrote $i
         done
         rm /mnt/[1-9]*
         {WRITE_FILES}
         grep ' /mnt ext4 rw' /proc/mounts
         umount /mnt"
    );
    let mut guest = Guest::boot(&place, &daemon, &job);
    for progress in ["wrote 3\n", "wrote 20\n"] {
        guest.hears(progress);
        daemon.kill();
        daemon = place.serve(&[]);
    }
    let said = guest.ends();
    assert!(!said.contains("error"), "{said}");
    assert_sound_with_files(&place, &exported(&place), &said);
    daemon.stop();
}

#[test]
fn what_a_guest_trims_takes_no_space() {
    if !has_guest() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    import_ext4(&place);
    let trim = "
        dd if=/dev/urandom of=/mnt/big bs=1M count=20 2>/dev/null
        sync
        echo written
        sleep 5
        rm /mnt/big
        sync
        fstrim /mnt
        umount /mnt
    ";
    let mapped = || place.json(&["image", "info", "web"])["bytes_mapped"].as_u64().unwrap();
    let empty = mapped();
    let mut guest = Guest::boot(&place, &daemon, &format!("{MOUNT}{trim}"));
    guest.hears("written");
    let full = mapped();
    assert!(full > empty + (20 << 20), "{empty}, then {full}");
    guest.ends();
    assert!(mapped() < empty + (1 << 20), "{empty}, then {full}, then {}", mapped());
}
