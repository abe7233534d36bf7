//! What the workload writes: every 512-byte sector says which write put it there, and where.
//!
//! So a sector that turns up in a wrong place, or after it should be gone, is recognised, and the
//! message can name the write it came from.

use std::fmt;

/// Bytes in a sector, the unit of tearing and of the model.
pub(crate) const SECTOR: usize = 512;
const MAGIC: u64 = 0xB10C_4A2D_51B0_0000;

/// Names one write of one image; zero stands for zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(u64);

impl Tag {
    pub(crate) const ZEROS: Tag = Tag(0);

    /// The tag of the `sequence`-th request of a run, made to the image with this serial number.
    pub(crate) fn new(sequence: u64, image: u64) -> Tag {
        Tag((sequence << 16) | (image & 0xFFFF))
    }

    /// Fills whole sectors, the first of which is sector `first` of its image.
    pub(crate) fn fill(self, bytes: &mut [u8], first: u64) {
        for (sector, bytes) in (first..).zip(bytes.chunks_exact_mut(SECTOR)) {
            bytes.copy_from_slice(&self.sector(sector));
        }
    }

    /// One sector's bytes.
    pub(crate) fn sector(self, sector: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        if self != Tag::ZEROS {
            for part in bytes.chunks_exact_mut(16) {
                part[..8].copy_from_slice(&self.0.to_le_bytes());
                part[8..].copy_from_slice(&(MAGIC ^ sector).to_le_bytes());
            }
        }
        bytes
    }

    /// The tag of a sector's bytes, and the sector of the image they were written to.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Tag, u64)> {
        let (first, rest) = bytes.split_at_checked(16)?;
        if rest != &bytes[..bytes.len() - 16] {
            return None;
        }
        let tag = Tag(u64::from_le_bytes(first[..8].try_into().ok()?));
        let place = u64::from_le_bytes(first[8..].try_into().ok()?);
        match tag {
            Tag::ZEROS => (place == 0).then_some((tag, 0)),
            tag => Some((tag, place ^ MAGIC)),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Tag::ZEROS => write!(f, "zeros"),
            Tag(tag) => write!(f, "request {} to image #{}", tag >> 16, tag & 0xFFFF),
        }
    }
}

/// Says of a sector's bytes what they are, for messages.
pub(crate) fn describe(bytes: &[u8]) -> String {
    match Tag::parse(bytes) {
        Some((tag, place)) if place < 1 << 40 => format!("{tag} (of sector {place})"),
        _ => format!("bytes no whole-sector request wrote, starting {:02x?}", &bytes[..16]),
    }
}

#[cfg(test)]
mod tests {
    use super::{SECTOR, Tag};

    #[test]
    fn a_sector_names_the_write_and_the_place_it_came_from() {
        let tag = Tag::new(7, 3);
        let mut bytes = [0; 3 * SECTOR];
        tag.fill(&mut bytes, 100);
        assert_eq!(Tag::parse(&bytes[SECTOR..2 * SECTOR]), Some((tag, 101)));
        assert_eq!(Tag::parse(&[0; SECTOR]), Some((Tag::ZEROS, 0)));
        bytes[SECTOR + 300] ^= 1;
        assert_eq!(Tag::parse(&bytes[SECTOR..2 * SECTOR]), None);
    }
}
