//! The hash table against its checksums, and the data against the hash table, region by region in the
//! order of the disk.
//!
//! A region with an intent is not judged: its hashes may be stale, and that is no damage (I8). In all
//! others a page of hashes that does not match its checksum is.

use super::clusters::Usage;
use super::findings::{Damage, DamagedRun, Fault, Findings};
use super::headers::Files;
use super::{CheckOptions, CheckProgress};
use crate::bitmap::Bitmap;
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::records::{HASH_PAGES, RegionRecord};
use blockyard_block::{
    BufferMut, CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, HashAlgorithm, RegionIndex,
};
use blockyard_io::Disk;
use std::collections::{BTreeMap, BTreeSet};

/// Hashes in one page of the hash table.
const PAGE_HASHES: usize = EXTENT_CLUSTERS / HASH_PAGES;
/// Clusters read at a time.
const READ_CLUSTERS: usize = 256;

/// Goes through the regions and notes what is wrong.
pub(super) struct Judge<'a, K> {
    files: &'a Files<'a, K>,
    records: &'a BTreeMap<RegionIndex, RegionRecord>,
    usage: &'a Usage,
    read_data: bool,
    progress: &'a mut dyn FnMut(CheckProgress),
    zero_checksum: u32,
    damage: Damage,
    /// Damage of the hash table under clusters that are free.
    notes: Findings,
    pub(super) verified: u64,
}

/// What is known of the hashes of a region.
enum Hashes {
    /// Behind an intent.
    Untrusted,
    /// The block as it was read, and whether each page is what it must be.
    Block(BufferMut, [Page; HASH_PAGES]),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Right,
    Damaged,
    /// Never written.
    Unknown,
}

/// How the reading of a page went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Done,
    Failed,
    /// The file ends before.
    Beyond,
}

impl<'a, K: Disk> Judge<'a, K> {
    pub(super) fn new(
        files: &'a Files<'a, K>,
        records: &'a BTreeMap<RegionIndex, RegionRecord>,
        usage: &'a Usage,
        options: &CheckOptions,
        progress: &'a mut dyn FnMut(CheckProgress),
    ) -> Judge<'a, K> {
        Judge {
            files,
            records,
            usage,
            read_data: options.read_data && files.belong_together,
            progress,
            zero_checksum: crc32c::crc32c(&[0; CLUSTER_SIZE]),
            damage: Damage::default(),
            notes: Findings::default(),
            verified: 0,
        }
    }

    /// Judges all regions. Without hashes, or with those of another pool, there is nothing to say.
    pub(super) async fn run(&mut self) {
        if !self.files.belong_together {
            return;
        }
        let regions_hashed = self.files.hashes_bytes.div_ceil(HASH_BLOCK_BYTES);
        let regions_hashed = RegionIndex(u32::try_from(regions_hashed).unwrap_or(u32::MAX));
        // Beyond the end of the hash table only regions of which something is known.
        let recorded = self.records.range(regions_hashed..).map(|(region, _)| *region);
        let mut beyond: BTreeSet<RegionIndex> = recorded.collect();
        beyond.extend(self.usage.regions().filter(|region| *region >= regions_hashed));
        let regions = (1..regions_hashed.0).map(RegionIndex).chain(beyond.iter().copied());
        let total = self.bytes_total(u64::from(regions_hashed.0) + beyond.len() as u64);
        let mut done = 0;
        for region in regions {
            done += HASH_BLOCK_BYTES + self.judge_region(region).await * CLUSTER_SIZE as u64;
            (self.progress)(CheckProgress { bytes_done: done.min(total), bytes_total: total });
        }
    }

    pub(super) fn into_damage(mut self, findings: &mut Findings) -> Damage {
        let (notes, omitted) = self.notes.finish();
        notes.into_iter().for_each(|note| findings.general(note.message));
        findings.omit(omitted + self.damage.take_omitted());
        self.damage
    }

    fn bytes_total(&self, regions: u64) -> u64 {
        let data = if self.read_data { self.usage.data_clusters() } else { 0 };
        regions * HASH_BLOCK_BYTES + data * CLUSTER_SIZE as u64
    }

    /// Returns how many clusters were read.
    async fn judge_region(&mut self, region: RegionIndex) -> u64 {
        let usage = self.usage;
        let data = usage.data_in(region);
        let hashes = self.read_hashes(region).await;
        if let Hashes::Block(_, pages) = &hashes {
            self.note_damaged_pages(region, pages, data);
        }
        // Damage is noted in ascending order; pages are sorted in with the data of their clusters.
        let mut faults = [None; EXTENT_CLUSTERS];
        if let Hashes::Block(_, pages) = &hashes {
            for within in data.ones() {
                faults[within] = match pages[within / PAGE_HASHES] {
                    Page::Right => None,
                    Page::Damaged => Some(Fault::HashesDamaged),
                    Page::Unknown => Some(Fault::HashesUnknown),
                };
            }
        }
        let mut read = 0;
        if self.read_data {
            read = self.judge_data(region, data, &hashes, &mut faults).await;
        }
        for (within, fault) in faults.into_iter().enumerate() {
            if let Some(fault) = fault {
                self.damage.add(DamagedRun { first: region.cluster(within), length: 1, fault });
            }
        }
        read
    }

    async fn read_hashes(&self, region: RegionIndex) -> Hashes {
        let record = self.records.get(&region);
        let expected = match record {
            Some(RegionRecord::Intent) => return Hashes::Untrusted,
            Some(RegionRecord::Clear(checksums)) => Some(checksums),
            None => None,
        };
        let offset = u64::from(region.0) * HASH_BLOCK_BYTES;
        let (block, there) = self.read_block(offset).await;
        let mut pages = [Page::Unknown; HASH_PAGES];
        for (index, page) in block.chunks_exact(CLUSTER_SIZE).enumerate() {
            let checksum = crc32c::crc32c(page);
            pages[index] = match (there[index], expected) {
                (Read::Failed, _) | (Read::Beyond, Some(_)) => Page::Damaged,
                // Where nothing was ever written nothing is expected.
                (Read::Beyond, None) => Page::Unknown,
                (Read::Done, Some(expected)) if checksum == expected[index] => Page::Right,
                (Read::Done, None) if checksum == self.zero_checksum => Page::Unknown,
                (Read::Done, _) => Page::Damaged,
            };
        }
        Hashes::Block(block, pages)
    }

    /// A region's block of the hash table, and how the reading of each page went.
    async fn read_block(&self, offset: u64) -> (BufferMut, [Read; HASH_PAGES]) {
        let whole = BufferMut::zeroed(HASH_BLOCK_BYTES as usize);
        let Some(hashes) = &self.files.hashes else { return (whole, [Read::Failed; HASH_PAGES]) };
        let (result, mut block) = hashes.read(offset, whole).await;
        if result.is_ok() {
            return (block, [Read::Done; HASH_PAGES]);
        }
        let mut there = [Read::Beyond; HASH_PAGES];
        for (index, page) in block.chunks_exact_mut(CLUSTER_SIZE).enumerate() {
            let at = offset + (index * CLUSTER_SIZE) as u64;
            if at + CLUSTER_SIZE as u64 > self.files.hashes_bytes {
                break;
            }
            let (result, bytes) = hashes.read(at, BufferMut::zeroed(CLUSTER_SIZE)).await;
            there[index] = if result.is_ok() { Read::Done } else { Read::Failed };
            page.copy_from_slice(&bytes);
        }
        (block, there)
    }

    /// A damaged page whose clusters are all free is still damage: the pool would trip over it later.
    fn note_damaged_pages(
        &mut self,
        region: RegionIndex,
        pages: &[Page; HASH_PAGES],
        data: &Bitmap,
    ) {
        for (index, page) in pages.iter().enumerate() {
            let first = index * PAGE_HASHES;
            let in_use = (first..first + PAGE_HASHES).any(|within| data.get(within));
            if *page == Page::Damaged && !in_use {
                let offset = u64::from(region.0) * HASH_BLOCK_BYTES + (index * CLUSTER_SIZE) as u64;
                self.notes.general(format!(
                    "the hash table at {offset} does not match its checksum or cannot be read (no \
                     data depends on it)"
                ));
            }
        }
    }

    /// Reads all clusters that hold data, even those that cannot be judged, because they must at least
    /// be readable. Returns how many.
    async fn judge_data(
        &mut self,
        region: RegionIndex,
        data: &Bitmap,
        hashes: &Hashes,
        faults: &mut [Option<Fault>; EXTENT_CLUSTERS],
    ) -> u64 {
        let mut within = 0;
        let mut read = 0;
        while within < EXTENT_CLUSTERS {
            let run = data.run(within, EXTENT_CLUSTERS - within).min(READ_CLUSTERS);
            if data.get(within) {
                read += run as u64;
                self.judge_run(region.cluster(within), run, hashes, &mut faults[within..]).await;
            }
            within += run;
        }
        read
    }

    async fn judge_run(
        &mut self,
        first: ClusterIndex,
        length: usize,
        hashes: &Hashes,
        faults: &mut [Option<Fault>],
    ) {
        let bytes = read_clusters(self.files.data, first, length).await;
        for step in 0..length {
            let cluster = first.offset_by(step as u64);
            let one;
            let content: &[u8] = match &bytes {
                Some(bytes) => &bytes[step * CLUSTER_SIZE..(step + 1) * CLUSTER_SIZE],
                // Which of them is it?
                None => match read_clusters(self.files.data, cluster, 1).await {
                    Some(bytes) => {
                        one = bytes;
                        &one
                    }
                    None => {
                        faults[step] = Some(Fault::Unreadable);
                        continue;
                    }
                },
            };
            let Hashes::Block(block, _) = hashes else { continue };
            if faults[step].is_some() {
                continue;
            }
            if is_true(block, cluster, content, self.files.hash) {
                self.verified += 1;
            } else {
                faults[step] = Some(Fault::Mismatch);
            }
        }
    }
}

pub(super) async fn read_clusters(
    data: &impl Disk,
    first: ClusterIndex,
    length: usize,
) -> Option<BufferMut> {
    let buffer = BufferMut::zeroed(length * CLUSTER_SIZE);
    let (result, bytes) = data.read(first.data_offset(), buffer).await;
    result.ok().map(|()| bytes)
}

fn is_true(block: &[u8], cluster: ClusterIndex, content: &[u8], hash: HashAlgorithm) -> bool {
    let at = cluster.within_region() * 32;
    block.get(at..at + 32) == Some(hash.hash(content).0.as_slice())
}
