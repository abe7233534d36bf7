//! Page-aligned memory for I/O. A [`BufferMut`] has one owner; frozen into a [`Buffer`] it can be
//! shared and sliced but never changed again, so bytes that were hashed are the bytes written (I7).
//!
//! Alignment is had by over-allocation, which needs no unsafe code. Memory that is let go is kept by
//! its thread for the next buffer of that size ([`memory`]).

mod memory;

use crate::CLUSTER_SIZE;
use memory::Memory;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// Bytes with one owner, aligned so that byte `-phase` lies on a 4 KiB boundary.
pub struct BufferMut {
    memory: Memory,
    start: usize,
    length: usize,
}

impl BufferMut {
    /// `length` zero bytes, the first on a 4 KiB boundary.
    pub fn zeroed(length: usize) -> BufferMut {
        BufferMut::zeroed_at_phase(length, 0)
    }

    /// `length` zero bytes placed so that a guest offset equal to `phase` modulo 4096 has its
    /// cluster boundaries on 4 KiB boundaries of memory.
    pub fn zeroed_at_phase(length: usize, phase: usize) -> BufferMut {
        let mut buffer = BufferMut::to_be_filled_at_phase(length, phase);
        buffer.fill(0);
        buffer
    }

    /// `length` bytes of any content, the first on a 4 KiB boundary: for whoever fills all of them, or
    /// shows none. They may be what another buffer held before.
    pub fn to_be_filled(length: usize) -> BufferMut {
        BufferMut::to_be_filled_at_phase(length, 0)
    }

    /// As [`BufferMut::to_be_filled`], placed as [`BufferMut::zeroed_at_phase`] does.
    pub fn to_be_filled_at_phase(length: usize, phase: usize) -> BufferMut {
        let phase = phase % CLUSTER_SIZE;
        let memory = Memory::take(length + 2 * CLUSTER_SIZE);
        let start = memory.as_ptr().align_offset(CLUSTER_SIZE) + phase;
        BufferMut { memory, start, length }
    }

    /// An aligned copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> BufferMut {
        let mut buffer = BufferMut::to_be_filled(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Gives up the right to change the bytes.
    pub fn freeze(self) -> Buffer {
        Buffer { start: self.start, length: self.length, memory: Arc::new(self.memory) }
    }
}

impl Deref for BufferMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} bytes)", self.length)
    }
}

/// Shared, immutable bytes. Cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Buffer {
    memory: Arc<Memory>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// An aligned copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        BufferMut::copy_of(bytes).freeze()
    }

    /// A part of these bytes. Panics if `range` reaches outside, as slicing does.
    pub fn slice(&self, range: Range<usize>) -> Buffer {
        assert!(range.start <= range.end && range.end <= self.length, "slice within the buffer");
        Buffer {
            memory: Arc::clone(&self.memory),
            start: self.start + range.start,
            length: range.end - range.start,
        }
    }

    /// Takes the right to change the bytes back, for using the memory again. `None` while others
    /// hold the bytes, or a part of them.
    pub fn thaw(self) -> Option<BufferMut> {
        let Buffer { memory, start, length } = self;
        Arc::into_inner(memory).map(|memory| BufferMut { memory, start, length })
    }

    /// Whether the first byte lies on a 4 KiB boundary, as O_DIRECT wants it.
    pub fn is_aligned(&self) -> bool {
        self.as_ptr().align_offset(CLUSTER_SIZE) == 0
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, BufferMut};

    #[test]
    fn cluster_boundaries_of_the_guest_are_page_boundaries_of_memory() {
        let mut buffer = BufferMut::zeroed_at_phase(8192, 512);
        buffer[0] = 7;
        let buffer = buffer.freeze();
        assert!(!buffer.is_aligned());
        assert!(buffer.slice(3584..7680).is_aligned());
        assert_eq!(buffer[0], 7);
    }

    #[test]
    fn memory_is_used_again_only_when_nobody_else_holds_it() {
        let buffer = Buffer::copy_of(b"abcdef");
        let part = buffer.slice(0..2);
        assert!(buffer.thaw().is_none());
        assert_eq!(&*part.thaw().expect("the last holder"), b"ab");
    }

    #[test]
    fn a_slice_shares_the_bytes_it_names() {
        let buffer = Buffer::copy_of(b"abcdef");
        assert_eq!(&*buffer.slice(2..4), b"cd");
        assert_eq!(buffer.slice(6..6).len(), 0);
    }
}
