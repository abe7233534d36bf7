//! The list of findings, and damage that is not yet known by image. Both are bounded: a pool that is
//! all wrong must not fill the memory.

use super::Finding;
use blockyard_block::{ClusterIndex, ImageName};
use std::collections::BTreeMap;
use std::fmt;

/// More are counted, not kept.
const FINDINGS_MAX: usize = 2_000;
/// Runs of damaged clusters that are kept.
const RUNS_MAX: usize = 20_000;

/// What was found so far.
#[derive(Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    omitted: u64,
}

impl Findings {
    /// Something about the pool as a whole, or that no image shows.
    pub(super) fn general(&mut self, message: impl Into<String>) {
        self.push(Finding { image: None, offset: None, message: message.into() });
    }

    /// Something that an image shows.
    pub(super) fn in_image(&mut self, image: &ImageName, offset: u64, message: impl Into<String>) {
        let image = Some(image.clone());
        self.push(Finding { image, offset: Some(offset), message: message.into() });
    }

    pub(super) fn omit(&mut self, count: u64) {
        self.omitted += count;
    }

    pub(super) fn finish(self) -> (Vec<Finding>, u64) {
        (self.list, self.omitted)
    }

    fn push(&mut self, finding: Finding) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(finding);
        } else {
            self.omitted += 1;
        }
    }
}

/// What is wrong with a run of clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data ends before them.
    BeyondEnd,
    /// Their page of the hash table is not what was written.
    HashesDamaged,
    /// They hold data, and the metadata knows of no hashes there.
    HashesUnknown,
    /// The content is not what was hashed.
    Mismatch,
    Unreadable,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::BeyondEnd => "is not there, the data ends before: was it cut short?",
            Fault::HashesDamaged => {
                "cannot be verified: its hashes in the hash table do not match their checksum"
            }
            Fault::HashesUnknown => {
                "cannot be verified: it is in use, but the metadata knows of no hashes for it"
            }
            Fault::Mismatch => "does not match its hash",
            Fault::Unreadable => "cannot be read",
        })
    }
}

/// Clusters that follow each other and have the same fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DamagedRun {
    pub(super) first: ClusterIndex,
    pub(super) length: u64,
    pub(super) fault: Fault,
}

impl DamagedRun {
    pub(super) fn end(&self) -> ClusterIndex {
        self.first.offset_by(self.length)
    }
}

/// Damaged clusters, by place in the data.
#[derive(Default)]
pub(super) struct Damage {
    runs: BTreeMap<ClusterIndex, DamagedRun>,
    omitted: u64,
}

impl Damage {
    /// Adds a run. Runs come in ascending order and do not overlap.
    pub(super) fn add(&mut self, run: DamagedRun) {
        if let Some(mut last) = self.runs.last_entry() {
            let last = last.get_mut();
            if last.fault == run.fault && last.end() == run.first {
                last.length += run.length;
                return;
            }
        }
        if self.runs.len() < RUNS_MAX {
            self.runs.insert(run.first, run);
        } else {
            self.omitted += 1;
        }
    }

    /// Damage that was not kept counts as findings.
    pub(super) fn take_omitted(&mut self) -> u64 {
        std::mem::take(&mut self.omitted)
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &DamagedRun> {
        self.runs.values()
    }

    /// Where the run that holds a damaged cluster starts.
    pub(super) fn start_of(&self, cluster: ClusterIndex) -> Option<ClusterIndex> {
        self.runs.range(..=cluster).next_back().map(|(first, _)| *first)
    }

    /// The damage among `length` clusters from `first` on, cut to them.
    pub(super) fn within(
        &self,
        first: ClusterIndex,
        length: u64,
    ) -> impl Iterator<Item = DamagedRun> + '_ {
        let end = first.offset_by(length);
        let before = self.runs.range(..first).next_back().map(|(_, run)| *run);
        let inside = self.runs.range(first..end).map(|(_, run)| *run);
        before.into_iter().chain(inside).filter_map(move |run| {
            let (start, stop) = (run.first.max(first), run.end().min(end));
            let length = stop.0.checked_sub(start.0).filter(|length| *length > 0)?;
            Some(DamagedRun { first: start, length, fault: run.fault })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_joined_and_cut_to_what_is_asked_for() {
        let run = |first, length, fault| DamagedRun { first: ClusterIndex(first), length, fault };
        let mut damage = Damage::default();
        damage.add(run(10, 1, Fault::Mismatch));
        damage.add(run(11, 4, Fault::Mismatch));
        damage.add(run(15, 1, Fault::Unreadable));
        let within = |first, length| damage.within(ClusterIndex(first), length).collect::<Vec<_>>();
        assert_eq!(damage.runs().count(), 2);
        assert_eq!(within(0, 10), []);
        assert_eq!(within(12, 2), [run(12, 2, Fault::Mismatch)]);
        assert_eq!(within(14, 100), [run(14, 1, Fault::Mismatch), run(15, 1, Fault::Unreadable)]);
        assert_eq!(within(16, 100), []);
    }
}
