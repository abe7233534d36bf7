//! From records to state: decodes what the metadata holds, checks that it makes sense together, and
//! derives holders, owners, counts and free space. Used by open and by `check` alike.

use crate::extent::Extent;
use crate::records::{ImageRecord, MapPage, PoolRecord, RecordKey, RegionRecord};
use crate::state::{ExtentState, PageState, State, run_clusters};
use blockyard_block::{
    ClusterIndex, Error, ErrorKind, ExtentId, ImageId, MapPageId, RegionIndex, Result,
};
use std::collections::{BTreeMap, HashMap};

/// Everything the metadata holds, decoded but not yet believed.
#[derive(Default)]
pub(crate) struct Unverified {
    pub(crate) pool: Option<PoolRecord>,
    pub(crate) images: BTreeMap<ImageId, ImageRecord>,
    pub(crate) pages: BTreeMap<MapPageId, MapPage>,
    pub(crate) extents: HashMap<ExtentId, Extent>,
    pub(crate) regions: BTreeMap<RegionIndex, RegionRecord>,
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
                self.extents.insert(id, Extent::decode(value).map_err(named)?);
            }
            RecordKey::Region(region) => {
                self.regions.insert(region, RegionRecord::decode(value).map_err(named)?);
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
            RecordKey::Region(region) => drop(self.regions.remove(&region)),
        }
    }

    /// The regions of every cluster that `extent` counts for and its older version did not: they need
    /// an intent before the newer version is committed (I1).
    pub(crate) fn regions_changed_by(&self, id: ExtentId, newer: &Extent) -> Vec<RegionIndex> {
        let older = self.extents.get(&id);
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
        self.extents.values().filter_map(|extent| extent.home).max()
    }

    /// The highest id in use.
    pub(crate) fn highest_id(&self) -> u64 {
        let images = self.images.keys().map(|id| id.0).max();
        let pages = self.pages.keys().map(|id| id.0).max();
        let extents = self.extents.keys().map(|id| id.0).max();
        images.max(pages).max(extents).unwrap_or(0)
    }

    /// Moves the records into `state`, deriving all that is derived. Returns pages and extents that
    /// nobody holds, left by a crash, for the sweeper. Pages that name missing extents, images that
    /// name missing pages, and clusters beyond the data are `Corrupt`.
    pub(crate) fn into_state(self, state: &mut State, regions_on_disk: u32) -> Result<Garbage> {
        for (id, page) in self.pages {
            state.pages.insert(id, PageState { page, holders: 0 });
        }
        state.extents.reserve(self.extents.len());
        for (id, extent) in self.extents {
            state.extents.insert(id, ExtentState::new(extent, 0));
        }
        for (id, record) in self.images {
            for page in record.pages.iter().flatten() {
                if !state.pages.contains_key(page) {
                    return Err(missing(format!(
                        "image {} names map page {}",
                        record.name, page.0
                    )));
                }
            }
            if !record.hidden && state.names.contains_key(&record.name) {
                return Err(missing(format!("two images are called {}", record.name)));
            }
            state.insert_image(id, record);
        }
        hold_extents(state)?;
        count_clusters(state, regions_on_disk)?;
        for (region, record) in self.regions {
            state.regions.load(region, record);
        }
        Ok(Garbage {
            pages: unheld(state.pages.iter().map(|(id, page)| (*id, page.holders))),
            extents: unheld(state.extents.iter().map(|(id, extent)| (*id, extent.holders))),
        })
    }
}

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
                    return Err(missing(format!("map page {} names extent {}", page_id.0, id.0)));
                }
            }
        }
    }
    Ok(())
}

fn count_clusters(state: &mut State, regions_on_disk: u32) -> Result<()> {
    for (id, entry) in &state.extents {
        if let Some(home) = entry.extent.home {
            let other = state.allocator.owner(home).filter(|other| other != id);
            if other.is_some() || home.0 >= regions_on_disk {
                return Err(missing(format!(
                    "extent {} has a home at region {}, which is not its own or not there",
                    id.0, home.0
                )));
            }
            state.allocator.set_owner(home, *id);
        }
        for (_, length, target) in entry.extent.runs() {
            for cluster in run_clusters(target, length) {
                if cluster.region().0 == 0 || cluster.region().0 >= regions_on_disk {
                    return Err(missing(format!(
                        "extent {} refers to data at {}, where the data has ended: was it cut short?",
                        id.0,
                        cluster.data_offset()
                    )));
                }
                state.allocator.add_reference(cluster);
            }
        }
    }
    Ok(())
}

fn missing(what: String) -> Error {
    Error::new(ErrorKind::Corrupt, format!("metadata: {what}; run `blockyard check`"))
}
