//! Images, map pages and extents: what names what, and what each image shows of damage elsewhere.

use super::content::read_clusters;
use super::findings::{Damage, DamagedRun, Fault, Findings};
use super::records::Records;
use crate::extent::{Extent, Slot};
use crate::records::ImageRecord;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, EXTENT_SIZE, ExtentId, ImageName, MAP_PAGE_EXTENTS,
};
use blockyard_io::Disk;
use std::collections::{BTreeMap, BTreeSet};

/// Counts holders, and finds names that two images have, pages and extents that are named and are not
/// there, and extents beyond an image's end.
pub(super) fn hold(records: &mut Records, findings: &mut Findings) {
    judge_names(records, findings);
    for image in records.images.values() {
        for (index, id) in image.pages.iter().enumerate() {
            let Some(id) = id else { continue };
            match records.pages.get_mut(id) {
                Some(page) => page.holders += 1,
                None => findings.in_image(
                    &image.name,
                    (index * MAP_PAGE_EXTENTS) as u64 * EXTENT_SIZE,
                    format!("map page {} is missing: 2 GiB from here have no map", id.0),
                ),
            }
        }
    }
    for (page_id, page) in &records.pages {
        for (_, id) in page.record.iter() {
            match records.extents.get_mut(&id) {
                // A page that several images hold makes its extents held more than once.
                Some(extent) => extent.holders += page.holders.clamp(1, 2),
                None if page.holders == 0 => findings.general(format!(
                    "map page {}, which no image holds, names extent {}, which is missing",
                    page_id.0, id.0
                )),
                None => {}
            }
        }
    }
    for image in records.images.values() {
        judge_extents(image, records, findings);
    }
}

fn judge_names(records: &Records, findings: &mut Findings) {
    let mut names: BTreeMap<&ImageName, u64> = BTreeMap::new();
    for (id, image) in records.images.iter().filter(|(_, image)| !image.hidden) {
        if let Some(other) = names.insert(&image.name, id.0) {
            findings.in_image(
                &image.name,
                0,
                format!("two images have this name: {other} and {}", id.0),
            );
        }
    }
}

/// The extents an image names, in order, with their offset.
fn extents_of<'a>(
    image: &'a ImageRecord,
    records: &'a Records,
) -> impl Iterator<Item = (u64, ExtentId, Option<&'a Extent>)> + 'a {
    image.pages.iter().enumerate().flat_map(move |(page_index, page)| {
        let page = page.and_then(|id| records.pages.get(&id));
        page.into_iter().flat_map(move |page| {
            page.record.iter().map(move |(index, id)| {
                let offset = (page_index * MAP_PAGE_EXTENTS + index) as u64 * EXTENT_SIZE;
                (offset, id, records.extents.get(&id).map(|extent| &extent.record))
            })
        })
    })
}

/// Bytes past an image's end are zero, so nothing may be mapped there (I11).
fn judge_extents(image: &ImageRecord, records: &Records, findings: &mut Findings) {
    for (offset, id, extent) in extents_of(image, records) {
        let Some(extent) = extent else {
            let message = format!("extent {} is missing: 4 MiB from here have no map", id.0);
            findings.in_image(&image.name, offset, message);
            continue;
        };
        let slots = image.size.saturating_sub(offset).div_ceil(CLUSTER_SIZE as u64);
        let beyond = extent.runs().find(|(slot, length, _)| (slot + length) as u64 > slots);
        if let Some((slot, ..)) = beyond {
            let slot = (slot as u64).max(slots);
            findings.in_image(
                &image.name,
                offset + slot * CLUSTER_SIZE as u64,
                format!("extent {} holds data beyond the image's end at {}", id.0, image.size),
            );
        }
    }
}

/// Lists what each image shows of the damage; what no image shows is listed, too.
pub(super) fn show(
    records: &Records,
    regions_on_disk: u32,
    damage: &Damage,
    findings: &mut Findings,
) {
    let mut unshown: BTreeSet<ClusterIndex> = damage.runs().map(|run| run.first).collect();
    for image in records.images.values() {
        let mut stretches = Stretches { image, open: None };
        for (offset, _, extent) in extents_of(image, records) {
            for (slot, length, target) in extent.into_iter().flat_map(Extent::runs) {
                let Some(first) = target.cluster() else { continue };
                let offset = offset + (slot * CLUSTER_SIZE) as u64;
                if let Some(run) = beyond_end(first, length as u64, regions_on_disk) {
                    stretches.add(offset, first, run, findings);
                }
                if matches!(target, Slot::Reserved(_)) {
                    continue;
                }
                for run in damage.within(first, length as u64) {
                    damage.start_of(run.first).map(|start| unshown.remove(&start));
                    stretches.add(offset, first, run, findings);
                }
            }
        }
        stretches.close(findings);
    }
    for run in damage.runs().filter(|run| unshown.contains(&run.first)) {
        findings.general(format!(
            "data at {} ({} bytes) {} (no image shows it)",
            run.first.data_offset(),
            run.length * CLUSTER_SIZE as u64,
            run.fault
        ));
    }
}

/// The part of a run of clusters that the data is too short for, or that lies in its header.
fn beyond_end(first: ClusterIndex, length: u64, regions_on_disk: u32) -> Option<DamagedRun> {
    let fault = Fault::BeyondEnd;
    if first.region().0 == 0 {
        let length = length.min(EXTENT_CLUSTERS as u64 - first.0);
        return Some(DamagedRun { first, length, fault });
    }
    let end = u64::from(regions_on_disk) * EXTENT_CLUSTERS as u64;
    let inside = end.saturating_sub(first.0).min(length);
    (inside < length).then(|| DamagedRun {
        first: first.offset_by(inside),
        length: length - inside,
        fault,
    })
}

/// Joins damage that follows itself in an image, so that it is one finding.
struct Stretches<'a> {
    image: &'a ImageRecord,
    open: Option<(u64, DamagedRun)>,
}

impl Stretches<'_> {
    /// Adds damage in a run of slots that starts at `offset` in the image and at `first` in the data.
    fn add(&mut self, offset: u64, first: ClusterIndex, run: DamagedRun, findings: &mut Findings) {
        let offset = offset + (run.first.0 - first.0) * CLUSTER_SIZE as u64;
        if let Some((start, open)) = &mut self.open
            && *start + open.length * CLUSTER_SIZE as u64 == offset
            && open.fault == run.fault
            && open.end() == run.first
        {
            open.length += run.length;
            return;
        }
        self.close(findings);
        self.open = Some((offset, run));
    }

    fn close(&mut self, findings: &mut Findings) {
        let Some((offset, run)) = self.open.take() else { return };
        let bytes = run.length * CLUSTER_SIZE as u64;
        let place = run.first.data_offset();
        let unfinished =
            if self.image.hidden { " (of an import that was not finished)" } else { "" };
        let message = format!("data at {place} ({bytes} bytes) {}{unfinished}", run.fault);
        findings.in_image(&self.image.name, offset, message);
    }
}

/// The last cluster of an image may be cut by its end: what is stored behind is zero, or it would show
/// when the image grows (I11).
pub(super) async fn check_tails(
    records: &Records,
    regions_on_disk: u32,
    data: &impl Disk,
    findings: &mut Findings,
) {
    for image in records.images.values() {
        let cut = (image.size % CLUSTER_SIZE as u64) as usize;
        let last = image.size - cut as u64;
        let tail = extents_of(image, records)
            .find(|(offset, ..)| (*offset..*offset + EXTENT_SIZE).contains(&last));
        let Some((offset, _, Some(extent))) = tail.filter(|_| cut > 0) else { continue };
        let slot = ((last - offset) / CLUSTER_SIZE as u64) as usize;
        let Slot::Data(cluster) = extent.slot(slot) else { continue };
        if cluster.region().0 >= regions_on_disk {
            continue;
        }
        let Some(bytes) = read_clusters(data, cluster, 1).await else { continue };
        if bytes[cut..].iter().any(|byte| *byte != 0) {
            let message = "bytes past the image's end, in its last cluster, are not zero";
            findings.in_image(&image.name, last, message);
        }
    }
}
