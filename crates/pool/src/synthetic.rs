//! Pools for measuring: their metadata says that they are full, though no data was ever written.
//!
//! What is made here is a sound pool as far as `check` without `--data` can tell: every record goes
//! through the engine's own codecs and store. Its data file is sparse, so it reads zero where a hash
//! says otherwise; nobody may keep anything in it. Only `cargo xtask make-pool` and tests build this
//! module (the feature `synthetic`).

use crate::bitmap::Bitmap;
use crate::commit::store_key;
use crate::extent::{Extent, Slot};
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::pool::Pool;
use crate::records::{
    HASH_PAGES, ImageRecord, MapPage, PoolRecord, RecordKey, RegionRecord, pages_for,
};
use crate::regions::{HashPage, zero_page_checksum};
use crate::store::{Change, Store};
use crate::types::{CreateOptions, ImageKind, PoolId};
use blockyard_block::{
    BufferMut, ClusterIndex, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, ExtentId,
    HashAlgorithm, ImageId, ImageName, MAP_PAGE_EXTENTS, MapPageId, RegionIndex, Result,
};
use blockyard_io::{Directory, Disk};
use std::sync::Arc;

/// What to make.
#[derive(Debug, Clone)]
pub struct SyntheticPool {
    pub id: PoolId,
    /// Extents in all, each with a home of 4 MiB.
    pub extents: u32,
    /// Images that share them out evenly; at least 1.
    pub images: u32,
    /// The same seed makes the same pool.
    pub seed: u64,
    /// The hash table is filled with random hashes for this many regions; the rest stays sparse.
    pub regions_hashed: u32,
}

/// Every tenth extent has this many references to clusters elsewhere.
const REFERENCES: usize = 64;

impl SyntheticPool {
    /// Makes the pool in an empty directory, with `data` a new file. Cut off half-way, it leaves
    /// files that are to be removed.
    pub async fn make<D: Directory>(&self, directory: &Arc<D>, data: &D::Disk) -> Result<()> {
        if self.extents == 0 || self.images == 0 || self.images > self.extents {
            let message = "a synthetic pool needs an extent for each of its images";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let options = CreateOptions {
            id: self.id,
            hash: HashAlgorithm::Blake3,
            log_segments: 8,
            log_segment_bytes: 8 << 20,
            data_on_device: false,
            now_unix_s: 0,
        };
        Pool::create(&**directory, data, &options).await?;
        let regions = u64::from(self.extents) + 1;
        let failed = |error| Error::io("extending a file", error);
        data.set_length(regions * EXTENT_SIZE).await.map_err(failed)?;
        let hashes = directory.open("hashes").await.map_err(failed)?;
        hashes.set_length(regions * HASH_BLOCK_BYTES).await.map_err(failed)?;

        let (store, _) = Store::open(Arc::clone(directory), &mut |_, _| Ok(())).await?;
        let mut writer = Writer { store: &store, changes: Vec::new(), bytes: 0 };
        self.put_images(&mut writer).await?;
        for extent in 0..self.extents {
            let record = self.extent(extent);
            let mut value = Vec::with_capacity(record.encoded_length());
            record.encode(&mut value);
            writer.put(RecordKey::Extent(extent_id(extent)), value).await?;
        }
        for region in 1..=self.extents {
            let region = RegionIndex(region);
            let record = self.hash_region(&hashes, region).await?;
            writer.put(RecordKey::Region(region), record.encode()).await?;
        }
        hashes.sync().await.map_err(|error| Error::io("sync of hashes", error))?;
        writer.commit().await?;
        store.checkpoint().await?;
        store.vouch(true).await
    }

    async fn put_images<D: Directory>(&self, writer: &mut Writer<'_, D>) -> Result<()> {
        let pool = PoolRecord {
            id: self.id,
            hash: HashAlgorithm::Blake3,
            data_on_device: false,
            created_unix_s: 0,
            headers_epoch: 0,
        };
        writer.put(RecordKey::Pool, pool.encode()).await?;
        let mut next_page = 1;
        for image in 0..self.images {
            let share = |number: u32| {
                (u64::from(self.extents) * u64::from(number) / u64::from(self.images)) as u32
            };
            let extents: Vec<u32> = (share(image)..share(image + 1)).collect();
            let mut pages = Vec::new();
            for some in extents.chunks(MAP_PAGE_EXTENTS) {
                let mut page = MapPage::empty();
                for (at, extent) in some.iter().enumerate() {
                    page.set(at, Some(extent_id(*extent)));
                }
                writer.put(RecordKey::Page(MapPageId(next_page)), page.encode()).await?;
                pages.push(Some(MapPageId(next_page)));
                next_page += 1;
            }
            let size = extents.len() as u64 * EXTENT_SIZE;
            debug_assert_eq!(pages.len(), pages_for(size));
            let record = ImageRecord {
                name: ImageName::parse(&format!("image-{image}"))
                    .map_err(|error| Error::new(ErrorKind::InvalidArgument, error.to_string()))?,
                kind: ImageKind::Writable,
                hidden: false,
                kept: false,
                lazy: false,
                size,
                created_unix_s: 0,
                pages,
            };
            writer.put(RecordKey::Image(ImageId(u64::from(image) + 1)), record.encode()).await?;
        }
        Ok(())
    }

    /// Half of the extents have random bitmaps, a tenth of them all references; others are full.
    fn extent(&self, extent: u32) -> Extent {
        let mut record = Extent::at_home(home_of(extent), self.home_bits(extent));
        if has_references(extent) {
            let mut random = self.random(extent, "targets");
            for slot in reference_slots() {
                record.set(slot, Slot::Data(self.some_cluster(&mut random)));
            }
        }
        record
    }

    fn home_bits(&self, extent: u32) -> Bitmap {
        let mut bits = Bitmap::FULL;
        if extent % 2 == 1 {
            let mut random = self.random(extent, "bitmap");
            let mut bytes = [0; Bitmap::BYTES];
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            bits = Bitmap::decode(&bytes);
        } else if has_references(extent) {
            reference_slots().for_each(|slot| bits.set(slot, false));
        }
        bits
    }

    /// An allocated cluster in the home of some extent.
    fn some_cluster(&self, random: &mut Random) -> ClusterIndex {
        loop {
            let extent = (random.next() % u64::from(self.extents)) as u32;
            let slot = (random.next() % EXTENT_CLUSTERS as u64) as usize;
            if self.home_bits(extent).get(slot) {
                return home_of(extent).cluster(slot);
            }
        }
    }

    /// Fills the region's block of the hash table if it is one to be filled.
    async fn hash_region(&self, hashes: &impl Disk, region: RegionIndex) -> Result<RegionRecord> {
        if region.0 > self.regions_hashed {
            return Ok(RegionRecord::Clear([zero_page_checksum(); HASH_PAGES]));
        }
        let mut random = self.random(region.0, "hashes");
        let mut block = BufferMut::zeroed(HASH_BLOCK_BYTES as usize);
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let mut checksums = [0; HASH_PAGES];
        let page_bytes = HASH_BLOCK_BYTES as usize / HASH_PAGES;
        for (checksum, page) in checksums.iter_mut().zip(block.chunks_exact(page_bytes)) {
            *checksum = crc32c::crc32c(page);
        }
        let first = HashPage::of(region.first_cluster());
        let written = hashes.write(first.offset(), block.freeze()).await;
        written.map_err(|error| Error::io("write of hashes", error))?;
        Ok(RegionRecord::Clear(checksums))
    }

    fn random(&self, number: u32, purpose: &str) -> Random {
        let purpose = u64::from(crc32c::crc32c(purpose.as_bytes()));
        // One step between: states that lie a multiple of the step apart give the same numbers, shifted.
        Random(Random(self.seed ^ purpose << 32 ^ u64::from(number)).next())
    }
}

fn extent_id(extent: u32) -> ExtentId {
    ExtentId(u64::from(extent) + 1)
}

fn home_of(extent: u32) -> RegionIndex {
    RegionIndex(extent + 1)
}

fn has_references(extent: u32) -> bool {
    extent.is_multiple_of(10)
}

fn reference_slots() -> impl Iterator<Item = usize> {
    (0..REFERENCES).map(|number| number * (EXTENT_CLUSTERS / REFERENCES))
}

/// SplitMix64: any state is a good one, so that each extent can have its own.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Commits records in batches of a sensible size.
struct Writer<'a, D: Directory> {
    store: &'a Store<D>,
    changes: Vec<Change>,
    bytes: usize,
}

impl<D: Directory> Writer<'_, D> {
    async fn put(&mut self, key: RecordKey, value: Vec<u8>) -> Result<()> {
        let change = Change { key: store_key(key), value: Some(value) };
        let bytes = change.encoded_bytes();
        if self.bytes + bytes > self.store.batch_bytes_max() / 2 {
            self.commit().await?;
        }
        self.bytes += bytes;
        self.changes.push(change);
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.bytes = 0;
        self.store.commit(std::mem::take(&mut self.changes)).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
