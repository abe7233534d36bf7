//! The daemon: one process that owns a pool, serves its images over NBD and takes orders over REST.

pub(crate) mod jobs;

use crate::config::Config;
use anyhow::Result;

/// Serves until a signal ends it.
pub(crate) fn run(_config: &Config) -> Result<()> {
    anyhow::bail!("the daemon is not here yet")
}
