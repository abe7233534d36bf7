//! `blockyard image remove NAME`.

use crate::commands::Session;
use anyhow::Result;
use clap::Args;
use serde::Serialize;

/// Remove an image and free its space; refused while clients have it open, or images of peers are filled from it
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// Remove all the same; what needs it fails from then on
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a str,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    session.client()?.remove_image(&flags.name, flags.force)?;
    let said = || format!("removed {}\n", flags.name);
    session.output.print(&Removed { removed: &flags.name }, said)
}
