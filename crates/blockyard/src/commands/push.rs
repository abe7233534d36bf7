//! `blockyard push NAME PEER[/TARGET]`, or `push NAME --via COMMAND [TARGET]`.

use crate::commands::{Session, transfer, via};
use anyhow::Result;
use blockyard_api::{CallThroughPipe, PipeDirection, PushImage};
use clap::Args;

/// Send an image as it is now to another daemon; only what is missing there crosses
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The image here
    name: String,
    /// PEER, or PEER/TARGET to give it another name there; with --via only TARGET
    #[arg(value_name = "PEER", required_unless_present = "via")]
    peer: Option<String>,
    /// Push through this command, such as "ssh host": it is started with `blockyard receive` behind it, and no peer
    /// needs to be known
    #[arg(long, value_name = "COMMAND", conflicts_with = "streams")]
    via: Option<String>,
    #[command(flatten)]
    terms: transfer::TermsFlags,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let named = flags.peer.as_deref().unwrap_or(&flags.name);
    if let Some(command) = &flags.via {
        let request = CallThroughPipe {
            direction: PipeDirection::Push,
            image: flags.name.clone(),
            there: Some(named.to_owned()),
            quote: false,
            terms: flags.terms.terms(),
        };
        let done = format!("pushed {} through `{command}` as {named}", flags.name);
        return via::run(session, command, &request, "push", &done);
    }
    let (peer, target) = match named.contains('/') {
        true => transfer::split(named)
            .ok_or_else(|| transfer::malformed(named, "PEER or PEER/TARGET"))?,
        false => (named, flags.name.as_str()),
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
