//! One image of the model: its size and, for each sector ever written, the values it may have.

use super::sector::{self, Rule, Value, Version};
use crate::content::SECTOR;
use std::collections::BTreeMap;
use std::ops::Range;

/// A write in flight.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) start: u64,
    sectors: Range<u64>,
}

pub(crate) struct ImageModel {
    /// Unique in a run; part of the tags written to it.
    pub(crate) serial: u64,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) writable: bool,
    /// A resize, rename or removal is in flight, or nobody knows how it ended.
    pub(crate) managed: bool,
    /// How often one began; requests of clients from before may then be refused.
    pub(crate) disturbances: u64,
    /// Snapshots and clones being taken of it; its size must not change meanwhile.
    pub(crate) copies_in_flight: u64,
    pub(crate) removed: bool,
    /// It is, or was, used before it was there: its origin excuses failures.
    pub(crate) lazy: bool,
    /// Sectors not here were never written.
    sectors: BTreeMap<u64, Vec<Version>>,
    /// When the latest successful flush began.
    flushed: u64,
    /// Sectors that one request needs for itself.
    fences: Vec<Range<u64>>,
}

impl ImageModel {
    pub(crate) fn new(serial: u64, name: &str, size: u64, writable: bool) -> ImageModel {
        ImageModel {
            serial,
            name: name.to_owned(),
            size,
            writable,
            managed: false,
            disturbances: 0,
            copies_in_flight: 0,
            removed: false,
            lazy: false,
            sectors: BTreeMap::new(),
            flushed: 0,
            fences: Vec::new(),
        }
    }

    /// Whether requests to it must work.
    pub(crate) fn is_usable(&self) -> bool {
        !self.managed && !self.removed
    }

    /// A resize, rename or removal begins.
    pub(crate) fn disturb(&mut self) {
        self.managed = true;
        self.disturbances += 1;
    }

    pub(super) fn begin_write(
        &mut self,
        start: u64,
        sectors: Range<u64>,
        oldest_active: u64,
        value: impl Fn(u64) -> Value,
    ) -> Ticket {
        for sector in sectors.clone() {
            let versions =
                self.sectors.entry(sector).or_insert_with(|| vec![Version::old(Value::ZEROS)]);
            sector::prune(versions, self.flushed, oldest_active);
            let value = value(sector);
            versions.push(Version { value, start, end: None, certain: false, durable: false });
        }
        Ticket { start, sectors }
    }

    pub(super) fn end_write(&mut self, ticket: &Ticket, end: u64, done: bool, durable: bool) {
        for versions in self.sectors.range_mut(ticket.sectors.clone()).map(|(_, versions)| versions)
        {
            for version in versions.iter_mut().filter(|version| version.start == ticket.start) {
                version.end = Some(end);
                version.certain = done;
                version.durable = done && durable;
            }
        }
    }

    /// A flush that began at `start` succeeded.
    pub(crate) fn flushed(&mut self, start: u64) {
        self.flushed = self.flushed.max(start);
    }

    /// The rule for what the medium may hold after a power cut.
    pub(crate) fn medium_rule(&self) -> Rule {
        Rule::Medium { flushed: self.flushed }
    }

    /// Checks `data` read from sector `first` on.
    pub(crate) fn check_data(&self, rule: Rule, first: u64, data: &[u8]) -> Result<(), String> {
        let zeros = [Version::old(Value::ZEROS)];
        for (sector, bytes) in (first..).zip(data.chunks(SECTOR)) {
            let versions = self.sectors.get(&sector).map_or(&zeros[..], Vec::as_slice);
            sector::check(versions, rule, sector, bytes).map_err(|what| self.at(&what))?;
        }
        Ok(())
    }

    /// Checks a range that was read as a hole.
    pub(crate) fn check_zeros(&self, rule: Rule, sectors: Range<u64>) -> Result<(), String> {
        for (sector, versions) in self.sectors.range(sectors) {
            sector::check(versions, rule, *sector, &[0; SECTOR]).map_err(|what| self.at(&what))?;
        }
        Ok(())
    }

    fn at(&self, what: &str) -> String {
        format!("image {} (#{}): {what}", self.name, self.serial)
    }

    /// The one value a sector has now, if that is certain and no request could change it.
    pub(crate) fn certain_value(&self, sector: u64) -> Option<Value> {
        let Some(versions) = self.sectors.get(&sector) else { return Some(Value::ZEROS) };
        let mut possible = sector::possible(versions, Rule::Cache { since: u64::MAX });
        match (possible.next(), possible.next()) {
            (Some(version), None) if version.end.is_some() && version.certain => {
                Some(version.value.clone())
            }
            _ => None,
        }
    }

    /// Asks for sectors that no other request touches; false if one may.
    pub(crate) fn fence(&mut self, sectors: Range<u64>) -> bool {
        let in_flight = self
            .sectors
            .range(sectors.clone())
            .any(|(_, versions)| versions.iter().any(|version| version.end.is_none()));
        if in_flight || self.is_fenced(&sectors) {
            return false;
        }
        self.fences.push(sectors);
        true
    }

    pub(crate) fn unfence(&mut self, sectors: &Range<u64>) {
        if let Some(index) = self.fences.iter().position(|fence| fence == sectors) {
            self.fences.swap_remove(index);
        }
    }

    pub(crate) fn is_fenced(&self, sectors: &Range<u64>) -> bool {
        self.fences.iter().any(|fence| fence.start < sectors.end && sectors.start < fence.end)
    }

    /// What a copy taken at some moment in `[start, end]` may hold.
    pub(crate) fn candidates(&self, start: u64, end: u64) -> BTreeMap<u64, Vec<Version>> {
        let of_sector = |versions: &Vec<Version>| {
            sector::possible(versions, Rule::Cache { since: start })
                .filter(|version| version.start <= end)
                .map(|version| Version::old(version.value.clone()))
                .collect()
        };
        self.sectors.iter().map(|(sector, versions)| (*sector, of_sector(versions))).collect()
    }

    pub(crate) fn start_with(&mut self, sectors: BTreeMap<u64, Vec<Version>>) {
        self.sectors = sectors;
        self.sectors.retain(|sector, _| sector * (SECTOR as u64) < self.size);
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.size = size;
        drop(self.sectors.split_off(&(size / SECTOR as u64)));
    }

    /// After a crash of an image that cannot be read whole: every value that the rule allows may be there.
    pub(crate) fn survive(&mut self, rule: Rule) {
        let old = |versions: &Vec<Version>| {
            let left = sector::possible(versions, rule);
            left.map(|version| Version::old(version.value.clone())).collect()
        };
        self.sectors = self.sectors.iter().map(|(at, versions)| (*at, old(versions))).collect();
        self.settle_requests();
    }

    /// After a crash: what was read is what the image holds, durably.
    pub(crate) fn settle(&mut self, values: BTreeMap<u64, Value>) {
        self.sectors =
            values.into_iter().map(|(sector, value)| (sector, vec![Version::old(value)])).collect();
        self.settle_requests();
    }

    fn settle_requests(&mut self) {
        self.flushed = 0;
        self.managed = false;
        self.copies_in_flight = 0;
        self.fences.clear();
    }
}
