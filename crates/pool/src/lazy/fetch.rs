//! What is to be fetched next: what reads wait for, with read-ahead; then what the order of first use names; then the rest.

use super::manifest::{self, MissingExtent};
use crate::pool::Pool;
use crate::state::State;
use crate::streaming::Missing;
use blockyard_block::{CLUSTER_SIZE, EXTENT_CLUSTERS, ImageId, ImageName, Result};
use blockyard_io::Directory;
use event_listener::EventListener;
use std::ops::Range;
use std::sync::Arc;

/// Absent clusters behind one that a read waits for that are brought with it: 128 KiB.
const READ_AHEAD: usize = 32;
/// Extents that are looked at for something absent before the lock is let go: some 20 us each at most.
const LOOKS_MAX: usize = 16;

/// What to do for a lazy image.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Bring these. They are on their way until they are kept or [`Pool::forget_fetches`] is called.
    Missing(Missing),
    /// Nothing now: all that is wanted is on its way or cannot be had.
    Nothing,
    /// Everything has come: [`Pool::end_lazy`].
    Filled,
}

/// A lazy image as it is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lazy {
    pub id: ImageId,
    pub name: ImageName,
    /// As it was given when the image was shown.
    pub origin: Vec<u8>,
    /// Clusters x 4096 that were missing when the image was shown, those that are still, and those that were fetched since
    /// the pool was opened.
    pub bytes_listed: u64,
    pub bytes_missing: u64,
    pub bytes_fetched: u64,
    /// Clusters x 4096 that could not be had when they were last asked for.
    pub bytes_refused: u64,
    /// Why the list of what is missing cannot be read.
    pub broken: Option<String>,
}

impl<D: Directory> Pool<D> {
    /// All lazy images. Walks their maps.
    pub fn lazy_images(&self) -> Vec<Lazy> {
        let ids: Vec<ImageId> = {
            let state = self.lock();
            let lazy = state.images.iter().filter(|(_, image)| image.lazy.is_some());
            lazy.map(|(id, _)| *id).collect()
        };
        ids.into_iter().filter_map(|id| self.lazy_image(id)).collect()
    }

    /// One of them; `None` if the image is whole or gone.
    pub fn lazy_image(&self, id: ImageId) -> Option<Lazy> {
        let mut told = {
            let state = self.lock();
            let image = state.images.get(&id)?;
            let lazy = image.lazy.as_deref()?;
            Lazy {
                id,
                name: image.record.name.clone(),
                origin: lazy.origin.clone(),
                bytes_listed: 0,
                bytes_missing: 0,
                bytes_fetched: lazy.fetched * CLUSTER_SIZE as u64,
                bytes_refused: 0,
                broken: lazy.broken.clone(),
            }
        };
        let mut from = 0;
        while let Some((next, counted)) = self.lock().count_absent(id, from) {
            told.bytes_listed += counted.listed * CLUSTER_SIZE as u64;
            told.bytes_missing += counted.absent * CLUSTER_SIZE as u64;
            told.bytes_refused += counted.refused * CLUSTER_SIZE as u64;
            from = next;
        }
        Some(told)
    }

    /// All lazy images and their origins.
    pub fn lazy_origins(&self) -> Vec<(ImageId, Vec<u8>)> {
        let state = self.lock();
        let images = state.images.iter();
        images
            .filter_map(|(id, image)| Some((*id, image.lazy.as_deref()?.origin.clone())))
            .collect()
    }

    /// Whether the image is there and not whole.
    pub fn is_lazy(&self, id: ImageId) -> bool {
        self.lock().images.get(&id).is_some_and(|image| image.lazy.is_some())
    }

    /// What to fetch next, at most `count_max` clusters. Without `background`, only what is waited for.
    pub async fn next_fetch(
        &self,
        image: ImageId,
        count_max: usize,
        background: bool,
    ) -> Result<Fetch> {
        let (index, slots) = loop {
            let mut state = self.lock();
            match state.pick(image, count_max, background)? {
                Picked::Slots(index, slots) => break (index, slots),
                Picked::LookOn => {}
                Picked::Nothing => return Ok(Fetch::Nothing),
                Picked::Filled => return Ok(Fetch::Filled),
            }
        };
        let listed = match self.listed_hashes(image, index).await {
            Ok(listed) => listed,
            Err(error) => {
                self.forget_fetches(image);
                return Err(error);
            }
        };
        let slots = listed.into_iter().filter(|(slot, _)| slots.binary_search(slot).is_ok());
        Ok(Fetch::Missing(Missing { index, slots: slots.collect() }))
    }

    /// The slots of an extent that were missing at first, and their hashes.
    pub(super) async fn listed_hashes(
        &self,
        image: ImageId,
        index: u64,
    ) -> Result<Vec<(usize, blockyard_block::ContentHash)>> {
        let extent = {
            let state = self.lock();
            let lazy = state.image(image)?.lazy.as_deref();
            lazy.and_then(|lazy| lazy.extent(index).cloned())
        };
        let disk = self.lazy_disks().get(&image).map(Arc::clone);
        let (Some(extent), Some(disk)) = (extent, disk) else { return Ok(Vec::new()) };
        let hashes = manifest::hashes(&*disk, &extent).await?;
        Ok(extent.slots.ones().zip(hashes).collect())
    }

    /// What was on its way does not come: it is fetched again.
    pub fn forget_fetches(&self, image: ImageId) {
        if let Some(lazy) = self.lock().lazy_mut(image) {
            lazy.fetching.clear();
        }
        // Who waits wants it once more.
        self.fetched_event.notify(usize::MAX);
    }

    /// Whether the origin will give nothing at all, and why.
    pub fn note_origin(&self, image: ImageId, gone: Option<String>) {
        {
            let mut state = self.lock();
            let Some(lazy) = state.lazy_mut(image) else { return };
            lazy.gone = gone;
        }
        self.fetched_event.notify(usize::MAX);
    }

    /// How long a read waits for an origin that is not heard.
    pub fn set_lazy_wait(&self, image: ImageId, wait_ms: u64) {
        if let Some(lazy) = self.lock().lazy_mut(image) {
            lazy.wait_ms = wait_ms;
        }
    }

    /// Clusters that the background brings before all others, in this order.
    pub fn set_fetch_order(&self, image: ImageId, clusters: Vec<u64>) {
        if let Some(lazy) = self.lock().lazy_mut(image) {
            (lazy.order, lazy.ordered) = (clusters, 0);
        }
    }

    /// Becomes ready when something is waited for that nobody fetches, and when the pool is closed; `None` once it is. Ask,
    /// then look, then wait.
    pub fn demand(&self) -> Option<EventListener> {
        let listener = self.demand_event.listen();
        (!self.is_stopped()).then_some(listener)
    }

    /// Whether reads wait for clusters of the image that are not on their way.
    pub fn has_demand(&self, image: ImageId) -> bool {
        self.lock().lazy_mut(image).is_some_and(|lazy| !lazy.wanted.is_empty())
    }
}

/// Clusters of some extents.
#[derive(Default)]
struct Counted {
    listed: u64,
    absent: u64,
    /// Of those that are absent.
    refused: u64,
}

enum Picked {
    Slots(u64, Vec<usize>),
    /// Nothing in the extents that were looked at: there are more.
    LookOn,
    Nothing,
    Filled,
}

impl State {
    pub(super) fn lazy_mut(&mut self, image: ImageId) -> Option<&mut super::LazyState> {
        self.images.get_mut(&image)?.lazy.as_deref_mut()
    }

    /// Counts in some extents from number `from` on, and tells the number of the next.
    fn count_absent(&self, image: ImageId, from: usize) -> Option<(usize, Counted)> {
        let image = self.images.get(&image)?;
        let lazy = image.lazy.as_deref()?;
        let some = lazy.extents.get(from..).filter(|rest| !rest.is_empty())?;
        let some = &some[..some.len().min(LOOKS_MAX)];
        let mut counted = Counted::default();
        for extent in some {
            let absent = self.absent_slots(&image.record, extent);
            let refused = lazy.refused.within(clusters_of(extent.index));
            counted.listed += extent.slots.count() as u64;
            counted.absent += absent.count() as u64;
            counted.refused += refused.filter(|(at, _)| absent.get(slot_of(*at))).count() as u64;
        }
        Some((from + some.len(), counted))
    }

    fn pick(&mut self, image: ImageId, count_max: usize, background: bool) -> Result<Picked> {
        self.check_writable()?;
        self.image(image)?;
        if let Some(picked) = self.pick_wanted(image, count_max) {
            return Ok(picked);
        }
        if !background {
            let lazy = self.lazy_mut(image);
            return Ok(if lazy.is_none() { Picked::Filled } else { Picked::Nothing });
        }
        if let Some(picked) = self.pick_ordered(image, count_max) {
            return Ok(picked);
        }
        Ok(self.pick_next(image, count_max))
    }

    /// The first that is waited for, others of its extent, and what follows them.
    fn pick_wanted(&mut self, image: ImageId, count_max: usize) -> Option<Picked> {
        for _ in 0..LOOKS_MAX {
            let lazy = self.lazy_mut(image)?;
            let first = lazy.wanted.first().copied()?;
            let index = first / EXTENT_CLUSTERS as u64;
            let base = index * EXTENT_CLUSTERS as u64;
            let wanted: Vec<usize> =
                lazy.wanted.range(clusters_of(index)).map(|at| slot_of(*at)).collect();
            let free = self.free_slots(image, index)?;
            let mut picked: Vec<usize> =
                wanted.iter().copied().filter(|slot| free.binary_search(slot).is_ok()).collect();
            picked.truncate(count_max);
            let lazy = self.lazy_mut(image)?;
            // What is present, on its way, or cannot be had is waited for no more; the rest of many comes next.
            for slot in &wanted {
                let left =
                    picked.len() == count_max && picked.last().is_some_and(|last| slot > last);
                if !left {
                    lazy.wanted.remove(&(base + *slot as u64));
                }
            }
            if let Some(last) = picked.last().copied() {
                let room = count_max.saturating_sub(picked.len()).min(READ_AHEAD);
                let ahead =
                    free.iter().copied().filter(|slot| *slot > last && *slot <= last + READ_AHEAD);
                picked.extend(ahead.take(room));
                return Some(self.picked(image, index, picked));
            }
        }
        Some(Picked::LookOn)
    }

    fn pick_ordered(&mut self, image: ImageId, count_max: usize) -> Option<Picked> {
        for _ in 0..LOOKS_MAX {
            let lazy = self.lazy_mut(image)?;
            let first = *lazy.order.get(lazy.ordered)?;
            // Those of the same extent that follow each other in the order go together.
            let index = first / EXTENT_CLUSTERS as u64;
            let rest = &lazy.order[lazy.ordered..];
            let together = rest.iter().take_while(|at| **at / EXTENT_CLUSTERS as u64 == index);
            let mut slots: Vec<usize> =
                together.take(count_max).map(|at| (at % EXTENT_CLUSTERS as u64) as usize).collect();
            lazy.ordered += slots.len();
            slots.sort_unstable();
            slots.dedup();
            let free = self.free_slots(image, index)?;
            slots.retain(|slot| free.binary_search(slot).is_ok());
            if !slots.is_empty() {
                return Some(self.picked(image, index, slots));
            }
        }
        Some(Picked::LookOn)
    }

    fn pick_next(&mut self, image: ImageId, count_max: usize) -> Picked {
        for _ in 0..LOOKS_MAX {
            let Some(lazy) = self.lazy_mut(image) else { return Picked::Filled };
            if lazy.broken.is_some() {
                return Picked::Nothing;
            }
            let Some(extent) = lazy.extents.get(lazy.cursor) else {
                // Once around: is there anything absent at all?
                let filled = match lazy.fetching.is_empty() {
                    true => self.look_filled(image),
                    false => Some(false),
                };
                let Some(filled) = filled else { return Picked::LookOn };
                if let Some(lazy) = self.lazy_mut(image) {
                    lazy.cursor = 0;
                }
                return if filled { Picked::Filled } else { Picked::Nothing };
            };
            let index = extent.index;
            let mut slots = self.free_slots(image, index).unwrap_or_default();
            if !slots.is_empty() {
                slots.truncate(count_max);
                return self.picked(image, index, slots);
            }
            if let Some(lazy) = self.lazy_mut(image) {
                lazy.cursor += 1;
            }
        }
        Picked::LookOn
    }

    fn picked(&mut self, image: ImageId, index: u64, slots: Vec<usize>) -> Picked {
        if let Some(lazy) = self.lazy_mut(image) {
            let base = index * EXTENT_CLUSTERS as u64;
            lazy.fetching.extend(slots.iter().map(|slot| base + *slot as u64));
        }
        Picked::Slots(index, slots)
    }

    /// Slots of a listed extent that are absent, not on their way, and not refused.
    fn free_slots(&mut self, image: ImageId, index: u64) -> Option<Vec<usize>> {
        let now = self.now_ms;
        let found = self.images.get(&image)?;
        let Some(extent) = found.lazy.as_deref()?.extent(index) else { return Some(Vec::new()) };
        let absent = self.absent_slots(&found.record, extent);
        let mut free = absent.clone();
        let lazy = self.lazy_mut(image)?;
        for cluster in lazy.fetching.range(clusters_of(index)) {
            free.set(slot_of(*cluster), false);
        }
        let refused: Vec<(u64, u64)> = lazy.refused.within(clusters_of(index)).collect();
        for (cluster, until) in refused {
            if !absent.get(slot_of(cluster)) {
                // A guest wrote it.
                lazy.refused.remove(cluster);
            } else if until > now {
                free.set(slot_of(cluster), false);
            }
        }
        Some(free.ones().collect())
    }

    /// Looks on through the extents for one of which something is absent: false if there is one, true if there is none,
    /// `None` if there are more to look at. None is looked at twice: what is present stays present (I16).
    pub(super) fn look_filled(&mut self, image: ImageId) -> Option<bool> {
        let Some(found) = self.images.get(&image) else { return Some(true) };
        let Some(lazy) = found.lazy.as_deref() else { return Some(true) };
        if lazy.broken.is_some() {
            return Some(false);
        }
        let rest = lazy.extents.get(lazy.filled..).unwrap_or_default();
        let some = &rest[..rest.len().min(LOOKS_MAX)];
        let is_filled =
            |extent: &&MissingExtent| self.absent_slots(&found.record, extent).is_empty();
        let filled = some.iter().take_while(is_filled).count();
        let told = match filled < some.len() {
            true => Some(false),
            false => (some.len() == rest.len()).then_some(true),
        };
        if let Some(lazy) = self.lazy_mut(image) {
            lazy.filled += filled;
        }
        told
    }
}

fn clusters_of(index: u64) -> Range<u64> {
    index * EXTENT_CLUSTERS as u64..(index + 1) * EXTENT_CLUSTERS as u64
}

fn slot_of(cluster: u64) -> usize {
    (cluster % EXTENT_CLUSTERS as u64) as usize
}
