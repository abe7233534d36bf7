//! `blockyard serve`: the daemon, until a signal ends it.

use crate::config::{Config, ServeSettings};
use crate::daemon;
use anyhow::Result;
use clap::Args;

/// Serve a pool; it is made if there is none
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) settings: ServeSettings,
}

pub(crate) fn run(config: &Config) -> Result<()> {
    daemon::run(config)
}
