//! A part: a file with the sorted records of a range of keys. It is written once, synced, and then
//! only read: a header, blocks of records, an index of the blocks with their checksums, and a
//! trailer. The trailer's checksum is kept in the manifest, so that a stale or swapped file is
//! noticed.

use super::manifest::PartEntry;
use super::record::{
    Decoded, FRAME_BYTES, Flaw, KEY_BYTES, Reader, open_frame, put_key, put_record, seal_frame,
};
use super::{BLOCK_BYTES, Key};
use crate::PoolId;
use blockyard_block::{BufferMut, Error, ErrorKind, Result};
use blockyard_io::{Directory, Disk};

const HEADER_MAGIC: &[u8; 8] = b"BYDPART\n";
const TRAILER_MAGIC: &[u8; 8] = b"BYDPTEND";

/// A block of records is closed when it has grown to this.
const RECORDS_BLOCK_BYTES: usize = 16 << 10;

/// One write of this size at a time.
const WRITE_BYTES: usize = 1 << 20;

const INDEX_ENTRY_BYTES: usize = KEY_BYTES + 16;

/// Where a block of records lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BlockEntry {
    first: Key,
    offset: u64,
    bytes: u32,
    checksum: u32,
}

/// Collects ascending records into the bytes of a part.
pub(super) struct PartBuilder {
    pool: PoolId,
    id: u64,
    out: Vec<u8>,
    index: Vec<BlockEntry>,
    block_start: usize,
    block_first: Option<Key>,
    first: Option<Key>,
    last: Option<Key>,
    records: u64,
}

impl PartBuilder {
    pub(super) fn new(pool: PoolId, id: u64) -> PartBuilder {
        let mut fields = pool.0.to_vec();
        fields.extend_from_slice(&id.to_le_bytes());
        let (header, _) = seal_frame(HEADER_MAGIC, &fields);
        PartBuilder {
            pool,
            id,
            out: header.to_vec(),
            index: Vec::new(),
            block_start: FRAME_BYTES,
            block_first: None,
            first: None,
            last: None,
            records: 0,
        }
    }

    /// Adds a record; keys come in ascending order.
    pub(super) fn push(&mut self, key: Key, value: &[u8]) {
        debug_assert!(self.last.is_none_or(|last| last < key), "records come in order");
        self.first.get_or_insert(key);
        self.block_first.get_or_insert(key);
        self.last = Some(key);
        self.records += 1;
        put_record(&mut self.out, key, Some(value));
        if self.out.len() - self.block_start >= RECORDS_BLOCK_BYTES {
            self.close_block();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.out.len() + self.index.len() * INDEX_ENTRY_BYTES
    }

    fn close_block(&mut self) {
        if let Some(first) = self.block_first.take() {
            let bytes = &self.out[self.block_start..];
            self.index.push(BlockEntry {
                first,
                offset: self.block_start as u64,
                bytes: bytes.len() as u32,
                checksum: crc32c::crc32c(bytes),
            });
            self.block_start = self.out.len();
        }
    }

    /// `None` if there was no record.
    pub(super) fn finish(mut self) -> Option<BuiltPart> {
        self.close_block();
        let (first, last) = (self.first?, self.last?);
        let index_offset = self.out.len();
        for block in &self.index {
            put_key(&mut self.out, block.first);
            self.out.extend_from_slice(&block.offset.to_le_bytes());
            self.out.extend_from_slice(&block.bytes.to_le_bytes());
            self.out.extend_from_slice(&block.checksum.to_le_bytes());
        }
        let index_checksum = crc32c::crc32c(&self.out[index_offset..]);
        let mut fields = self.pool.0.to_vec();
        for number in [self.id, index_offset as u64, self.records] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields.extend_from_slice(&(self.index.len() as u32).to_le_bytes());
        fields.extend_from_slice(&index_checksum.to_le_bytes());
        let (trailer, checksum) = seal_frame(TRAILER_MAGIC, &fields);
        let length = (self.out.len() + FRAME_BYTES).next_multiple_of(BLOCK_BYTES);
        let mut bytes = BufferMut::zeroed(length);
        bytes[..self.out.len()].copy_from_slice(&self.out);
        bytes[length - FRAME_BYTES..].copy_from_slice(&trailer);
        let entry = PartEntry {
            id: self.id,
            bytes: length as u64,
            records: self.records,
            first,
            last,
            checksum,
        };
        Some(BuiltPart { entry, bytes, index: self.index })
    }
}

/// The bytes of a part that is not on disk yet.
pub(super) struct BuiltPart {
    pub(super) entry: PartEntry,
    bytes: BufferMut,
    index: Vec<BlockEntry>,
}

impl BuiltPart {
    /// Writes the part to the new, empty `disk` and syncs it. Dropped or failed: any part of it is
    /// there, and the caller deletes the file.
    pub(super) async fn write<K: Disk>(self, disk: K) -> Result<Part<K>> {
        let name = self.entry.name();
        let failed = |error| Error::io(format!("write to {name}"), error);
        disk.allocate(0, self.entry.bytes).await.map_err(failed)?;
        let bytes = self.bytes.freeze();
        for start in (0..bytes.len()).step_by(WRITE_BYTES) {
            let end = bytes.len().min(start + WRITE_BYTES);
            disk.write(start as u64, bytes.slice(start..end)).await.map_err(failed)?;
        }
        if !blockyard_io::broken("sync-checkpoint") {
            disk.sync().await.map_err(failed)?;
        }
        Ok(Part { entry: self.entry, disk, index: self.index })
    }
}

/// A part that is on disk; its file stays open.
pub(super) struct Part<K> {
    pub(super) entry: PartEntry,
    disk: K,
    index: Vec<BlockEntry>,
}

/// A whole part in memory, checked against its manifest entry down to the index.
pub(super) struct PartContent {
    name: String,
    bytes: BufferMut,
    index: Vec<BlockEntry>,
}

impl<K: Disk> Part<K> {
    /// Opens and reads the part that a manifest names.
    pub(super) async fn open<D: Directory<Disk = K>>(
        directory: &D,
        pool: PoolId,
        entry: PartEntry,
    ) -> Result<(Part<K>, PartContent)> {
        let name = entry.name();
        let disk = directory.open(&name).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Flaw::Damaged("the file is missing").at(&name, 0),
            _ => Error::io(format!("open {name}"), error),
        })?;
        let content = PartContent::read(&disk, pool, &entry).await?;
        let index = content.index.clone();
        Ok((Part { entry, disk, index }, content))
    }

    /// Reads the part once more.
    pub(super) async fn read(&self, pool: PoolId) -> Result<PartContent> {
        PartContent::read(&self.disk, pool, &self.entry).await
    }

    /// Looks one record up with one read.
    pub(super) async fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        let after = self.index.partition_point(|block| block.first <= key);
        let Some(block) = after.checked_sub(1).and_then(|at| self.index.get(at)) else {
            return Ok(None);
        };
        let name = self.entry.name();
        let align = BLOCK_BYTES as u64;
        let start = block.offset / align * align;
        let end = (block.offset + u64::from(block.bytes)).next_multiple_of(align);
        let buffer = BufferMut::zeroed((end - start) as usize);
        let (result, buffer) = self.disk.read(start, buffer).await;
        result.map_err(|error| Error::io(format!("read of {name} at {start}"), error))?;
        let within = (block.offset - start) as usize;
        let records = checked_block(block, buffer.get(within..).unwrap_or_default())
            .map_err(|flaw| flaw.at(&name, block.offset))?;
        let mut reader = Reader::new(records);
        while !reader.is_empty() {
            let (found, value) = reader.record().map_err(|flaw| flaw.at(&name, block.offset))?;
            if found == key {
                return Ok(value.map(<[u8]>::to_vec));
            }
        }
        Ok(None)
    }
}

impl PartContent {
    async fn read<K: Disk>(disk: &K, pool: PoolId, entry: &PartEntry) -> Result<PartContent> {
        let name = entry.name();
        let failed = |error| Error::io(format!("read of {name}"), error);
        let length = disk.length().await.map_err(failed)?;
        if length != entry.bytes {
            let message = format!("{name} has {length} bytes instead of {}", entry.bytes);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let (result, bytes) = disk.read(0, BufferMut::zeroed(length as usize)).await;
        result.map_err(failed)?;
        let (index, records) =
            decode_index(pool, entry, &bytes).map_err(|(flaw, at)| flaw.at(&name, at))?;
        if records != entry.records {
            return Err(Flaw::Damaged("another count of records than named").at(&name, 0));
        }
        Ok(PartContent { name, bytes, index })
    }

    /// All records in order, each block checked as it is reached.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<(Key, &[u8])>> {
        self.index.iter().flat_map(|block| {
            let failed = |flaw: Flaw| flaw.at(&self.name, block.offset);
            let tail = self.bytes.get(block.offset as usize..).unwrap_or_default();
            let (mut reader, broken) = match checked_block(block, tail) {
                Ok(records) => (Reader::new(records), None),
                Err(flaw) => (Reader::new(&[]), Some(Err(failed(flaw)))),
            };
            let records = std::iter::from_fn(move || {
                (!reader.is_empty()).then(|| match reader.record() {
                    Ok((key, Some(value))) => Ok((key, value)),
                    Ok((_, None)) => Err(Flaw::Damaged("a deleted record in a part")),
                    Err(flaw) => {
                        reader = Reader::new(&[]);
                        Err(flaw)
                    }
                })
            });
            broken.into_iter().chain(records.map(move |record| record.map_err(failed)))
        })
    }
}

fn checked_block<'a>(block: &BlockEntry, bytes: &'a [u8]) -> Decoded<&'a [u8]> {
    let records = Reader::new(bytes).bytes(block.bytes as usize)?;
    if crate::checksum::differs(block.checksum, records) {
        return Err(Flaw::Damaged("a block of records does not match its checksum"));
    }
    Ok(records)
}

/// The index of a whole part and its count of records; a flaw comes with its offset.
fn decode_index(
    pool: PoolId,
    entry: &PartEntry,
    bytes: &[u8],
) -> Result<(Vec<BlockEntry>, u64), (Flaw, u64)> {
    check_owner(pool, entry, HEADER_MAGIC, bytes).map_err(|flaw| (flaw, 0))?;
    let trailer_at = bytes.len().saturating_sub(FRAME_BYTES);
    let here = |flaw| (flaw, trailer_at as u64);
    let trailer = bytes.get(trailer_at..).unwrap_or_default();
    let (mut fields, checksum) = check_owner(pool, entry, TRAILER_MAGIC, trailer).map_err(here)?;
    if checksum != entry.checksum {
        return Err(here(Flaw::Damaged("not the file that the manifest names")));
    }
    let index_offset = fields.u64().map_err(here)?;
    let records = fields.u64().map_err(here)?;
    let count = fields.u32().map_err(here)?;
    let index_checksum = fields.u32().map_err(here)?;
    let index = decode_blocks(bytes, index_offset, count, index_checksum)
        .map_err(|flaw| (flaw, index_offset))?;
    Ok((index, records))
}

fn check_owner<'a>(
    pool: PoolId,
    entry: &PartEntry,
    magic: &[u8; 8],
    frame: &'a [u8],
) -> Decoded<(Reader<'a>, u32)> {
    let (mut fields, checksum) = open_frame(magic, frame)?;
    let owner = fields.pool()?;
    if owner != pool {
        return Err(Flaw::OtherPool(owner));
    }
    if fields.u64()? != entry.id {
        return Err(Flaw::Damaged("this is another part"));
    }
    Ok((fields, checksum))
}

fn decode_blocks(bytes: &[u8], offset: u64, count: u32, checksum: u32) -> Decoded<Vec<BlockEntry>> {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    let index_bytes = (count as usize).saturating_mul(INDEX_ENTRY_BYTES);
    let encoded = Reader::new(rest.unwrap_or_default()).bytes(index_bytes)?;
    if crate::checksum::differs(checksum, encoded) {
        return Err(Flaw::Damaged("the index does not match its checksum"));
    }
    let mut reader = Reader::new(encoded);
    let mut index = Vec::new();
    let mut expected = FRAME_BYTES as u64;
    while !reader.is_empty() {
        let block = BlockEntry {
            first: reader.key()?,
            offset: reader.u64()?,
            bytes: reader.u32()?,
            checksum: reader.u32()?,
        };
        if block.offset != expected {
            return Err(Flaw::Damaged("an index that makes no sense"));
        }
        expected = expected.saturating_add(u64::from(block.bytes));
        index.push(block);
    }
    if expected != offset {
        return Err(Flaw::Damaged("an index that makes no sense"));
    }
    Ok(index)
}
