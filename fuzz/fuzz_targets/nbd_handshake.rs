//! A client's half of the handshake, in pieces of any size. What is asked: no panic, never more taken
//! than given, an answer of bounded size, and an end.
#![no_main]

use blockyard_block::{
    AllocationRun, BlockDevice, Buffer, Error, ErrorKind, Result, Segment, ZeroOptions,
};
use blockyard_nbd::ExportSummary;
use blockyard_nbd::handshake::{Catalogue, Handshake, OPTION_MAX, Progress};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

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
        let (name, description) = ("web".to_owned(), String::new());
        vec![ExportSummary { name, size: 1 << 20, read_only: false, description }]
    }
    fn open(&self, name: &str) -> Result<Arc<Plate>> {
        match name {
            "" | "web" => Ok(Arc::new(Plate)),
            _ => Err(Error::new(ErrorKind::NotFound, "no such export")),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut handshake = Handshake::default();
    let mut at = 0;
    while at <= bytes.len() {
        let end = bytes.len().min(at + OPTION_MAX + 16);
        let mut output = Vec::new();
        let (taken, progress) = handshake.advance(&bytes[at..end], &Shelf, &mut output);
        assert!(taken <= end - at, "took what was not there");
        assert!(output.len() <= 8192, "{} bytes of answer to one option", output.len());
        at += taken;
        match progress {
            Progress::Again => assert!(taken > 0, "no end"),
            Progress::More if taken == 0 => return,
            Progress::More => {}
            Progress::Serve(_) | Progress::End(_) => return,
        }
    }
});
