//! Scrub: every stored cluster compared with its hash, while the pool is served.
//!
//! A cluster that changes between the look-up of its hash and the end of its read is not judged: the
//! watch on it is broken (I6). What does not match is healed from an equal cluster if there is one (I14).

mod restore;

use crate::damage::{Remedy, mismatch};
use crate::hashes::{HashCopies, Known};
use crate::pool::Pool;
use crate::regions::Watch;
use crate::types::Damage;
use blockyard_block::{ClusterIndex, ContentHash, ErrorKind, RegionIndex, Result};
use blockyard_io::Directory;

/// Clusters read at once.
const RUN_CLUSTERS: usize = 256;

/// More damage is counted, not kept: a pool that is all wrong must not fill the memory.
const DAMAGE_MAX: usize = 1000;

/// What a scrub shall do beside comparing.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScrubOptions {
    /// Where hashes were lost and cannot be restored, make them of the data as it is.
    pub rehash: bool,
}

/// Progress and findings of a scrub so far.
#[derive(Debug, Clone, Default)]
pub struct Scrub {
    pub clusters_done: u64,
    pub clusters_total: u64,
    pub clusters_skipped_untrusted: u64,
    /// That no equal cluster could heal.
    pub clusters_damaged: u64,
    /// Their users have an equal cluster now. The first of them are told.
    pub clusters_healed: u64,
    pub healed: Vec<Damage>,
    /// Clusters whose hash was lost with a damaged page of the hash table: proved to be what was stored; given a new hash
    /// unproved, because that was asked for; or left without one.
    pub hashes_restored: u64,
    pub hashes_made: u64,
    pub hashes_lost: u64,
    /// The first damaged ones.
    pub damage: Vec<Damage>,
}

/// Clusters under watch; whatever is still watched when this is dropped is let go.
struct Watching<'a, D: Directory> {
    pool: &'a Pool<D>,
    watched: Vec<(ClusterIndex, Watch)>,
}

impl<D: Directory> Watching<'_, D> {
    /// Ends the watch on `cluster`; whether it did not change.
    fn end(&mut self, cluster: ClusterIndex) -> bool {
        let Ok(at) = self.watched.binary_search_by_key(&cluster, |(watched, _)| *watched) else {
            return false;
        };
        let (_, watch) = self.watched.remove(at);
        self.pool.lock().regions.unwatch(cluster, watch)
    }
}

impl<D: Directory> Drop for Watching<'_, D> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        for (cluster, watch) in self.watched.drain(..) {
            state.regions.unwatch(cluster, watch);
        }
    }
}

impl<D: Directory> Pool<D> {
    /// Reads every trusted cluster and compares it with its hash, calling `progress` after each
    /// region; return false from it to stop.
    pub async fn scrub(&self, progress: impl FnMut(&Scrub) -> bool) -> Result<Scrub> {
        self.scrub_with(ScrubOptions::default(), progress).await
    }

    /// The same with choices.
    pub async fn scrub_with(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(&Scrub) -> bool,
    ) -> Result<Scrub> {
        let mut scrub =
            Scrub { clusters_total: self.lock().allocator.clusters_used(), ..Scrub::default() };
        let reserved = self.reserved_clusters();
        for region in 1..self.region_count() {
            let clusters = self.clusters_with_data(RegionIndex(region), &reserved);
            if clusters.is_empty() {
                continue;
            }
            let mut copies = HashCopies::default();
            for run in clusters.chunks(RUN_CLUSTERS) {
                self.scrub_clusters(run, &mut copies, &mut scrub).await?;
                scrub.clusters_done += run.len() as u64;
            }
            self.restore_hashes(RegionIndex(region), &clusters, options.rehash, &mut scrub).await;
            if !progress(&scrub) {
                break;
            }
        }
        Ok(scrub)
    }

    async fn scrub_clusters(
        &self,
        clusters: &[ClusterIndex],
        copies: &mut HashCopies,
        scrub: &mut Scrub,
    ) -> Result<()> {
        let mut watching = self.watch_used(clusters);
        let mut due: Vec<(ClusterIndex, ContentHash)> = Vec::with_capacity(clusters.len());
        for (cluster, _) in watching.watched.clone() {
            match self.known_in_order(cluster, copies).await {
                Ok(Known::Hash(hash)) => due.push((cluster, hash)),
                Ok(Known::Untrusted) => scrub.clusters_skipped_untrusted += 1,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.add_damage(scrub, cluster, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        let mut problems = Vec::new();
        for run in due.chunk_by(|(one, _), (next, _)| one.offset_by(1) == *next) {
            let found = self.problems_of(run).await;
            self.note_good(run, &found);
            for (cluster, problem) in found {
                if watching.end(cluster) {
                    problems.push((cluster, problem));
                }
            }
        }
        drop(watching);
        self.heal_or_tell(&due, problems, scrub).await
    }

    async fn heal_or_tell(
        &self,
        due: &[(ClusterIndex, ContentHash)],
        problems: Vec<(ClusterIndex, String)>,
        scrub: &mut Scrub,
    ) -> Result<()> {
        // Where it is can only be told before it is given up.
        let told = scrub.damage.len() + scrub.healed.len();
        let described = problems.len().min((2 * DAMAGE_MAX).saturating_sub(told));
        let clusters: Vec<ClusterIndex> =
            problems[..described].iter().map(|(cluster, _)| *cluster).collect();
        let mut places = self.places_of(&clusters);
        let is_damaged = |(cluster, _): &&(ClusterIndex, ContentHash)| {
            problems.iter().any(|(damaged, _)| damaged == cluster)
        };
        let damaged: Vec<(ClusterIndex, ContentHash)> =
            due.iter().filter(is_damaged).copied().collect();
        // A pool that can be changed no more still tells what is wrong with it. One that is wrong all over
        // is not looked through again and again.
        let healed = match scrub.clusters_damaged < DAMAGE_MAX as u64 {
            true => self.heal(&damaged).await.unwrap_or_default(),
            false => Vec::new(),
        };
        for (number, (cluster, problem)) in problems.into_iter().enumerate() {
            let places = places.remove(&cluster).unwrap_or_default();
            let damage = Damage { places: self.named_places(&places), message: problem.clone() };
            let is_healed = healed.contains(&cluster);
            let (count, told) = match is_healed {
                true => (&mut scrub.clusters_healed, &mut scrub.healed),
                false => (&mut scrub.clusters_damaged, &mut scrub.damage),
            };
            *count += 1;
            if number < described && told.len() < DAMAGE_MAX {
                told.push(damage);
            }
            if !is_healed {
                self.lock().note_scrubbed(cluster, problem, Remedy::None, &places);
            }
        }
        Ok(())
    }

    fn watch_used(&self, clusters: &[ClusterIndex]) -> Watching<'_, D> {
        let mut state = self.lock();
        let mut watched = Vec::with_capacity(clusters.len());
        for &cluster in clusters {
            if state.allocator.count(cluster) > 0 {
                watched.push((cluster, state.regions.watch(cluster)));
            }
        }
        Watching { pool: self, watched }
    }

    /// What is wrong with clusters that follow each other. Where they cannot be read together, each is
    /// read alone, to name the ones.
    async fn problems_of(
        &self,
        run: &[(ClusterIndex, ContentHash)],
    ) -> Vec<(ClusterIndex, String)> {
        if let Ok(bytes) = self.read_clusters(run[0].0, run.len()).await {
            return self.mismatches(run, &bytes);
        }
        let mut problems = Vec::new();
        for one in run {
            match self.read_clusters(one.0, 1).await {
                Ok(bytes) => problems.extend(self.mismatches(std::slice::from_ref(one), &bytes)),
                Err(error) => problems.push((one.0, error.to_string())),
            }
        }
        problems
    }

    fn mismatches(
        &self,
        run: &[(ClusterIndex, ContentHash)],
        bytes: &[u8],
    ) -> Vec<(ClusterIndex, String)> {
        run.iter()
            .zip(self.hashes_of(bytes))
            .filter(|((_, expected), found)| expected != found)
            .map(|((cluster, _), _)| (*cluster, mismatch(*cluster)))
            .collect()
    }

    /// What was noted of clusters that are as they should be is true no more.
    fn note_good(&self, run: &[(ClusterIndex, ContentHash)], found: &[(ClusterIndex, String)]) {
        let mut state = self.lock();
        for noted in state.damaged_among(run[0].0, run.len()) {
            if !found.iter().any(|(cluster, _)| *cluster == noted) {
                state.note_undamaged(noted);
            }
        }
    }

    fn add_damage(&self, scrub: &mut Scrub, cluster: ClusterIndex, message: String) {
        scrub.clusters_damaged += 1;
        if scrub.damage.len() < DAMAGE_MAX {
            let places = self.places_of(&[cluster]).remove(&cluster).unwrap_or_default();
            scrub.damage.push(Damage { places: self.named_places(&places), message });
        }
    }
}
