//! `blockyard image create NAME SIZE`.

use crate::commands::Session;
use crate::size::{Size, human};
use anyhow::Result;
use blockyard_api::CreateImage;
use clap::Args;

/// Make an empty image
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// Bytes, or with a unit: 512M, 20G, 10GiB (binary units)
    size: Size,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let size_bytes = flags.size.rounded_up_saying_so()?;
    let request = CreateImage { name: flags.name.clone(), size_bytes };
    let image = session.client()?.create_image(&request)?;
    let said = || format!("created {} of {}\n", image.name, human(image.size_bytes));
    session.output.print(&image, said)
}
