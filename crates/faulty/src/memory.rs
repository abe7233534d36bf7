//! The bytes of a disk: blocks of 4 KiB that were written. All others are zero and take no memory, and
//! copies share what they have in common.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const BLOCK: usize = 4096;

type Block = [u8; BLOCK];

#[derive(Clone, Default)]
pub struct Memory {
    blocks: BTreeMap<u64, Arc<Block>>,
}

impl Memory {
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        for_each_block(offset, bytes.len(), |number, within, at| {
            let part = &mut bytes[at..at + within.len()];
            match self.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[within]),
                None => part.fill(0),
            }
        });
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_each_block(offset, bytes.len(), |number, within, at| {
            let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK]));
            let length = within.len();
            Arc::make_mut(block)[within].copy_from_slice(&bytes[at..at + length]);
        });
    }

    pub fn zero(&mut self, offset: u64, length: u64) {
        for_each_block(offset, length as usize, |number, within, _| {
            if within.len() == BLOCK {
                self.blocks.remove(&number);
            } else if let Some(block) = self.blocks.get_mut(&number) {
                Arc::make_mut(block)[within].fill(0);
            }
        });
    }

    /// Where a block that starts with `bytes` lies.
    pub fn find(&self, bytes: &[u8]) -> Option<u64> {
        let found = self.blocks.iter().find(|(_, block)| block.starts_with(bytes));
        found.map(|(number, _)| number * BLOCK as u64)
    }

    /// A new sparse file of `size` bytes that holds this.
    pub fn save(&self, path: &Path, size: u64) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(size)?;
        let written = self.blocks.iter().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        for (number, block) in written {
            file.write_all_at(&block[..], number * BLOCK as u64)?;
        }
        Ok(())
    }
}

/// Calls with each block's number, the range within it, and where that is in the whole.
fn for_each_block(
    offset: u64,
    length: usize,
    mut call: impl FnMut(u64, std::ops::Range<usize>, usize),
) {
    let mut at = 0;
    while at < length {
        let position = offset + at as u64;
        let from = (position % BLOCK as u64) as usize;
        let to = (from + length - at).min(BLOCK);
        call(position / BLOCK as u64, from..to, at);
        at += to - from;
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn bytes_are_kept_across_blocks_and_copies_part_when_written() {
        let mut memory = Memory::default();
        memory.write(4000, &[7; 9000]);
        let copy = memory.clone();
        memory.zero(4096, 4096);
        memory.write(512, &[1; 512]);
        let read = |memory: &Memory, at| {
            let mut byte = [9];
            memory.read(at, &mut byte);
            byte[0]
        };
        let places = [512, 3999, 4000, 4096, 8191, 8192, 12999, 13000];
        assert_eq!(places.map(|at| read(&memory, at)), [1, 0, 7, 0, 0, 7, 7, 0]);
        assert_eq!(places.map(|at| read(&copy, at)), [0, 0, 7, 7, 7, 7, 7, 0]);
    }
}
