//! What the metadata holds. A record that cannot be decoded is a finding, and then as good as missing.

use super::CheckCounts;
use super::findings::Findings;
use crate::extent::{Extent, Slot};
use crate::journal::RecordChange;
use crate::records::{ImageRecord, MapPage, PoolRecord, RecordKey, RegionRecord};
use crate::store::Key;
use blockyard_block::{
    EXTENT_CLUSTERS, Error, ErrorKind, ExtentId, ImageId, MapPageId, RegionIndex, Result,
};
use std::collections::{BTreeMap, BTreeSet};

/// A record and how often others name it.
pub(super) struct Held<T> {
    pub(super) record: T,
    pub(super) holders: u32,
}

/// All records. `holders` are zero until [`super::maps::hold`] has counted them.
#[derive(Default)]
pub(super) struct Records {
    pub(super) pool: Option<PoolRecord>,
    pub(super) images: BTreeMap<ImageId, ImageRecord>,
    pub(super) pages: BTreeMap<MapPageId, Held<MapPage>>,
    pub(super) extents: BTreeMap<ExtentId, Held<Extent>>,
    pub(super) regions: BTreeMap<RegionIndex, RegionRecord>,
    /// Something is of a newer format: nothing can be told of this pool.
    pub(super) newer: Option<Error>,
}

impl Records {
    /// Takes in a record as the store keeps it.
    pub(super) fn take(&mut self, key: Key, value: &[u8], findings: &mut Findings) {
        match RecordKey::from_parts(key.kind, key.id) {
            Ok(key) => self.put(key, value, findings),
            Err(error) => findings.general(error.message()),
        }
    }

    fn put(&mut self, key: RecordKey, value: &[u8], findings: &mut Findings) {
        if let Err(error) = self.decode(key, value) {
            match error.kind() {
                ErrorKind::Unsupported => self.newer = Some(error),
                _ => findings.general(format!("record {key:?}: {error}")),
            }
        }
    }

    fn decode(&mut self, key: RecordKey, value: &[u8]) -> Result<()> {
        match key {
            RecordKey::Pool => self.pool = Some(PoolRecord::decode(value)?),
            RecordKey::Image(id) => drop(self.images.insert(id, ImageRecord::decode(value)?)),
            RecordKey::Page(id) => {
                self.pages.insert(id, Held { record: MapPage::decode(value)?, holders: 0 });
            }
            RecordKey::Extent(id) => {
                self.extents.insert(id, Held { record: Extent::decode(value)?, holders: 0 });
            }
            RecordKey::Region(region) => {
                self.regions.insert(region, RegionRecord::decode(value)?);
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: RecordKey) {
        match key {
            RecordKey::Pool => self.pool = None,
            RecordKey::Image(id) => drop(self.images.remove(&id)),
            RecordKey::Page(id) => drop(self.pages.remove(&id)),
            RecordKey::Extent(id) => drop(self.extents.remove(&id)),
            RecordKey::Region(region) => drop(self.regions.remove(&region)),
        }
    }

    /// Applies journal entries. Clusters that they bring into use are as untrusted as the next open
    /// will hold them: their regions count as having an intent (I15). Returns how many records changed.
    pub(super) fn replay(
        &mut self,
        entries: Vec<Vec<RecordChange>>,
        findings: &mut Findings,
    ) -> u64 {
        let last: BTreeMap<RecordKey, Option<Vec<u8>>> = entries.into_iter().flatten().collect();
        let mut regions = BTreeSet::new();
        for (key, value) in &last {
            let (RecordKey::Extent(id), Some(value)) = (key, value) else { continue };
            if let Ok(newer) = Extent::decode(value) {
                let older = self.extents.get(id).map(|older| &older.record);
                regions.extend(regions_brought_into_use(older, &newer));
            }
        }
        let changes = last.len() as u64;
        for (key, value) in last {
            match value {
                Some(value) => self.put(key, &value, findings),
                None => self.remove(key),
            }
        }
        self.regions.extend(regions.into_iter().map(|region| (region, RegionRecord::Intent)));
        changes
    }

    pub(super) fn count(&self, counts: &mut CheckCounts) {
        let unfinished = self.images.values().filter(|image| image.hidden).count();
        counts.images = (self.images.len() - unfinished) as u64;
        counts.images_unfinished = unfinished as u64;
        counts.extents = self.extents.len() as u64;
        let pages = self.pages.values().filter(|page| page.holders == 0).count();
        let extents = self.extents.values().filter(|extent| extent.holders == 0).count();
        counts.records_unheld = (pages + extents) as u64;
        let intents = self.regions.values().filter(|record| **record == RegionRecord::Intent);
        counts.regions_with_intent = intents.count() as u64;
    }
}

fn regions_brought_into_use(older: Option<&Extent>, newer: &Extent) -> BTreeSet<RegionIndex> {
    (0..EXTENT_CLUSTERS)
        .filter_map(|slot| match newer.slot(slot) {
            Slot::Data(cluster) => {
                let known = older.is_some_and(|older| older.slot(slot) == Slot::Data(cluster));
                (!known).then(|| cluster.region())
            }
            Slot::Zero | Slot::Reserved(_) => None,
        })
        .collect()
}
