//! What `import` promises, one test for each promise.

use crate::transfer_file::detect::Detected;
use crate::transfer_file::testing::{Scratch, convert, disk_content, has, import, run_qemu_img};
use blockyard_api::FileFormat;
use blockyard_block::ErrorKind;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SIZE: usize = 9 << 20;

/// The file imports to `content`, and was taken for `format`.
fn assert_imports(scratch: &Scratch, path: &Path, format: Detected, content: &[u8]) {
    let (opened, imported) = import(path, &scratch.options()).unwrap();
    assert_eq!(opened.format, format, "{}", path.display());
    assert!(imported == content, "{} imports to something else", path.display());
}

#[test]
fn a_raw_file_imports_to_its_content() {
    let scratch = Scratch::new();
    let content = disk_content(SIZE, 1);
    let path = scratch.file("disk.raw", &content);
    assert_imports(&scratch, &path, Detected::Raw, &content);
}

#[test]
fn holes_of_a_raw_file_are_not_read() {
    let scratch = Scratch::new();
    let path = scratch.path("disk.raw");
    let file = File::create(&path).unwrap();
    file.set_len(8 << 40).unwrap();
    file.write_all_at(b"here", (5 << 40) + 77).unwrap();
    let opened = crate::transfer_file::source::open(&path, &scratch.options(), &|| false).unwrap();
    let hole = opened.source.run_at(4096).unwrap();
    assert!(hole.zero);
    let data = 4096 + hole.length;
    assert!(data <= (5 << 40) + 77);
    assert!(!opened.source.run_at(data).unwrap().zero);
}

#[test]
fn an_odd_size_is_rounded_up_to_a_sector() {
    let scratch = Scratch::new();
    let mut content = disk_content((1 << 20) + 1000, 2);
    let path = scratch.file("disk.raw", &content);
    content.resize((1 << 20) + 1024, 0);
    assert_imports(&scratch, &path, Detected::Raw, &content);
}

#[test]
fn an_empty_file_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.file("disk.raw", b"");
    assert_eq!(import(&path, &scratch.options()).err().unwrap().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn every_kind_of_qcow2_imports_to_the_content_it_was_made_of() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let content = disk_content(SIZE, 3);
    let raw = scratch.file("disk.raw", &content);
    let kinds: [(&str, &[&str]); 8] = [
        ("plain", &["-O", "qcow2"]),
        ("version2", &["-O", "qcow2", "-o", "compat=0.10"]),
        ("small-clusters", &["-O", "qcow2", "-o", "cluster_size=512"]),
        ("large-clusters", &["-O", "qcow2", "-o", "cluster_size=2M"]),
        ("preallocated", &["-O", "qcow2", "-o", "preallocation=metadata"]),
        ("compressed", &["-O", "qcow2", "-c"]),
        ("zstd", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
        ("extended", &["-O", "qcow2", "-o", "extended_l2=on"]),
    ];
    for (name, options) in kinds {
        let path = scratch.path(name);
        convert(&raw, &path, options);
        assert_imports(&scratch, &path, Detected::Qcow2, &content);
    }
}

#[test]
fn qcow2_of_an_odd_size_imports() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let content = disk_content((3 << 20) + 512 * 3, 4);
    let raw = scratch.file("disk.raw", &content);
    convert(&raw, &scratch.path("disk.qcow2"), &["-O", "qcow2"]);
    assert_imports(&scratch, &scratch.path("disk.qcow2"), Detected::Qcow2, &content);
}

#[test]
fn a_backing_chain_is_followed_relative_to_each_image() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let mut content = disk_content(SIZE, 5);
    let base = scratch.file("base.raw", &content);
    std::fs::create_dir(scratch.path("below")).unwrap();
    convert(&base, &scratch.path("below/middle.qcow2"), &["-O", "qcow2"]);
    for (name, backing) in
        [("below/upper.qcow2", "middle.qcow2"), ("top.qcow2", "below/upper.qcow2")]
    {
        let path = scratch.path(name);
        let path = path.to_str().unwrap();
        run_qemu_img(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, path]);
    }
    let top = scratch.path("top.qcow2");
    if has("qemu-io") {
        let write = ["-c", "write -P 0x5a 1000k 300k", "-c", "write -z 4M 1M"];
        let written = std::process::Command::new("qemu-io").args(write).arg(&top).output().unwrap();
        assert!(written.status.success());
        content[1000 << 10..1300 << 10].fill(0x5a);
        content[4 << 20..5 << 20].fill(0);
    }
    assert_imports(&scratch, &top, Detected::Qcow2, &content);
}

#[test]
fn an_external_data_file_is_followed() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let content = disk_content(SIZE, 6);
    let raw = scratch.file("disk.raw", &content);
    let data = format!("data_file={}", scratch.path("data").display());
    convert(&raw, &scratch.path("disk.qcow2"), &["-O", "qcow2", "-o", &data]);
    assert_imports(&scratch, &scratch.path("disk.qcow2"), Detected::Qcow2, &content);
    File::options().write(true).open(scratch.path("data")).unwrap().set_len(3 << 20).unwrap();
    let error = import(&scratch.path("disk.qcow2"), &scratch.options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn every_kind_of_vmdk_imports_to_the_content_it_was_made_of() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let content = disk_content(SIZE, 7);
    let raw = scratch.file("disk.raw", &content);
    let kinds = [
        ("monolithicFlat", Detected::VmdkDescriptor),
        ("monolithicSparse", Detected::VmdkSparse),
        ("streamOptimized", Detected::VmdkSparse),
        ("twoGbMaxExtentFlat", Detected::VmdkDescriptor),
        ("twoGbMaxExtentSparse", Detected::VmdkDescriptor),
    ];
    for (kind, format) in kinds {
        let path = scratch.path(&format!("{kind}.vmdk"));
        convert(&raw, &path, &["-O", "vmdk", "-o", &format!("subformat={kind}")]);
        assert_imports(&scratch, &path, format, &content);
    }
}

#[test]
fn a_vmdk_whose_extent_is_cut_short_is_an_error() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", &disk_content(SIZE, 8));
    let path = scratch.path("disk.vmdk");
    convert(&raw, &path, &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
    let extent = File::options().write(true).open(scratch.path("disk-flat.vmdk")).unwrap();
    extent.set_len(1 << 20).unwrap();
    assert_eq!(import(&path, &scratch.options()).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn without_qemu_img_its_formats_are_refused_by_name() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", &disk_content(1 << 20, 9));
    let kinds: [(&str, &[&str]); 3] = [
        ("sparse vmdk", &["-O", "vmdk", "-o", "subformat=monolithicSparse"]),
        ("sparse vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("zstd", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    ];
    for (name, options) in kinds {
        let path = scratch.path("disk");
        convert(&raw, &path, options);
        let error = import(&path, &scratch.options_alone()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(name), "{error}");
        assert!(error.message().contains("qemu-utils"), "{error}");
    }
}

#[test]
fn encrypted_qcow2_is_refused_by_name() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.path("disk.qcow2");
    let path_text = path.to_str().unwrap();
    // Patched rather than made: making LUKS times the CPU, which qemu-img fails to do now and then.
    run_qemu_img(["create", "-q", "-f", "qcow2", path_text, "4M"]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[32..36].copy_from_slice(&2u32.to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = import(&path, &scratch.options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("encrypted (LUKS)"), "{error}");
}

#[test]
fn an_image_that_backs_itself_is_refused() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    for (name, backing) in [("a", "b"), ("b", "a")] {
        let path = scratch.path(name);
        let path = path.to_str().unwrap();
        run_qemu_img([
            "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, path, "1M",
        ]);
    }
    let error = import(&scratch.path("a"), &scratch.options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("circle"), "{error}");
}

#[test]
fn a_missing_backing_file_is_named() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.path("disk.qcow2");
    let path_text = path.to_str().unwrap();
    run_qemu_img([
        "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "gone.raw", path_text, "1M",
    ]);
    let error = import(&path, &scratch.options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("gone.raw"), "{error}");
}

#[test]
fn a_raw_backing_file_is_never_taken_for_qcow2() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    let raw = scratch.file("disk.raw", &disk_content(1 << 20, 10));
    convert(&raw, &scratch.path("inner.qcow2"), &["-O", "qcow2"]);
    let mut guest = std::fs::read(scratch.path("inner.qcow2")).unwrap();
    guest.resize(guest.len().next_multiple_of(512), 0);
    std::fs::write(scratch.path("inner.qcow2"), &guest).unwrap();
    let path = scratch.path("outer.qcow2");
    let path_text = path.to_str().unwrap();
    run_qemu_img(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "inner.qcow2", path_text]);
    assert_imports(&scratch, &path, Detected::Qcow2, &guest);
}

#[test]
fn raw_by_force_is_raw_whatever_it_looks_like() {
    let scratch = Scratch::new();
    let mut content = disk_content(1 << 20, 11);
    content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    let path = scratch.file("disk", &content);
    let mut options = scratch.options();
    options.format = Some(FileFormat::Raw);
    let (opened, imported) = import(&path, &options).unwrap();
    assert_eq!(opened.format, Detected::Raw);
    assert!(imported == content);
}

#[test]
fn a_format_that_the_file_is_not_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.file("disk", &disk_content(1 << 20, 12));
    for format in [FileFormat::Qcow2, FileFormat::Vmdk] {
        let mut options = scratch.options();
        options.format = Some(format);
        let error = import(&path, &options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

#[test]
fn a_fifo_or_folder_is_refused_at_once() {
    let scratch = Scratch::new();
    let error = import(scratch.folder(), &scratch.options()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
