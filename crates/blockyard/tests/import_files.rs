//! Files of the host into images and back, with the real program and files of the real qemu-img.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::content::disk_content;
use support::{Finished, Place, eventually, has_program};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes the content to a file of the place.
fn file(place: &Place, name: &str, content: &[u8]) -> PathBuf {
    let path = place.path(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn convert(options: &[&str], source: &Path, target: &Path) {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw"]).args(options).args([source, target]);
    Finished::of(command).ok();
}

fn digest(place: &Place, name: &str) -> String {
    place.ok(&["image", "digest", name]).split_whitespace().next().unwrap().to_owned()
}

#[test]
fn every_format_imports_to_the_same_digest_as_the_raw_disk() {
    if !has_program("qemu-img") {
        return;
    }
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let content = disk_content(20 << 20, 1);
    let raw = file(&place, "disk.raw", &content);
    place.ok(&["image", "import", text(&raw), "raw"]);
    let expected = digest(&place, "raw");
    let base = place.path("plain");
    let formats: [(&str, &[&str]); 8] = [
        ("sparse", &["-O", "raw", "-S", "4k"]),
        ("plain", &["-O", "qcow2"]),
        ("compressed", &["-O", "qcow2", "-c"]),
        ("zstd", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
        ("backed", &["-O", "qcow2", "-B", text(&base), "-F", "qcow2"]),
        ("flat", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]),
        ("monolithic", &["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
        ("stream", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    ];
    for (name, options) in formats {
        let path = place.path(name);
        convert(options, &raw, &path);
        place.ok(&["image", "import", text(&path), name]);
        assert_eq!(digest(&place, name), expected, "{name}");
    }
    let exported = place.path("exported.raw");
    place.ok(&["image", "export", "stream", text(&exported)]);
    assert!(std::fs::read(exported).unwrap() == content);
    let exported = place.path("exported.qcow2");
    place.ok(&["image", "export", "plain", text(&exported)]);
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "qcow2"]).args([&raw, &exported]);
    Finished::of(compare).ok();
}

#[test]
fn an_odd_size_is_rounded_up_saying_so() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let mut content = disk_content((1 << 20) + 100, 2);
    let path = file(&place, "odd", &content);
    let finished = place.run(&["image", "import", text(&path), "odd"]);
    assert!(finished.err.contains("rounded up to 1049088"), "{finished:?}");
    finished.ok();
    let exported = place.path("exported");
    place.ok(&["image", "export", "odd", text(&exported)]);
    content.resize(1_049_088, 0);
    assert!(std::fs::read(exported).unwrap() == content);
}

#[test]
fn standard_input_and_output_carry_raw_bytes() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let content = disk_content(5 << 20, 3);
    let mut import = place.command();
    import.arg("--pool").arg(place.pool()).args(["image", "import", "-", "piped"]);
    let mut child = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&content).unwrap();
    assert!(child.wait().unwrap().success());
    let mut export = place.command();
    export.arg("--pool").arg(place.pool()).args(["image", "export", "piped", "-"]);
    let output = export.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == content);
}

#[test]
fn an_odd_length_of_standard_input_is_rounded_up_saying_so() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let odd = file(&place, "odd", &disk_content(4097, 8));
    let mut import = place.command();
    import.arg("--pool").arg(place.pool()).args(["image", "import", "-", "odd", "--json"]);
    import.stdin(std::fs::File::open(&odd).unwrap());
    let finished = Finished::of(import);
    assert!(finished.err.contains("4097 bytes were rounded up to 4608"), "{finished:?}");
    let image: serde_json::Value = serde_json::from_str(&finished.ok()).unwrap();
    assert_eq!(image["size_bytes"], 4608);
}

#[test]
fn what_cannot_be_imported_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let vhdx = file(&place, "disk.vhdx", &[b"vhdxfile".as_slice(), &[0; 4096]].concat());
    let message = place.fails(9, &["image", "import", text(&vhdx), "disk"]);
    assert!(message.contains("vhdx"), "{message}");
    let torn = file(&place, "disk.qcow2", &[b"QFI\xfb\0\0\0\x03".as_slice(), &[7; 4096]].concat());
    place.fails(8, &["image", "import", text(&torn), "disk"]);
    place.fails(3, &["image", "import", "/nonexistent/disk", "disk"]);
    assert_eq!(place.json(&["image", "list"])["images"].as_array().unwrap().len(), 0);
    place.ok(&["image", "import", text(&torn), "disk", "--format", "raw"]);
    place.fails(4, &["image", "import", text(&vhdx), "disk", "--format", "raw"]);
}

#[test]
fn an_export_never_replaces_a_file_unasked() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let content = disk_content(1 << 20, 4);
    let path = file(&place, "disk", &content);
    place.ok(&["image", "import", text(&path), "disk"]);
    let target = file(&place, "precious", b"precious");
    place.fails(4, &["image", "export", "disk", text(&target)]);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    place.ok(&["image", "export", "disk", text(&target), "--overwrite"]);
    assert!(std::fs::read(&target).unwrap() == content);
}

/// Killed at several moments of an import: afterwards there is nothing of the image, or all of it.
#[test]
fn an_import_cut_off_by_a_kill_leaves_nothing_or_the_whole() {
    let place = Place::new();
    let content = disk_content(96 << 20, 5);
    let path = file(&place, "disk", &content);
    for (round, delay_ms) in [5, 30, 80, 200, 600].into_iter().enumerate() {
        let daemon = place.serve(&[]);
        let name = format!("disk-{round}");
        let mut import = place.command();
        import.arg("--pool").arg(place.pool()).args(["image", "import", text(&path), &name]);
        let mut child = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        daemon.kill();
        child.wait().unwrap();
        let daemon = place.serve(&[]);
        let images = place.json(&["image", "list"]);
        if !images["images"].as_array().unwrap().is_empty() {
            let exported = place.path("exported");
            place.ok(&["image", "export", &name, text(&exported)]);
            assert!(std::fs::read(&exported).unwrap() == content, "round {round}");
            std::fs::remove_file(exported).unwrap();
            place.ok(&["image", "remove", &name]);
        }
        eventually("the space of the import is free again", || {
            place.json(&["pool", "status"])["bytes_physical"] == 0
        });
        daemon.stop();
    }
}

#[test]
fn an_upload_cut_off_leaves_nothing() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let head = "PUT /v1/images/cut/content HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n";
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.api_socket()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&disk_content(3 << 20, 6)).unwrap();
    drop(stream);
    // The name is free again, so the daemon has let go of it.
    let path = file(&place, "disk", &disk_content(1 << 20, 7));
    eventually("the upload is given up", || {
        place.json(&["image", "list"])["images"].as_array().unwrap().is_empty()
    });
    place.ok(&["image", "import", text(&path), "cut"]);
    let sparse = place.path("sparse");
    File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    place.ok(&["image", "import", text(&sparse), "terabyte"]);
}
