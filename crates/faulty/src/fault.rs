//! Which requests go wrong, and how.

use crate::disk::Errno;
use std::ops::Range;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    /// Writes, zeros and trims.
    Write,
    Flush,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Refused; a write may have happened in part.
    Fail(Errno),
    /// Done after this time.
    Delay(Duration),
    /// Done only when the disk is released.
    Hang,
}

/// The requests that an effect meets.
#[derive(Debug, Clone)]
pub struct Rule {
    pub kinds: Vec<Kind>,
    /// Where on the disk; anywhere if empty. Flushes are everywhere.
    pub ranges: Vec<Range<u64>>,
    /// So many requests pass first.
    pub skip: u64,
    /// Then so many are met.
    pub count: u64,
    /// Of these, one in so many at random.
    pub one_in: u64,
    pub effect: Effect,
}

impl Rule {
    /// Every request of these kinds, everywhere, from now on.
    pub fn all(kinds: &[Kind], effect: Effect) -> Rule {
        let kinds = kinds.to_vec();
        Rule { kinds, ranges: Vec::new(), skip: 0, count: u64::MAX, one_in: 1, effect }
    }

    #[must_use]
    pub fn within(mut self, ranges: &[Range<u64>]) -> Rule {
        self.ranges = ranges.to_vec();
        self
    }

    /// Only the request after `skip` others.
    #[must_use]
    pub fn once_after(mut self, skip: u64) -> Rule {
        (self.skip, self.count) = (skip, 1);
        self
    }

    pub(crate) fn meets(&self, kind: Kind, bytes: &Range<u64>) -> bool {
        let touches = |range: &Range<u64>| range.start < bytes.end && bytes.start < range.end;
        let inside =
            self.ranges.is_empty() || kind == Kind::Flush || self.ranges.iter().any(touches);
        self.kinds.contains(&kind) && inside
    }
}
