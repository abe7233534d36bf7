//! One sorted run on disk: the first eight bytes of hashes and where they are stored, in pages that carry
//! checksums. See docs/format.md.
//!
//! The head, the first page, is written last: a file without one is not a run. Nothing is synced. Whatever is
//! read later and does not match its checksum ends the run's use, and a pass over the hash table makes another.

use super::sorter::failed;
use crate::types::PoolId;
use blockyard_block::{BufferMut, CLUSTER_SIZE, ClusterIndex, Error, ErrorKind, Result};
use blockyard_io::Disk;

/// A hash that some cluster seems to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first eight bytes of the hash, as they sort.
    pub(crate) prefix: u64,
    pub(crate) cluster: ClusterIndex,
}

const ENTRY_BYTES: usize = 13;
pub(crate) const PAGE_ENTRIES: usize = 313;
const TRAILER: usize = CLUSTER_SIZE - 16;
const PAGE_MAGIC: u32 = 0x7072_6e69;
const HEAD_MAGIC: [u8; 8] = *b"BYINDEX\n";
const HEAD_BYTES: usize = 36;
const VERSION: u32 = 1;
/// Pages written at a time.
const CHUNK_PAGES: usize = 64;

const _: () = assert!(PAGE_ENTRIES * ENTRY_BYTES <= TRAILER);

/// Probes that trust the hashes to be uniform. A guest can choose its content until they are not.
const INTERPOLATIONS: u32 = 4;
/// Clusters of one hash that are told at most.
pub(crate) const HITS_MAX: usize = 8;

fn bytes_of<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "a page of the hash index does not match its checksum")
}

fn seal(page: &mut [u8], magic: u32, count: usize) {
    page[TRAILER..TRAILER + 4].copy_from_slice(&magic.to_le_bytes());
    page[TRAILER + 4..TRAILER + 8].copy_from_slice(&(count as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&page[..TRAILER + 8]);
    page[TRAILER + 8..TRAILER + 12].copy_from_slice(&checksum.to_le_bytes());
}

fn is_sealed(page: &[u8], magic: u32) -> bool {
    u32::from_le_bytes(bytes_of(page, TRAILER)) == magic
        && u32::from_le_bytes(bytes_of(page, TRAILER + 8)) == crc32c::crc32c(&page[..TRAILER + 8])
}

/// A page of entries that matches its checksum.
struct Page(BufferMut);

impl Page {
    fn decode(bytes: BufferMut) -> Result<Page> {
        let page = Page(bytes);
        match is_sealed(&page.0, PAGE_MAGIC) && (1..=PAGE_ENTRIES).contains(&page.count()) {
            true => Ok(page),
            false => Err(corrupt()),
        }
    }

    fn count(&self) -> usize {
        u32::from_le_bytes(bytes_of(&self.0, TRAILER + 4)) as usize
    }

    fn prefix(&self, number: usize) -> u64 {
        u64::from_be_bytes(bytes_of(&self.0, number * ENTRY_BYTES))
    }

    fn cluster(&self, number: usize) -> ClusterIndex {
        let mut wide = [0; 8];
        wide[3..].copy_from_slice(&bytes_of::<5>(&self.0, number * ENTRY_BYTES + 8));
        ClusterIndex(u64::from_be_bytes(wide))
    }

    fn hits(&self, prefix: u64) -> Vec<ClusterIndex> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.prefix(middle) < prefix {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let equal = (low..self.count()).take_while(|number| self.prefix(*number) == prefix);
        equal.take(HITS_MAX).map(|number| self.cluster(number)).collect()
    }
}

/// A run that can be searched.
pub(crate) struct Run<K> {
    disk: K,
    pages: u64,
    /// Hashes published when the pass that made it began; `None` if another daemon made it.
    pub(crate) since: Option<u64>,
}

impl<K: Disk> Run<K> {
    /// The run in a file that another daemon of this pool has left; `Corrupt` if it is none.
    pub(crate) async fn open(disk: K, pool: PoolId) -> Result<Run<K>> {
        let (result, head) = disk.read(0, BufferMut::zeroed(CLUSTER_SIZE)).await;
        result.map_err(failed)?;
        let entries = u64::from_le_bytes(bytes_of(&head, 28));
        let known = head[..8] == HEAD_MAGIC
            && u32::from_le_bytes(bytes_of(&head, 8)) == VERSION
            && bytes_of(&head, 12) == pool.0;
        let pages = entries.div_ceil(PAGE_ENTRIES as u64);
        let length = disk.length().await.map_err(failed)?;
        if !known || !is_sealed(&head, PAGE_MAGIC) || length / CLUSTER_SIZE as u64 <= pages {
            return Err(corrupt());
        }
        Ok(Run { disk, pages, since: None })
    }

    async fn page(&self, number: u64) -> Result<Page> {
        let offset = (1 + number) * CLUSTER_SIZE as u64;
        let (result, bytes) = self.disk.read(offset, BufferMut::zeroed(CLUSTER_SIZE)).await;
        result.map_err(failed)?;
        Page::decode(bytes)
    }

    /// Clusters that had such a hash when the run was made, at most [`HITS_MAX`] and of one page. Reads at
    /// most four pages, and one for each halving.
    pub(crate) async fn find(&self, prefix: u64) -> Result<Vec<ClusterIndex>> {
        let (mut low, mut high) = (0, self.pages);
        let (mut low_key, mut high_key) = (0, u64::MAX);
        let mut probes = 0;
        while low < high {
            let at = match probes < INTERPOLATIONS {
                true => low + interpolate(prefix, low_key, high_key, high - low),
                false => low + (high - low) / 2,
            };
            probes += 1;
            let page = self.page(at).await?;
            let (first, last) = (page.prefix(0), page.prefix(page.count() - 1));
            if last < prefix {
                (low, low_key) = (at + 1, last);
            } else if prefix < first {
                (high, high_key) = (at, first);
            } else {
                return Ok(page.hits(prefix));
            }
        }
        Ok(Vec::new())
    }
}

/// Where among `pages` a prefix should lie that is between the keys, if prefixes are uniform.
fn interpolate(prefix: u64, low_key: u64, high_key: u64, pages: u64) -> u64 {
    let span = u128::from(high_key.saturating_sub(low_key)) + 1;
    let within = u128::from(prefix.saturating_sub(low_key));
    ((within * u128::from(pages) / span) as u64).min(pages - 1)
}

/// Makes a run of entries that come in order.
pub(crate) struct RunWriter<K> {
    disk: K,
    entries: Vec<Entry>,
    written: u64,
}

impl<K: Disk> RunWriter<K> {
    /// Into an empty file.
    pub(crate) fn new(disk: K) -> RunWriter<K> {
        RunWriter { disk, entries: Vec::new(), written: 0 }
    }

    pub(crate) async fn push(&mut self, entry: Entry) -> Result<()> {
        self.entries.push(entry);
        match self.entries.len() == CHUNK_PAGES * PAGE_ENTRIES {
            true => self.write().await,
            false => Ok(()),
        }
    }

    async fn write(&mut self) -> Result<()> {
        let pages = self.entries.len().div_ceil(PAGE_ENTRIES);
        if pages == 0 {
            return Ok(());
        }
        let mut buffer = BufferMut::zeroed(pages * CLUSTER_SIZE);
        let of_pages = self.entries.chunks(PAGE_ENTRIES);
        for (entries, page) in of_pages.zip(buffer.chunks_exact_mut(CLUSTER_SIZE)) {
            for (entry, bytes) in entries.iter().zip(page.chunks_exact_mut(ENTRY_BYTES)) {
                bytes[..8].copy_from_slice(&entry.prefix.to_be_bytes());
                bytes[8..].copy_from_slice(&entry.cluster.0.to_be_bytes()[3..]);
            }
            seal(page, PAGE_MAGIC, entries.len());
        }
        let offset = (1 + self.written / PAGE_ENTRIES as u64) * CLUSTER_SIZE as u64;
        self.disk.write(offset, buffer.freeze()).await.map_err(failed)?;
        self.written += self.entries.len() as u64;
        self.entries.clear();
        Ok(())
    }

    /// Writes what is left, and the head.
    pub(crate) async fn finish(mut self, pool: PoolId, since: u64) -> Result<Run<K>> {
        self.write().await?;
        let mut head = BufferMut::zeroed(CLUSTER_SIZE);
        head[..8].copy_from_slice(&HEAD_MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..28].copy_from_slice(&pool.0);
        head[28..HEAD_BYTES].copy_from_slice(&self.written.to_le_bytes());
        seal(&mut head, PAGE_MAGIC, 0);
        self.disk.write(0, head.freeze()).await.map_err(failed)?;
        let pages = self.written.div_ceil(PAGE_ENTRIES as u64);
        Ok(Run { disk: self.disk, pages, since: Some(since) })
    }
}

#[cfg(test)]
mod tests;
