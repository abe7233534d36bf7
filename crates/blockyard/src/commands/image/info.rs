//! `blockyard image info NAME`: the image and its clients.

use crate::commands::Session;
use crate::output::table::Table;
use crate::output::time::utc;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{Image, ImageAccess, ImageClient, ImageKind};
use clap::Args;

/// Show an image and who has it open
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let image = session.client()?.image(&flags.name)?;
    session.output.print(&image, || table(&image))
}

fn table(image: &Image) -> String {
    let mut rows = Table::pairs();
    rows.pair("name", &image.name);
    rows.pair("id", image.id);
    let kind = match image.kind {
        ImageKind::Writable => "writable",
        ImageKind::Snapshot => "snapshot, never changes",
    };
    rows.pair("kind", kind);
    rows.pair("size", format!("{} ({} bytes)", human(image.size_bytes), image.size_bytes));
    rows.pair("mapped", format!("{} ({} bytes)", human(image.bytes_mapped), image.bytes_mapped));
    for (title, bytes) in [("shared", image.bytes_shared), ("only here", image.bytes_exclusive)] {
        if let Some(bytes) = bytes {
            rows.pair(title, format!("{} ({bytes} bytes)", human(bytes)));
        }
    }
    rows.pair("created", utc(image.created_unix_s));
    if image.clients.is_empty() {
        rows.pair("clients", "none");
    }
    for client in &image.clients {
        rows.pair("client", describe(client));
    }
    rows.to_string()
}

/// `nbd, pid 4711, user root, write`
fn describe(client: &ImageClient) -> String {
    let pid = client.pid.map_or("pid unknown".to_owned(), |pid| format!("pid {pid}"));
    let user = match (&client.user, client.uid) {
        (Some(user), _) => format!("user {user}"),
        (None, Some(uid)) => format!("user {uid}"),
        (None, None) => "user unknown".to_owned(),
    };
    let access = match client.access {
        ImageAccess::Read => "read",
        ImageAccess::Write => "write",
    };
    format!("{}, {pid}, {user}, {access}", client.purpose)
}
