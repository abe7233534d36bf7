//! `blockyard push NAME PEER[/TARGET]`.

use crate::commands::{Session, transfer};
use anyhow::Result;
use blockyard_api::PushImage;
use clap::Args;

/// Send an image as it is now to another daemon; only what is missing there crosses
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The image here
    name: String,
    /// PEER, or PEER/TARGET to give it another name there
    peer: String,
    #[command(flatten)]
    terms: transfer::TermsFlags,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let (peer, target) = match flags.peer.contains('/') {
        true => transfer::split(&flags.peer)
            .ok_or_else(|| transfer::malformed(&flags.peer, "PEER or PEER/TARGET"))?,
        false => (flags.peer.as_str(), flags.name.as_str()),
    };
    let mut client = session.client()?;
    let request = PushImage {
        peer: peer.to_owned(),
        target: Some(target.to_owned()),
        quote: false,
        terms: flags.terms.terms(),
    };
    let started = client.push_image(&flags.name, &request)?;
    let done = format!("pushed {} to {peer} as {target}", flags.name);
    transfer::finish(session, &mut client, started, "push", &done)
}
