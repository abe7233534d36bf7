//! What an export with `--damaged` could not read, or does not match its hash: zeros stand in its place, and
//! it is told where.

use blockyard_block::CLUSTER_SIZE;
use std::sync::{Mutex, PoisonError};

/// Runs that are told one by one.
const RUNS_MAX: usize = 1000;

/// Bytes of the image, in whole clusters or to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnreadableRun {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Collected by the threads of a copy, in any order.
#[derive(Default)]
pub(super) struct Unreadable {
    runs: Mutex<Vec<UnreadableRun>>,
}

impl Unreadable {
    /// Reads cluster by cluster with `read`; zeros and a note where that is false.
    pub(super) fn read_around<E>(
        &self,
        offset: u64,
        buffer: &mut [u8],
        read: impl Fn(u64, &mut [u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut at = 0;
        while at < buffer.len() {
            let position = offset + at as u64;
            let to_end = CLUSTER_SIZE - (position % CLUSTER_SIZE as u64) as usize;
            let end = buffer.len().min(at + to_end);
            let part = &mut buffer[at..end];
            if !read(position, part)? {
                part.fill(0);
                self.note(UnreadableRun { offset: position, length: part.len() as u64 });
            }
            at = end;
        }
        Ok(())
    }

    fn note(&self, run: UnreadableRun) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        match runs.last_mut() {
            Some(last) if last.offset + last.length == run.offset => last.length += run.length,
            _ => runs.push(run),
        }
    }

    /// In the order of the image: how many bytes in all, and the first runs.
    pub(super) fn told(self) -> (u64, Vec<UnreadableRun>) {
        let mut runs = self.runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        runs.sort_by_key(|run| run.offset);
        let bytes = runs.iter().map(|run| run.length).sum();
        runs.truncate(RUNS_MAX);
        (bytes, runs)
    }
}

#[cfg(test)]
mod tests {
    use super::{Unreadable, UnreadableRun};

    #[test]
    fn what_cannot_be_read_is_zero_and_told_and_the_rest_is_there() {
        let unreadable = Unreadable::default();
        let bad = |at: u64| (8192..16384).contains(&at);
        let read = |at: u64, part: &mut [u8]| {
            part.fill(7);
            Ok::<bool, ()>(!bad(at))
        };
        let mut buffer = vec![1; 20000];
        unreadable.read_around(512, &mut buffer, read).unwrap();
        let zeros = 8192 - 512..16384 - 512;
        assert!(
            buffer
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == if zeros.contains(&at) { 0 } else { 7 })
        );
        assert_eq!(unreadable.told(), (8192, vec![UnreadableRun { offset: 8192, length: 8192 }]));
    }
}
