//! What an export knows of an image: a disk of bytes that can be read, written and asked for holes.

use crate::{Buffer, Result};
use std::future::Future;

/// A part of what was read. The parts of one read follow each other without gaps.
#[derive(Debug, Clone)]
pub enum Segment {
    Data(Buffer),
    /// This many bytes read as zero; none were read from the disk.
    Zeroes(u64),
}

impl Segment {
    /// Bytes of the image this part stands for.
    pub fn length(&self) -> u64 {
        match self {
            Segment::Data(buffer) => buffer.len() as u64,
            Segment::Zeroes(length) => *length,
        }
    }
}

/// How [`BlockDevice::write_zeroes`] should leave the range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ZeroOptions {
    /// Keep the space of the range for later writes (NBD's NO_HOLE).
    pub keep_place: bool,
    /// Return only when durable.
    pub fua: bool,
}

/// Whether a run of an image has data of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocationState {
    Data,
    /// Reads zero and takes no space.
    Hole,
    /// Reads zero but keeps its place.
    ReservedZero,
}

/// A run of one state; runs follow each other without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationRun {
    pub length: u64,
    pub state: AllocationState,
}

/// A virtual disk as exports see it. All offsets and lengths are bytes, of any alignment.
///
/// Every method answers `OutOfRange` for bytes beyond `size()`, and `ReadOnly` for changes to a
/// device that is read-only. A request whose future is dropped may or may not have happened, in
/// whole clusters; the device stays sound. Requests may run concurrently; overlapping writes take
/// effect one after the other, in some order.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size in bytes, a multiple of 512.
    fn size(&self) -> u64;

    fn read_only(&self) -> bool;

    /// The bytes of `[offset, offset + length)` as parts in order, together exactly `length`.
    fn read(&self, offset: u64, length: u64) -> impl Future<Output = Result<Vec<Segment>>>;

    /// Writes `data` at `offset`; with `fua`, returns only when it is durable. Fastest when the
    /// guest's cluster boundaries are page boundaries of memory (see `BufferMut::zeroed_at_phase`).
    fn write(&self, offset: u64, data: Buffer, fua: bool) -> impl Future<Output = Result<()>>;

    /// Returns when every write completed before the call is durable.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// Makes the range read zero and gives its space back.
    fn discard(&self, offset: u64, length: u64, fua: bool) -> impl Future<Output = Result<()>>;

    /// Makes the range read zero; never slower than writing zeros would be.
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        options: ZeroOptions,
    ) -> impl Future<Output = Result<()>>;

    /// What the range is made of: at most `runs_max` runs from `offset` on, which may end before
    /// `offset + length` but cover at least one byte. Reads no data.
    fn allocation(
        &self,
        offset: u64,
        length: u64,
        runs_max: usize,
    ) -> impl Future<Output = Result<Vec<AllocationRun>>>;
}
