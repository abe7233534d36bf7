//! What `layered` promises, one test for each promise.

use crate::transfer_file::testing::{Scratch, Seeded, import};
use blockyard_block::ErrorKind;

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
    createType=\"monolithicFlat\"\n\nRW 64 FLAT \"first.raw\" 8\nRW 16 ZERO\n\
    RW 64 FLAT \"second.raw\" 0\n\nddb.adapterType = \"ide\"\n";

#[test]
fn extents_of_a_vmdk_follow_each_other() {
    let scratch = Scratch::new();
    let mut first = vec![0; 72 * 512];
    let mut second = vec![0; 64 * 512];
    Seeded(31).fill(&mut first);
    Seeded(32).fill(&mut second);
    scratch.file("first.raw", &first);
    scratch.file("second.raw", &second);
    let path = scratch.file("disk.vmdk", DESCRIPTOR.as_bytes());
    let (_, content) = import(&path, &scratch.options_alone()).unwrap();
    assert!(content == [&first[8 * 512..], &[0; 16 * 512], &second].concat());
}

#[test]
fn a_missing_extent_is_named() {
    let scratch = Scratch::new();
    let path = scratch.file("disk.vmdk", DESCRIPTOR.as_bytes());
    let error = import(&path, &scratch.options_alone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("first.raw"), "{error}");
}

#[test]
fn an_extent_that_is_no_file_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.file("disk.vmdk", DESCRIPTOR.replace("first.raw", ".").as_bytes());
    let error = import(&path, &scratch.options_alone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_vmdk_with_a_parent_needs_qemu_img() {
    let scratch = Scratch::new();
    let text = DESCRIPTOR.replace("\n\nRW", "\nparentFileNameHint=\"base.vmdk\"\n\nRW");
    let path = scratch.file("disk.vmdk", text.as_bytes());
    let error = import(&path, &scratch.options_alone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("qemu-utils"), "{error}");
}

#[test]
fn no_damage_to_a_vmdk_descriptor_panics() {
    let scratch = Scratch::new();
    scratch.file("first.raw", &[1; 72 * 512]);
    scratch.file("second.raw", &[2; 64 * 512]);
    for seed in 0..2000 {
        let mut seeded = Seeded(seed);
        let mut bytes = DESCRIPTOR.as_bytes().to_vec();
        for _ in 0..1 + seeded.below(4) {
            let offset = 22 + seeded.below(bytes.len() - 22);
            match seeded.below(3) {
                0 => bytes[offset] = seeded.next() as u8,
                1 => bytes[offset] = b"0987654321\"\n =-"[seeded.below(15)],
                _ => drop(bytes.splice(offset..offset, *b"99999999")),
            }
        }
        let path = scratch.file("disk.vmdk", &bytes);
        let opened = crate::transfer_file::source::open(&path, &scratch.options_alone(), &|| false);
        let Ok(opened) = opened else { continue };
        let mut offset = 0;
        while offset < opened.source.size() {
            let Ok(run) = opened.source.run_at(offset) else { break };
            assert!(run.length > 0, "seed {seed}");
            let mut buffer = vec![0; run.length.min(4096) as usize];
            let read = opened.source.read(offset, &mut buffer);
            assert!(read.is_ok(), "seed {seed}: {read:?}");
            offset += run.length;
        }
    }
}
