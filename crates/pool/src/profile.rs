//! Recording where an image is read first, and in which order: a puller that uses it before it is there brings that
//! first. Only in memory; what becomes of a record is the caller's business.

use crate::pool::Pool;
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use std::collections::BTreeSet;
use std::ops::Range;

/// Clusters in a run, the unit of a record: 64 KiB.
pub const PROFILE_RUN_CLUSTERS: u64 = 16;
/// Runs that are recorded at most: of 4 GiB.
pub const PROFILE_RUNS_MAX: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Profile {
    seen: BTreeSet<u32>,
    order: Vec<u32>,
}

impl Profile {
    pub(crate) fn note(&mut self, clusters: &Range<u64>) {
        let runs =
            clusters.start / PROFILE_RUN_CLUSTERS..clusters.end.div_ceil(PROFILE_RUN_CLUSTERS);
        for run in runs.filter_map(|run| u32::try_from(run).ok()) {
            if self.order.len() < PROFILE_RUNS_MAX && self.seen.insert(run) {
                self.order.push(run);
            }
        }
    }
}

impl<D: Directory> Pool<D> {
    /// Records reads of the image from now on; what was recorded before is forgotten.
    pub fn start_profile(&self, name: &ImageName) -> Result<()> {
        let mut state = self.lock();
        let id = state.find(name)?;
        state.image_mut(id)?.profile = Some(Box::default());
        Ok(())
    }

    /// Runs of [`PROFILE_RUN_CLUSTERS`] in the order of their first use so far; `None` if nothing is recorded.
    pub fn profile(&self, name: &ImageName) -> Result<Option<Vec<u32>>> {
        let state = self.lock();
        let image = state.image(state.find(name)?)?;
        Ok(image.profile.as_ref().map(|profile| profile.order.clone()))
    }

    /// Ends the record and returns it. `InvalidArgument` if nothing is recorded.
    pub fn stop_profile(&self, name: &ImageName) -> Result<Vec<u32>> {
        let mut state = self.lock();
        let id = state.find(name)?;
        let nothing =
            || Error::new(ErrorKind::InvalidArgument, "no reads of the image are recorded");
        Ok(state.image_mut(id)?.profile.take().ok_or_else(nothing)?.order)
    }
}

#[cfg(test)]
mod tests {
    use super::Profile;

    #[test]
    fn runs_are_in_the_order_of_their_first_use() {
        let mut profile = Profile::default();
        for clusters in [40..41, 0..33, 15..16, 1 << 60..(1 << 60) + 1] {
            profile.note(&clusters);
        }
        assert_eq!(profile.order, [2, 0, 1]);
    }
}
