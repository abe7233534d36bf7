//! What `export` promises, one test for each promise.

use super::{DeviceSource, Exported, write_file, write_stream};
use crate::transfer_file::progress::Progress;
use crate::transfer_file::testing::{
    MemoryImage, Scratch, disk_content, has, import, run_qemu_img,
};
use blockyard_api::{ExportFile, FileFormat};
use blockyard_block::{ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn write(content: &[u8], path: &Path, format: FileFormat, overwrite: bool) -> Result<Exported> {
    let path = path.to_str().unwrap().to_owned();
    let image = MemoryImage::of(content.to_vec());
    let read_cluster = |_| unreachable!("only to salvage");
    write_file(
        &image,
        &read_cluster,
        &ExportFile { path, format, overwrite, damaged: false },
        &Progress::unseen(),
    )
}

fn export(content: &[u8], path: &Path, format: FileFormat) {
    let exported = write(content, path, format, false).unwrap();
    assert_eq!(exported.size_bytes, content.len() as u64);
    assert!(exported.bytes_written <= exported.size_bytes);
}

#[test]
fn a_raw_export_has_the_content_and_the_holes() {
    let scratch = Scratch::new();
    let mut content = vec![0; (64 << 20) + 512];
    content[20 << 20..23 << 20].copy_from_slice(&disk_content(3 << 20, 51));
    let path = scratch.path("disk.raw");
    export(&content, &path, FileFormat::Raw);
    assert!(std::fs::read(&path).unwrap() == content);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 5 << 20);
}

#[test]
fn a_qcow2_export_is_sound_and_has_the_content() {
    if !has("qemu-img") {
        return;
    }
    let scratch = Scratch::new();
    for (seed, size) in [(52, 17 << 20), (53, (3 << 20) + 512), (54, 512), (55, 80 << 20)] {
        let mut content = disk_content(size.min(20 << 20), seed);
        content.resize(size, 0);
        let raw = scratch.file("expected.raw", &content);
        let path = scratch.path(&format!("{seed}.qcow2"));
        export(&content, &path, FileFormat::Qcow2);
        run_qemu_img(["check".as_ref(), "-q".as_ref(), path.as_os_str()]);
        let compare = ["compare", "-q", "-f", "raw", "-F", "qcow2"].map(AsRef::as_ref);
        run_qemu_img(compare.into_iter().chain([raw.as_os_str(), path.as_os_str()]));
        assert!(import(&path, &scratch.options_alone()).unwrap().1 == content);
    }
}

#[test]
fn an_export_to_a_stream_is_the_raw_disk() {
    let content = disk_content(3 << 20, 56);
    let mut written = Vec::new();
    let image = MemoryImage::of(content.clone());
    write_stream(
        &DeviceSource { device: &image, salvage: None },
        &mut written,
        &Progress::unseen(),
    )
    .unwrap();
    assert!(written == content);
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let scratch = Scratch::new();
    let content = disk_content(1 << 20, 57);
    let path = scratch.file("disk.raw", b"precious");
    let again = |overwrite| write(&content, &path, FileFormat::Raw, overwrite);
    assert_eq!(again(false).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    again(true).unwrap();
    assert!(std::fs::read(&path).unwrap() == content);
}
