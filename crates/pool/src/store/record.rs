//! The one codec of keys and values, and the reader every decoder here is built on. Integers are
//! little-endian. Nothing here panics, whatever the bytes.

use super::{FORMAT_VERSION, Key};
use crate::PoolId;
use blockyard_block::{Error, ErrorKind};

/// In place of a value's length: the record is deleted.
const DELETED: u32 = u32::MAX;

/// Kind, id and length before each value.
pub(super) const RECORD_HEADER_BYTES: usize = 13;

pub(super) const KEY_BYTES: usize = 9;

pub(super) fn encoded_bytes(value: Option<&[u8]>) -> usize {
    RECORD_HEADER_BYTES + value.map_or(0, <[u8]>::len)
}

/// Appends one record. A value is shorter than `u32::MAX`: it fits in half a segment.
pub(super) fn put_record(out: &mut Vec<u8>, key: Key, value: Option<&[u8]>) {
    put_key(out, key);
    match value {
        None => out.extend_from_slice(&DELETED.to_le_bytes()),
        Some(value) => {
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
    }
}

pub(super) fn put_key(out: &mut Vec<u8>, key: Key) {
    out.push(key.kind);
    out.extend_from_slice(&key.id.to_le_bytes());
}

/// What is wrong with some bytes; where they lie is added by [`Flaw::at`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flaw {
    Damaged(&'static str),
    NewerVersion(u32),
    OtherPool(PoolId),
}

impl Flaw {
    /// The error a user sees: file, offset, cause, what to do.
    pub(super) fn at(self, file: &str, offset: u64) -> Error {
        match self {
            Flaw::Damaged(what) => Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{file} at offset {offset}: {what}; nothing was changed: restore this pool \
                     from a copy, or its images from where they are held too"
                ),
            ),
            Flaw::NewerVersion(version) => Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{file} at offset {offset}: format version {version}, but this build knows \
                     versions up to {FORMAT_VERSION}: use a newer build"
                ),
            ),
            Flaw::OtherPool(pool) => Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{file} at offset {offset}: belongs to another pool ({pool}): put back the \
                     file that belongs here"
                ),
            ),
        }
    }
}

pub(super) type Decoded<T> = Result<T, Flaw>;

const SHORT: Flaw = Flaw::Damaged("ends too early");

/// Takes values off the front of some bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(SHORT)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(SHORT)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn pool(&mut self) -> Decoded<PoolId> {
        Ok(PoolId(self.array()?))
    }

    pub(super) fn key(&mut self) -> Decoded<Key> {
        let [kind] = self.array()?;
        Ok(Key { kind, id: self.u64()? })
    }

    pub(super) fn record(&mut self) -> Decoded<(Key, Option<&'a [u8]>)> {
        let key = self.key()?;
        match self.u32()? {
            DELETED => Ok((key, None)),
            length => Ok((key, Some(self.bytes(length as usize)?))),
        }
    }
}

/// Headers and trailers here are a frame: `fields`, zeros, and a CRC-32C of all before it. Magic
/// and version come first and keep their place in every version, so that a newer one is named.
pub(super) const FRAME_BYTES: usize = 128;
const FRAME_CHECKSUM_AT: usize = FRAME_BYTES - 4;

/// Makes a frame of `fields` and returns it with its checksum.
pub(super) fn seal_frame(magic: &[u8; 8], fields: &[u8]) -> ([u8; FRAME_BYTES], u32) {
    let mut frame = [0; FRAME_BYTES];
    frame[..8].copy_from_slice(magic);
    frame[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    frame[12..12 + fields.len()].copy_from_slice(fields);
    let checksum = crc32c::crc32c(&frame[..FRAME_CHECKSUM_AT]);
    frame[FRAME_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    (frame, checksum)
}

/// The fields of the frame at the start of `bytes`, and its checksum.
pub(super) fn open_frame<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Decoded<(Reader<'a>, u32)> {
    let frame = bytes.get(..FRAME_BYTES).ok_or(SHORT)?;
    let mut reader = Reader::new(frame);
    if reader.array::<8>()? != *magic {
        return Err(Flaw::Damaged("no header where one must be"));
    }
    let checksum = Reader::new(&frame[FRAME_CHECKSUM_AT..]).u32()?;
    if crate::checksum::differs(checksum, &frame[..FRAME_CHECKSUM_AT]) {
        return Err(Flaw::Damaged("a header does not match its checksum"));
    }
    match reader.u32()? {
        FORMAT_VERSION => Ok((reader, checksum)),
        version => Err(Flaw::NewerVersion(version)),
    }
}
