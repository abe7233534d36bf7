//! Block 0 of the log: what never changes in a store's life. It is written last when a store is
//! made, in one sector, so that its presence says that the rest is there. It also stands for batch
//! number 0 and an empty checkpoint: the chain of batches starts from its checksum.

use super::record::{Decoded, FRAME_BYTES, Flaw, open_frame, seal_frame};
use super::{BLOCK_BYTES, StoreOptions};
use crate::PoolId;
use blockyard_block::{BufferMut, Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"BYDLOG\r\n";

pub(super) const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const SEGMENTS_MIN: u32 = 4;
const SEGMENTS_MAX: u32 = 1 << 16;
const PART_BYTES_MIN: u64 = 4 << 10;
const PART_BYTES_MAX: u64 = 256 << 20;

// One sector is written whole or not at all.
const _: () = assert!(FRAME_BYTES <= 512);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LogHeader {
    pub(super) pool: PoolId,
    pub(super) options: StoreOptions,
    /// Of the header itself; the first batch carries it as its predecessor's.
    pub(super) checksum: u32,
}

impl LogHeader {
    /// The block, and the header with its checksum filled in.
    pub(super) fn encode(pool: PoolId, options: StoreOptions) -> (LogHeader, BufferMut) {
        let mut fields = Vec::new();
        fields.extend_from_slice(&options.segments.to_le_bytes());
        fields.extend_from_slice(&pool.0);
        fields.extend_from_slice(&options.segment_bytes.to_le_bytes());
        fields.extend_from_slice(&options.part_bytes_target.to_le_bytes());
        let (frame, checksum) = seal_frame(MAGIC, &fields);
        let mut block = BufferMut::zeroed(BLOCK_BYTES);
        block[..FRAME_BYTES].copy_from_slice(&frame);
        (LogHeader { pool, options, checksum }, block)
    }

    pub(super) fn decode(block: &[u8]) -> Decoded<LogHeader> {
        let (mut fields, checksum) = open_frame(MAGIC, block)?;
        let segments = fields.u32()?;
        let pool = fields.pool()?;
        let segment_bytes = fields.u64()?;
        let part_bytes_target = fields.u64()?;
        let options = StoreOptions { segment_bytes, segments, part_bytes_target };
        if validate(&options).is_err() {
            return Err(Flaw::Damaged("the log's header makes no sense"));
        }
        Ok(LogHeader { pool, options, checksum })
    }

    /// Length of the log file.
    pub(super) fn log_bytes(&self) -> u64 {
        log_bytes(&self.options)
    }
}

pub(super) fn log_bytes(options: &StoreOptions) -> u64 {
    BLOCK_BYTES as u64 + options.segment_bytes * u64::from(options.segments)
}

/// Refuses shapes that the format cannot hold.
pub(super) fn validate(options: &StoreOptions) -> Result<()> {
    let wrong = |what: String| Err(Error::new(ErrorKind::InvalidArgument, what));
    let StoreOptions { segment_bytes, segments, part_bytes_target } = *options;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        || !segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
    {
        return wrong(format!(
            "a log segment of {segment_bytes} bytes: take a multiple of {BLOCK_BYTES} from \
             {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
        ));
    }
    if !(SEGMENTS_MIN..=SEGMENTS_MAX).contains(&segments) {
        return wrong(format!("{segments} log segments: take {SEGMENTS_MIN} to {SEGMENTS_MAX}"));
    }
    if !(PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part_bytes_target) {
        return wrong(format!(
            "parts of {part_bytes_target} bytes: take {PART_BYTES_MIN} to {PART_BYTES_MAX}"
        ));
    }
    Ok(())
}
