//! What `handshake` promises, one test for each promise.

use super::{Catalogue, Handshake, Progress};
use crate::exports::{EndReason, ExportSummary};
use blockyard_block::{
    AllocationRun, BlockDevice, Buffer, Error, ErrorKind, Result, Segment, ZeroOptions,
};
use std::sync::Arc;

/// A device that is only looked at.
#[derive(Debug)]
struct Plate;

impl BlockDevice for Plate {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    async fn read(&self, _: u64, length: u64) -> Result<Vec<Segment>> {
        Ok(vec![Segment::Zeroes(length)])
    }
    async fn write(&self, _: u64, _: Buffer, _: bool) -> Result<()> {
        Ok(())
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Ok(())
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: ZeroOptions) -> Result<()> {
        Ok(())
    }
    async fn allocation(&self, _: u64, _: u64, _: usize) -> Result<Vec<AllocationRun>> {
        Ok(Vec::new())
    }
}

struct Shelf;

impl Catalogue for Shelf {
    type Device = Plate;
    fn list(&self) -> Vec<ExportSummary> {
        Vec::new()
    }
    fn open(&self, name: &str) -> Result<Arc<Plate>> {
        match name {
            "plate" => Ok(Arc::new(Plate)),
            _ => Err(Error::new(ErrorKind::NotFound, name)),
        }
    }
}

/// Feeds `session` in pieces of `step` bytes and returns the output and how it ended.
fn feed(session: &[u8], step: usize) -> (Vec<u8>, Option<Progress<Plate>>) {
    let mut handshake = Handshake::default();
    let mut output = Vec::new();
    let mut input = Vec::new();
    for piece in session.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            let (taken, progress) = handshake.advance(&input, &Shelf, &mut output);
            assert!(taken <= input.len());
            input.drain(..taken);
            match progress {
                Progress::More => break,
                Progress::Again => {}
                end => return (output, Some(end)),
            }
        }
    }
    (output, None)
}

fn session() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    let contexts = b"\0\0\0\x05plate\0\0\0\x01\0\0\0\x0fbase:allocation";
    let go = b"\0\0\0\x05plate\0\x01\0\x03";
    for (code, data) in [(8_u32, &b""[..]), (99, b"what"), (10, contexts), (7, go)] {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(code.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

#[test]
fn how_the_bytes_are_cut_does_not_matter() {
    let (whole, end) = feed(&session(), usize::MAX);
    let Some(Progress::Serve(agreement)) = end else { panic!("{end:?}") };
    assert_eq!(agreement.name, "plate");
    assert!(agreement.terms.structured);
    assert_eq!(agreement.terms.allocation_context, Some(1));
    for step in 1..40 {
        assert_eq!(feed(&session(), step).0, whole);
    }
}

#[test]
fn any_changed_byte_is_survived() {
    for position in 0..session().len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = session();
            bytes[position] = value;
            feed(&bytes, 7);
        }
    }
}

#[test]
fn an_option_too_large_to_look_at_is_skipped_without_being_kept() {
    let mut bytes = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\x10\0\0".to_vec();
    bytes.extend(vec![0; 1 << 20]);
    bytes.extend(b"IHAVEOPT\0\0\0\x02\0\0\0\0");
    let (output, end) = feed(&bytes, 1000);
    assert!(matches!(end, Some(Progress::End(EndReason::Goodbye))));
    assert_eq!(output.len(), 20 + "this option is too large".len() + 20);
}
