//! Extent records: where each of the 1024 slots of 4 MiB of an image has its data.
//!
//! A slot at its place in the home takes one bit; all others are runs of references. A record says
//! nothing of counts or owners: those are derived from all records together (`alloc`).

use crate::bitmap::Bitmap;
use crate::counts::Counts;
use blockyard_block::{
    CLUSTERS_MAX, ClusterIndex, EXTENT_CLUSTERS, Error, ErrorKind, RegionIndex, Result,
};
use std::sync::Arc;

/// What one slot of an extent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Reads zero, takes no space.
    Zero,
    /// Reads zero, keeps this cluster.
    Reserved(ClusterIndex),
    /// Has its data here.
    Data(ClusterIndex),
}

impl Slot {
    /// The cluster the slot counts for, if any.
    pub(crate) fn cluster(self) -> Option<ClusterIndex> {
        match self {
            Slot::Zero => None,
            Slot::Reserved(cluster) | Slot::Data(cluster) => Some(cluster),
        }
    }

    /// The same kind of slot, `count` clusters further on.
    pub(crate) fn further(self, count: usize) -> Slot {
        match self {
            Slot::Zero => Slot::Zero,
            Slot::Reserved(cluster) => Slot::Reserved(cluster.offset_by(count as u64)),
            Slot::Data(cluster) => Slot::Data(cluster.offset_by(count as u64)),
        }
    }
}

/// A run of references in eight bytes: cluster (40 bits), slot (10), length - 1 (10), reserved (1).
#[derive(Clone, Copy, PartialEq, Eq)]
struct RefRun(u64);

const _: () = assert!(size_of::<RefRun>() == 8);

impl RefRun {
    fn new(slot: usize, length: usize, target: Slot) -> RefRun {
        let reserved = u64::from(matches!(target, Slot::Reserved(_)));
        let cluster = target.cluster().map_or(0, |cluster| cluster.0);
        RefRun(cluster | (slot as u64) << 40 | (length as u64 - 1) << 50 | reserved << 60)
    }

    fn slot(self) -> usize {
        (self.0 >> 40 & 0x3ff) as usize
    }

    fn length(self) -> usize {
        (self.0 >> 50 & 0x3ff) as usize + 1
    }

    fn end(self) -> usize {
        self.slot() + self.length()
    }

    fn target(self) -> Slot {
        let cluster = ClusterIndex(self.0 & (CLUSTERS_MAX - 1));
        if self.0 >> 60 & 1 == 1 { Slot::Reserved(cluster) } else { Slot::Data(cluster) }
    }
}

/// Which slots lie at their place in the home. The bitmap is also that of the home's counts until one
/// of the two changes ([`Extent::home_counts`]).
#[derive(Clone, PartialEq, Eq)]
enum HomeBits {
    None,
    All,
    Some(Arc<Bitmap>),
}

impl HomeBits {
    fn get(&self, slot: usize) -> bool {
        match self {
            HomeBits::None => false,
            HomeBits::All => true,
            HomeBits::Some(bits) => bits.get(slot),
        }
    }

    fn count(&self) -> usize {
        match self {
            HomeBits::None => 0,
            HomeBits::All => EXTENT_CLUSTERS,
            HomeBits::Some(bits) => bits.count(),
        }
    }

    fn run(&self, slot: usize, length: usize) -> usize {
        match self {
            HomeBits::None | HomeBits::All => length,
            HomeBits::Some(bits) => bits.run(slot, length),
        }
    }

    fn set(&mut self, slot: usize, value: bool) {
        if self.get(slot) == value {
            return;
        }
        let mut bits = match std::mem::replace(self, HomeBits::None) {
            HomeBits::None => Arc::new(Bitmap::EMPTY),
            HomeBits::All => Arc::new(Bitmap::FULL),
            HomeBits::Some(bits) => bits,
        };
        Arc::make_mut(&mut bits).set(slot, value);
        *self = match bits.count() {
            0 => HomeBits::None,
            EXTENT_CLUSTERS => HomeBits::All,
            _ => HomeBits::Some(bits),
        };
    }
}

/// The record of one extent.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) home: Option<RegionIndex>,
    bits: HomeBits,
    /// Slots that are reserved at their place in the home; never set together with `bits`.
    reserved: Option<Box<Bitmap>>,
    /// Sorted by slot, not overlapping, never at the slot's own place in the home.
    refs: Vec<RefRun>,
}

impl Extent {
    pub(crate) fn empty(home: Option<RegionIndex>) -> Extent {
        Extent { home, bits: HomeBits::None, reserved: None, refs: Vec::new() }
    }

    /// A record with data at these places of its home.
    #[cfg(any(test, feature = "synthetic"))]
    pub(crate) fn at_home(home: RegionIndex, bits: Bitmap) -> Extent {
        let bits = match bits.count() {
            0 => HomeBits::None,
            EXTENT_CLUSTERS => HomeBits::All,
            _ => HomeBits::Some(Arc::new(bits)),
        };
        Extent { home: Some(home), bits, reserved: None, refs: Vec::new() }
    }

    /// A record of the same content with another home: every slot becomes a reference.
    pub(crate) fn copy_with_home(&self, home: Option<RegionIndex>) -> Extent {
        let mut copy = Extent::empty(home);
        for (slot, length, target) in self.runs() {
            copy.refs.push(RefRun::new(slot, length, target));
        }
        copy
    }

    pub(crate) fn slot(&self, slot: usize) -> Slot {
        self.run(slot, 1).0
    }

    /// The slot at `slot` and how many from it on, at most `length`, continue it: consecutive
    /// clusters of one kind.
    pub(crate) fn run(&self, slot: usize, length: usize) -> (Slot, usize) {
        let length = length.min(EXTENT_CLUSTERS - slot);
        if let Some(home) = self.home {
            if self.bits.get(slot) {
                return (Slot::Data(home.cluster(slot)), self.bits.run(slot, length));
            }
            if let Some(reserved) = &self.reserved
                && reserved.get(slot)
            {
                return (Slot::Reserved(home.cluster(slot)), reserved.run(slot, length));
            }
        }
        let next = self.refs.partition_point(|run| run.end() <= slot);
        let mut free = self.bits.run(slot, length);
        if let Some(reserved) = &self.reserved {
            free = free.min(reserved.run(slot, length));
        }
        match self.refs.get(next) {
            Some(run) if run.slot() <= slot => {
                let target = run.target().further(slot - run.slot());
                (target, (run.end() - slot).min(length))
            }
            Some(run) => (Slot::Zero, free.min(run.slot() - slot)),
            None => (Slot::Zero, free),
        }
    }

    /// All runs that count for clusters: (slot, length, target), in slot order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, usize, Slot)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < EXTENT_CLUSTERS {
                let (target, length) = self.run(at, EXTENT_CLUSTERS - at);
                let slot = at;
                at += length;
                if target != Slot::Zero {
                    return Some((slot, length, target));
                }
            }
            None
        })
    }

    /// Slots that are reserved at their place in the home.
    pub(crate) fn reserved_at_home(&self) -> impl Iterator<Item = usize> + '_ {
        self.reserved.iter().flat_map(|bits| bits.ones())
    }

    /// How many slots count for a cluster.
    pub(crate) fn cluster_count(&self) -> usize {
        let reserved = self.reserved.as_ref().map_or(0, |bits| bits.count());
        self.bits.count() + reserved + self.refs.iter().map(|run| run.length()).sum::<usize>()
    }

    /// What this extent counts for in its home, leaving out references.
    pub(crate) fn home_counts(&self) -> Counts {
        let Some(reserved) = &self.reserved else {
            return match &self.bits {
                HomeBits::None => Counts::Zero,
                HomeBits::All => Counts::One,
                HomeBits::Some(bits) => Counts::Bits(Arc::clone(bits)),
            };
        };
        let mut counts = Counts::Bits(Arc::new(reserved.as_ref().clone()));
        for slot in (0..EXTENT_CLUSTERS).filter(|slot| self.bits.get(*slot)) {
            counts.set(slot, 1);
        }
        counts.narrow();
        counts
    }

    /// The runs that count for clusters away from their place in the home: (slot, length, target).
    pub(crate) fn references(&self) -> impl Iterator<Item = (usize, usize, Slot)> + '_ {
        self.refs.iter().map(|run| (run.slot(), run.length(), run.target()))
    }

    pub(crate) fn set(&mut self, slot: usize, target: Slot) {
        self.clear(slot);
        let own_place = self.home.map(|home| home.cluster(slot));
        match target {
            Slot::Zero => {}
            Slot::Data(cluster) if Some(cluster) == own_place => self.bits.set(slot, true),
            Slot::Reserved(cluster) if Some(cluster) == own_place => {
                self.reserved.get_or_insert_with(|| Box::new(Bitmap::EMPTY)).set(slot, true);
            }
            Slot::Data(_) | Slot::Reserved(_) => self.insert_reference(slot, target),
        }
    }

    fn clear(&mut self, slot: usize) {
        self.bits.set(slot, false);
        if let Some(reserved) = &mut self.reserved {
            reserved.set(slot, false);
            if reserved.is_empty() {
                self.reserved = None;
            }
        }
        let at = self.refs.partition_point(|run| run.end() <= slot);
        let Some(run) = self.refs.get(at).copied().filter(|run| run.slot() <= slot) else {
            return;
        };
        let before = slot - run.slot();
        let after = run.end() - slot - 1;
        let mut parts = Vec::with_capacity(2);
        if before > 0 {
            parts.push(RefRun::new(run.slot(), before, run.target()));
        }
        if after > 0 {
            parts.push(RefRun::new(slot + 1, after, run.target().further(before + 1)));
        }
        self.refs.splice(at..=at, parts);
    }

    fn insert_reference(&mut self, slot: usize, target: Slot) {
        let at = self.refs.partition_point(|run| run.end() <= slot);
        let mut merged = RefRun::new(slot, 1, target);
        let mut replaced = at..at;
        if let Some(next) = self.refs.get(at)
            && next.slot() == slot + 1
            && next.target() == target.further(1)
        {
            merged = RefRun::new(slot, 1 + next.length(), target);
            replaced.end += 1;
        }
        if at > 0 {
            let previous = self.refs[at - 1];
            if previous.end() == slot && previous.target().further(previous.length()) == target {
                let length = previous.length() + merged.length();
                merged = RefRun::new(previous.slot(), length, previous.target());
                replaced.start -= 1;
            }
        }
        self.refs.splice(replaced, [merged]);
    }

    /// Bytes that [`Extent::encode`] will append.
    pub(crate) fn encoded_length(&self) -> usize {
        1 + 4
            + if matches!(self.bits, HomeBits::Some(_)) { Bitmap::BYTES } else { 0 }
            + if self.reserved.is_some() { Bitmap::BYTES } else { 0 }
            + 2
            + 8 * self.refs.len()
    }

    /// Flags, home, bitmaps, references: see docs/format.md.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        flags |= if self.home.is_some() { FLAG_HOME } else { 0 };
        flags |= match self.bits {
            HomeBits::None => 0,
            HomeBits::All => FLAG_ALL,
            HomeBits::Some(_) => FLAG_BITS,
        };
        flags |= if self.reserved.is_some() { FLAG_RESERVED } else { 0 };
        out.push(flags);
        out.extend_from_slice(&self.home.map_or(0, |home| home.0).to_le_bytes());
        if let HomeBits::Some(bits) = &self.bits {
            bits.encode(out);
        }
        if let Some(reserved) = &self.reserved {
            reserved.encode(out);
        }
        out.extend_from_slice(&(self.refs.len() as u16).to_le_bytes());
        for run in &self.refs {
            out.extend_from_slice(&run.0.to_le_bytes());
        }
    }

    /// The inverse of [`Extent::encode`]; anything else is `Corrupt`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Extent> {
        let mut reader = Reader { bytes };
        let flags = reader.take::<1>()?[0];
        let home = u32::from_le_bytes(reader.take()?);
        if flags & !(FLAG_HOME | FLAG_ALL | FLAG_BITS | FLAG_RESERVED) != 0 {
            return Err(corrupt("unknown flags"));
        }
        if flags & FLAG_HOME == 0 && (home != 0 || flags != 0) {
            return Err(corrupt("home bits without a home"));
        }
        if flags & FLAG_HOME != 0 && home == 0 {
            return Err(corrupt("the header region as home"));
        }
        let bits = match (flags & FLAG_ALL != 0, flags & FLAG_BITS != 0) {
            (false, false) => HomeBits::None,
            (true, false) => HomeBits::All,
            (false, true) => HomeBits::Some(Arc::new(Bitmap::decode(&reader.take()?))),
            (true, true) => return Err(corrupt("two kinds of home bits")),
        };
        let reserved = match flags & FLAG_RESERVED != 0 {
            true => Some(Box::new(Bitmap::decode(&reader.take()?))),
            false => None,
        };
        let run_count = u16::from_le_bytes(reader.take()?);
        let mut refs = Vec::with_capacity(usize::from(run_count).min(EXTENT_CLUSTERS));
        for _ in 0..run_count {
            refs.push(RefRun(u64::from_le_bytes(reader.take()?)));
        }
        if !reader.bytes.is_empty() {
            return Err(corrupt("bytes after the end"));
        }
        let home = (flags & FLAG_HOME != 0).then_some(RegionIndex(home));
        let extent = Extent { home, bits, reserved, refs };
        extent.validate()?;
        Ok(extent)
    }

    /// What `set` keeps true, checked for a record that came from outside.
    fn validate(&self) -> Result<()> {
        if let HomeBits::Some(bits) = &self.bits
            && (bits.is_empty() || *bits.as_ref() == Bitmap::FULL)
        {
            return Err(corrupt("home bits not in normal form"));
        }
        if let Some(reserved) = &self.reserved
            && (reserved.is_empty() || reserved.ones().any(|slot| self.bits.get(slot)))
        {
            return Err(corrupt("reserved bits overlap home bits"));
        }
        let mut end = 0;
        for run in &self.refs {
            let cluster = run.target().cluster().map_or(0, |cluster| cluster.0);
            let last = cluster + run.length() as u64 - 1;
            let fits = run.0 >> 61 == 0
                && run.slot() >= end
                && run.end() <= EXTENT_CLUSTERS
                && cluster >= EXTENT_CLUSTERS as u64
                && last < CLUSTERS_MAX;
            let overlaps = (run.slot()..run.end().min(EXTENT_CLUSTERS)).any(|slot| {
                self.bits.get(slot) || self.reserved.as_ref().is_some_and(|bits| bits.get(slot))
            });
            if !fits || overlaps {
                return Err(corrupt("a reference run out of place"));
            }
            end = run.end();
        }
        Ok(())
    }
}

const FLAG_HOME: u8 = 1;
const FLAG_ALL: u8 = 2;
const FLAG_BITS: u8 = 4;
const FLAG_RESERVED: u8 = 8;

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or_else(|| corrupt("cut short"))?;
        self.bytes = rest;
        Ok(*head)
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("extent record: {what}"))
}

#[cfg(test)]
mod tests;
