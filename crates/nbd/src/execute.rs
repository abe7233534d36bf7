//! Asks the device for what a request wants, without a runtime, and checks what it says: replies
//! are framed by these answers, so a device that miscounts must not break the stream.

use crate::protocol::ErrorCode;
use crate::transmission::{Operation, Terms};
use blockyard_block::{AllocationRun, BlockDevice, Error, ErrorKind, Result, Segment};

/// Extents in one answer to BLOCK_STATUS; the client asks again for the rest.
const STATUS_RUNS_MAX: usize = 4096;

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    Done,
    Read { offset: u64, segments: Vec<Segment>, whole: bool },
    Status { context: u32, runs: Vec<AllocationRun> },
    Failed(ErrorCode, &'static str),
}

/// Performs one request. The device's own error, if there was one, comes back beside the outcome for
/// the log; the client hears its kind only. If the future is dropped, the device's promise holds.
pub async fn perform<D: BlockDevice>(
    device: &D,
    terms: &Terms,
    operation: Operation,
) -> (Outcome, Option<Error>) {
    let changes_at_end =
        matches!(operation, Operation::Write { .. } | Operation::WriteZeroes { .. });
    match attempt(device, terms, operation).await {
        Ok(outcome) => (outcome, None),
        // The device shrank under its clients; the protocol wants ENOSPC for writes beyond the end.
        Err(error) if changes_at_end && error.kind() == ErrorKind::OutOfRange => {
            (Outcome::Failed(ErrorCode::NoSpace, error.kind().label()), Some(error))
        }
        Err(error) => {
            (Outcome::Failed(ErrorCode::of(error.kind()), error.kind().label()), Some(error))
        }
    }
}

async fn attempt<D: BlockDevice>(
    device: &D,
    terms: &Terms,
    operation: Operation,
) -> Result<Outcome> {
    match operation {
        Operation::Read { length: 0, offset, whole } => {
            Ok(Outcome::Read { offset, segments: Vec::new(), whole })
        }
        Operation::Read { offset, length, whole } => {
            let segments = device.read(offset, u64::from(length)).await?;
            let got: u64 = segments.iter().map(Segment::length).sum();
            if got != u64::from(length) {
                return Err(miscounted(format!("{got} bytes for a read of {length} at {offset}")));
            }
            Ok(Outcome::Read { offset, segments, whole })
        }
        Operation::Write { offset, data, fua } => {
            device.write(offset, data, fua).await.map(|()| Outcome::Done)
        }
        Operation::Flush => device.flush().await.map(|()| Outcome::Done),
        Operation::Trim { offset, length, fua } => {
            device.discard(offset, u64::from(length), fua).await.map(|()| Outcome::Done)
        }
        Operation::WriteZeroes { offset, length, options } => {
            device.write_zeroes(offset, u64::from(length), options).await.map(|()| Outcome::Done)
        }
        Operation::Nothing => Ok(Outcome::Done),
        Operation::BlockStatus { offset, length, one } => {
            status(device, terms, offset, u64::from(length), one).await
        }
        Operation::Refused(refusal) => Ok(Outcome::Failed(refusal.code, refusal.message)),
    }
}

async fn status<D: BlockDevice>(
    device: &D,
    terms: &Terms,
    offset: u64,
    length: u64,
    one: bool,
) -> Result<Outcome> {
    let context = terms.allocation_context.unwrap_or_default(); // without one it was refused
    let runs_max = if one { 1 } else { STATUS_RUNS_MAX };
    let answered = device.allocation(offset, length, runs_max).await?;
    let mut left = length;
    let mut runs: Vec<AllocationRun> = Vec::new();
    for run in answered {
        let run = AllocationRun { length: run.length.min(left), ..run };
        left -= run.length;
        let room = runs.len() < runs_max;
        match runs.last_mut() {
            Some(last) if last.state == run.state => last.length += run.length,
            _ if run.length > 0 && room => runs.push(run),
            _ => break,
        }
    }
    match runs.is_empty() {
        true => Err(miscounted(format!("no allocation for {length} bytes at {offset}"))),
        false => Ok(Outcome::Status { context, runs }),
    }
}

fn miscounted(what: String) -> Error {
    Error::new(ErrorKind::Io, format!("the device answered {what}"))
}
