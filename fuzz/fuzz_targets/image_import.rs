//! Any bytes as a file to import: detected, and read by the readers of this program. (What goes through
//! `qemu-img` is that program's business.) What is asked: no panic, no hang, bounded memory.
#![no_main]
#![allow(dead_code, reason = "a part of the program's modules is used")]

#[path = "../../crates/blockyard/src/transfer_file/detect.rs"]
mod detect;
#[path = "../../crates/blockyard/src/transfer_file/layered.rs"]
mod layered;
#[path = "../../crates/blockyard/src/transfer_file/qcow2_header.rs"]
mod qcow2_header;
#[path = "../../crates/blockyard/src/transfer_file/qemu_img.rs"]
mod qemu_img;
#[path = "../../crates/blockyard/src/transfer_file/raw.rs"]
mod raw;
#[path = "../../crates/blockyard/src/transfer_file/source.rs"]
mod source;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").unwrap());

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let mut options = source::SourceOptions::new(FOLDER.path());
    options.qemu_img = None;
    let Ok(opened) = source::open(&path, &options, &|| false) else { return };
    let source = opened.source;
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    for _ in 0..64 {
        if at >= source.size() {
            return;
        }
        let Ok(run) = source.run_at(at) else { return };
        assert!(run.length > 0, "no progress at {at}");
        if !run.zero {
            let length = run.length.min(buffer.len() as u64) as usize;
            let _ = source.read(at, &mut buffer[..length]);
        }
        at += run.length;
    }
});
