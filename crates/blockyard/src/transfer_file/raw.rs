//! A raw disk: the bytes of a file or block device, its holes found by SEEK_DATA and SEEK_HOLE.
//!
//! Reads go through the page cache: an image just downloaded or built is still in it, and for one
//! that is not, the kernel reads ahead of several threads well enough to keep hashing busy.

use super::source::{Run, Source};
use blockyard_block::{Error, Result};
use rustix::fs::{Advice, SeekFrom};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub(crate) struct RawSource {
    file: File,
    size: u64,
}

impl RawSource {
    pub(crate) fn new(file: File, size: u64) -> RawSource {
        // Advice only; a file system that refuses it reads as well without.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        RawSource { file, size }
    }
}

impl Source for RawSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        let rest = Run { length: self.size - offset, zero: false };
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(Run { zero: true, ..rest }),
            // Block devices and some file systems know no holes.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(rest),
            Err(error) => return Err(Error::io("search for data", error.into())),
        };
        if data > offset {
            return Ok(Run { length: data.min(self.size) - offset, zero: true });
        }
        let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(offset))
            .map_err(|error| Error::io("search for a hole", error.into()))?;
        let end = hole.min(self.size);
        // A file cut short meanwhile has its "hole" before us; the read then says so.
        Ok(if end > offset { Run { length: end - offset, zero: false } } else { rest })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| Error::io(format_args!("read at {offset}"), error))
    }
}
