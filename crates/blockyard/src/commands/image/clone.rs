//! `blockyard image clone NAME CLONE`.

use crate::commands::Session;
use anyhow::Result;
use blockyard_api::CloneImage;
use clap::Args;

/// Make a writable image that starts with the content of another
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    clone: String,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let request = CloneImage { name: flags.clone.clone() };
    let image = session.client()?.clone_image(&flags.name, &request)?;
    session.output.print(&image, || format!("{} starts as {}\n", image.name, flags.name))
}
