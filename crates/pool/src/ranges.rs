//! Order among overlapping changes of one image. A change takes a place in line for its range and
//! goes ahead when no earlier change overlaps it. A snapshot is a change of the whole range: changes
//! submitted before it drain, those after it wait; that is the whole barrier.

use std::collections::BTreeMap;
use std::ops::Range;
use std::task::Waker;

/// A place in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

struct Entry {
    clusters: Range<u64>,
    waker: Option<Waker>,
}

/// The line of one image.
#[derive(Default)]
pub(crate) struct RangeTable {
    next: u64,
    entries: BTreeMap<Ticket, Entry>,
}

impl RangeTable {
    /// Takes the last place for a range of clusters.
    pub(crate) fn enqueue(&mut self, clusters: Range<u64>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.insert(ticket, Entry { clusters, waker: None });
        ticket
    }

    /// Whether nobody in front of `ticket` is in its way.
    pub(crate) fn may_go(&self, ticket: Ticket) -> bool {
        let clusters = &self.entries[&ticket].clusters;
        let mut earlier = self.entries.range(..ticket);
        !earlier.any(|(_, earlier)| overlap(&earlier.clusters, clusters))
            || blockyard_io::broken("I7-no-order")
    }

    /// Whether `ticket` may go ahead; if not, `waker` is woken when that may have changed.
    pub(crate) fn poll(&mut self, ticket: Ticket, waker: &Waker) -> bool {
        let blocked = !self.may_go(ticket);
        if blocked && let Some(entry) = self.entries.get_mut(&ticket) {
            entry.waker = Some(waker.clone());
        }
        !blocked
    }

    /// Leaves the line; returns whom to wake once no lock is held.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Vec<Waker> {
        let Some(left) = self.entries.remove(&ticket) else { return Vec::new() };
        self.entries
            .range_mut(ticket..)
            .filter(|(_, entry)| overlap(&entry.clusters, &left.clusters))
            .filter_map(|(_, entry)| entry.waker.take())
            .collect()
    }

    /// Everyone who waits, for an image that is gone.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        self.entries.values_mut().filter_map(|entry| entry.waker.take()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::RangeTable;
    use std::task::Waker;

    #[test]
    fn overlapping_changes_go_in_the_order_they_came() {
        let mut table = RangeTable::default();
        let first = table.enqueue(0..4);
        let second = table.enqueue(3..5);
        let apart = table.enqueue(8..9);
        let whole = table.enqueue(0..u64::MAX);
        let later = table.enqueue(20..21);
        let waker = Waker::noop();
        assert!(table.poll(first, waker) && table.poll(apart, waker));
        assert!(!table.poll(second, waker) && !table.poll(whole, waker));
        assert!(!table.poll(later, waker), "nothing passes a barrier");
        assert_eq!(table.leave(first).len(), 2);
        assert!(table.poll(second, waker));
        table.leave(second);
        table.leave(apart);
        assert!(table.poll(whole, waker));
        table.leave(whole);
        assert!(table.poll(later, waker));
    }
}
