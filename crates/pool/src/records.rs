//! The records of the metadata store other than extents: pool, images, map pages, regions.
//!
//! Decoding accepts exactly what encoding makes; anything else is `Corrupt`, never a panic. What a
//! record means together with others (holders, counts, owners) is derived at open.

use crate::types::{ImageKind, PoolId};
use blockyard_block::{
    Error, ErrorKind, ExtentId, HashAlgorithm, ImageId, ImageName, MAP_PAGE_EXTENTS, MapPageId,
    RegionIndex, Result, SECTOR_SIZE,
};

/// The newest format this build reads and the one it writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The five kinds of record, by the `kind` byte of their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RecordKey {
    Pool,
    Image(ImageId),
    Page(MapPageId),
    Extent(ExtentId),
    Region(RegionIndex),
}

impl RecordKey {
    pub(crate) fn parts(self) -> (u8, u64) {
        match self {
            RecordKey::Pool => (0, 0),
            RecordKey::Image(id) => (1, id.0),
            RecordKey::Page(id) => (2, id.0),
            RecordKey::Extent(id) => (3, id.0),
            RecordKey::Region(region) => (4, u64::from(region.0)),
        }
    }

    pub(crate) fn from_parts(kind: u8, id: u64) -> Result<RecordKey> {
        match kind {
            0 if id == 0 => Ok(RecordKey::Pool),
            1 => Ok(RecordKey::Image(ImageId(id))),
            2 => Ok(RecordKey::Page(MapPageId(id))),
            3 => Ok(RecordKey::Extent(ExtentId(id))),
            4 => u32::try_from(id)
                .map(|region| RecordKey::Region(RegionIndex(region)))
                .map_err(|_| corrupt("a region number out of range")),
            _ => Err(corrupt(&format!("a key of unknown kind {kind}, id {id}"))),
        }
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("metadata holds {what}; run `blockyard check`"))
}

/// Takes fields off the front of a record.
struct Fields<'a> {
    bytes: &'a [u8],
    record: &'static str,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8], record: &'static str) -> Fields<'a> {
        Fields { bytes, record }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or_else(|| self.broken())?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or_else(|| self.broken())?;
        self.bytes = rest;
        Ok(head)
    }

    fn end(self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.broken()) }
    }

    fn broken(&self) -> Error {
        corrupt(&format!("a broken {} record", self.record))
    }
}

/// The pool's identity and the epoch its data and hash headers are known to carry at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolRecord {
    pub(crate) id: PoolId,
    pub(crate) hash: HashAlgorithm,
    pub(crate) data_on_device: bool,
    pub(crate) created_unix_s: u64,
    pub(crate) headers_epoch: u64,
}

impl PoolRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.id.0);
        out.push(hash_code(self.hash));
        out.push(u8::from(self.data_on_device));
        out.extend_from_slice(&self.created_unix_s.to_le_bytes());
        out.extend_from_slice(&self.headers_epoch.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<PoolRecord> {
        let mut fields = Fields::new(bytes, "pool");
        let version = fields.u32()?;
        if version != FORMAT_VERSION {
            return Err(newer_format("the pool", version));
        }
        let record = PoolRecord {
            id: PoolId(fields.array()?),
            hash: hash_from_code(fields.u8()?)?,
            data_on_device: fields.u8()? != 0,
            created_unix_s: fields.u64()?,
            headers_epoch: fields.u64()?,
        };
        fields.end()?;
        Ok(record)
    }
}

/// The error for a format this build does not know.
pub(crate) fn newer_format(place: &str, version: u32) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{place} has format version {version}, this build knows {FORMAT_VERSION}: use the blockyard that wrote it, or a newer one"
        ),
    )
}

pub(crate) fn hash_code(hash: HashAlgorithm) -> u8 {
    match hash {
        HashAlgorithm::Blake3 => 1,
        HashAlgorithm::Sha256 => 2,
        HashAlgorithm::Sha1 => 3,
    }
}

pub(crate) fn hash_from_code(code: u8) -> Result<HashAlgorithm> {
    match code {
        1 => Ok(HashAlgorithm::Blake3),
        2 => Ok(HashAlgorithm::Sha256),
        3 => Ok(HashAlgorithm::Sha1),
        _ => Err(corrupt(&format!("an unknown hash algorithm {code}"))),
    }
}

/// An image: its name and the ids of its map pages (zero where nothing is mapped).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageRecord {
    pub(crate) name: ImageName,
    pub(crate) kind: ImageKind,
    /// An import that is not finished: not listed, removed at open.
    pub(crate) hidden: bool,
    /// Of a hidden one: what was received of an image, or is being sent. It stays over a crash, and is hidden
    /// still.
    pub(crate) kept: bool,
    /// It shows before everything of it has come; `lazy/` has the list of what is missing.
    pub(crate) lazy: bool,
    pub(crate) size: u64,
    pub(crate) created_unix_s: u64,
    pub(crate) pages: Vec<Option<MapPageId>>,
}

/// Images are at most this large, so that a map's length stays bounded.
pub(crate) const IMAGE_SIZE_MAX: u64 = 1 << 46;

/// Map pages an image of `size` bytes has.
pub(crate) fn pages_for(size: u64) -> usize {
    size.div_ceil(blockyard_block::EXTENT_SIZE * MAP_PAGE_EXTENTS as u64) as usize
}

impl ImageRecord {
    pub(crate) fn encoded_length(&self) -> usize {
        32 + self.name.as_str().len() + 8 * self.pages.len()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_length());
        out.push(self.name.as_str().len() as u8);
        out.extend_from_slice(self.name.as_str().as_bytes());
        let flags = [self.kind == ImageKind::Snapshot, self.hidden, self.kept, self.lazy];
        out.push(flags.iter().zip(0..).map(|(flag, bit)| u8::from(*flag) << bit).sum());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.created_unix_s.to_le_bytes());
        out.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        for page in &self.pages {
            out.extend_from_slice(&page.map_or(0, |id| id.0).to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<ImageRecord> {
        let mut fields = Fields::new(bytes, "image");
        let length = usize::from(fields.u8()?);
        let name = std::str::from_utf8(fields.bytes(length)?).map_err(|_| fields.broken())?;
        let name = ImageName::parse(name).map_err(|_| fields.broken())?;
        let flags = fields.u8()?;
        let size = fields.u64()?;
        let created_unix_s = fields.u64()?;
        let page_count = fields.u32()? as usize;
        let fits = flags <= 15
            && (flags & 4 == 0 || flags & 2 != 0)
            && (flags & 8 == 0 || flags & 3 == 0)
            && size <= IMAGE_SIZE_MAX
            && size.is_multiple_of(SECTOR_SIZE)
            && page_count == pages_for(size)
            && fields.bytes.len() == page_count * 8;
        if !fits {
            return Err(fields.broken());
        }
        let mut pages = Vec::with_capacity(page_count);
        for _ in 0..page_count {
            let id = fields.u64()?;
            pages.push((id != 0).then_some(MapPageId(id)));
        }
        let kind = if flags & 1 == 1 { ImageKind::Snapshot } else { ImageKind::Writable };
        let (hidden, kept, lazy) = (flags & 2 != 0, flags & 4 != 0, flags & 8 != 0);
        Ok(ImageRecord { name, kind, hidden, kept, lazy, size, created_unix_s, pages })
    }
}

/// 512 extents of an image's address space, by id; shared between images until one changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MapPage {
    pub(crate) extents: Box<[u64; MAP_PAGE_EXTENTS]>,
}

impl MapPage {
    pub(crate) fn empty() -> MapPage {
        MapPage { extents: Box::new([0; MAP_PAGE_EXTENTS]) }
    }

    pub(crate) fn get(&self, index: usize) -> Option<ExtentId> {
        Some(self.extents[index]).filter(|id| *id != 0).map(ExtentId)
    }

    pub(crate) fn set(&mut self, index: usize, extent: Option<ExtentId>) {
        self.extents[index] = extent.map_or(0, |id| id.0);
    }

    /// The extents that are there, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, ExtentId)> + '_ {
        (0..MAP_PAGE_EXTENTS).filter_map(|index| Some((index, self.get(index)?)))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let present: Vec<(usize, ExtentId)> = self.iter().collect();
        let mut out = Vec::with_capacity(2 + 10 * present.len());
        out.extend_from_slice(&(present.len() as u16).to_le_bytes());
        for (index, id) in present {
            out.extend_from_slice(&(index as u16).to_le_bytes());
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<MapPage> {
        let mut fields = Fields::new(bytes, "map page");
        let count = fields.u16()?;
        let mut page = MapPage::empty();
        let mut next = 0;
        for _ in 0..count {
            let index = usize::from(fields.u16()?);
            let id = fields.u64()?;
            if index < next || index >= MAP_PAGE_EXTENTS || id == 0 {
                return Err(fields.broken());
            }
            page.extents[index] = id;
            next = index + 1;
        }
        fields.end()?;
        Ok(page)
    }
}

/// What is durably known of a region's hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionRecord {
    /// Hashes may be stale.
    Intent,
    /// Every allocated cluster's hash is in the hash table, whose pages have these checksums.
    Clear([u32; HASH_PAGES]),
}

/// 4 KiB pages in a region's block of the hash table.
pub(crate) const HASH_PAGES: usize = 8;

impl RegionRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            RegionRecord::Intent => vec![1],
            RegionRecord::Clear(checksums) => {
                let mut out = Vec::with_capacity(1 + 4 * HASH_PAGES);
                out.push(0);
                for checksum in checksums {
                    out.extend_from_slice(&checksum.to_le_bytes());
                }
                out
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<RegionRecord> {
        let mut fields = Fields::new(bytes, "region");
        let record = match fields.u8()? {
            1 => RegionRecord::Intent,
            0 => {
                let mut checksums = [0; HASH_PAGES];
                for checksum in &mut checksums {
                    *checksum = fields.u32()?;
                }
                RegionRecord::Clear(checksums)
            }
            _ => return Err(fields.broken()),
        };
        fields.end()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests;
