//! What is to be logged of damage: each cluster once, as long as nothing happens to it. The engine does not log; who does
//! takes the news now and then. Where a cluster is shown is found then, on the time of who asks.

use super::Place;
use crate::pool::Pool;
use blockyard_block::{ClusterIndex, ImageName};
use blockyard_io::Directory;
use std::collections::BTreeSet;

/// News kept between two takings; more are counted.
const NEWS_MAX: usize = 32;

/// Damage that was found, or healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageNews {
    /// Images that show it, and at which byte. Empty if none does, or if it is not data that is damaged.
    pub places: Vec<(ImageName, u64)>,
    pub message: String,
    pub healed: bool,
}

struct One {
    /// Its places are to be looked for.
    cluster: Option<ClusterIndex>,
    places: Vec<Place>,
    message: String,
    healed: bool,
}

/// What nobody has taken yet.
#[derive(Default)]
pub(super) struct News {
    list: Vec<One>,
    omitted: u64,
}

impl News {
    /// `cluster` is one whose places are not known, or not all.
    pub(super) fn add(
        &mut self,
        cluster: Option<ClusterIndex>,
        places: &[Place],
        message: String,
        healed: bool,
    ) {
        if self.list.len() >= NEWS_MAX {
            self.omitted += 1;
            return;
        }
        self.list.push(One { cluster, places: places.to_vec(), message, healed });
    }
}

impl<D: Directory> Pool<D> {
    /// Whether [`Pool::take_damage_news`] has any.
    pub fn has_damage_news(&self) -> bool {
        !self.lock().damage.news.list.is_empty()
    }

    /// What was found since the last call, and how much more that is not told one by one. May walk over all maps, a part
    /// at a time. A scrub has its own report.
    pub fn take_damage_news(&self) -> (Vec<DamageNews>, u64) {
        let News { list, omitted } = {
            let mut state = self.lock();
            std::mem::take(&mut state.damage.news)
        };
        let clusters: BTreeSet<ClusterIndex> = list.iter().filter_map(|one| one.cluster).collect();
        let places = self.places_of(&clusters.into_iter().collect::<Vec<_>>());
        let mut told = Vec::with_capacity(list.len());
        for one in list {
            let found = one.cluster.and_then(|cluster| Some((cluster, places.get(&cluster)?)));
            if let Some((cluster, found)) = found {
                self.lock().add_damage_places(cluster, found);
            }
            let places = found.map_or(&one.places, |(_, found)| found);
            told.push(DamageNews {
                places: self.named_places(places),
                message: one.message,
                healed: one.healed,
            });
        }
        (told, omitted)
    }
}
