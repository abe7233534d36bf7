//! What a file on the host is, told from its first and last bytes alone.
//!
//! A file without a known mark is raw. The mark decides, never the name. A guest can write any
//! mark into its own raw disk: whoever imports a disk of a stranger names the format
//! (`--format raw`), and then nothing here is asked.

use blockyard_api::FileFormat;
use blockyard_block::{Error, ErrorKind, Result, SECTOR_SIZE};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What a file is, finer than users name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detected {
    /// The bytes of the disk themselves.
    Raw,
    Qcow2,
    /// A text file that names the files the disk lies in (monolithicFlat and its like).
    VmdkDescriptor,
    /// A binary vmdk: monolithicSparse, streamOptimized.
    VmdkSparse,
}

impl Detected {
    /// What users call it.
    pub(crate) fn named(self) -> FileFormat {
        match self {
            Detected::Raw => FileFormat::Raw,
            Detected::Qcow2 => FileFormat::Qcow2,
            Detected::VmdkDescriptor | Detected::VmdkSparse => FileFormat::Vmdk,
        }
    }
}

/// A mark at a fixed place, and what the file then is.
struct Mark {
    offset: usize,
    bytes: &'static [u8],
    meaning: Meaning,
}

#[derive(Clone, Copy)]
enum Meaning {
    Known(Detected),
    /// Refused; the text is its name and what to do.
    Refused(&'static str),
}

const CONVERT: &str = "convert it first: qemu-img convert -O raw FILE NEW";

const MARKS: &[Mark] = &[
    known(0, b"QFI\xfb\0\0\0\x02", Detected::Qcow2),
    known(0, b"QFI\xfb\0\0\0\x03", Detected::Qcow2),
    known(0, b"KDMV", Detected::VmdkSparse),
    known(0, b"# Disk DescriptorFile", Detected::VmdkDescriptor),
    refused(0, b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
    refused(0, b"QFI\xfb", "qcow2 of a version this build does not know"),
    refused(0, b"COWD", "vmdk (vmfsSparse)"),
    refused(0, b"conectix", "vhd (dynamic)"),
    refused(0, b"vhdxfile", "vhdx"),
    refused(0, b"QED\0", "qed"),
    refused(0, b"LUKS\xba\xbe", "luks (encrypted)"),
    refused(0x40, b"\x7f\x10\xda\xbe", "vdi"),
    refused(0, b"WithoutFreeSpace", "parallels"),
    refused(0, b"WithouFreSpacExt", "parallels"),
    refused(0, b"\x1f\x8b\x08", "a file compressed by gzip"),
    refused(0, b"\xfd7zXZ\0", "a file compressed by xz"),
    refused(0, b"\x28\xb5\x2f\xfd", "a file compressed by zstd"),
    refused(0, b"BZh91AY&SY", "a file compressed by bzip2"),
    refused(257, b"ustar", "a tar archive (or an OVA: unpack it, import the vmdk in it)"),
];

const fn known(offset: usize, bytes: &'static [u8], format: Detected) -> Mark {
    Mark { offset, bytes, meaning: Meaning::Known(format) }
}

const fn refused(offset: usize, bytes: &'static [u8], name: &'static str) -> Mark {
    Mark { offset, bytes, meaning: Meaning::Refused(name) }
}

/// Bytes from the start of the file that are looked at.
const HEAD_BYTES: usize = SECTOR_SIZE as usize;

/// The format of `file`, `length` bytes long. `Unsupported` names a format that is recognised but
/// not read.
pub(crate) fn detect(file: &File, length: u64) -> Result<Detected> {
    let mut head = vec![0; HEAD_BYTES.min(usize::try_from(length).unwrap_or(HEAD_BYTES))];
    file.read_exact_at(&mut head, 0).map_err(|error| Error::io("read of the header", error))?;
    if let Some(mark) = MARKS.iter().find(|mark| mark.is_in(&head)) {
        return match mark.meaning {
            Meaning::Known(format) => Ok(format),
            Meaning::Refused(name) => Err(refusal(name)),
        };
    }
    if has_vhd_footer(file, length)? {
        return Err(refusal("vhd (fixed)"));
    }
    Ok(Detected::Raw)
}

impl Mark {
    fn is_in(&self, head: &[u8]) -> bool {
        head.get(self.offset..).is_some_and(|rest| rest.starts_with(self.bytes))
    }
}

/// A fixed vhd is the raw disk followed by one sector that starts with this cookie.
fn has_vhd_footer(file: &File, length: u64) -> Result<bool> {
    let Some(offset) = length.checked_sub(SECTOR_SIZE) else { return Ok(false) };
    let mut cookie = [0; 8];
    file.read_exact_at(&mut cookie, offset)
        .map_err(|error| Error::io("read of the last sector", error))?;
    Ok(&cookie == b"conectix")
}

fn refusal(name: &str) -> Error {
    let message = format!(
        "this is {name}, which is not imported; {CONVERT}; \
         or, if it is a raw disk that only looks so, give --format raw"
    );
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests;
