//! What disks may hold after a power cut at some event.

use crate::memory::Memory;
use crate::random::Random;
use crate::timeline::{Change, Event};

/// What becomes of writes that no flush covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    All,
    None,
    /// Each piece of so many bytes is kept with so many chances in 100.
    Pieces {
        bytes: u64,
        kept_percent: u64,
    },
    /// Each write is kept as a whole, or not at all.
    Writes {
        kept_percent: u64,
    },
}

/// Goes through the events of a timeline from its start.
pub struct Replay {
    events: Vec<Event>,
    /// What is durable on each disk.
    durable: Vec<Memory>,
    /// Events below this are in `durable` of their disk.
    covered: Vec<usize>,
}

impl Replay {
    /// `bases` is what each disk held before the first event.
    pub fn new(events: Vec<Event>, bases: Vec<Memory>) -> Replay {
        let covered = vec![0; bases.len()];
        Replay { events, durable: bases, covered }
    }

    /// Where the power may be cut just after a flush.
    pub fn flush_boundaries(&self) -> Vec<usize> {
        let flushes = self.events.iter().enumerate();
        flushes
            .filter(|(_, event)| matches!(event, Event::Flush { .. }))
            .map(|(at, _)| at + 1)
            .collect()
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The disks after a power cut before event `cut`, which may not lie before that of an earlier call.
    pub fn disks_at(&mut self, cut: usize, loss: Loss, random: &mut Random) -> Vec<Memory> {
        (0..self.durable.len()).map(|disk| self.disk_at(disk, cut, loss, random)).collect()
    }

    fn disk_at(&mut self, disk: usize, cut: usize, loss: Loss, random: &mut Random) -> Memory {
        let covers = self.events[..cut].iter().rev().find_map(|event| match event {
            Event::Flush { disk: of, covers } if *of == disk => Some(*covers),
            _ => None,
        });
        let covers = covers.unwrap_or(0).max(self.covered[disk]);
        for at in self.covered[disk]..covers {
            if let Some(change) = change_of(&self.events[at], disk) {
                apply(&mut self.durable[disk], change, 0..change.length);
            }
        }
        self.covered[disk] = covers;
        let mut memory = self.durable[disk].clone();
        for change in
            self.events[covers..cut.max(covers)].iter().filter_map(|event| change_of(event, disk))
        {
            keep_some(&mut memory, change, loss, random);
        }
        memory
    }
}

fn change_of(event: &Event, of: usize) -> Option<&Change> {
    match event {
        Event::Write { disk, change } if *disk == of => Some(change),
        _ => None,
    }
}

fn keep_some(memory: &mut Memory, change: &Change, loss: Loss, random: &mut Random) {
    let (piece, kept_percent) = match loss {
        Loss::All => return,
        Loss::None => (change.length, 100),
        Loss::Writes { kept_percent } => (change.length, kept_percent),
        Loss::Pieces { bytes, kept_percent } => (bytes, kept_percent),
    };
    let mut at = 0;
    while at < change.length {
        // Pieces lie at multiples of their length on the disk.
        let end = match loss {
            Loss::Pieces { .. } => ((change.offset + at) / piece + 1) * piece - change.offset,
            _ => change.length,
        };
        let end = end.min(change.length);
        if random.below(100) < kept_percent {
            apply(memory, change, at..end);
        }
        at = end;
    }
}

fn apply(memory: &mut Memory, change: &Change, part: std::ops::Range<u64>) {
    let offset = change.offset + part.start;
    match &change.data {
        Some(data) => memory.write(offset, &data[part.start as usize..part.end as usize]),
        None => memory.zero(offset, part.end - part.start),
    }
}

#[cfg(test)]
mod tests {
    use super::{Loss, Replay};
    use crate::memory::Memory;
    use crate::random::Random;
    use crate::timeline::{Change, Event};

    fn write(disk: usize, offset: u64, byte: u8, length: usize) -> Event {
        let data = Some(vec![byte; length].into());
        Event::Write { disk, change: Change { offset, length: length as u64, data } }
    }

    fn bytes(memory: &Memory, places: &[u64]) -> Vec<u8> {
        let read = |at: &u64| {
            let mut byte = [0];
            memory.read(*at, &mut byte);
            byte[0]
        };
        places.iter().map(read).collect()
    }

    #[test]
    fn what_a_flush_covers_stays_and_the_rest_goes() {
        let events = vec![
            write(0, 0, 1, 4096),
            write(1, 0, 9, 4096),
            Event::Flush { disk: 0, covers: 1 },
            write(0, 0, 2, 4096),
            Event::Flush { disk: 1, covers: 2 },
        ];
        let mut replay = Replay::new(events, vec![Memory::default(), Memory::default()]);
        assert_eq!(replay.flush_boundaries(), [3, 5]);
        let mut random = Random::new(1);
        let disks = replay.disks_at(3, Loss::All, &mut random);
        assert_eq!((bytes(&disks[0], &[0]), bytes(&disks[1], &[0])), (vec![1], vec![0]));
        let disks = replay.disks_at(5, Loss::All, &mut random);
        assert_eq!((bytes(&disks[0], &[0]), bytes(&disks[1], &[0])), (vec![1], vec![9]));
        let disks = replay.disks_at(5, Loss::None, &mut random);
        assert_eq!(bytes(&disks[0], &[0, 4095]), [2, 2]);
    }

    #[test]
    fn torn_writes_keep_some_sectors_and_lose_others() {
        let mut replay = Replay::new(vec![write(0, 512, 5, 64 * 512)], vec![Memory::default()]);
        let loss = Loss::Pieces { bytes: 512, kept_percent: 50 };
        let disks = replay.disks_at(1, loss, &mut Random::new(3));
        let sectors: Vec<u64> = (1..65).map(|sector| sector * 512).collect();
        let kept = bytes(&disks[0], &sectors).iter().filter(|byte| **byte == 5).count();
        assert!((10..54).contains(&kept), "{kept}");
        for sector in sectors {
            let both = bytes(&disks[0], &[sector, sector + 511]);
            assert_eq!(both[0], both[1], "a sector was torn");
        }
    }
}
