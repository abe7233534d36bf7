//! Guesses whether a request will wait for storage, from how long such requests took lately.
//!
//! There is one moving average for reads and one for changes, each of the time beyond what copying
//! the payload takes. Outliers are capped, so that one preempted thread does not change the course,
//! while two requests in a row that wait for a disk do. Flushes are always expected to wait.

use crate::transmission::Operation;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Averages from here on mean waiting: a cached 4 KiB takes about 1 us, a disk some 50 or more.
const SLOW_NS: u32 = 20_000;
/// One sample counts for an eighth, so two of these reach `SLOW_NS`.
const SAMPLE_MAX_NS: u32 = 100_000;
/// Copying runs at some 4 bytes a nanosecond.
const BYTES_PER_NS: u64 = 4;

/// What kind of request a sample is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Touches no device.
    Immediate,
    Read,
    Change,
    Sync,
}

impl Kind {
    pub(super) fn of(operation: &Operation) -> Kind {
        match operation {
            Operation::Nothing | Operation::Refused(_) => Kind::Immediate,
            Operation::Read { .. } | Operation::BlockStatus { .. } => Kind::Read,
            Operation::Flush => Kind::Sync,
            Operation::Write { fua, .. } | Operation::Trim { fua, .. } if *fua => Kind::Sync,
            Operation::WriteZeroes { options, .. } if options.fua => Kind::Sync,
            Operation::Write { .. } | Operation::Trim { .. } | Operation::WriteZeroes { .. } => {
                Kind::Change
            }
        }
    }
}

/// Averages in nanoseconds. Lost updates between threads do no harm: it is a guess.
#[derive(Default)]
pub(super) struct Pace {
    read: AtomicU32,
    change: AtomicU32,
}

impl Pace {
    pub(super) fn is_slow(&self, kind: Kind) -> bool {
        match kind {
            Kind::Immediate => false,
            Kind::Sync => true,
            Kind::Read => self.read.load(Ordering::Relaxed) >= SLOW_NS,
            Kind::Change => self.change.load(Ordering::Relaxed) >= SLOW_NS,
        }
    }

    /// Notes that a request with `weight` bytes of payload took `elapsed`.
    pub(super) fn note(&self, kind: Kind, weight: u64, elapsed: Duration) {
        let average = match kind {
            Kind::Immediate | Kind::Sync => return,
            Kind::Read => &self.read,
            Kind::Change => &self.change,
        };
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let sample = elapsed.saturating_sub(weight / BYTES_PER_NS).min(u64::from(SAMPLE_MAX_NS));
        let before = average.load(Ordering::Relaxed);
        average.store(before - before / 8 + sample as u32 / 8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Pace};
    use std::time::Duration;

    #[test]
    fn one_outlier_changes_nothing_and_two_waits_do() {
        let pace = Pace::default();
        pace.note(Kind::Read, 4096, Duration::from_millis(10));
        assert!(!pace.is_slow(Kind::Read));
        pace.note(Kind::Read, 4096, Duration::from_millis(10));
        assert!(pace.is_slow(Kind::Read));
        assert!(!pace.is_slow(Kind::Change));
    }

    #[test]
    fn fast_requests_bring_it_back_and_copying_does_not_count() {
        let pace = Pace::default();
        for _ in 0..100 {
            pace.note(Kind::Change, 4096, Duration::from_micros(80));
        }
        assert!(pace.is_slow(Kind::Change));
        for _ in 0..20 {
            pace.note(Kind::Change, 1 << 20, Duration::from_micros(200));
        }
        assert!(!pace.is_slow(Kind::Change));
    }
}
