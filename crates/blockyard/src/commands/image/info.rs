//! `blockyard image info NAME`: the image and its clients.

use crate::commands::Session;
use crate::output::table::Table;
use crate::output::time::utc;
use crate::size::human;
use anyhow::Result;
use blockyard_api::{Image, ImageAccess, ImageClient, ImageKind, ImageLazy};
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
    if let Some(lazy) = &image.lazy {
        rows.pair("filled from", format!("{}/{}", lazy.peer, lazy.source));
        rows.pair("missing", missing(lazy));
    }
    for dependant in &image.dependants {
        let since = utc(dependant.since_unix_s);
        rows.pair("dependant", format!("{}, since {since}, {}", dependant.peer, dependant.id));
    }
    if image.clients.is_empty() {
        rows.pair("clients", "none");
    }
    for client in &image.clients {
        rows.pair("client", describe(client));
    }
    rows.to_string()
}

/// `1.2 GiB of 4.0 GiB, being filled by job 7`
fn missing(lazy: &ImageLazy) -> String {
    let how = match (&lazy.broken, lazy.fill, lazy.job) {
        (Some(broken), ..) => broken.clone(),
        (None, true, Some(job)) => format!("being filled by job {job}"),
        (None, false, Some(job)) => format!("fetched as it is read by job {job}"),
        (None, _, None) => "not being filled".to_owned(),
    };
    let refused = match lazy.bytes_refused {
        0 => String::new(),
        bytes => format!("; {} could not be had when last asked for", human(bytes)),
    };
    format!("{} of {}, {how}{refused}", human(lazy.bytes_missing), human(lazy.bytes_listed))
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
