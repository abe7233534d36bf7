//! Which planned I/O may still touch a freed cluster (I3). I/O enters the current epoch under the lock
//! of its look-up and leaves it at completion; a cluster freed in epoch `e` may be reused when every
//! epoch up to `e` is empty. An idle pool has no entries and blocks nothing.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

#[derive(Default)]
pub(crate) struct Epochs {
    current: u64,
    entered: u64,
    in_flight: BTreeMap<u64, u32>,
}

impl Epochs {
    pub(crate) fn enter(&mut self) -> Epoch {
        self.entered += 1;
        *self.in_flight.entry(self.current).or_insert(0) += 1;
        Epoch(self.current)
    }

    /// True when this left its epoch empty, so that frees may go on.
    pub(crate) fn leave(&mut self, epoch: Epoch) -> bool {
        let count = self.in_flight.get_mut(&epoch.0).expect("an epoch is left by who entered it");
        *count -= 1;
        if *count == 0 {
            self.in_flight.remove(&epoch.0);
        }
        *self.in_flight.first_key_value().map_or(&u64::MAX, |(oldest, _)| oldest) > epoch.0
    }

    /// Ends the current epoch and returns it: later I/O enters a new one.
    pub(crate) fn advance(&mut self) -> Epoch {
        self.current += 1;
        Epoch(self.current - 1)
    }

    /// Whether all I/O of `epoch` and before has finished.
    pub(crate) fn is_over(&self, epoch: Epoch) -> bool {
        blockyard_io::broken("I3-ignore-readers")
            || self.in_flight.first_key_value().is_none_or(|(oldest, _)| *oldest > epoch.0)
    }

    /// How much I/O was planned since the pool was opened.
    pub(crate) fn entered(&self) -> u64 {
        self.entered
    }

    pub(crate) fn current(&self) -> Epoch {
        Epoch(self.current)
    }

    /// How much planned I/O has not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.values().map(|count| *count as usize).sum()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }
}

/// Bytes kept for what was planned up to an epoch.
#[derive(Default)]
pub(crate) struct Growth {
    kept: VecDeque<(Epoch, usize)>,
    bytes: usize,
}

impl Growth {
    pub(crate) fn push(&mut self, epoch: Epoch, bytes: usize) {
        self.bytes += bytes;
        match self.kept.back_mut().filter(|(last, _)| *last == epoch) {
            Some((_, kept)) => *kept += bytes,
            None => self.kept.push_back((epoch, bytes)),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up what was kept for I/O that has ended.
    pub(crate) fn release(&mut self, epochs: &Epochs) {
        while let Some((epoch, bytes)) = self.kept.front().copied()
            && epoch.0 < epochs.current
            && epochs.is_over(epoch)
        {
            self.bytes -= bytes;
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Epochs;

    #[test]
    fn an_epoch_is_over_when_it_and_all_before_are_empty() {
        let mut epochs = Epochs::default();
        let read = epochs.enter();
        let first = epochs.advance();
        let write = epochs.enter();
        let second = epochs.advance();
        assert!(!epochs.is_over(first) && !epochs.is_over(second));
        assert!(!epochs.leave(write));
        assert!(!epochs.is_over(second), "the earlier read may still look");
        assert!(epochs.leave(read));
        assert!(epochs.is_over(second) && epochs.is_idle());
    }
}
