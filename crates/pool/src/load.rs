//! From records to state: decodes what the metadata holds, checks that it makes sense together, and
//! derives holders, owners, counts and free space. Used by open and by `check` alike.

use crate::alloc::Allocator;
use crate::extent::{Extent, Slot};
use crate::records::{ImageRecord, MapPage, PoolRecord, RecordKey, RegionRecord};
use crate::state::{ExtentState, Extents, PageState, State, run_clusters};
use blockyard_block::{
    ClusterIndex, Error, ErrorKind, ExtentId, ImageId, MapPageId, RegionIndex, Result,
};
use std::collections::BTreeMap;

/// Everything the metadata holds, decoded but not yet believed.
#[derive(Default)]
pub(crate) struct Unverified {
    pub(crate) pool: Option<PoolRecord>,
    pub(crate) images: BTreeMap<ImageId, ImageRecord>,
    pub(crate) pages: BTreeMap<MapPageId, MapPage>,
    /// As the state will have them, so that there is never a copy of all.
    pub(crate) extents: Extents,
    /// In the order they came; the last of each region counts, `None` if it was removed.
    pub(crate) regions: Vec<(RegionIndex, Option<RegionRecord>)>,
}

impl Unverified {
    /// Takes one record in; the error names it.
    pub(crate) fn put(&mut self, key: RecordKey, value: &[u8]) -> Result<()> {
        let named = |error: Error| error.at(format_args!("record {key:?}"));
        match key {
            RecordKey::Pool => self.pool = Some(PoolRecord::decode(value).map_err(named)?),
            RecordKey::Image(id) => {
                self.images.insert(id, ImageRecord::decode(value).map_err(named)?);
            }
            RecordKey::Page(id) => {
                self.pages.insert(id, MapPage::decode(value).map_err(named)?);
            }
            RecordKey::Extent(id) => {
                let extent = Extent::decode(value).map_err(named)?;
                self.extents.insert(id, Box::new(ExtentState::new(extent, 0)));
            }
            RecordKey::Region(region) => {
                self.regions.push((region, Some(RegionRecord::decode(value).map_err(named)?)));
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: RecordKey) {
        match key {
            RecordKey::Pool => self.pool = None,
            RecordKey::Image(id) => drop(self.images.remove(&id)),
            RecordKey::Page(id) => drop(self.pages.remove(&id)),
            RecordKey::Extent(id) => drop(self.extents.remove(&id)),
            RecordKey::Region(region) => self.regions.push((region, None)),
        }
    }

    /// The regions of every cluster that `extent` counts for and its older version did not: they need
    /// an intent before the newer version is committed (I1).
    pub(crate) fn regions_changed_by(&self, id: ExtentId, newer: &Extent) -> Vec<RegionIndex> {
        let older = self.extents.get(&id).map(|older| &older.extent);
        let mut regions = Vec::new();
        for (slot, length, target) in newer.runs() {
            let same = older.is_some_and(|older| older.run(slot, length) == (target, length));
            if !same {
                regions.extend(run_clusters(target, length).map(ClusterIndex::region));
            }
        }
        regions.sort_unstable();
        regions.dedup();
        regions
    }

    /// The last region that is an extent's home.
    pub(crate) fn highest_home(&self) -> Option<RegionIndex> {
        self.extents.values().filter_map(|entry| entry.extent.home).max()
    }

    /// The first id that nothing has: of `epoch` on, or above all in use. An id that leaves no room for more is `Corrupt`.
    pub(crate) fn next_id(&self, epoch: u64) -> Result<u64> {
        let images = self.images.keys().map(|id| id.0).max();
        let pages = self.pages.keys().map(|id| id.0).max();
        let extents = self.extents.keys().map(|id| id.0).max();
        let highest = images.max(pages).max(extents).unwrap_or(0);
        match highest < 1 << 63 {
            true => Ok((highest + 1).max(epoch << 32)),
            false => Err(corrupt(format!("a record has the id {highest}, which is never given"))),
        }
    }

    /// Moves the records into `state`, deriving all that is derived. Returns pages and extents that
    /// nobody holds, left by a crash, for the sweeper. Pages that name missing extents, images that
    /// name missing pages, and clusters beyond the data are `Corrupt`.
    pub(crate) fn into_state(mut self, state: &mut State, regions_on_disk: u32) -> Result<Garbage> {
        for (id, page) in self.pages {
            state.pages.insert(id, PageState { page, holders: 0 });
        }
        state.extents = self.extents;
        for (id, record) in self.images {
            for page in record.pages.iter().flatten() {
                if !state.pages.contains_key(page) {
                    return Err(corrupt(format!(
                        "image {} names map page {}",
                        record.name, page.0
                    )));
                }
            }
            if !record.hidden && state.names.contains_key(&record.name) {
                return Err(corrupt(format!("two images are called {}", record.name)));
            }
            state.insert_image(id, record);
        }
        hold_extents(state)?;
        count_homes(state, regions_on_disk)?;
        count_references(state, regions_on_disk)?;
        self.regions.sort_by_key(|(region, _)| *region);
        for of_region in self.regions.chunk_by(|(one, _), (other, _)| one == other) {
            if let Some((region, Some(record))) = of_region.last() {
                if region.0 > regions_on_disk.saturating_add(REGIONS_BEYOND_MAX) {
                    return Err(corrupt(format!(
                        "region {} has hashes far beyond the end of the data: was it cut short?",
                        region.0
                    )));
                }
                state.regions.load(*region, *record);
            }
        }
        Ok(Garbage {
            pages: unheld(state.pages.iter().map(|(id, page)| (*id, page.holders))),
            extents: unheld(state.extents.iter().map(|(id, extent)| (*id, extent.holders))),
        })
    }
}

/// After a power cut the data file may be shorter than its regions' records say, by what was taken
/// since its last sync. No pool grows by 1 TiB in that time: the table that is made for the records
/// has a bound, whatever they say.
const REGIONS_BEYOND_MAX: u32 = 1 << 18;

/// Records that a crash left without a holder.
pub(crate) struct Garbage {
    pub(crate) pages: Vec<MapPageId>,
    pub(crate) extents: Vec<ExtentId>,
}

fn unheld<T: Ord>(holders: impl Iterator<Item = (T, u32)>) -> Vec<T> {
    let mut ids: Vec<T> = holders.filter(|(_, holders)| *holders == 0).map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

fn hold_extents(state: &mut State) -> Result<()> {
    for (page_id, page) in &state.pages {
        for (_, id) in page.page.iter() {
            match state.extents.get_mut(&id) {
                Some(extent) => extent.holders += 1,
                None => {
                    return Err(corrupt(format!("map page {} names extent {}", page_id.0, id.0)));
                }
            }
        }
    }
    Ok(())
}

/// Homes come first and are counted whole: that is nearly all there is to count.
fn count_homes(state: &mut State, regions_on_disk: u32) -> Result<()> {
    for (id, entry) in &state.extents {
        let Some(home) = entry.extent.home else { continue };
        if state.allocator.owner(home).is_some() || home.0 >= regions_on_disk {
            return Err(corrupt(format!(
                "extent {} has a home at region {}, which is not its own or not there",
                id.0, home.0
            )));
        }
        state.allocator.set_owner(home, *id);
        state.allocator.add_home(home, entry.extent.home_counts());
        for slot in entry.extent.reserved_at_home() {
            state.reserved_places.mark(home.cluster(slot));
        }
    }
    Ok(())
}

/// References go anywhere: counted in order of place, some at a time, they miss the caches less.
const REFERENCES_AT_ONCE: usize = 1 << 19;

fn count_references(state: &mut State, regions_on_disk: u32) -> Result<()> {
    let mut batch = Vec::new();
    for (id, entry) in &state.extents {
        for (_, length, target) in entry.extent.references() {
            for cluster in run_clusters(target, length) {
                if cluster.region().0 == 0 || cluster.region().0 >= regions_on_disk {
                    return Err(corrupt(format!(
                        "extent {} refers to data at {}, where the data has ended: was it cut short?",
                        id.0,
                        cluster.data_offset()
                    )));
                }
                batch.push(cluster);
                if matches!(target, Slot::Reserved(_)) {
                    state.reserved_places.mark(cluster);
                }
            }
        }
        if batch.len() >= REFERENCES_AT_ONCE {
            count_batch(&mut state.allocator, &mut batch);
        }
    }
    count_batch(&mut state.allocator, &mut batch);
    Ok(())
}

fn count_batch(allocator: &mut Allocator, batch: &mut Vec<ClusterIndex>) {
    batch.sort_unstable();
    for cluster in batch.drain(..) {
        allocator.add_reference(cluster);
    }
}

fn corrupt(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("metadata: {what}; run `blockyard check`"))
}

#[cfg(test)]
mod tests;
