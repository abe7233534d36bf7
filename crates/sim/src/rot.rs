//! Rot: two bits of a trusted cluster flip below the engine, while no request is in flight.
//!
//! If another cluster holds the same, the damaged one must be healed from it; else a compared read of it fails and
//! a scrub names it, and it alone. Never is the wrong content given a right name. A crash in the midst of
//! healing leaves the old or the new state.

use crate::client::image_name;
use crate::context::Context;
use crate::report::Count;
use crate::world::SimWorld;
use blockyard_block::{BlockDevice, CLUSTER_SIZE, ClusterIndex, ContentHash, ErrorKind};
use blockyard_pool::{Client, MapState};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Bits in the first and in the last sector, so that a torn repair is seen.
const FLIPPED: [u64; 2] = [17, CLUSTER_SIZE as u64 - 30];

/// A cluster that is to rot.
#[derive(Debug, Clone)]
pub(crate) struct Rot {
    cluster: ClusterIndex,
    hash: ContentHash,
    right: Vec<u8>,
    /// Another cluster holds the same.
    pub(crate) has_equal: bool,
    /// Images and clusters of images that show this content.
    places: Vec<(String, u64)>,
}

impl Rot {
    /// Picks a cluster; `None` if none is trusted. What was written is made durable first.
    pub(crate) async fn pick(context: Rc<Context>) -> Result<Option<Rot>, String> {
        let pool = context.pool();
        // Where a cluster is shown could not be told of images that are not all there.
        if !pool.lazy_images().is_empty() {
            return Ok(None);
        }
        let at = |error| format!("before rot: {error}");
        let Some(first) = pool.images().into_iter().next() else { return Ok(None) };
        let volume = pool.open_image(&first.name, reader()).map_err(at)?;
        volume.flush().await.map_err(at)?;
        let told = pool.inspect();
        let slots = told.extents.iter().flat_map(|extent| &extent.clusters);
        let with_data: BTreeSet<ClusterIndex> =
            slots.filter(|slot| !slot.reserved).map(|slot| slot.cluster).collect();
        let mut trusted = Vec::new();
        for cluster in with_data {
            trusted
                .extend(pool.trusted_hash(cluster).await.map_err(at)?.map(|hash| (cluster, hash)));
        }
        if trusted.is_empty()
            || !told.extents_to_sweep.is_empty()
            || !told.pages_to_sweep.is_empty()
        {
            return Ok(None);
        }
        let mut counts: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        for (_, hash) in &trusted {
            *counts.entry(hash.0).or_default() += 1;
        }
        let has_equal = |hash: &ContentHash| counts.get(&hash.0).is_some_and(|count| *count > 1);
        // Half of them can be healed, if any can.
        if context.one_in(2) && trusted.iter().any(|(_, hash)| has_equal(hash)) {
            trusted.retain(|(_, hash)| has_equal(hash));
        }
        let (cluster, hash) = trusted[context.below(trusted.len() as u64) as usize];
        let has_equal = has_equal(&hash);
        let right = context.world.peek("data", cluster.data_offset(), CLUSTER_SIZE);
        let right = right.ok_or_else(|| format!("data ends before {cluster:?}"))?;
        let places = places_of(&context, hash).await?;
        Ok(Some(Rot { cluster, hash, right, has_equal, places }))
    }

    pub(crate) fn flip(&self, world: &SimWorld) {
        for place in FLIPPED {
            world.flip_bit("data", self.cluster.data_offset() + place, 2);
        }
    }

    /// Makes the cluster right again, if it is still as it was flipped.
    pub(crate) fn restore(&self, world: &SimWorld) {
        let mut flipped = self.right.clone();
        for place in FLIPPED {
            flipped[place as usize] ^= 1 << 2;
        }
        if world.peek("data", self.cluster.data_offset(), CLUSTER_SIZE) == Some(flipped) {
            self.flip(world);
        }
    }

    /// Looks at it in one way or two, and judges what came of it.
    pub(crate) async fn judge(self, context: Rc<Context>) -> Result<(), String> {
        let pool = context.pool();
        let mut healed = false;
        if context.one_in(2) && !self.places.is_empty() {
            healed = self.read(&context).await?;
        }
        let scrub = pool.scrub(|_| true).await.map_err(|error| format!("scrub: {error}"))?;
        let found = (scrub.clusters_healed, scrub.clusters_damaged);
        let right = match (self.has_equal, healed) {
            (true, false) => found == (1, 0),
            (true, true) => found == (0, 0) || found == (1, 0),
            (false, _) => found == (0, 1),
        };
        let strange =
            scrub.damage.iter().flat_map(|damage| &damage.places).find(|(name, offset)| {
                let cluster = offset / CLUSTER_SIZE as u64;
                !self.places.iter().any(|place| place.0 == name.as_str() && place.1 == cluster)
            });
        if !right || strange.is_some() {
            return Err(format!("after {self}: {scrub:?}, {strange:?} does not show it"));
        }
        if self.has_equal {
            context.note(Count::Healed);
        }
        Ok(())
    }

    /// A read that compares, of one place; whether it may have healed.
    async fn read(&self, context: &Context) -> Result<bool, String> {
        let (name, cluster) = &self.places[context.below(self.places.len() as u64) as usize];
        let volume = context.pool().open_image(&image_name(name), reader());
        let volume = volume.map_err(|error| format!("opening {name}: {error}"))?;
        match volume.read_compared(*cluster).await {
            Ok(bytes) if self.has_equal && bytes[..] == self.right[..] => Ok(true),
            Err(error) if !self.has_equal && error.kind() == ErrorKind::Corrupt => Ok(false),
            Ok(_) => Err(format!("{name} at cluster {cluster} was read in spite of {self}")),
            Err(error) => Err(format!("{name} at cluster {cluster}, {self}: {error}")),
        }
    }
}

impl std::fmt::Display for Rot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let equal = if self.has_equal { "with an equal one" } else { "the only one" };
        write!(f, "rot of {:?}, {equal}, hash {}", self.cluster, self.hash)
    }
}

fn reader() -> Client {
    Client { connection: 0, pid: None, uid: None, writes: false, purpose: "rot".to_owned() }
}

async fn places_of(context: &Context, wanted: ContentHash) -> Result<Vec<(String, u64)>, String> {
    let pool = context.pool();
    let mut places = Vec::new();
    for image in pool.images() {
        let mut offset = 0;
        while offset < image.size_bytes {
            let runs = pool.map(&image.name, offset, true).await;
            let runs = runs.map_err(|error| format!("map of {}: {error}", image.name))?;
            for run in &runs {
                if run.state == MapState::Data(wanted) {
                    places.push((image.name.to_string(), run.offset / CLUSTER_SIZE as u64));
                }
                offset = run.offset + run.length;
            }
        }
    }
    Ok(places)
}
