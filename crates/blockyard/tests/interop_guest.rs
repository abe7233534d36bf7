//! A Linux guest on an export: QEMU's emulator boots the kernel that `script/guest-kernel` fetched, and
//! the guest's own ext4 and virtio driver do what real ones do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::Place;
use support::guest::{Guest, has_guest};
use support::host::{self, text};

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
