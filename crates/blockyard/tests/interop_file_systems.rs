//! File systems of the host's kernel on an export, through nbdfuse and a loop device.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::content::Random;
use support::host::{self, Fuse, Mount, is_root, text, uri};
use support::loop_device::LoopDevice;
use support::{Place, has_program};

/// A kind of file system, and how to find out whether it is sound without changing it.
struct Kind {
    make: &'static [&'static str],
    judge: &'static [&'static str],
    /// Of a mount that changes nothing, not even the journal.
    look: &'static str,
}

const EXT4: Kind =
    Kind { make: &["mkfs.ext4", "-q", "-F"], judge: &["e2fsck", "-f", "-n"], look: "ro,noload" };

const XFS: Kind =
    Kind { make: &["mkfs.xfs", "-q", "-f"], judge: &["xfs_repair", "-n"], look: "ro,norecovery" };

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

/// Adds files of many lengths, removes some of those that were there, changes others in the middle.
fn change(folder: &Path, files: &mut Files, random: &mut Random) {
    let old: Vec<String> = files.keys().cloned().collect();
    for name in old {
        match random.below(3) {
            0 => {
                std::fs::remove_file(folder.join(&name)).unwrap();
                files.remove(&name);
            }
            1 => {
                let content = files.get_mut(&name).unwrap();
                let at = random.below(content.len() as u64) as usize;
                content[at..].fill(at as u8);
                std::fs::write(folder.join(&name), content).unwrap();
            }
            _ => {}
        }
    }
    for _ in 0..40 {
        let about = [1, 4096, 70_000, 900_000][random.below(4) as usize];
        let length = about + random.below(5000) as usize;
        let name = format!("file-{:016x}", random.next());
        let content = random.bytes(length);
        std::fs::write(folder.join(&name), &content).unwrap();
        files.insert(name, content);
    }
}

fn assert_holds(folder: &Path, files: &Files) {
    for (name, content) in files {
        assert!(std::fs::read(folder.join(name)).unwrap() == *content, "{name} differs");
    }
    let names = std::fs::read_dir(folder).unwrap();
    let kept = names
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("file-"));
    assert_eq!(kept.count(), files.len());
}

fn judge(kind: &Kind, disk: &str) {
    host::run(kind.judge[0], &[&kind.judge[1..], &[disk]].concat());
}

/// Makes a file system on an export, uses it in two rounds, and looks at it through the export, in an
/// exported file, and at the pool once its daemon has stopped.
fn lives_on_an_export(kind: &Kind) {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "512M"]);
    let fuse = Fuse::of(&uri(&daemon, "web"), place.path("fuse"));
    let Some(device) = LoopDevice::attach(&fuse.disk, &[]) else { return };
    host::run(kind.make[0], &[&kind.make[1..], &[&device.path]].concat());
    let (mut files, mut random) = (Files::new(), Random::new(12));
    for _ in 0..2 {
        let mount = Mount::new(&device.path, place.path("mount"), &[]);
        assert_holds(&mount.folder, &files);
        change(&mount.folder, &mut files, &mut random);
        mount.unmount();
        judge(kind, &device.path);
    }
    drop(device);
    fuse.close();
    let exported: PathBuf = place.path("exported");
    place.ok(&["image", "export", "web", text(&exported)]);
    judge(kind, text(&exported));
    let Some(device) = LoopDevice::attach(&exported, &[]) else { return };
    let mount = Mount::new(&device.path, place.path("mount"), &["-o", kind.look]);
    assert_holds(&mount.folder, &files);
    mount.unmount();
    daemon.stop();
    place.ok(&["check", "--data"]);
}

#[test]
fn ext4_on_an_export_keeps_its_files_and_passes_e2fsck() {
    let programs = ["nbdfuse", "losetup", "mkfs.ext4", "e2fsck"];
    if programs.into_iter().all(has_program) && is_root() {
        lives_on_an_export(&EXT4);
    }
}

#[test]
fn xfs_on_an_export_keeps_its_files_and_passes_xfs_repair() {
    let programs = ["nbdfuse", "losetup", "mkfs.xfs", "xfs_repair"];
    if programs.into_iter().all(has_program) && is_root() {
        lives_on_an_export(&XFS);
    }
}
