//! `blockyard image fill NAME`.

use crate::commands::Session;
use anyhow::Result;
use clap::Args;

/// Bring the rest of an image that was pulled with `--lazy --no-fill`, in the background
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let image = session.client()?.fill_image(&flags.name)?;
    let said = || format!("{} is being filled\n", flags.name);
    session.output.print(&image, said)
}
