//! Memory of middle sizes, cut from huge pages. The kernel pins a piece of one with one step, and hands it to
//! the device as one segment, where other memory costs a step and a segment for each 4 KiB.
//!
//! Pieces are shared by all threads. The pages are never given back to the system; how many there are is
//! bounded, by size. Beyond the bound others are used.

use memmap2::{Advice, MmapMut};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A huge page.
const CHUNK: usize = 2 << 20;

/// Room for a payload of a power of two, an unaligned start and the rest of a cluster.
const fn piece_for(payload: usize) -> usize {
    payload + 2 * crate::CLUSTER_SIZE
}

static CLASSES: [Class; 4] = [
    Class::new(piece_for(64 << 10), 8),
    Class::new(piece_for(128 << 10), 8),
    Class::new(piece_for(256 << 10), 16),
    Class::new(piece_for(512 << 10), 16),
];

/// Pieces of one size.
struct Class {
    bytes: usize,
    chunks_max: usize,
    stock: Mutex<Stock>,
}

struct Stock {
    free: Vec<&'static mut [u8]>,
    chunks: usize,
}

impl Class {
    const fn new(bytes: usize, chunks_max: usize) -> Class {
        Class { bytes, chunks_max, stock: Mutex::new(Stock { free: Vec::new(), chunks: 0 }) }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Each holder changes the stock by whole pieces.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self) -> Option<Piece> {
        let mut stock = self.stock();
        if stock.free.is_empty() && stock.chunks < self.chunks_max {
            let mapped: &'static mut MmapMut = Box::leak(Box::new(MmapMut::map_anon(CHUNK).ok()?));
            // Without huge pages it is memory like any other.
            let _ = mapped.advise(Advice::HugePage);
            stock.chunks += 1;
            stock.free.extend(mapped.chunks_exact_mut(self.bytes));
        }
        let bytes = stock.free.pop()?;
        Some(Piece { bytes, class: self })
    }
}

/// Some bytes, put back when they are dropped.
pub(super) struct Piece {
    bytes: &'static mut [u8],
    class: &'static Class,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.class.stock().free.push(bytes);
    }
}

impl Deref for Piece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

/// At least `size` bytes, if that is a size of pieces and there is one.
pub(super) fn take(size: usize) -> Option<Piece> {
    if size <= CLASSES[0].bytes / 2 {
        return None;
    }
    CLASSES.iter().find(|class| size <= class.bytes)?.take()
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, CLASSES, piece_for, take};

    #[test]
    fn pieces_are_aligned_bounded_and_used_again() {
        let size = piece_for(512 << 10);
        let most = CLASSES[3].chunks_max * (CHUNK / size);
        let all: Vec<_> = std::iter::from_fn(|| take(size)).collect();
        assert_eq!(all.len(), most);
        assert!(all.iter().all(|piece| piece.as_ptr().align_offset(crate::CLUSTER_SIZE) == 0));
        let place = all[0].as_ptr();
        drop(all);
        let again: Vec<_> = std::iter::from_fn(|| take(size)).collect();
        assert_eq!(again.len(), most);
        assert!(again.iter().any(|piece| piece.as_ptr() == place));
    }

    #[test]
    fn only_middle_sizes_are_cut() {
        assert!(take(piece_for(4096)).is_none());
        assert!(take(piece_for(1 << 20)).is_none());
        assert_eq!(take(piece_for(100 << 10)).map(|piece| piece.len()), Some(piece_for(128 << 10)));
    }
}
