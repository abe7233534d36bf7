//! `blockyard peer`: the daemons that this one knows.

use crate::commands::Session;
use crate::output::table::Table;
use anyhow::Result;
use blockyard_api::{Peer, PeerAllow, PeerList};
use clap::{Subcommand, ValueEnum};

/// Make other daemons known, to move images to and from them
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a daemon known. On both sides, for each to know the other
    Add {
        /// What it is called here
        name: String,
        /// HOST:PORT, as it was told by `serve --peer` there
        address: String,
        /// What `blockyard identity` prints there
        #[arg(required_unless_present = "name_in_certificate")]
        fingerprint: Option<String>,
        /// In place of a fingerprint: the DNS name in its certificate, if an authority signs them (`serve --peer-ca`)
        #[arg(long = "name", value_name = "DNSNAME", conflicts_with = "fingerprint")]
        name_in_certificate: Option<String>,
        /// What it may do here: push images to this pool, pull any image from it, or both. Without it, it is
        /// only called
        #[arg(long, value_enum)]
        allow: Option<Allow>,
        /// Which images: a name, or a pattern with * and ?. May be given more than once; all if it is not
        #[arg(long, value_name = "PATTERN", requires = "allow")]
        images: Vec<String>,
    },
    /// List the daemons that are known
    List,
    /// Forget a daemon. It is served no more, at once
    Remove { name: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Allow {
    Push,
    Pull,
    Both,
}

pub(crate) fn run(command: &Command, session: &Session) -> Result<()> {
    let mut client = session.client()?;
    match command {
        Command::Add { name, address, fingerprint, name_in_certificate, allow, images } => {
            let allow = match allow {
                None => PeerAllow::None,
                Some(Allow::Push) => PeerAllow::Push,
                Some(Allow::Pull) => PeerAllow::Pull,
                Some(Allow::Both) => PeerAllow::Both,
            };
            let peer = Peer {
                name: name.clone(),
                address: address.clone(),
                fingerprint: fingerprint.clone(),
                certificate_name: name_in_certificate.clone(),
                allow,
                images: images.clone(),
            };
            let added = client.add_peer(&peer)?;
            session.output.print(&added, || format!("{} is known\n", added.name))
        }
        Command::List => {
            let list = client.peers()?;
            session.output.print(&list, || table(&list))
        }
        Command::Remove { name } => {
            client.remove_peer(name)?;
            let left = client.peers()?;
            session.output.print(&left, || format!("{name} is forgotten\n"))
        }
    }
}

fn table(list: &PeerList) -> String {
    let mut table =
        Table::with_header(["NAME", "ADDRESS", "ALLOWED", "IMAGES", "FINGERPRINT OR NAME"]);
    for peer in &list.peers {
        let allowed = match peer.allow {
            PeerAllow::None => "-",
            PeerAllow::Push => "push",
            PeerAllow::Pull => "pull",
            PeerAllow::Both => "push, pull",
        };
        let (name, address) = (peer.name.clone(), peer.address.clone());
        let images = match peer.images.is_empty() {
            true if peer.allow == PeerAllow::None => "-".to_owned(),
            true => "*".to_owned(),
            false => peer.images.join(" "),
        };
        let known_by = peer.fingerprint.clone().or_else(|| peer.certificate_name.clone());
        table.row([name, address, allowed.to_owned(), images, known_by.unwrap_or_default()]);
    }
    table.to_string()
}
