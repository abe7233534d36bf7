//! Memory of buffers, used again and again. Getting fresh memory from the system for each large
//! request costs more than the request: every page of it faults and is zeroed.
//!
//! Each thread keeps what it let go, by size, up to a bound; beyond it, sizes that were asked for longest ago
//! make room for those asked for since. What was taken on one thread and let go on another stays with the
//! other. Contents are not cleared: see [`BufferMut::to_be_filled`].
//! Large memory is asked for in huge pages: the kernel then pins one page for a direct read of 1 MiB
//! instead of 256. Middle sizes are cut from such pages ([`slabs`]).
//!
//! [`BufferMut::to_be_filled`]: super::BufferMut::to_be_filled

mod slabs;

use memmap2::{Advice, MmapMut};
use slabs::Piece;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// The smallest size that is kept; sizes are this times a power of two.
const SIZE_MIN: usize = 16 << 10;
const CLASSES: usize = 9;
/// The largest size that is kept.
const SIZE_MAX: usize = SIZE_MIN << (CLASSES - 1);
/// From this size on memory is mapped for itself, in huge pages where the system has some.
const HUGE_MIN: usize = 2 << 20;
/// What one thread keeps at most.
const KEPT_BYTES_MAX: usize = 16 << 20;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::NOTHING) };
}

struct Kept {
    classes: [Class; CLASSES],
    bytes: usize,
    /// Counts what was asked for.
    clock: u64,
}

/// Memory of one size.
struct Class {
    free: Vec<Bytes>,
    /// When it was last asked for.
    asked: u64,
}

impl Kept {
    const NOTHING: Kept = Kept {
        classes: [const { Class { free: Vec::new(), asked: 0 } }; CLASSES],
        bytes: 0,
        clock: 0,
    };

    fn take(&mut self, class: usize) -> Option<Bytes> {
        self.clock += 1;
        self.classes[class].asked = self.clock;
        let bytes = self.classes[class].free.pop()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }

    /// Keeps memory of a class, if there is room or a class asked for longer ago gives some.
    fn keep(&mut self, class: usize, bytes: Bytes) {
        while self.bytes + bytes.len() > KEPT_BYTES_MAX {
            let asked = self.classes[class].asked;
            let older = self.classes.iter_mut().filter(|other| other.asked < asked);
            let oldest =
                older.filter(|other| !other.free.is_empty()).min_by_key(|other| other.asked);
            match oldest.and_then(|oldest| oldest.free.pop()) {
                Some(dropped) => self.bytes -= dropped.len(),
                None => return,
            }
        }
        self.bytes += bytes.len();
        self.classes[class].free.push(bytes);
    }
}

enum Bytes {
    Heap(Vec<u8>),
    Mapped(MmapMut),
    Cut(Piece),
}

impl Bytes {
    fn fresh(size: usize) -> Bytes {
        if size >= HUGE_MIN
            && let Ok(mapped) = MmapMut::map_anon(size)
        {
            // Without huge pages it is memory like any other.
            let _ = mapped.advise(Advice::HugePage);
            return Bytes::Mapped(mapped);
        }
        Bytes::Heap(vec![0; size])
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Heap(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes,
            Bytes::Cut(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Bytes::Heap(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes,
            Bytes::Cut(bytes) => bytes,
        }
    }
}

/// Some bytes of memory, given back to the thread that lets go of it.
pub(super) struct Memory(Bytes);

/// The class of a size, if sizes like it are kept.
fn class_of(size: usize) -> Option<usize> {
    let size = size.max(SIZE_MIN).next_power_of_two();
    (size <= SIZE_MAX).then(|| (size / SIZE_MIN).trailing_zeros() as usize)
}

impl Memory {
    /// At least `size` bytes, whatever they held before.
    pub(super) fn take(size: usize) -> Memory {
        if let Some(piece) = slabs::take(size) {
            return Memory(Bytes::Cut(piece));
        }
        let Some(class) = class_of(size) else { return Memory(Bytes::fresh(size)) };
        let kept = KEPT.with_borrow_mut(|kept| kept.take(class));
        Memory(kept.unwrap_or_else(|| Bytes::fresh(SIZE_MIN << class)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let bytes = std::mem::replace(&mut self.0, Bytes::Heap(Vec::new()));
        let Some(class) = class_of(bytes.len()).filter(|class| SIZE_MIN << class == bytes.len())
        else {
            return;
        };
        // A thread that is ending keeps nothing any more.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().keep(class, bytes));
    }
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, KEPT_BYTES_MAX, Memory, SIZE_MAX, SIZE_MIN, class_of};

    #[test]
    fn memory_let_go_serves_the_next_of_its_size() {
        let memory = Memory::take(5000);
        let place = memory.as_ptr();
        drop(memory);
        assert_ne!(Memory::take(SIZE_MIN + 1).as_ptr(), place);
        assert_eq!(Memory::take(SIZE_MIN).as_ptr(), place);
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_bound() {
        let many: Vec<Memory> = (0..40).map(|_| Memory::take(1 << 20)).collect();
        drop(many);
        KEPT.with_borrow(|kept| {
            let free = kept.classes.iter().flat_map(|class| &class.free);
            let bytes: usize = free.map(|bytes| bytes.len()).sum();
            assert_eq!(bytes, kept.bytes);
            assert_eq!(bytes, KEPT_BYTES_MAX);
        });
    }

    /// Else a thread that once had many large requests in flight would get fresh memory, whose pages fault,
    /// for each small one ever after.
    #[test]
    fn sizes_asked_for_now_displace_those_asked_for_before() {
        let large: Vec<Memory> = (0..8).map(|_| Memory::take(2 << 20)).collect();
        drop(large);
        let small = Memory::take(5000);
        let place = small.as_ptr();
        drop(small);
        assert_eq!(Memory::take(5000).as_ptr(), place);
        let late = Memory::take(1 << 20);
        let small: Vec<Memory> = (0..KEPT_BYTES_MAX / SIZE_MIN).map(|_| Memory::take(1)).collect();
        drop(small);
        drop(late);
        KEPT.with_borrow(|kept| assert_eq!(kept.classes[0].free.len(), KEPT_BYTES_MAX / SIZE_MIN));
    }

    #[test]
    fn every_size_has_room_and_huge_ones_are_not_kept() {
        for size in [0, 1, SIZE_MIN, SIZE_MIN + 1, SIZE_MAX, SIZE_MAX + 1, 40 << 20] {
            assert!(Memory::take(size).len() >= size);
        }
        assert_eq!(class_of(SIZE_MAX + 1), None);
        assert_eq!(class_of(SIZE_MAX), Some(super::CLASSES - 1));
    }
}
