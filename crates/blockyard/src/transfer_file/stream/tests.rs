//! What `stream` promises, one test for each promise.

use super::{spool, write_stream};
use crate::transfer_file::progress::Progress;
use crate::transfer_file::raw::RawSource;
use crate::transfer_file::testing::{Scratch, disk_content};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Gives a few bytes at a time, as a pipe may.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.0.len()).min(70_001);
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

#[test]
fn a_spooled_stream_is_kept_sparse_and_whole() {
    let scratch = Scratch::new();
    let mut content = vec![0; (7 << 20) + 5];
    content[3 << 20..4 << 20].fill(9);
    let (file, length) = spool(&mut Trickle(&content), scratch.folder()).unwrap();
    assert_eq!(length, content.len() as u64);
    let mut kept = vec![1; content.len()];
    file.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept == content);
    assert!(file.metadata().unwrap().blocks() * 512 < 3 << 20);
    assert_eq!(std::fs::read_dir(scratch.folder()).unwrap().count(), 0);
}

#[test]
fn a_disk_is_written_to_a_stream_with_its_zeros() {
    let scratch = Scratch::new();
    let content = disk_content((4 << 20) + 512, 43);
    let path = scratch.file("disk", &content);
    let source = RawSource::new(std::fs::File::open(path).unwrap(), content.len() as u64);
    let mut written = Vec::new();
    write_stream(&source, &mut written, &Progress::unseen()).unwrap();
    assert!(written == content);
}
