//! `blockyard image digest NAME`: the digest comes first on its line.

use crate::commands::Session;
use anyhow::Result;
use clap::Args;

/// Print the hash of an image's size and content, without reading its data
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let digest = session.client()?.image_digest(&flags.name)?;
    let line = || format!("{}  {} ({})\n", digest.digest, digest.name, digest.hash);
    session.output.print(&digest, line)
}
