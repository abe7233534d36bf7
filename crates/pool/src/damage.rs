//! What was found damaged in this run: for the status, and, once, for whoever logs.
//!
//! A cluster is noted with a watch on it (I6): as soon as it is overwritten or given up, nothing is true of it any more
//! and the note goes. Where it is shown is looked up when it is told. What names no cluster stays.

mod news;
mod places;

use crate::extent::Slot;
use crate::regions::Watch;
use crate::state::State;
use blockyard_block::{CLUSTER_SIZE, ClusterIndex, ImageId};
pub use news::DamageNews;
use news::News;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// A pool that is all wrong must not fill the memory.
const NOTES_MAX: usize = 100;
/// What was healed is told this long.
const HEALED_TOLD_MS: u64 = 3_600_000;
/// Places of one cluster that are told.
const PLACES_MAX: usize = 4;
/// Places of one cluster that are kept.
const PLACES_KEPT: usize = 64;

/// An image, and which of its clusters.
pub(crate) type Place = (ImageId, u64);

/// What is known of a cluster that does not match its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remedy {
    /// Nobody has looked for an equal one.
    Scrub,
    /// There is no equal one, or it is damaged, too.
    None,
}

impl Remedy {
    /// What to do, as the end of a message.
    fn text(self) -> &'static str {
        match self {
            Remedy::Scrub => ": run `blockyard scrub`",
            Remedy::None => {
                ", and no equal cluster has its content: overwrite it whole, or restore the image"
            }
        }
    }
}

struct Noted {
    watch: Watch,
    problem: String,
    remedy: Remedy,
    /// As far as known.
    places: Vec<Place>,
}

/// All that was found.
#[derive(Default)]
pub(crate) struct Damages {
    general: Vec<String>,
    clusters: BTreeMap<ClusterIndex, Noted>,
    /// What was healed, and when, in milliseconds of the clock.
    healed: VecDeque<(u64, String)>,
    news: News,
}

/// Of a cluster.
pub(crate) fn mismatch(cluster: ClusterIndex) -> String {
    format!("data at {} does not match its hash", cluster.data_offset())
}

impl State {
    /// Keeps a message that concerns no cluster of data.
    pub(crate) fn note_damage(&mut self, message: String) {
        let general = &mut self.damage.general;
        if general.len() < NOTES_MAX && !general.contains(&message) {
            general.push(message.clone());
            self.damage.news.add(None, &[], message, false);
        }
    }

    /// Something about this cluster, or those from it on, that the status tells in its own way.
    pub(crate) fn tell_damage(&mut self, first: ClusterIndex, message: String) {
        self.damage.news.add(Some(first), &[], message, false);
    }

    /// A cluster that is trusted was found wrong: to be told, unless that is known already.
    pub(crate) fn note_damaged(
        &mut self,
        cluster: ClusterIndex,
        problem: String,
        remedy: Remedy,
        places: &[Place],
    ) {
        let known = self.note_scrubbed(cluster, problem.clone(), remedy, places);
        if known.is_none_or(|known| known < remedy) {
            let text = format!("{problem}{}", remedy.text());
            self.damage.news.add(Some(cluster), places, text, false);
        }
    }

    /// The same of one that is reported otherwise. Returns what was known of it; that is not forgotten. Of more than are
    /// noted, all is: each look at them would be news again.
    pub(crate) fn note_scrubbed(
        &mut self,
        cluster: ClusterIndex,
        problem: String,
        remedy: Remedy,
        places: &[Place],
    ) -> Option<Remedy> {
        self.forget_void_damage();
        let known = self.damage.clusters.get(&cluster).map(|noted| noted.remedy);
        if known.is_none() && self.damage.clusters.len() >= NOTES_MAX {
            return Some(Remedy::None);
        }
        let regions = &mut self.regions;
        let noted = self.damage.clusters.entry(cluster).or_insert_with(|| Noted {
            watch: regions.watch(cluster),
            problem,
            remedy,
            places: Vec::new(),
        });
        noted.remedy = noted.remedy.max(remedy);
        self.add_damage_places(cluster, places);
        known
    }

    /// Images that show a noted cluster.
    fn add_damage_places(&mut self, cluster: ClusterIndex, places: &[Place]) {
        let Some(noted) = self.damage.clusters.get_mut(&cluster) else { return };
        for place in places {
            if noted.places.len() < PLACES_KEPT && !noted.places.contains(place) {
                noted.places.push(*place);
            }
        }
    }

    /// Which of consecutive clusters are noted.
    pub(crate) fn damaged_among(&self, first: ClusterIndex, count: usize) -> Vec<ClusterIndex> {
        let clusters = first..first.offset_by(count as u64);
        self.damage.clusters.range(clusters).map(|(cluster, _)| *cluster).collect()
    }

    /// The cluster was read and is what it should be.
    pub(crate) fn note_undamaged(&mut self, cluster: ClusterIndex) {
        if let Some(noted) = self.damage.clusters.remove(&cluster) {
            self.regions.unwatch(cluster, noted.watch);
        }
    }

    /// The users of a damaged cluster have an equal one now.
    pub(crate) fn note_healed(&mut self, cluster: ClusterIndex, place: Place, message: String) {
        let text = format!("{}: healed from an equal cluster", mismatch(cluster));
        self.damage.news.add(None, &[place], text, true);
        let healed = &mut self.damage.healed;
        healed.retain(|(_, told)| *told != message);
        if healed.len() >= NOTES_MAX {
            healed.pop_front();
        }
        healed.push_back((self.now_ms, message));
    }

    /// Notes of clusters to which something has happened since.
    fn forget_void_damage(&mut self) {
        let (regions, allocator) = (&self.regions, &self.allocator);
        self.damage.clusters.retain(|cluster, noted| {
            regions.is_watched(*cluster, noted.watch) && allocator.count(*cluster) > 0
        });
        let now_ms = self.now_ms;
        self.damage.healed.retain(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < HEALED_TOLD_MS);
    }

    /// What there is to tell now, a line each.
    pub(crate) fn damage_lines(&mut self) -> Vec<String> {
        self.forget_void_damage();
        let mut lines = self.damage.general.clone();
        lines.extend(self.damage.clusters.iter().map(|(cluster, noted)| {
            let places = self.places_text(*cluster, &noted.places);
            format!("{places}{}{}", noted.problem, noted.remedy.text())
        }));
        lines.extend(self.damage.healed.iter().map(|(_, message)| message.clone()));
        lines
    }

    /// The places that still show the cluster, as the beginning of a message.
    fn places_text(&self, cluster: ClusterIndex, places: &[Place]) -> String {
        let mut text = String::new();
        let mut told = 0;
        for (image, at) in places {
            let Ok(found) = self.image(*image) else { continue };
            let is_shown = at * CLUSTER_SIZE as u64 <= found.record.size
                && self.run_at(&found.record, *at, 1).0 == Slot::Data(cluster);
            if is_shown && !found.record.hidden {
                told += 1;
                if told <= PLACES_MAX {
                    let comma = if text.is_empty() { "" } else { ", " };
                    let offset = at * CLUSTER_SIZE as u64;
                    let _ = write!(text, "{comma}{} at {offset}", found.record.name);
                }
            }
        }
        match told {
            0 => text,
            1..=PLACES_MAX => text + ": ",
            _ => format!("{text} and {} more: ", told - PLACES_MAX),
        }
    }
}
