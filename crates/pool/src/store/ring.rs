//! Where in the log the next batch may go. Segments are used in turn. Those from the tail (where
//! the durable checkpoint's replay starts) to the head are live and never reused.
//!
//! There is always room for a manifest, or a full log could never be emptied:
//! - a manifest takes at most a quarter of a segment;
//! - changes leave one whole segment free; marks leave that or half of the head's segment;
//! - so a manifest finds the free segment. It may move the tail nowhere (its checkpoint began
//!   before the log filled up); then half of its own segment is left for the next one, and that
//!   one, begun with the head there, frees all other segments.

use super::{BLOCK_BYTES, StoreOptions};

/// A place in the log; `within` may equal the segment's length when the segment is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) within: u64,
}

impl Position {
    pub(super) const START: Position = Position { segment: 0, within: 0 };

    /// Byte offset in the log file.
    pub(super) fn offset(self, options: &StoreOptions) -> u64 {
        BLOCK_BYTES as u64 + u64::from(self.segment) * options.segment_bytes + self.within
    }

    /// The start of the segment after this one.
    pub(super) fn next_segment(self, options: &StoreOptions) -> Position {
        Position { segment: (self.segment + 1) % options.segments, within: 0 }
    }

    pub(super) fn after(self, bytes: u64) -> Position {
        Position { segment: self.segment, within: self.within + bytes }
    }
}

/// Who asks for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Changes,
    /// An epoch record or an empty batch: one block.
    Mark,
    Manifest,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) options: StoreOptions,
    /// Where the next batch goes, if it fits there.
    pub(super) head: Position,
    /// The first live segment.
    pub(super) tail: u32,
}

impl Ring {
    /// Where a batch of `bytes` goes, or `None` until a checkpoint frees segments.
    pub(super) fn place(&self, class: Class, bytes: u64) -> Option<Position> {
        let segment_bytes = self.options.segment_bytes;
        let mut free = self.free_segments();
        let mut position = self.head;
        if position.within + bytes > segment_bytes {
            position = position.next_segment(&self.options);
            free = free.checked_sub(1)?;
        }
        let left = segment_bytes.checked_sub(position.within + bytes)?;
        let allowed = match class {
            Class::Changes => free >= 1,
            Class::Mark => free >= 1 || left >= segment_bytes / 2,
            Class::Manifest => true,
        };
        allowed.then_some(position)
    }

    /// Bytes from the start of the tail segment to the head.
    pub(super) fn live_bytes(&self) -> u64 {
        u64::from(self.live_segments() - 1) * self.options.segment_bytes + self.head.within
    }

    fn live_segments(&self) -> u32 {
        (self.head.segment + self.options.segments - self.tail) % self.options.segments + 1
    }

    fn free_segments(&self) -> u32 {
        self.options.segments - self.live_segments()
    }
}

/// The largest batch of changes, header included.
pub(super) fn changes_bytes_max(options: &StoreOptions) -> usize {
    (options.segment_bytes / 2) as usize / BLOCK_BYTES * BLOCK_BYTES
}

/// The largest manifest, header included.
pub(super) fn manifest_bytes_max(options: &StoreOptions) -> usize {
    (options.segment_bytes / 4) as usize / BLOCK_BYTES * BLOCK_BYTES
}

#[cfg(test)]
mod tests;
