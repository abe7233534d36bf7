//! The hash index that outlives a pass: who has sorted all hashes leaves a run behind, and who wants to know
//! where a content is stored looks it up there and in the delta.
//!
//! Nothing makes a run for its own sake: a reclaim, a shortage of space and a count of distinct contents walk
//! over the whole hash table anyhow. All that is found is a hint. See docs/decisions/0014-hash-index.md.

use super::page::PAGE_RECORDS;
use super::run::{Entry, HITS_MAX, PAGE_ENTRIES, Run, RunWriter};
use super::scan::key_of;
use super::sorter::{Sorted, create_file};
use crate::pool::Pool;
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ContentHash, Error, ErrorKind, Result};
use blockyard_io::Directory;
use std::sync::{Arc, MutexGuard, PoisonError};

/// Clusters kept of one content: more would only make the run long.
const SAME_MAX: usize = 4;
/// A run is due again when so large a part of the delta's places could be taken.
const STALE_PART: u64 = 4;

/// Records merged between two looks at whether the pool is closing.
const STEPS: u64 = 4096;

/// What comes before the epoch and the number in the name of a run's file.
const PREFIX: &str = "hashes-";

/// The run in use.
pub(crate) type Kept<D> = Option<Arc<Run<<D as Directory>::Disk>>>;

fn numbers_of(name: &str) -> Option<(u64, u64)> {
    let (epoch, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some((epoch.parse().ok()?, number.parse().ok()?))
}

/// Pages of a run of so many entries, with those at its ends.
fn run_pages(entries: u64) -> u64 {
    2 + entries.div_ceil(PAGE_ENTRIES as u64)
}

impl<D: Directory> Pool<D> {
    fn kept_index(&self) -> MutexGuard<'_, Kept<D>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places in the delta: as many bytes as two thirds of what a sort keeps in memory.
    fn delta_places(&self) -> usize {
        2 * self.lock().options.sort_records_max
    }

    /// Uses the newest run that an earlier daemon left, and removes the files of others.
    pub(crate) async fn adopt_index(&self) {
        let mut found = self.index_files().await;
        found.sort_unstable_by_key(|name| std::cmp::Reverse(numbers_of(name)));
        let pool = self.identity().0;
        let mut adopted = false;
        for name in found {
            let path = format!("index/{name}");
            if !adopted
                && let Ok(disk) = self.directory.open(&path).await
                && let Ok(run) = Run::open(disk, pool).await
            {
                let places = self.delta_places();
                self.lock().regions.delta.start(places);
                self.kept_index().get_or_insert_with(|| Arc::new(run));
                adopted = true;
            } else {
                let _ = self.directory.remove(&path).await;
            }
        }
    }

    async fn index_files(&self) -> Vec<String> {
        let mut names = self.directory.list("index").await.unwrap_or_default();
        names.retain(|name| numbers_of(name).is_some());
        names
    }

    /// Whether there is no run, or so much was written since it was made that the delta must have lost some.
    pub(crate) fn is_index_due(&self) -> bool {
        let since = self.kept_index().as_ref().and_then(|run| run.since);
        let places = self.delta_places() as u64;
        let published = self.lock().regions.published;
        since.is_none_or(|since| published - since > places / STALE_PART)
    }

    /// From now on the delta keeps what is hashed. To be called before the hashes are read; returns what
    /// [`Pool::leave_index`] wants to know.
    pub(crate) fn begin_index(&self) -> u64 {
        let places = self.delta_places();
        let mut state = self.lock();
        state.regions.delta.start(places);
        state.regions.published
    }

    /// Makes a run of all trusted hashes, which are sorted here, if one is due. One that cannot be made is
    /// no loss: the next pass tries again. What is on disk if this is cut off: a file without a head.
    pub(crate) async fn leave_index(&self, hashes: &Sorted<D>, since: u64) {
        // Anybody may have removed its file.
        let is_there = !self.index_files().await.is_empty();
        if is_there && !self.is_index_due() {
            return;
        }
        let name = {
            let mut state = self.lock();
            state.sorts += 1;
            format!("{PREFIX}{}-{}", self.store.epoch(), state.sorts)
        };
        let path = format!("index/{name}");
        let Ok(run) = self.write_index(&path, hashes, since).await else {
            let _ = self.directory.remove(&path).await;
            return;
        };
        // The old one's file may be gone, and closing it a long work.
        let old = self.kept_index().replace(Arc::new(run));
        drop(old);
        {
            let mut state = self.lock();
            state.indexes_made += 1;
            state.note_progress();
            self.wake_wanted(state);
        }
        for other in self.index_files().await.into_iter().filter(|other| *other != name) {
            let _ = self.directory.remove(&format!("index/{other}")).await;
        }
    }

    /// What an index of so many clusters takes while it is made, with the files of the sort: data leaves that much
    /// free, so that a full file system has an index.
    pub(crate) fn index_bytes(&self, clusters: u64) -> u64 {
        let in_memory = clusters <= self.lock().options.sort_records_max as u64;
        let sorted = if in_memory { 0 } else { clusters.div_ceil(PAGE_RECORDS as u64) };
        (sorted + run_pages(clusters)) * CLUSTER_SIZE as u64
    }

    async fn write_index(
        &self,
        path: &str,
        hashes: &Sorted<D>,
        since: u64,
    ) -> Result<Run<D::Disk>> {
        let clusters = self.lock().allocator.clusters_used();
        let bytes = run_pages(clusters) * CLUSTER_SIZE as u64;
        if !self.has_room_beside_reserves(bytes).await? {
            return Err(Error::new(ErrorKind::NoSpace, "there is no space for the hash index"));
        }
        let disk = create_file(&*self.directory, path).await?;
        let mut writer = RunWriter::new(disk);
        let mut merge = hashes.merge();
        let (mut last, mut same) = (None, 0);
        let mut steps = 0u64;
        while let Some(record) = merge.next().await? {
            steps += 1;
            if steps.is_multiple_of(STEPS) && self.lock().closing {
                return Err(Error::new(ErrorKind::ShutDown, "the pool is closing"));
            }
            same = if last == Some(record.key) { same + 1 } else { 0 };
            last = Some(record.key);
            if same < SAME_MAX {
                let cluster = ClusterIndex(record.value);
                writer.push(Entry { prefix: record.key[0], cluster }).await?;
            }
        }
        writer.finish(self.identity().0, since).await
    }

    /// Clusters that may have this content: hints. One that is not told may be stored all the same.
    pub(crate) async fn candidates(&self, hash: &ContentHash) -> Vec<ClusterIndex> {
        let prefix = key_of(hash)[0];
        let run = self.kept_index().clone();
        let mut found = match &run {
            Some(run) => self.find_in_run(run, prefix).await,
            None => Vec::new(),
        };
        let new = self.lock().regions.delta.find(prefix);
        found.splice(0..0, new);
        found.truncate(HITS_MAX);
        found
    }

    /// A run that cannot be read is used no more.
    async fn find_in_run(&self, run: &Arc<Run<D::Disk>>, prefix: u64) -> Vec<ClusterIndex> {
        if let Ok(found) = run.find(prefix).await {
            return found;
        }
        let mut kept = self.kept_index();
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, run)) {
            *kept = None;
            self.lock().lose_index();
        }
        Vec::new()
    }
}
