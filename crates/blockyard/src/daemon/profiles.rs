//! Where images are read first: records that were made on purpose, kept in `profiles.json`, which dependants are told.

use crate::daemon::Daemon;
use crate::daemon::kept_list::KeptList;
use blockyard_api::{ImageProfile, ProfileOrder};
use blockyard_block::{CLUSTER_SIZE, ImageId, ImageName, Result};
use blockyard_pool::PROFILE_RUN_CLUSTERS;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "profiles.json";
/// The oldest goes then.
const PROFILES_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    image: u64,
    /// Runs of 64 KiB in the order of their first use.
    runs: Vec<u32>,
}

pub(crate) struct Profiles(KeptList<Kept>);

impl Profiles {
    pub(crate) fn load(folder: &Path) -> Result<Profiles> {
        KeptList::load(folder, FILE, "the list of profiles").map(Profiles)
    }

    /// Empty if there is none.
    pub(crate) fn of_image(&self, image: ImageId) -> Vec<u32> {
        let found = self.0.list().into_iter().find(|kept| kept.image == image.0);
        found.map(|kept| kept.runs).unwrap_or_default()
    }

    fn keep(&self, image: ImageId, runs: Vec<u32>) -> Result<()> {
        self.0.change(|list| {
            list.retain(|kept| kept.image != image.0);
            list.push(Kept { image: image.0, runs });
            list.drain(..list.len().saturating_sub(PROFILES_MAX));
        })
    }

    pub(crate) fn forget(&self, image: ImageId) -> Result<()> {
        self.0.change(|list| list.retain(|kept| kept.image != image.0))
    }
}

/// Starts or ends a record, or only tells of it.
pub(crate) fn order(
    daemon: &Daemon,
    name: &ImageName,
    order: Option<ProfileOrder>,
) -> Result<ImageProfile> {
    let (pool, id) = (&daemon.pool, daemon.pool.image(name)?.id);
    match order {
        None => {}
        Some(ProfileOrder::Start) => pool.start_profile(name)?,
        Some(ProfileOrder::Stop) => daemon.profiles.keep(id, pool.stop_profile(name)?)?,
        Some(ProfileOrder::Forget) => daemon.profiles.forget(id)?,
    }
    let recorded = pool.profile(name)?;
    let recording = recorded.is_some();
    let run_bytes = PROFILE_RUN_CLUSTERS * CLUSTER_SIZE as u64;
    let runs = recorded.unwrap_or_else(|| daemon.profiles.of_image(id));
    let offsets = runs.into_iter().map(|run| u64::from(run) * run_bytes).collect();
    Ok(ImageProfile { recording, run_bytes, offsets })
}
