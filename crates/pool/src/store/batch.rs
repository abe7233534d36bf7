//! One batch of the log: a header frame, the payload, zeros up to a whole block. The header binds
//! the batch to its pool, its place and its predecessor, so bytes of an earlier lap, of another
//! place or of another pool are never taken for the next batch.

use super::BLOCK_BYTES;
use super::record::{Decoded, FRAME_BYTES, Flaw, open_frame, seal_frame};
use crate::PoolId;
use blockyard_block::{Buffer, BufferMut};

const MAGIC: &[u8; 8] = b"BYDBATCH";

pub(super) const HEADER_BYTES: usize = FRAME_BYTES;

/// What a batch is for. Only `Changes` and `Manifest` have a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Records, to be applied in order.
    Changes,
    /// Names a checkpoint.
    Manifest,
    /// The first batch of an open.
    Epoch,
    /// Says that its predecessor is durable, and nothing else.
    Vouch,
    /// The same, and that the store was closed in good order.
    Clean,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Changes, Kind::Manifest, Kind::Epoch, Kind::Vouch, Kind::Clean];

    fn code(self) -> u32 {
        self as u32 + 1
    }

    fn from_code(code: u32) -> Decoded<Kind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or(Flaw::Damaged("a batch of unknown kind"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) kind: Kind,
    pub(super) pool: PoolId,
    /// Where in the log file the batch lies.
    pub(super) offset: u64,
    pub(super) epoch: u64,
    /// 1, 2, 3, ... over the store's life.
    pub(super) number: u64,
    /// The last number known durable when this was written: what this batch vouches for.
    pub(super) durable: u64,
    /// Number of the newest manifest known durable when this was written; 0 for none.
    pub(super) manifest: u64,
    /// Checksum of the header of batch `number - 1`.
    pub(super) previous: u32,
    pub(super) payload_bytes: u32,
    pub(super) payload_checksum: u32,
    /// Of this header, and thereby of the payload.
    pub(super) checksum: u32,
}

/// Bytes that a batch takes in the log.
pub(super) fn batch_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES)
}

impl BatchHeader {
    /// Fills in the payload's length and checksum and the header's own checksum, and returns what
    /// is to be written at `offset`.
    pub(super) fn seal(&mut self, payload: &[u8]) -> Buffer {
        self.payload_bytes = payload.len() as u32;
        self.payload_checksum = crc32c::crc32c(payload);
        let (frame, checksum) = seal_frame(MAGIC, &self.fields());
        self.checksum = checksum;
        let mut bytes = BufferMut::zeroed(batch_bytes(payload.len()));
        bytes[..HEADER_BYTES].copy_from_slice(&frame);
        bytes[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        bytes.freeze()
    }

    fn fields(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(HEADER_BYTES);
        fields.extend_from_slice(&self.kind.code().to_le_bytes());
        fields.extend_from_slice(&self.pool.0);
        for number in [self.offset, self.epoch, self.number, self.durable, self.manifest] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.previous, self.payload_bytes, self.payload_checksum] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields
    }

    /// The header alone: the payload may still be torn.
    pub(super) fn decode(pool: PoolId, offset: u64, bytes: &[u8]) -> Decoded<BatchHeader> {
        let (mut fields, checksum) = open_frame(MAGIC, bytes)?;
        let header = BatchHeader {
            kind: Kind::from_code(fields.u32()?)?,
            pool: fields.pool()?,
            offset: fields.u64()?,
            epoch: fields.u64()?,
            number: fields.u64()?,
            durable: fields.u64()?,
            manifest: fields.u64()?,
            previous: fields.u32()?,
            payload_bytes: fields.u32()?,
            payload_checksum: fields.u32()?,
            checksum,
        };
        if header.pool != pool {
            return Err(Flaw::OtherPool(header.pool));
        }
        if header.offset != offset {
            return Err(Flaw::Damaged("a batch that belongs elsewhere in the log"));
        }
        Ok(header)
    }

    /// The payload, if it is whole. `bytes` starts with the header and ends with the segment.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Decoded<&'a [u8]> {
        let payload = bytes
            .get(HEADER_BYTES..)
            .and_then(|rest| rest.get(..self.payload_bytes as usize))
            .ok_or(Flaw::Damaged("a batch that reaches past its segment"))?;
        if crate::checksum::differs(self.payload_checksum, payload) {
            return Err(Flaw::Damaged("a batch does not match its checksum"));
        }
        Ok(payload)
    }

    /// Bytes that this batch takes in the log.
    pub(super) fn batch_bytes(&self) -> usize {
        batch_bytes(self.payload_bytes as usize)
    }
}
