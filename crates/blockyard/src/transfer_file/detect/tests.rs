//! What `detect` promises, one test for each promise.

use super::{Detected, detect};
use blockyard_block::{ErrorKind, Result};
use std::io::Write;

fn detect_bytes(bytes: &[u8]) -> Result<Detected> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    detect(&file, bytes.len() as u64)
}

fn with(offset: usize, mark: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x11; 4096];
    bytes[offset..offset + mark.len()].copy_from_slice(mark);
    bytes
}

#[test]
fn anything_without_a_mark_is_raw() {
    for bytes in [&b"Q"[..], b"QFI", &[0; 511], &[0; 512], &[0xff; 5000]] {
        assert_eq!(detect_bytes(bytes).unwrap(), Detected::Raw);
    }
    assert_eq!(detect_bytes(&with(510, b"\x55\xaa")).unwrap(), Detected::Raw);
}

#[test]
fn formats_that_are_read_are_known_by_their_mark() {
    let marks: [(&[u8], Detected); 4] = [
        (b"QFI\xfb\0\0\0\x02", Detected::Qcow2),
        (b"QFI\xfb\0\0\0\x03", Detected::Qcow2),
        (b"KDMV\x01\0\0\0", Detected::VmdkSparse),
        (b"# Disk DescriptorFile\nversion=1\n", Detected::VmdkDescriptor),
    ];
    for (mark, format) in marks {
        assert_eq!(detect_bytes(&with(0, mark)).unwrap(), format);
    }
}

#[test]
fn formats_that_are_not_read_are_refused_by_name() {
    let marks: [(usize, &[u8], &str); 12] = [
        (0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
        (0, b"QFI\xfb\0\0\0\x04", "version"),
        (0, b"conectix", "vhd"),
        (4096 - 512, b"conectix", "vhd (fixed)"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"QED\0", "qed"),
        (0, b"LUKS\xba\xbe\0\x02", "luks"),
        (0x40, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"WithoutFreeSpace", "parallels"),
        (0, b"\xfd7zXZ\0", "xz"),
        (0, b"\x28\xb5\x2f\xfd", "zstd"),
        (257, b"ustar", "tar"),
    ];
    for (offset, mark, name) in marks {
        let error = detect_bytes(&with(offset, mark)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(name), "{error}");
        assert!(error.message().contains("--format raw"), "{error}");
    }
}
