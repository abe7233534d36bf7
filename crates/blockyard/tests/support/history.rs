//! What an image may hold after a power cut, by when each change began and each flush was acknowledged
//! on the timeline of the disks below: every flushed byte, and of what came later, old or new.

use super::model::{Tag, UNIT, unit_content};
use std::collections::HashMap;
use std::ops::Range;

#[derive(Clone)]
enum Entry {
    /// Acknowledged before the next flush was sent, or in flight when all ended.
    Change { bytes: Range<u64>, tag: Tag, begun: usize, durable: Option<usize>, failed: bool },
    /// Acknowledged then; covers all changes before.
    Flushed(usize),
}

/// Changes in their order; those that are in flight together do not overlap.
#[derive(Clone)]
pub(crate) struct History {
    image: u64,
    pub(crate) size: u64,
    entries: Vec<Entry>,
}

impl History {
    pub(crate) fn new(image: u64, size: u64) -> History {
        History { image, size, entries: Vec::new() }
    }

    /// A change is about to be sent; returns its number and its content. Tag 0 is zeros.
    pub(crate) fn begin(
        &mut self,
        bytes: &Range<u64>,
        zeros: bool,
        now: usize,
    ) -> (usize, Vec<u8>) {
        let number = self.entries.len();
        let tag = if zeros { 0 } else { number as Tag + 1 };
        self.entries.push(Entry::Change {
            bytes: bytes.clone(),
            tag,
            begun: now,
            durable: None,
            failed: false,
        });
        let content = units(bytes).flat_map(|unit| unit_content(self.image, unit, tag)).collect();
        (number, if zeros { Vec::new() } else { content })
    }

    /// A change with FUA was acknowledged.
    pub(crate) fn is_durable(&mut self, change: usize, now: usize) {
        if let Entry::Change { durable, .. } = &mut self.entries[change] {
            *durable = Some(now);
        }
    }

    /// A change was refused: it may have happened all the same, or in part.
    pub(crate) fn has_failed(&mut self, change: usize) {
        if let Entry::Change { failed, .. } = &mut self.entries[change] {
            *failed = true;
        }
    }

    pub(crate) fn flushed(&mut self, now: usize) {
        self.entries.push(Entry::Flushed(now));
    }

    pub(crate) fn changes(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Change { .. })).count()
    }

    /// What may be found when the power was cut before event `cut`.
    pub(crate) fn at(&self, cut: usize) -> Expected {
        let covered = self
            .entries
            .iter()
            .rposition(|entry| matches!(entry, Entry::Flushed(at) if *at <= cut));
        let mut expected = Expected {
            image: self.image,
            durable: vec![0; units(&(0..self.size)).len()],
            later: HashMap::new(),
        };
        for (at, entry) in self.entries.iter().enumerate() {
            let Entry::Change { bytes, tag, begun, durable, failed } = entry else { continue };
            let is_durable = covered.is_some_and(|covered| at < covered)
                || durable.is_some_and(|durable| durable <= cut);
            if *begun <= cut || is_durable {
                expected.change(bytes, *tag, is_durable && !failed);
            }
        }
        expected
    }
}

/// The numbers of images in tests: no flipped bit makes one of the other.
const IMAGES: [u64; 2] = [1, 2];

/// What each unit may hold.
pub(crate) struct Expected {
    image: u64,
    durable: Vec<Tag>,
    /// Changes after the durable one.
    later: HashMap<usize, Vec<Tag>>,
}

impl Expected {
    fn change(&mut self, bytes: &Range<u64>, tag: Tag, is_durable: bool) {
        for unit in units(bytes) {
            if is_durable {
                self.durable[unit] = tag;
                self.later.remove(&unit);
            } else {
                self.later.entry(unit).or_default().push(tag);
            }
        }
    }

    /// Whether any unit in these bytes names another image.
    pub(crate) fn is_of_another_image(&self, found: &[u8]) -> bool {
        found.chunks(UNIT as usize).any(|unit| {
            let image = u64::from_le_bytes(unit[8..16].try_into().unwrap());
            // A flipped bit names an image that never was.
            image != self.image && IMAGES.contains(&image)
        })
    }

    /// The first unit that holds what it may not.
    pub(crate) fn compare(&self, bytes: &Range<u64>, found: &[u8]) -> Result<(), String> {
        for (unit, found) in units(bytes).zip(found.chunks(UNIT as usize)) {
            let later = self.later.get(&unit).map_or(&[][..], Vec::as_slice);
            let mut allowed = later.iter().chain([&self.durable[unit]]);
            if !allowed.any(|tag| unit_content(self.image, unit, *tag) == found) {
                let number = |at: usize| u32::from_le_bytes(found[at..at + 4].try_into().unwrap());
                let (tag, of, image) = (number(0), number(4), number(8));
                return Err(format!(
                    "image {} at byte {}: flushed {}, later {later:?}, found tag {tag} of unit {of} \
                     of image {image}",
                    self.image,
                    unit as u64 * UNIT,
                    self.durable[unit],
                ));
            }
        }
        Ok(())
    }
}

fn units(bytes: &Range<u64>) -> Range<usize> {
    (bytes.start / UNIT) as usize..(bytes.end / UNIT) as usize
}
