//! Images that are used while they are filled from an origin: which clusters are absent, who waits for them, and
//! what is to be fetched next.
//!
//! A cluster is *absent* if the list that was written before the image showed (`lazy/manifest.rs`) has it and its slot is
//! [`Slot::Zero`]. Nothing else is kept, so nothing can disagree with the map after a crash. What always holds:
//!
//! - *Present stays present.* As long as the image is lazy no slot on the list becomes `Zero` again: zeros and
//!   discards there make it reserved, which reads zero and is not absent (`plan.rs`, `contents_of_lazy`).
//! - *A fetch never overwrites.* What was fetched is compared with its hash, and put in the image's turn for its place,
//!   where no change is planned and not completed, and only into slots that are absent then (`lazy/keep.rs`).
//! - *Nobody sees an absent cluster as zeros.* Reads and writes of parts of clusters wait until what they need is
//!   present, and hold nothing meanwhile: no turn, no epoch. What would tell hashes, share or cut the map is refused.
//!
//! The engine fetches nothing. Whoever does asks [`Pool::next_fetch`] what to bring and gives it to
//! [`Pool::keep_fetched`].

mod demand;
mod fetch;
mod keep;
pub(crate) mod manifest;
mod open;
mod refused;

pub use fetch::{Fetch, Lazy};
pub(crate) use open::{Disks, check_list};

use crate::bitmap::Bitmap;
use crate::extent::Slot;
use crate::records::ImageRecord;
use crate::state::State;
use blockyard_block::{EXTENT_CLUSTERS, Error, ErrorKind, ImageId, Result};
use manifest::MissingExtent;
use refused::Refused;
use std::collections::BTreeSet;

/// A cluster that the origin could not give, or gave wrongly, is asked for again after this long.
const REFUSED_MS: u64 = 5_000;
/// A read waits for an origin from which nothing comes for this long, unless told otherwise.
const WAIT_MS: u64 = 30_000;

/// What is known of a lazy image beside its map. Clusters are counted from the start of the image.
pub(crate) struct LazyState {
    /// Names the origin to whoever fetches.
    pub(crate) origin: Vec<u8>,
    /// Bytes of the image as it was then.
    size: u64,
    /// Ascending.
    extents: Vec<MissingExtent>,
    /// Why the list cannot be read: every slot that is zero may be absent.
    broken: Option<String>,
    /// Waited for by reads and writes.
    wanted: BTreeSet<u64>,
    /// On their way.
    fetching: BTreeSet<u64>,
    refused: Refused,
    /// When the origin was last heard.
    heard_ms: u64,
    /// Why the origin will not give anything.
    gone: Option<String>,
    wait_ms: u64,
    /// Where the background's way through `extents` stands.
    cursor: usize,
    /// So many of `extents` have nothing that is absent: what is present stays present.
    filled: usize,
    /// Clusters to be fetched before all others, in this order, and how many were gone through.
    order: Vec<u64>,
    ordered: usize,
    /// Clusters that came since the open.
    fetched: u64,
}

impl LazyState {
    pub(crate) fn new(contents: manifest::Contents, now_ms: u64) -> LazyState {
        LazyState {
            origin: contents.origin,
            size: contents.size,
            extents: contents.extents,
            broken: None,
            wanted: BTreeSet::new(),
            fetching: BTreeSet::new(),
            refused: Refused::default(),
            heard_ms: now_ms,
            gone: None,
            wait_ms: WAIT_MS,
            cursor: 0,
            filled: 0,
            order: Vec::new(),
            ordered: 0,
            fetched: 0,
        }
    }

    /// Of an image whose list cannot be read.
    pub(crate) fn broken(reason: String) -> LazyState {
        let nothing = manifest::Contents { size: 0, origin: Vec::new(), extents: Vec::new() };
        LazyState { broken: Some(reason), ..LazyState::new(nothing, 0) }
    }

    fn extent(&self, index: u64) -> Option<&MissingExtent> {
        let at = self.extents.binary_search_by_key(&index, |extent| extent.index).ok()?;
        Some(&self.extents[at])
    }

    /// Whether a slot that is zero would be absent.
    pub(crate) fn lists(&self, index: u64, slot: usize) -> bool {
        self.broken.is_some() || self.extent(index).is_some_and(|extent| extent.slots.get(slot))
    }

    /// Whether any slot of the extent may be absent.
    pub(crate) fn lists_any(&self, index: u64) -> bool {
        self.broken.is_some() || self.extent(index).is_some()
    }

    /// Clusters of a run of zero slots that are absent.
    pub(crate) fn absent_in(&self, first: u64, count: usize, absent: &mut Vec<u64>) {
        if self.broken.is_some() {
            return absent.extend(first..first + count as u64);
        }
        let Some(extent) = self.extent(first / EXTENT_CLUSTERS as u64) else { return };
        let slot = (first % EXTENT_CLUSTERS as u64) as usize;
        let listed = (0..count).filter(|step| extent.slots.get(slot + step));
        absent.extend(listed.map(|step| first + step as u64));
    }
}

impl State {
    /// Slots of a listed extent that are absent now.
    fn absent_slots(&self, record: &ImageRecord, missing: &MissingExtent) -> Bitmap {
        let mut absent = missing.slots.clone();
        if let Some(id) = self.extent_at(record, missing.index) {
            for (slot, length, target) in self.extents[&id].extent.runs() {
                if target != Slot::Zero {
                    (slot..slot + length).for_each(|slot| absent.set(slot, false));
                }
            }
        }
        absent
    }

    /// Refuses what would take absent clusters for zeros.
    pub(crate) fn check_not_lazy(&self, id: ImageId, what: &str) -> Result<()> {
        let image = self.image(id)?;
        if image.lazy.is_none() || blockyard_io::broken("I16-tell-absent") {
            return Ok(());
        }
        let name = &image.record.name;
        Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{name} is not all here yet and cannot be {what}: wait until it is filled (`blockyard image info {name}` shows how far it is)"
            ),
        ))
    }
}
