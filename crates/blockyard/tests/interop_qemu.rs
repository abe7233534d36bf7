//! What QEMU's programs do with an export: `qemu-img`, `qemu-io`, and `qemu-nbd` as its client.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use support::allocation::{of_image, of_qemu_img};
use support::content::{Random, disk_content};
use support::host::{self, Server, socket_uri, text, uri};
use support::{Place, has_program};

/// Runs commands of qemu-io on a raw disk; every pattern they name must be found.
fn qemu_io(disk: &str, commands: &[String]) {
    let mut arguments = vec!["-f", "raw", disk];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
    let out = host::run("qemu-io", &arguments);
    assert!(!out.contains("verification failed") && !out.contains("failed:"), "{out}");
}

fn compare(one: &str, other: &str) -> bool {
    let finished = host::finish("qemu-img", &["compare", "-f", "raw", "-F", "raw", one, other]);
    match finished.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{finished:?}"),
    }
}

#[test]
fn qemu_img_converts_in_and_out_and_finds_no_difference() {
    if !has_program("qemu-img") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let (source, raw, qcow2) = (place.path("source"), place.path("raw"), place.path("qcow2"));
    std::fs::write(&source, disk_content(32 << 20, 7)).unwrap();
    place.ok(&["image", "create", "web", "32M"]);
    let export = uri(&daemon, "web");
    let convert = |options: &[&str]| host::run("qemu-img", &[&["convert"], options].concat());
    convert(&["-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", text(&source), &export]);
    assert!(compare(text(&source), &export));
    convert(&["-f", "raw", "-O", "raw", &export, text(&raw)]);
    assert!(compare(text(&source), text(&raw)));
    convert(&["-c", "-f", "raw", "-O", "qcow2", &export, text(&qcow2)]);
    place.ok(&["image", "import", text(&qcow2), "again"]);
    assert!(compare(&export, &uri(&daemon, "again")));
    // The control: one byte, and it is seen.
    qemu_io(&export, &["write -P 77 12345678 1".into()]);
    assert!(!compare(text(&source), &export));
}

#[test]
fn qemu_img_maps_an_export_as_the_api_does() {
    if !has_program("qemu-img") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let source = place.path("source");
    std::fs::write(&source, disk_content(40 << 20, 8)).unwrap();
    place.ok(&["image", "import", text(&source), "web"]);
    let export = uri(&daemon, "web");
    qemu_io(&export, &["write -z 3M 1M".into(), "discard 20M 2M".into()]);
    let map = host::json("qemu-img", &["map", "--output=json", "-f", "raw", &export]);
    let runs = of_image(&place, "web");
    assert!(runs.len() > 10 && runs.iter().any(|run| run.zero && !run.hole), "{runs:?}");
    assert_eq!(of_qemu_img(&map), runs);
}

#[test]
fn qemu_io_finds_its_patterns_around_unaligned_edges() {
    if !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "16M"]);
    let mut commands = Vec::new();
    // Around a cluster's, an extent's and the image's edge: each write in the middle of an older one.
    for (at, edge) in [4096_u64, 4 << 20, (16 << 20) - 8192].into_iter().enumerate() {
        let old = 10 + at;
        commands.push(format!("write -P {old} {} 8192", edge - 4096));
        for (pattern, start, length) in
            [(1, edge - 1, 2), (2, edge - 513, 512), (3, edge + 1, 4095), (4, edge - 4096, 1)]
        {
            commands.push(format!("write -P {pattern} {start} {length}"));
        }
        commands.extend([
            format!("read -P 4 {} 1", edge - 4096),
            format!("read -P {old} {} 3582", edge - 4095),
            format!("read -P 2 {} 512", edge - 513),
            format!("read -P 1 {} 1", edge - 1),
            format!("read -P 1 {edge} 1"),
            format!("read -P 3 {} 4095", edge + 1),
        ]);
    }
    qemu_io(&uri(&daemon, "web"), &commands);
}

#[test]
fn qemu_io_reads_zeros_where_it_discarded_and_wrote_zeros() {
    if !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "16M"]);
    let mut commands = vec!["write -P 9 0 16M".to_owned()];
    for (at, change) in
        ["write -z", "write -z -u", "write -z -f", "write -z -n -u"].iter().enumerate()
    {
        let start = (at as u64 + 1) * (2 << 20) - 700;
        commands.extend([
            format!("{change} {start} 20001"),
            format!("read -P 9 {} 4096", start - 4096),
            format!("read -P 0 {start} 20001"),
            format!("read -P 9 {} 4096", start + 20001),
        ]);
    }
    // A discard may leave edges as they are, so only whole clusters are asked for.
    commands.extend(["discard 12M 1M", "read -P 0 12M 1M", "read -P 9 13M 1M"].map(String::from));
    let export = uri(&daemon, "web");
    qemu_io(&export, &commands);
}

#[test]
fn qemu_io_with_many_requests_in_flight_reads_what_it_wrote_last() {
    if !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    let mut random = Random::new(9);
    let mut model = vec![0_u8; 32 << 20];
    let mut commands = Vec::new();
    for round in 0..8 {
        // Requests of one round never meet: their order would be nobody's promise.
        for place in 0..32_u64 {
            let start = place * (1 << 20) + random.below(500 << 10);
            let length = random.below(500 << 10) + 1;
            let pattern = random.below(255) as u8 + 1;
            let force = if random.below(4) == 0 { "-f " } else { "" };
            commands.push(format!("aio_write {force}-P {pattern} {start} {length}"));
            model[start as usize..(start + length) as usize].fill(pattern);
        }
        commands.push("aio_flush".into());
        if round % 3 == 0 {
            commands.push("flush".into());
        }
    }
    qemu_io(&uri(&daemon, "web"), &commands);
    let expected = place.path("expected");
    std::fs::write(&expected, &model).unwrap();
    assert!(compare(text(&expected), &uri(&daemon, "web")));
}

#[test]
fn qemu_io_is_refused_writes_to_a_snapshot() {
    if !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "8M"]);
    qemu_io(&uri(&daemon, "web"), &["write -P 1 0 8M".into()]);
    place.ok(&["image", "snapshot", "web", "monday"]);
    qemu_io(&uri(&daemon, "web"), &["write -P 2 1M 3M".into()]);
    let snapshot = uri(&daemon, "monday");
    let refused = host::finish("qemu-io", &["-f", "raw", &snapshot, "-c", "write -P 3 0 4096"]);
    assert!(!refused.status.success(), "{refused:?}");
    host::run("qemu-io", &["-r", "-f", "raw", &snapshot, "-c", "read -P 1 0 8M"]);
    qemu_io(&uri(&daemon, "web"), &["read -P 1 0 1M".into(), "read -P 2 1M 3M".into()]);
}

/// `qemu-nbd` that serves `image_options` again, for several clients, on a socket.
fn qemu_nbd(socket: &Path, image_options: &str) -> Server {
    let listen = format!("--socket={}", socket.display());
    let flags = [&listen, "--persistent", "--shared=4", "--export-name=again", "--discard=unmap"];
    let arguments = [&flags[..], &["--image-opts", image_options]].concat();
    Server::start("qemu-nbd", &arguments, socket)
}

#[test]
fn qemu_nbd_serves_our_export_again_and_what_goes_through_it_is_ours() {
    if !has_program("qemu-nbd") || !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "32M"]);
    let ours = daemon.nbd_socket();
    let socket = place.path("again.sock");
    let options = format!("driver=nbd,server.type=unix,server.path={},export=web", ours.display());
    let server = qemu_nbd(&socket, &options);
    let again = socket_uri(&socket, "again");
    let commands = ["write -P 5 1000 3000000", "write -z -u 1M 1M", "discard 2M 64k", "flush"];
    qemu_io(&again, &commands.map(String::from));
    let (one, other) = (place.path("one"), place.path("other"));
    std::fs::write(&one, disk_content(8 << 20, 10)).unwrap();
    host::run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&one), &again]);
    qemu_io(&again, &["write -P 6 20000001 12345".into()]);
    drop(server);
    qemu_io(&uri(&daemon, "web"), &["read -P 6 20000001 12345".into()]);
    host::run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri(&daemon, "web"), text(&other)],
    );
    let content = std::fs::read(&other).unwrap();
    assert!(content[..8 << 20] == std::fs::read(&one).unwrap(), "the copy differs");
    let rest = content[8 << 20..].iter().filter(|byte| **byte != 0).count();
    assert_eq!(rest, 12345);
}

#[test]
fn a_qcow2_overlay_reads_through_to_our_export_and_leaves_it_alone() {
    if !has_program("qemu-img") || !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let source = place.path("source");
    std::fs::write(&source, disk_content(16 << 20, 11)).unwrap();
    place.ok(&["image", "import", text(&source), "base"]);
    let (export, overlay) = (uri(&daemon, "base"), place.path("overlay"));
    let digest = || place.json(&["image", "digest", "base"])["digest"].clone();
    let before = digest();
    let create = ["create", "-f", "qcow2", "-F", "raw", "-b", &export, text(&overlay)];
    host::run("qemu-img", &create);
    host::run("qemu-io", &["-f", "qcow2", text(&overlay), "-c", "write -P 8 1234567 2000000"]);
    let rebased = place.path("flat");
    host::run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&overlay), text(&rebased)]);
    let mut expected = std::fs::read(&source).unwrap();
    expected[1_234_567..3_234_567].fill(8);
    assert!(std::fs::read(&rebased).unwrap() == expected, "the overlay reads something else");
    assert_eq!(digest(), before);
}
