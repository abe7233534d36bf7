//! The file of a lazy image: what is still to come of it, and from where. It is written once, before the image shows,
//! and removed when everything has come; it never changes in between. See docs/format-metadata.md.
//!
//! Block 0 is the header; then the hashes of all slots that were missing, in order; then for each extent that has
//! such slots a bit for each. Each block of 4 KiB has a checksum.

use crate::bitmap::Bitmap;
use crate::checksum;
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ImageId, Result,
};
use blockyard_io::{Directory, Disk};

/// The folder of these files.
pub(super) const FOLDER: &str = "lazy";
const MAGIC: [u8; 8] = *b"BYlazy01";
const HASH_BYTES: usize = 32;
/// The last four bytes of a block are the checksum of the others.
const BODY_BYTES: usize = CLUSTER_SIZE - 4;
const BLOCK_HASHES: usize = BODY_BYTES / HASH_BYTES;
pub(crate) const ENTRY_BYTES: usize = 8 + Bitmap::BYTES;
const BLOCK_ENTRIES: usize = BODY_BYTES / ENTRY_BYTES;
/// Magic, image, size, hashes, extents, length of the origin.
const HEADER_BYTES: usize = 8 + 8 + 8 + 8 + 8 + 2;
/// What describes the origin is at most this long.
pub(crate) const ORIGIN_BYTES_MAX: usize = 2048;
/// Blocks read or written at a time.
const CHUNK_BLOCKS: usize = 64;

const _: () = assert!(BLOCK_HASHES == 127 && BLOCK_ENTRIES == 30);
const _: () = assert!(HEADER_BYTES + ORIGIN_BYTES_MAX <= BODY_BYTES);

/// Slots of one extent that were missing when the image was first shown.
#[derive(Clone)]
pub(crate) struct MissingExtent {
    pub(crate) index: u64,
    pub(crate) slots: Bitmap,
    /// Hashes in front of its first.
    pub(super) first_hash: u64,
}

/// What a file says but for the hashes.
pub(crate) struct Contents {
    pub(crate) size: u64,
    pub(crate) origin: Vec<u8>,
    /// Ascending.
    pub(crate) extents: Vec<MissingExtent>,
}

pub(crate) fn path(image: ImageId) -> String {
    format!("{FOLDER}/{:016x}", image.0)
}

/// Writes a file from front to back.
pub(crate) struct Writer<D: Directory> {
    disk: D::Disk,
    image: ImageId,
    body: Vec<u8>,
    /// Blocks that are full and not written yet.
    pending: Vec<u8>,
    blocks: u64,
    hashes: u64,
    extents: Vec<MissingExtent>,
}

impl<D: Directory> Writer<D> {
    /// What a crash left of an earlier one is replaced.
    pub(crate) async fn create(directory: &D, image: ImageId) -> Result<Writer<D>> {
        match directory.remove(&path(image)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let disk = directory.create(&path(image)).await.map_err(failed)?;
        let (body, pending) = (Vec::new(), Vec::new());
        Ok(Writer { disk, image, body, pending, blocks: 1, hashes: 0, extents: Vec::new() })
    }

    /// Adds an extent behind all others; its slots ascend.
    pub(crate) async fn push(&mut self, index: u64, slots: &[(usize, ContentHash)]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let mut bits = Bitmap::EMPTY;
        let first_hash = self.hashes;
        for (slot, hash) in slots {
            bits.set(*slot, true);
            self.append(&hash.0, BLOCK_HASHES * HASH_BYTES).await?;
        }
        self.hashes += slots.len() as u64;
        self.extents.push(MissingExtent { index, slots: bits, first_hash });
        Ok(())
    }

    async fn append(&mut self, record: &[u8], body_max: usize) -> Result<()> {
        self.body.extend_from_slice(record);
        if self.body.len() == body_max {
            self.end_block().await?;
        }
        Ok(())
    }

    async fn end_block(&mut self) -> Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        let body = std::mem::take(&mut self.body);
        self.pending.extend_from_slice(&sealed(body));
        match self.pending.len() == CHUNK_BLOCKS * CLUSTER_SIZE {
            true => self.write_pending().await,
            false => Ok(()),
        }
    }

    async fn write_pending(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let buffer = BufferMut::copy_of(&std::mem::take(&mut self.pending)).freeze();
        let length = buffer.len() / CLUSTER_SIZE;
        self.disk.write(self.blocks * CLUSTER_SIZE as u64, buffer).await.map_err(failed)?;
        self.blocks += length as u64;
        Ok(())
    }

    /// Makes it durable, name and all.
    pub(crate) async fn finish(
        mut self,
        directory: &D,
        size: u64,
        origin: Vec<u8>,
    ) -> Result<(Contents, D::Disk)> {
        if origin.len() > ORIGIN_BYTES_MAX {
            let message = "the description of the origin is too long";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.end_block().await?;
        let extents = std::mem::take(&mut self.extents);
        for extent in &extents {
            let mut entry = extent.index.to_le_bytes().to_vec();
            extent.slots.encode(&mut entry);
            self.append(&entry, BLOCK_ENTRIES * ENTRY_BYTES).await?;
        }
        self.end_block().await?;
        self.write_pending().await?;
        let mut header = MAGIC.to_vec();
        for number in [self.image.0, size, self.hashes, extents.len() as u64] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&(origin.len() as u16).to_le_bytes());
        header.extend_from_slice(&origin);
        let header = BufferMut::copy_of(&sealed(header)).freeze();
        self.disk.write(0, header).await.map_err(failed)?;
        self.disk.sync().await.map_err(failed)?;
        directory.sync().await.map_err(failed)?;
        Ok((Contents { size, origin, extents }, self.disk))
    }
}

/// Reads all but the hashes.
pub(crate) async fn load(disk: &impl Disk, image: ImageId) -> Result<Contents> {
    let header = read_blocks(disk, 0, 1).await?;
    let word = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    let (size, hashes, count) = (word(16), word(24), word(32));
    let origin_length = usize::from(u16::from_le_bytes([header[40], header[41]]));
    let extents_max = blockyard_block::EXTENT_SIZE;
    let sound = header[..8] == MAGIC
        && word(8) == image.0
        && origin_length <= ORIGIN_BYTES_MAX
        && count <= size.div_ceil(extents_max)
        && hashes <= count.saturating_mul(EXTENT_CLUSTERS as u64);
    if !sound {
        return Err(broken());
    }
    let origin = header[HEADER_BYTES..HEADER_BYTES + origin_length].to_vec();
    let mut extents: Vec<MissingExtent> = Vec::new();
    let (mut first_hash, mut block) = (0, 1 + hashes.div_ceil(BLOCK_HASHES as u64));
    let mut left = count;
    while left > 0 {
        let blocks = left.div_ceil(BLOCK_ENTRIES as u64).min(CHUNK_BLOCKS as u64);
        let bytes = read_blocks(disk, block, blocks as usize).await?;
        block += blocks;
        for body in bytes.chunks_exact(CLUSTER_SIZE) {
            for entry in
                body.chunks_exact(ENTRY_BYTES).take(left.min(BLOCK_ENTRIES as u64) as usize)
            {
                let (index, bits) = entry.split_at(8);
                let index = u64::from_le_bytes(index.try_into().map_err(|_| broken())?);
                let slots = Bitmap::decode(bits.try_into().map_err(|_| broken())?);
                if extents.last().is_some_and(|last| last.index >= index) {
                    return Err(broken());
                }
                let held = slots.count() as u64;
                extents.push(MissingExtent { index, slots, first_hash });
                first_hash += held;
                left -= 1;
            }
        }
    }
    match first_hash == hashes {
        true => Ok(Contents { size, origin, extents }),
        false => Err(broken()),
    }
}

/// The hashes of all slots of an extent that were missing, in order.
pub(crate) async fn hashes(disk: &impl Disk, extent: &MissingExtent) -> Result<Vec<ContentHash>> {
    let count = extent.slots.count() as u64;
    let per_block = BLOCK_HASHES as u64;
    let first = extent.first_hash / per_block;
    let end = (extent.first_hash + count).div_ceil(per_block);
    let bytes = read_blocks(disk, 1 + first, (end - first) as usize).await?;
    let all = bytes
        .chunks_exact(CLUSTER_SIZE)
        .flat_map(|block| block[..BLOCK_HASHES * HASH_BYTES].chunks_exact(HASH_BYTES));
    let own = all.skip((extent.first_hash - first * per_block) as usize).take(count as usize);
    own.map(|hash| hash.try_into().map(ContentHash).map_err(|_| broken())).collect()
}

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    body.resize(BODY_BYTES, 0);
    let checksum = crc32c::crc32c(&body);
    body.extend_from_slice(&checksum.to_le_bytes());
    body
}

async fn read_blocks(disk: &impl Disk, first: u64, count: usize) -> Result<BufferMut> {
    let buffer = BufferMut::zeroed(count * CLUSTER_SIZE);
    let (result, bytes) = disk.read(first * CLUSTER_SIZE as u64, buffer).await;
    result.map_err(failed)?;
    for block in bytes.chunks_exact(CLUSTER_SIZE) {
        let (body, stored) = block.split_at(BODY_BYTES);
        let stored = u32::from_le_bytes(stored.try_into().map_err(|_| broken())?);
        if checksum::differs(stored, body) {
            return Err(broken());
        }
    }
    Ok(bytes)
}

fn failed(error: std::io::Error) -> Error {
    Error::io("the list of what is missing of a lazy image", error)
}

fn broken() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the list of what is missing of a lazy image is damaged: remove the image and pull it again",
    )
}

#[cfg(test)]
mod tests;
