//! What a load is made of, and the requests that follow from it.

use super::stamp::Random;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    /// A write, and when it is answered a flush: one request, answered when the flush is.
    DurableWrite,
    Trim,
    Flush,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    Random,
    /// From the first block to the last, then again.
    Sequential,
    /// From the first block to the last, each once.
    Through,
    /// Every block once, in no order.
    Once,
}

/// A load on one export, over one or more connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    /// Of a hundred requests, how many are reads whatever `operation` says.
    pub(crate) reads_percent: u8,
    pub(crate) pattern: Pattern,
    pub(crate) block: usize,
    pub(crate) connections: usize,
    /// Requests in flight on each connection.
    pub(crate) depth: usize,
    pub(crate) time: Duration,
    /// Only the first so many bytes of the export; all of it if `None`.
    pub(crate) span: Option<u64>,
    pub(crate) seed: u64,
    /// Whether what is read must bear stamps. Without, content is not looked at.
    pub(crate) stamped: bool,
}

impl Load {
    pub(crate) fn new(operation: Operation, pattern: Pattern, block: usize, depth: usize) -> Load {
        Load {
            operation,
            reads_percent: 0,
            pattern,
            block,
            connections: 1,
            depth,
            time: Duration::from_secs(3600),
            span: None,
            seed: 1,
            stamped: true,
        }
    }

    pub(crate) fn mixed(self, reads_percent: u8) -> Load {
        Load { reads_percent, ..self }
    }

    pub(crate) fn over(self, connections: usize) -> Load {
        Load { connections, ..self }
    }

    pub(crate) fn lasting(self, time: Duration) -> Load {
        Load { time, ..self }
    }

    pub(crate) fn within(self, span: u64) -> Load {
        Load { span: Some(span), ..self }
    }

    pub(crate) fn seeded(self, seed: u64) -> Load {
        Load { seed, ..self }
    }

    pub(crate) fn writes(&self) -> bool {
        self.operation != Operation::Read
    }
}

/// The requests of one connection.
pub(crate) struct Requests {
    load: Load,
    blocks: u64,
    random: Random,
    /// The next turn in a pattern that has turns.
    turn: u64,
}

impl Requests {
    pub(crate) fn new(load: &Load, connection: usize, export_size: u64) -> Requests {
        let size = load.span.map_or(export_size, |span| span.min(export_size));
        let blocks = (size / load.block as u64).max(1);
        let turn = match load.pattern {
            Pattern::Sequential => blocks / load.connections as u64 * connection as u64,
            Pattern::Random | Pattern::Through | Pattern::Once => connection as u64,
        };
        let random = Random::new(load.seed << 16 | connection as u64);
        Requests { load: *load, blocks, random, turn }
    }
}

/// The offsets that one connection of `load` asks for.
pub(crate) fn offsets(load: &Load, export_size: u64) -> impl Iterator<Item = u64> {
    Requests::new(load, 0, export_size).map(|(_, offset)| offset)
}

impl Iterator for Requests {
    type Item = (Operation, u64);

    fn next(&mut self) -> Option<(Operation, u64)> {
        let block = match self.load.pattern {
            Pattern::Random => self.random.next() % self.blocks,
            Pattern::Sequential => self.turns(1)? % self.blocks,
            Pattern::Through => {
                Some(self.turns(self.load.connections)?).filter(|b| *b < self.blocks)?
            }
            Pattern::Once => scattered(self.turns(self.load.connections)?, self.blocks)?,
        };
        let dice = if self.load.reads_percent == 0 { 100 } else { self.random.next() >> 32 };
        let read = dice % 100 < u64::from(self.load.reads_percent) && self.load.reads_percent > 0;
        let operation = if read { Operation::Read } else { self.load.operation };
        Some((operation, block * self.load.block as u64))
    }
}

impl Requests {
    fn turns(&mut self, step: usize) -> Option<u64> {
        let turn = self.turn;
        self.turn = turn.checked_add(step as u64)?;
        Some(turn)
    }
}

/// A permutation of the numbers below `count`, none if `index` is not below it.
fn scattered(index: u64, count: u64) -> Option<u64> {
    if index >= count {
        return None;
    }
    let bits = (64 - (count - 1).leading_zeros()).max(1);
    let mask = u64::MAX >> (64 - bits);
    let half = bits.div_ceil(2);
    let mut value = index;
    // Walking the cycle of a permutation of more numbers, until one is small enough, permutes these.
    loop {
        for factor in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9_u64] {
            value = value.wrapping_mul(factor) & mask;
            value ^= value >> half;
        }
        if value < count {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, Operation, Pattern, Requests, scattered};

    const BLOCK: usize = 4096;

    fn load(pattern: Pattern) -> Load {
        Load::new(Operation::Write, pattern, BLOCK, 1)
    }

    fn blocks(load: &Load, connection: usize, size: u64, most: usize) -> Vec<u64> {
        let requests = Requests::new(load, connection, size);
        requests.take(most).map(|(_, offset)| offset / BLOCK as u64).collect()
    }

    #[test]
    fn once_visits_each_block_once_over_all_connections() {
        for count in [1, 2, 3, 100, 1024, 1025] {
            let load = load(Pattern::Once).over(3);
            let mut all: Vec<u64> =
                (0..3).flat_map(|c| blocks(&load, c, count * BLOCK as u64, 5000)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>(), "{count} blocks");
        }
    }

    #[test]
    fn once_is_not_in_order() {
        let in_order =
            (1..4096).filter(|i| scattered(*i, 4096) == scattered(i - 1, 4096).map(|b| b + 1));
        assert!(in_order.count() < 40);
    }

    #[test]
    fn through_ends_at_the_last_block_and_sequential_goes_on() {
        let size = 4 * BLOCK as u64;
        assert_eq!(blocks(&load(Pattern::Through), 0, size, 9), [0, 1, 2, 3]);
        assert_eq!(blocks(&load(Pattern::Sequential), 0, size, 6), [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn a_span_keeps_requests_in_its_bytes() {
        let load = load(Pattern::Random).within(8 * BLOCK as u64);
        assert!(blocks(&load, 0, 1 << 30, 1000).iter().all(|block| *block < 8));
    }

    #[test]
    fn seventy_of_a_hundred_are_reads() {
        let load = load(Pattern::Random).mixed(70);
        let requests = Requests::new(&load, 0, 1 << 30).take(10_000);
        let reads = requests.filter(|(operation, _)| *operation == Operation::Read).count();
        assert!((6_800..7_200).contains(&reads), "{reads}");
        let pure = Requests::new(&self::load(Pattern::Random), 0, 1 << 30).take(10_000);
        assert_eq!(pure.filter(|(operation, _)| *operation == Operation::Read).count(), 0);
    }
}
