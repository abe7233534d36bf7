//! `blockyard image resize NAME SIZE`.

use crate::commands::Session;
use crate::size::{Size, human};
use anyhow::Result;
use blockyard_api::ResizeImage;
use clap::Args;

/// Grow or shrink an image; shrinking is refused while clients have it open
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// Bytes, or with a unit: 512M, 20G, 10GiB (binary units)
    size: Size,
    /// Shrink even while clients have it open
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let size_bytes = flags.size.rounded_up_saying_so()?;
    let request = ResizeImage { size_bytes, force: flags.force };
    let image = session.client()?.resize_image(&flags.name, &request)?;
    let said = || format!("{} now has {}\n", image.name, human(image.size_bytes));
    session.output.print(&image, said)
}
