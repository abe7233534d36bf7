//! Moves the data of a source into a sink that reads zero everywhere, on a few threads.
//!
//! Each thread takes the next chunk from a plan under a lock, then reads and writes it outside; so
//! reading, hashing and writing of several chunks overlap. The first error ends all of them.

use super::progress::Progress;
use super::source::Source;
use blockyard_block::{Buffer, BufferMut, Result};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The largest piece moved at once: long enough for disks, and short enough to be in the
/// processor's cache still when it is hashed.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;

/// Where the data goes. Everything that is not written reads zero afterwards.
pub(super) trait Sink: Sync {
    fn write(&self, offset: u64, data: Buffer) -> Result<()>;
}

/// How a copy is cut into chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of the sink; the source may end less than a sector before.
    pub(super) size: u64,
    /// Chunks start at multiples of this, and end there or at the end of the disk. Divides
    /// `CHUNK_BYTES`.
    pub(super) granularity: u64,
    pub(super) threads: usize,
}

/// Returns when all was written to `sink`; making it durable is the caller's.
pub(super) fn copy(
    source: &dyn Source,
    sink: &dyn Sink,
    shape: Shape,
    progress: &Progress<'_>,
) -> Result<()> {
    progress.set_total(shape.size);
    let plan = Mutex::new(Plan { source, shape, position: 0, ended: false });
    let work = || {
        let mut memory = Memory::default();
        while let Some(chunk) = next_chunk(&plan, progress)? {
            let length = chunk.range.end - chunk.range.start;
            let moved = memory
                .move_chunk(source, sink, chunk.range)
                .and_then(|()| progress.add_data(length, chunk.counts));
            if moved.is_err() {
                lock(&plan).ended = true;
                return moved;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..shape.threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        threads.into_iter().fold(mine, |result, thread| {
            let theirs = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(theirs)
        })
    })
}

/// A piece of the disk to move.
struct Chunk {
    range: Range<u64>,
    /// Bytes of progress made when it is moved.
    counts: u64,
}

/// What is still to be moved.
struct Plan<'a> {
    source: &'a dyn Source,
    shape: Shape,
    position: u64,
    ended: bool,
}

fn lock<'a, 'b>(plan: &'a Mutex<Plan<'b>>) -> std::sync::MutexGuard<'a, Plan<'b>> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_chunk(plan: &Mutex<Plan<'_>>, progress: &Progress<'_>) -> Result<Option<Chunk>> {
    let mut plan = lock(plan);
    let next = plan.next(progress);
    plan.ended |= next.is_err();
    next
}

impl Plan<'_> {
    fn next(&mut self, progress: &Progress<'_>) -> Result<Option<Chunk>> {
        while !self.ended && self.position < self.source.size() {
            progress.check()?;
            let run = self.source.run_at(self.position)?;
            if run.zero {
                self.position += run.length;
                progress.add_zeros(run.length)?;
                continue;
            }
            // Zeros skipped within the chunk's first unit were counted already.
            let uncounted = self.position;
            let range = self.chunk_from(uncounted + run.length)?;
            self.position = range.end;
            return Ok(Some(Chunk { counts: range.end - uncounted, range }));
        }
        Ok(None)
    }

    /// The chunk around the position, where data lies up to `data_end` at least.
    fn chunk_from(&self, mut data_end: u64) -> Result<Range<u64>> {
        let unit = self.shape.granularity;
        let start = self.position - self.position % unit;
        let limit = self.shape.size.min((start - start % CHUNK_BYTES).saturating_add(CHUNK_BYTES));
        loop {
            let end = data_end.checked_next_multiple_of(unit).unwrap_or(limit).min(limit);
            if end == limit || end >= self.source.size() {
                return Ok(start..end);
            }
            let run = self.source.run_at(end)?;
            if run.zero {
                return Ok(start..end);
            }
            data_end = end + run.length;
        }
    }
}

/// One thread's buffer, used for chunk after chunk: fresh memory would have to be cleared, and would
/// not be in the processor's cache.
#[derive(Default)]
struct Memory {
    spare: Option<BufferMut>,
}

impl Memory {
    fn move_chunk(
        &mut self,
        source: &dyn Source,
        sink: &dyn Sink,
        chunk: Range<u64>,
    ) -> Result<()> {
        let mut buffer =
            self.spare.take().unwrap_or_else(|| BufferMut::zeroed(CHUNK_BYTES as usize));
        let length = (chunk.end - chunk.start) as usize;
        // The sink is whole sectors; what the last one has beyond the source is zero.
        let inside = (chunk.end.min(source.size()) - chunk.start) as usize;
        source.read(chunk.start, &mut buffer[..inside])?;
        buffer[inside..length].fill(0);
        let buffer = buffer.freeze();
        sink.write(chunk.start, buffer.slice(0..length))?;
        self.spare = buffer.thaw();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
