//! `blockyard image rename NAME NEW`.

use crate::commands::Session;
use anyhow::Result;
use blockyard_api::RenameImage;
use clap::Args;

/// Give an image another name; refused while clients have it open
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    new_name: String,
    /// Rename even while clients have it open
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let request = RenameImage { name: flags.new_name.clone(), force: flags.force };
    let image = session.client()?.rename_image(&flags.name, &request)?;
    session.output.print(&image, || format!("renamed {} to {}\n", flags.name, image.name))
}
