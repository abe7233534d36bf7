//! Sorting more records than memory shall hold: sorted runs go to files of `index/` and are merged.
//!
//! A file that cannot be made or written for lack of space is an error of kind `NoSpace`; the caller
//! then sorts less at a time. What is left of a sort that was cut off is removed after the next open.

use super::page::{PAGE_RECORDS, Record, decode, encode};
use blockyard_block::{BufferMut, CLUSTER_SIZE, Error, ErrorKind, Result};
use blockyard_io::{Directory, Disk};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Pages read or written at a time.
const CHUNK_PAGES: usize = 8;

/// Takes records in any order.
pub(crate) struct Sorter<D: Directory> {
    directory: Arc<D>,
    /// Distinguishes the files of sorts that run at the same time.
    prefix: String,
    memory: Vec<Record>,
    memory_max: usize,
    runs: Vec<Run<D::Disk>>,
    /// A file of it could not be made, written or read.
    failed: AtomicBool,
}

struct Run<K> {
    disk: K,
    records: u64,
}

impl<D: Directory> Sorter<D> {
    pub(crate) fn new(directory: &Arc<D>, prefix: String, memory_max: usize) -> Sorter<D> {
        Sorter {
            directory: Arc::clone(directory),
            prefix,
            memory: Vec::new(),
            memory_max,
            runs: Vec::new(),
            failed: AtomicBool::new(false),
        }
    }

    /// What the names of its files begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the next record makes what is in memory go to a file; and bytes of that.
    pub(crate) fn spills_next(&self) -> Option<u64> {
        let is_full = self.memory.len() == self.memory_max;
        is_full.then(|| self.memory_max as u64 * size_of::<Record>() as u64)
    }

    pub(crate) async fn push(&mut self, record: Record) -> Result<()> {
        if self.spills_next().is_some() {
            let spilled = self.spill().await;
            self.note(spilled)?;
        }
        self.memory.push(record);
        Ok(())
    }

    /// Whether an error came of its files; another sort, of what fits into memory, may do without.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    async fn spill(&mut self) -> Result<()> {
        self.memory.sort_unstable();
        let name = format!("index/{}-{:04}", self.prefix, self.runs.len());
        let disk = create_file(&*self.directory, &name).await?;
        if let Err(error) = write_records(&disk, 0, &self.memory).await {
            drop(disk);
            let _ = self.directory.remove(&name).await;
            return Err(error);
        }
        self.runs.push(Run { disk, records: self.memory.len() as u64 });
        self.memory.clear();
        Ok(())
    }

    /// The records in order, as often as asked for.
    pub(crate) fn finish(mut self) -> Sorted<D> {
        self.memory.sort_unstable();
        self.memory.shrink_to_fit();
        Sorted { sorter: Arc::new(self) }
    }

    /// Removes what is on disk. Best effort: the next open removes leftovers.
    pub(crate) async fn discard(&self) {
        for number in 0..self.runs.len() {
            let _ = self.directory.remove(&format!("index/{}-{number:04}", self.prefix)).await;
        }
    }
}

/// Makes a file of the index, in a folder that anybody may remove at any time.
pub(crate) async fn create_file<D: Directory>(directory: &D, name: &str) -> Result<D::Disk> {
    let made = match directory.create(name).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            directory.forget_folder("index");
            directory.create(name).await
        }
        made => made,
    };
    made.map_err(failed)
}

/// Writes whole pages from page `first_page` on.
pub(crate) async fn write_records(
    disk: &impl Disk,
    first_page: u64,
    records: &[Record],
) -> Result<()> {
    let mut offset = first_page * CLUSTER_SIZE as u64;
    for chunk in records.chunks(CHUNK_PAGES * PAGE_RECORDS) {
        let pages = chunk.len().div_ceil(PAGE_RECORDS);
        let mut buffer = BufferMut::zeroed(pages * CLUSTER_SIZE);
        for (of_page, page) in chunk.chunks(PAGE_RECORDS).zip(buffer.chunks_exact_mut(CLUSTER_SIZE))
        {
            encode(of_page, page);
        }
        disk.write(offset, buffer.freeze()).await.map_err(failed)?;
        offset += (pages * CLUSTER_SIZE) as u64;
    }
    Ok(())
}

pub(crate) fn failed(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::NoSpace, "there is no space for a file of the index")
        }
        _ => Error::io("a file of the index", error),
    }
}

/// Sorted records.
pub(crate) struct Sorted<D: Directory> {
    sorter: Arc<Sorter<D>>,
}

impl<D: Directory> Sorted<D> {
    pub(crate) fn merge(&self) -> Merge<D> {
        let runs = self.sorter.runs.iter();
        let cursors =
            runs.map(|run| Cursor { next_page: 0, left: run.records, records: Vec::new(), at: 0 });
        Merge {
            cursors: cursors.collect(),
            sorter: Arc::clone(&self.sorter),
            at: 0,
            heads: BinaryHeap::new(),
            started: false,
        }
    }

    /// Whether a record may have this key: exact if all are in memory, else always.
    pub(crate) fn may_have(&self, key: &[u64; 2]) -> bool {
        let memory = &self.sorter.memory;
        let at = memory.partition_point(|record| record.key < *key);
        !self.sorter.runs.is_empty() || memory.get(at).is_some_and(|record| record.key == *key)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.sorter.has_failed()
    }

    /// Records of all.
    pub(crate) fn count(&self) -> u64 {
        let spilled: u64 = self.sorter.runs.iter().map(|run| run.records).sum();
        spilled + self.sorter.memory.len() as u64
    }

    /// Runs that went to files.
    pub(crate) fn file_count(&self) -> usize {
        self.sorter.runs.len()
    }

    pub(crate) async fn discard(self) {
        self.sorter.discard().await;
    }
}

/// A place in a run that went to a file.
struct Cursor {
    next_page: u64,
    left: u64,
    records: Vec<Record>,
    at: usize,
}

impl Cursor {
    async fn next(&mut self, disk: &impl Disk) -> Result<Option<Record>> {
        if self.at == self.records.len() {
            if self.left == 0 {
                return Ok(None);
            }
            self.fill(disk).await?;
        }
        self.at += 1;
        self.left = self.left.saturating_sub(1);
        Ok(self.records.get(self.at - 1).copied())
    }

    async fn fill(&mut self, disk: &impl Disk) -> Result<()> {
        let pages = (self.left as usize).div_ceil(PAGE_RECORDS).min(CHUNK_PAGES);
        let offset = self.next_page * CLUSTER_SIZE as u64;
        let (result, buffer) = disk.read(offset, BufferMut::zeroed(pages * CLUSTER_SIZE)).await;
        result.map_err(failed)?;
        self.records.clear();
        self.at = 0;
        for page in buffer.chunks_exact(CLUSTER_SIZE) {
            decode(page, &mut self.records)?;
        }
        self.next_page += pages as u64;
        Ok(())
    }
}

/// Walks through sorted records.
pub(crate) struct Merge<D: Directory> {
    sorter: Arc<Sorter<D>>,
    /// In what is in memory.
    at: usize,
    cursors: Vec<Cursor>,
    heads: BinaryHeap<Reverse<(Record, usize)>>,
    started: bool,
}

impl<D: Directory> Merge<D> {
    pub(crate) async fn next(&mut self) -> Result<Option<Record>> {
        if !self.started {
            self.started = true;
            for source in 0..=self.cursors.len() {
                self.refill(source).await?;
            }
        }
        let Some(Reverse((record, source))) = self.heads.pop() else { return Ok(None) };
        self.refill(source).await?;
        Ok(Some(record))
    }

    async fn refill(&mut self, source: usize) -> Result<()> {
        let next = match self.cursors.get_mut(source).zip(self.sorter.runs.get(source)) {
            Some((cursor, run)) => self.sorter.note(cursor.next(&run.disk).await)?,
            None => {
                self.at += 1;
                self.sorter.memory.get(self.at - 1).copied()
            }
        };
        self.heads.extend(next.map(|record| Reverse((record, source))));
        Ok(())
    }
}
