//! What an image must hold, in units of 128 bytes: the tag of the last acknowledged change of each,
//! and of the one in flight, if there is one. Requests never overlap in flight (their order would be
//! unknown to the client too), but may meet in one cluster or one sector.

use std::ops::Range;

/// Bytes with one tag. Less than a sector, so that requests start and end anywhere in one.
pub(crate) const UNIT: u64 = 128;

/// Which change wrote a unit; 0 is zeros.
pub(crate) type Tag = u32;

#[derive(Clone)]
pub(crate) struct Model {
    /// Tells images apart: no image may show another's data.
    image: u64,
    acknowledged: Vec<Tag>,
    in_flight: Vec<Option<Tag>>,
}

impl Model {
    pub(crate) fn new(image: u64, size: u64) -> Model {
        let units = (size / UNIT) as usize;
        Model { image, acknowledged: vec![0; units], in_flight: vec![None; units] }
    }

    pub(crate) fn size(&self) -> u64 {
        self.acknowledged.len() as u64 * UNIT
    }

    /// Notes that a change begins; false if another one there is in flight.
    pub(crate) fn begin(&mut self, bytes: &Range<u64>, tag: Tag) -> bool {
        let units = &mut self.in_flight[units(bytes)];
        let free = units.iter().all(Option::is_none);
        if free {
            units.fill(Some(tag));
        }
        free
    }

    /// Notes that a read begins, which changes nothing but must not meet a change.
    pub(crate) fn begin_read(&mut self, bytes: &Range<u64>) -> bool {
        let free = self.in_flight[units(bytes)].iter().all(Option::is_none);
        for unit in units(bytes).filter(|_| free) {
            self.in_flight[unit] = Some(self.acknowledged[unit]);
        }
        free
    }

    /// Notes that what was in flight is acknowledged.
    pub(crate) fn acknowledge(&mut self, bytes: &Range<u64>) {
        for unit in units(bytes) {
            let tag = self.in_flight[unit].take();
            self.acknowledged[unit] = tag.expect("a reply to a request that was not sent");
        }
    }

    /// What a write of `tag` sends.
    pub(crate) fn content(&self, bytes: &Range<u64>, tag: Tag) -> Vec<u8> {
        units(bytes).flat_map(|unit| unit_content(self.image, unit, tag)).collect()
    }

    /// Compares what was read with what was acknowledged. A unit in flight (or refused, which may have
    /// happened in part) may be old or new; from now on it is what was found.
    pub(crate) fn settle(&mut self, bytes: &Range<u64>, found: &[u8]) -> Result<(), String> {
        for (unit, found) in units(bytes).zip(found.chunks(UNIT as usize)) {
            let old = self.acknowledged[unit];
            let new = self.in_flight[unit].take();
            let matches = |tag: &Tag| unit_content(self.image, unit, *tag) == found;
            match [Some(old), new].into_iter().flatten().find(matches) {
                Some(tag) => self.acknowledged[unit] = tag,
                None => return Err(self.complaint(unit, old, new, found)),
            }
        }
        Ok(())
    }

    fn complaint(&self, unit: usize, old: Tag, new: Option<Tag>, found: &[u8]) -> String {
        let number = |at: usize| u32::from_le_bytes(found[at..at + 4].try_into().unwrap());
        format!(
            "image {} at byte {} (cluster {}): acknowledged {old}, in flight {new:?}, found tag {} of \
             unit {} of image {}",
            self.image,
            unit as u64 * UNIT,
            unit as u64 * UNIT / 4096,
            number(0),
            number(4),
            number(8),
        )
    }
}

fn units(bytes: &Range<u64>) -> Range<usize> {
    assert!(bytes.start.is_multiple_of(UNIT) && bytes.end.is_multiple_of(UNIT));
    (bytes.start / UNIT) as usize..(bytes.end / UNIT) as usize
}

/// Names its tag, place and image, again and again.
pub(crate) fn unit_content(image: u64, unit: usize, tag: Tag) -> [u8; UNIT as usize] {
    let mut content = [0; UNIT as usize];
    if tag != 0 {
        for part in content.chunks_exact_mut(16) {
            part[..4].copy_from_slice(&tag.to_le_bytes());
            part[4..8].copy_from_slice(&(unit as u32).to_le_bytes());
            part[8..].copy_from_slice(&image.to_le_bytes());
        }
    }
    content
}
