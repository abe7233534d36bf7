//! Reclaim: turning all but one of equal clusters into free space (I6, I9).
//!
//! One pass over the hash table finds clusters of equal hash; sorting makes pairs of them, a loser and the
//! survivor that takes its users, in the order of the disk. `merge.rs` compares and repoints; what a pair
//! looked like when it was found is only a hint there. Nothing of a pass is kept: cut off anywhere, what
//! was repointed stays so, like any other change, and the next pass finds the rest.
//! See docs/decisions/0011-reclaim.md.

mod heal;
mod merge;
mod survivor;
mod task;
pub(crate) mod users;

use crate::index::scan::record_of;
use crate::index::sorter::{Sorted, Sorter};
use crate::pool::Pool;
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, Error, RegionIndex, Result};
use blockyard_io::Directory;
pub(crate) use heal::InVain;
use merge::Pair;
pub(crate) use task::Shortage;

/// What is to be reclaimed.
#[derive(Debug, Clone, Copy)]
pub struct ReclaimOptions {
    /// Stop when about this much was freed, and free long runs first.
    pub target_bytes: Option<u64>,
    /// Share only runs of at least this many equal clusters, so that sequential reads stay fast.
    pub runs_min: u64,
    /// Count by hash only: read no data, change nothing.
    pub dry_run: bool,
}

impl Default for ReclaimOptions {
    fn default() -> ReclaimOptions {
        ReclaimOptions { target_bytes: None, runs_min: 1, dry_run: false }
    }
}

/// The account of a reclaim so far, in clusters of 4096 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaim {
    /// Clusters with data whose hash was looked at; and how many there are, once known.
    pub scanned: u64,
    pub total: u64,
    /// Skipped, because their hash is not trusted now.
    pub untrusted: u64,
    /// Clusters whose hash another has, too: that many could go, runs that are too short left out.
    pub equal: u64,
    /// Pairs of clusters of the same hash to go through, and gone through; with a target, once for each length of runs.
    pub pairs: u64,
    pub pairs_done: u64,
    /// Given up; their place is free once that is committed.
    pub freed: u64,
    /// Of equal hash, but their bytes differ: damage, or a collision. Kept.
    pub differed: u64,
    /// Changed or in use while they were looked at. Kept; another pass may free them.
    pub busy: u64,
    /// Could not be read. Kept.
    pub unreadable: u64,
}

/// Pairs whose users are looked for with one walk over all extents.
const WINDOW_PAIRS: usize = 32 << 10;
/// With a target, long runs go first.
const RUNS_FIRST: [u64; 2] = [64, 8];
/// More parts than this help nobody; nor do more than so many for each that evenly spread hashes need.
const PARTS_MAX: u64 = 1 << 20;
const PARTS_FOR_ONE: u64 = 16;

/// How a pass over a part of all hashes ended.
enum Part {
    Done,
    Stopped,
    /// There was no space to sort in, or its files failed: only a part was looked at.
    Cut(Error),
}

/// Files of a sort that cannot be written or read end it early, which is not an error.
fn or_cut(result: Result<bool>, sort_failed: bool, cut: &mut Option<Error>) -> Result<bool> {
    match result {
        Err(error) if sort_failed => {
            *cut = Some(error);
            Ok(true)
        }
        result => result,
    }
}

impl<D: Directory> Pool<D> {
    /// Shares equal clusters and frees all but one of each. `progress` is called after each step, some
    /// milliseconds apart; it may take its time, to leave the disk to others, and ends the work by
    /// returning false: what was freed until then stays freed.
    pub async fn reclaim(
        &self,
        options: ReclaimOptions,
        mut progress: impl FnMut(&Reclaim) -> bool,
    ) -> Result<Reclaim> {
        let mut work = Work { options, account: Reclaim::default(), progress: &mut progress };
        self.pass(&mut work).await?;
        if work.account.freed > 0 {
            self.commit_now().await?;
        }
        Ok(work.account)
    }

    /// Once over everything; false if it was stopped. Without space for its files it looks at a part
    /// of all hashes at a time.
    async fn pass(&self, work: &mut Work<'_>) -> Result<bool> {
        let mut parts = 1;
        let mut part = 0;
        while part < parts {
            let freed = work.account.freed;
            let cut = match self.pass_over_part(part, parts, work).await? {
                Part::Done => {
                    part += 1;
                    continue;
                }
                Part::Stopped => return Ok(false),
                Part::Cut(error) => error,
            };
            let records_max = self.lock().options.sort_records_max as u64;
            let needed = (work.account.total / (records_max / 2).max(1)).max(1);
            if work.account.freed - freed >= (records_max / 4).max(1) {
                // More of the same content may be left.
                if part == 0 {
                    work.begin_again();
                }
            } else if parts < needed.saturating_mul(PARTS_FOR_ONE).min(PARTS_MAX) {
                parts = (parts * 2).max(needed);
                part = 0;
                work.begin_again();
            } else if work.options.dry_run {
                return Err(cut);
            } else {
                // One content fills the memory, and little of it can go now.
                part += 1;
            }
        }
        Ok(true)
    }

    async fn pass_over_part(&self, part: u64, parts: u64, work: &mut Work<'_>) -> Result<Part> {
        if !work.options.dry_run {
            self.lock().check_writable()?;
        }
        let mut cut = None;
        let mut hashes = self.new_sorter();
        let since = self.begin_index();
        let scanned = self.scan_part(part, parts, &mut hashes, work).await;
        let scanned = or_cut(scanned, hashes.has_failed(), &mut cut);
        let hashes = hashes.finish();
        if parts == 1 && cut.is_none() && matches!(scanned, Ok(true)) {
            self.leave_index(&hashes, since).await;
        }
        let mut pairs = self.new_sorter();
        let going_on = match scanned {
            Ok(true) => {
                let paired = self.pair_up(&hashes, &mut pairs).await;
                or_cut(paired, hashes.has_failed() || pairs.has_failed(), &mut cut)
            }
            stopped => stopped,
        };
        self.lock().sort_files += hashes.file_count() as u64;
        hashes.discard().await;
        let pairs = pairs.finish();
        self.lock().sort_files += pairs.file_count() as u64;
        let applied = match going_on {
            Ok(true) => {
                let applied = self.apply_all(&pairs, work).await;
                or_cut(applied, pairs.has_failed(), &mut cut)
            }
            stopped => stopped,
        };
        pairs.discard().await;
        Ok(match (applied?, cut) {
            (false, _) => Part::Stopped,
            (true, None) => Part::Done,
            (true, Some(error)) => Part::Cut(error),
        })
    }

    pub(crate) fn new_sorter(&self) -> Sorter<D> {
        let mut state = self.lock();
        state.sorts += 1;
        let name = format!("{}{}", self.sort_prefix(), state.sorts);
        Sorter::new(&self.directory, name, state.options.sort_records_max)
    }

    fn sort_prefix(&self) -> String {
        format!("sort-{}-", self.store.epoch())
    }

    /// Files of a predecessor that was killed while it sorted.
    async fn remove_old_sorts(&self) {
        let ours = self.sort_prefix();
        for name in self.directory.list("index").await.unwrap_or_default() {
            if name.starts_with("sort-") && !name.starts_with(&ours) {
                let _ = self.directory.remove(&format!("index/{name}")).await;
            }
        }
    }

    /// Hashes of the whole pool, or of one of so many parts of all possible hashes.
    async fn scan_part(
        &self,
        part: u64,
        parts: u64,
        sorter: &mut Sorter<D>,
        work: &mut Work<'_>,
    ) -> Result<bool> {
        let reserved = self.reserved_clusters();
        work.account.total = self.lock().allocator.clusters_used();
        for region in 1..self.region_count() {
            let clusters = self.clusters_with_data(RegionIndex(region), &reserved);
            let told = self.region_hashes(RegionIndex(region), &clusters).await?;
            for (cluster, hash) in &told.hashes {
                let record = record_of(*cluster, hash);
                if (u128::from(record.key[0]) * u128::from(parts)) >> 64 == u128::from(part) {
                    sorter.push(record).await?;
                }
            }
            if part == 0 {
                work.account.scanned += told.hashes.len() as u64;
                work.account.untrusted += told.unknown;
            }
            if !clusters.is_empty() && !work.goes_on() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// With a target, the longest runs first.
    async fn apply_all(&self, pairs: &Sorted<D>, work: &mut Work<'_>) -> Result<bool> {
        let options = work.options;
        let by_length = options.target_bytes.is_some() && !options.dry_run;
        let first = RUNS_FIRST.into_iter().filter(|runs| by_length && *runs > options.runs_min);
        let lengths: Vec<u64> = first.chain([options.runs_min.max(1)]).collect();
        work.account.pairs += pairs.count() * lengths.len() as u64;
        for runs_min in lengths {
            work.account.equal = 0;
            if !self.apply(pairs, runs_min, work).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the pairs that lie in long enough runs, window by window.
    async fn apply(&self, pairs: &Sorted<D>, runs_min: u64, work: &mut Work<'_>) -> Result<bool> {
        let mut merge = pairs.merge();
        let mut window: Vec<Pair> = Vec::new();
        let mut run: Vec<Pair> = Vec::new();
        let mut run_length = 0;
        let mut last: Option<Pair> = None;
        loop {
            let next = merge.next().await?.map(|record| Pair {
                loser: ClusterIndex(record.key[0]),
                survivor: ClusterIndex(record.key[1]),
            });
            let goes_on = next.is_some_and(|pair| last.is_some_and(|last| last.leads_to(pair)));
            if !goes_on {
                work.account.pairs_done += run.len() as u64; // too short a run
                run.clear();
                run_length = 0;
            }
            run.extend(next);
            run_length += 1;
            last = next;
            if run_length >= runs_min {
                work.account.equal += run.len() as u64;
                window.append(&mut run);
            }
            if window.len() >= WINDOW_PAIRS || next.is_none() {
                let going_on = match work.options.dry_run {
                    true => work.looked_at(&window),
                    false => self.apply_window(&window, work).await?,
                };
                if !going_on || next.is_none() {
                    return Ok(going_on);
                }
                window.clear();
            }
        }
    }
}

/// A reclaim on its way.
struct Work<'a> {
    options: ReclaimOptions,
    account: Reclaim,
    progress: &'a mut dyn FnMut(&Reclaim) -> bool,
}

impl Work<'_> {
    fn begin_again(&mut self) {
        let kept = self.account;
        self.account = Reclaim {
            freed: kept.freed,
            differed: kept.differed,
            unreadable: kept.unreadable,
            ..Reclaim::default()
        };
    }

    /// Counts pairs that are gone through; false if the work is to end.
    fn looked_at(&mut self, pairs: &[Pair]) -> bool {
        self.account.pairs_done += pairs.len() as u64;
        self.goes_on()
    }

    fn has_enough(&self) -> bool {
        let freed = self.account.freed * CLUSTER_SIZE as u64;
        self.options.target_bytes.is_some_and(|target| freed >= target)
    }

    fn goes_on(&mut self) -> bool {
        (self.progress)(&self.account)
    }
}
