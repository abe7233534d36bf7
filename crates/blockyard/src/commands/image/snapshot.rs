//! `blockyard image snapshot NAME SNAPSHOT`.

use crate::commands::Session;
use anyhow::Result;
use blockyard_api::SnapshotImage;
use clap::Args;

/// Keep the content of this moment as a read-only image
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    snapshot: String,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let request = SnapshotImage { name: flags.snapshot.clone() };
    let image = session.client()?.snapshot_image(&flags.name, &request)?;
    session.output.print(&image, || format!("{} is {} of this moment\n", image.name, flags.name))
}
