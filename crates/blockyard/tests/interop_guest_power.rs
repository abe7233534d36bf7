//! Guests in trouble: their daemon killed and started again (as another build of the program, too) while
//! fio writes and verifies; and their own power cut again and again, with ext4 and with xfs.
//!
//! `BLOCKYARD_GUEST_ROUNDS` says how many power-offs of each file system (2), `BLOCKYARD_NEWER` which
//! program the daemon is started again with (the same).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::guest::{Guest, has_guest};
use support::host::{self, text};
use support::{Daemon, PROGRAM, Place, has_program};

/// A daemon of another build, for the same pool.
fn serve_newer(place: &Place) -> Daemon {
    let newer = std::env::var_os("BLOCKYARD_NEWER").unwrap_or_else(|| PROGRAM.into());
    let as_configured = place.command();
    let mut command = std::process::Command::new(newer);
    for (name, value) in as_configured.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.arg("serve").arg("--pool").arg(place.pool());
    Daemon::start(command, &place.pool(), &place.path("daemon.log"))
}

/// A disk with fio and all that it loads.
fn fio_disk(place: &Place) -> PathBuf {
    let folder = place.path("tools");
    std::fs::create_dir(&folder).unwrap();
    let fio = host::run("sh", &["-c", "command -v fio"]);
    let loads = host::run("ldd", &[fio.trim()]);
    let libraries = loads.split_whitespace().filter(|word| word.starts_with('/'));
    for file in [fio.trim()].into_iter().chain(libraries) {
        host::run("cp", &["--dereference", file, text(&folder)]);
    }
    let disk = place.path("tools.ext4");
    std::fs::File::create(&disk).unwrap().set_len(160 << 20).unwrap();
    host::run("mkfs.ext4", &["-q", "-F", "-d", text(&folder), text(&disk)]);
    disk
}

const FIO: &str = "
    mkdir -p /opt
    mount -t ext4 -o ro /dev/vdc /opt
    echo begins
    LD_LIBRARY_PATH=/opt /opt/ld-linux-x86-64.so.2 /opt/fio --name=verified --filename=/dev/vda \
        --rw=randwrite --bs=4k --size=24M --io_size=16M --rate_iops=600 --direct=1 \
        --ioengine=psync --fsync=64 --verify=crc32c --do_verify=1 --verify_fatal=1 \
        --output=/tmp/fio 2>&1
    code=$?
    tail -n 5 /tmp/fio
    ( exit $code )
";

/// Whether fio in a guest finds all that it wrote, while the daemon is killed below it.
fn fio_is_content(reconnect_s: u32) -> bool {
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    let tools = fio_disk(&place);
    let mut guest = Guest::boot_with(&place, &daemon, FIO, reconnect_s, Some(&tools));
    guest.hears("begins");
    for kill in 0..3 {
        std::thread::sleep(Duration::from_millis(1500));
        daemon.kill();
        // Long enough for a request to meet a daemon that is gone.
        std::thread::sleep(Duration::from_millis(300));
        daemon = if kill % 2 == 0 { serve_newer(&place) } else { place.serve(&[]) };
    }
    let content = guest.succeeds();
    daemon.stop();
    place.ok(&["check", "--data", text(&place.pool())]);
    content
}

#[test]
fn fio_in_a_guest_verifies_all_it_wrote_while_its_daemon_is_killed() {
    if !has_guest() || !has_program("fio") {
        return;
    }
    assert!(fio_is_content(60), "the guest saw an error or wrong data");
}

/// The control: without it, the test above might kill nothing that matters.
#[test]
fn fio_in_a_guest_whose_client_does_not_reconnect_fails() {
    if !has_guest() || !has_program("fio") {
        return;
    }
    assert!(!fio_is_content(0), "the guest noticed nothing: was anything killed?");
}

/// Each round verifies what was synced in the rounds before, writes and syncs more, and loses power
/// while it writes on.
fn survives_power_offs(file_system: &str, make: impl Fn(&Path), check: impl Fn(&Path)) {
    let rounds: u64 =
        std::env::var("BLOCKYARD_GUEST_ROUNDS").map_or(2, |text| text.parse().unwrap());
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    let disk = place.path("fresh");
    std::fs::File::create(&disk).unwrap().set_len(320 << 20).unwrap();
    make(&disk);
    place.ok(&["image", "import", text(&disk), "web"]);
    for round in 0..rounds {
        let job = format!(
            "set -e
             mount -t {file_system} /dev/vda /mnt
             if [ -f /mnt/sums ]; then (cd /mnt && sha256sum -c sums >/tmp/out) || {{ cat /tmp/out; exit 9; }}; fi
             dd if=/dev/urandom of=/mnt/kept-{round} bs=1000 count=700 2>/dev/null
             (cd /mnt && sha256sum kept-* >sums.new && mv sums.new sums)
             sync
             echo synced
             while :; do
                 dd if=/dev/urandom of=/mnt/lost-$((n = (n + 1) % 7)) bs=4k count=200 2>/dev/null
                 rm -f /mnt/lost-$(((n + 3) % 7))
             done"
        );
        let mut guest = Guest::boot(&place, &daemon, &job);
        guest.hears("synced");
        std::thread::sleep(Duration::from_millis(100 + round * 97 % 800));
        // With every second power-off the daemon's own end, too.
        if round % 2 == 1 {
            daemon.kill();
            drop(guest);
            daemon = place.serve(&[]);
        } else {
            drop(guest);
        }
    }
    let job = format!(
        "set -e
         mount -t {file_system} /dev/vda /mnt
         cd /mnt
         sha256sum -c sums
         cd /
         umount /mnt"
    );
    let said = Guest::boot(&place, &daemon, &job).ends();
    let whole = said.lines().filter(|line| line.contains("kept-") && line.ends_with("OK")).count();
    assert_eq!(whole as u64, rounds, "{said}");
    let exported = place.path("exported");
    place.ok(&["image", "export", "web", text(&exported)]);
    check(&exported);
    daemon.stop();
    place.ok(&["check", "--data", text(&place.pool())]);
}

#[test]
fn a_guests_ext4_keeps_what_was_synced_through_sudden_power_offs() {
    if !has_guest() {
        return;
    }
    let make = |disk: &Path| drop(host::run("mkfs.ext4", &["-q", "-F", text(disk)]));
    let check = |disk: &Path| drop(host::run("e2fsck", &["-f", "-n", text(disk)]));
    survives_power_offs("ext4", make, check);
}

#[test]
fn a_guests_xfs_keeps_what_was_synced_through_sudden_power_offs() {
    if !has_guest() || !["mkfs.xfs", "xfs_repair"].into_iter().all(has_program) {
        return;
    }
    let make = |disk: &Path| drop(host::run("mkfs.xfs", &["-q", "-f", text(disk)]));
    let check = |disk: &Path| drop(host::run("xfs_repair", &["-n", text(disk)]));
    survives_power_offs("xfs", make, check);
}
