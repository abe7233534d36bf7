//! `blockyard image list`.

use crate::commands::Session;
use crate::output::table::Table;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{ImageKind, ImageList};
use clap::Args;

/// List all images
#[derive(Debug, Args)]
pub(crate) struct Flags {}

pub(crate) fn run(_flags: &Flags, session: &Session) -> Result<()> {
    let list = session.client()?.images()?;
    session.output.print(&list, || table(&list))
}

fn table(list: &ImageList) -> String {
    if list.images.is_empty() {
        return "no images yet: see blockyard image create, blockyard image import\n".to_owned();
    }
    let mut table = Table::with_header(["NAME", "SIZE", "MAPPED", "KIND", "CLIENTS"]);
    for image in &list.images {
        let kind = match image.kind {
            ImageKind::Writable => "writable",
            ImageKind::Snapshot => "snapshot",
        };
        table.row([
            image.name.clone(),
            human(image.size_bytes),
            human(image.bytes_mapped),
            match &image.lazy {
                Some(lazy) => format!("{kind}, {} missing", human(lazy.bytes_missing)),
                None => kind.to_owned(),
            },
            image.clients.len().to_string(),
        ]);
    }
    table.to_string()
}
