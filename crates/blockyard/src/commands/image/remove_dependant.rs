//! `blockyard image remove-dependant NAME ID`.

use crate::commands::Session;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

/// Keep an image no longer for an image of a peer that never comes back: what that lacks is lost to it
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// As `image info NAME` shows it
    id: String,
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a str,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    session.client()?.remove_dependant(&flags.name, &flags.id)?;
    let said = || format!("nothing is kept for {} any more\n", flags.id);
    session.output.print(&Removed { removed: &flags.id }, said)
}
