//! The judge of a pool from the inside: derives holders, counts and free space again from what the
//! images have, and hashes again what the medium holds. Shares no code with what it judges.

use crate::context::SimPool;
use crate::world::SimWorld;
use blockyard_block::{
    CLUSTER_SIZE, ClusterIndex, EXTENT_CLUSTERS, ExtentId, HashAlgorithm, ImageId, MapPageId,
};
use blockyard_pool::{InspectedExtent, InspectedPage, Inspection};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Compares what the engine derived with what follows from images, pages and extents.
pub(crate) fn judge_counts(told: &Inspection) -> Result<(), String> {
    let pages_of_images = told.images.iter().flat_map(|(_, pages)| pages);
    let right = tally(pages_of_images.chain(&told.pages_to_sweep).copied());
    let holders = told.pages.iter().map(|page| (page.id, u64::from(page.holders)));
    same("holders of pages", holders.collect(), &right)?;

    let extents_of_pages = told.pages.iter().flat_map(|page| &page.extents);
    let right = tally(extents_of_pages.chain(&told.extents_to_sweep).copied());
    let holders = told.extents.iter().map(|extent| (extent.id, u64::from(extent.holders)));
    same("holders of extents", holders.collect(), &right)?;

    let slots = told.extents.iter().flat_map(|extent| &extent.clusters);
    let mut right = tally(slots.map(|slot| slot.cluster));
    for (cluster, holds) in &told.holds {
        *right.entry(*cluster).or_insert(0) += u64::from(*holds);
    }
    let counts = told.counts.iter().map(|(cluster, count)| (*cluster, u64::from(*count)));
    same("counts of clusters", counts.collect(), &right)?;

    let homes = told.extents.iter().filter_map(|extent| Some((extent.home?, extent.id.0)));
    let owners = told.owners.iter().map(|(region, extent)| (*region, extent.0)).collect();
    same("homes", owners, &homes.collect())?;
    judge_space(told, &right)
}

fn judge_space(told: &Inspection, counts: &BTreeMap<ClusterIndex, u64>) -> Result<(), String> {
    let used = counts.len() as u64;
    if told.clusters_used != used {
        return Err(format!("{} clusters count as used, not {used}", told.clusters_used));
    }
    let all = told.regions_provisioned * EXTENT_CLUSTERS as u64;
    let waiting = told.clusters_waiting.len() as u64;
    if told.clusters_free + used + waiting != all {
        return Err(format!(
            "of {all} clusters {used} are used, {waiting} wait, and {} count as free",
            told.clusters_free
        ));
    }
    if let Some(header) = counts.keys().find(|cluster| cluster.region().0 == 0) {
        return Err(format!("an extent has {header:?} of the header's region"));
    }
    Ok(())
}

/// How often each thing occurs.
fn tally<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_insert(0) += 1;
    }
    counts
}

fn same<T: Ord + Debug>(
    what: &str,
    told: BTreeMap<T, u64>,
    right: &BTreeMap<T, u64>,
) -> Result<(), String> {
    let all: BTreeSet<&T> = told.keys().chain(right.keys()).collect();
    for thing in all {
        if told.get(thing) != right.get(thing) {
            return Err(format!(
                "{what}: {thing:?} has {:?}, not {:?}",
                told.get(thing),
                right.get(thing)
            ));
        }
    }
    Ok(())
}

/// Hashes every cluster with a trusted hash from the simulated data; answers how many.
pub(crate) async fn judge_hashes(
    pool: &SimPool,
    told: &Inspection,
    world: &SimWorld,
    algorithm: HashAlgorithm,
) -> Result<u64, String> {
    let slots = told.extents.iter().flat_map(|extent| &extent.clusters);
    let with_data: BTreeSet<u64> =
        slots.filter(|slot| !slot.reserved).map(|slot| slot.cluster.0).collect();
    let mut checked = 0;
    for cluster in with_data.into_iter().map(ClusterIndex) {
        let hash = pool.trusted_hash(cluster).await;
        // A removed image's cluster may have been freed and punched since it was told of.
        let is_freed = || !pool.inspect().counts.iter().any(|(counted, _)| *counted == cluster);
        let hash = match hash {
            Ok(Some(hash)) => hash,
            Err(error) if !is_freed() => return Err(format!("hash of {cluster:?}: {error}")),
            Ok(None) | Err(_) => continue,
        };
        let content = world
            .peek("data", cluster.data_offset(), CLUSTER_SIZE)
            .ok_or_else(|| format!("data ends before {cluster:?}"))?;
        let right = algorithm.hash(&content);
        if hash != right && !is_freed() {
            let users = users(told, cluster);
            return Err(format!(
                "{cluster:?} of {users} has the trusted hash {hash}, its content {right}"
            ));
        }
        checked += 1;
    }
    Ok(checked)
}

/// Two clusters of the same content, both trusted, if there are any.
pub(crate) fn find_equal(told: &Inspection, world: &SimWorld) -> Option<[ClusterIndex; 2]> {
    let untrusted: BTreeSet<ClusterIndex> = told.untrusted.iter().copied().collect();
    let slots = told.extents.iter().flat_map(|extent| &extent.clusters);
    let with_data: BTreeSet<ClusterIndex> =
        slots.filter(|slot| !slot.reserved).map(|slot| slot.cluster).collect();
    let mut seen = BTreeMap::new();
    for cluster in with_data.difference(&untrusted) {
        let content = world.peek("data", cluster.data_offset(), CLUSTER_SIZE)?;
        if let Some(other) = seen.insert(content, *cluster) {
            return Some([other, *cluster]);
        }
    }
    None
}

/// The extents that have a cluster and the images that reach them, for messages.
fn users(told: &Inspection, cluster: ClusterIndex) -> String {
    let has =
        |extent: &&InspectedExtent| extent.clusters.iter().any(|slot| slot.cluster == cluster);
    let extents: Vec<ExtentId> = told.extents.iter().filter(has).map(|extent| extent.id).collect();
    let names = |page: &&InspectedPage| extents.iter().any(|extent| page.extents.contains(extent));
    let pages: Vec<MapPageId> = told.pages.iter().filter(names).map(|page| page.id).collect();
    let reaches =
        |image: &&(ImageId, Vec<MapPageId>)| pages.iter().any(|page| image.1.contains(page));
    let images: Vec<ImageId> = told.images.iter().filter(reaches).map(|image| image.0).collect();
    format!("{extents:?} in {images:?}")
}

#[cfg(test)]
mod tests;
