//! `blockyard pull PEER/NAME [TARGET]`.

use crate::commands::{Session, transfer};
use anyhow::Result;
use blockyard_api::PullImage;
use clap::Args;

/// Get an image from another daemon, as it is there now; only what is missing here crosses
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// PEER/NAME
    source: String,
    /// Its name here, if it shall be another
    target: Option<String>,
    #[command(flatten)]
    terms: transfer::TermsFlags,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let (peer, source) = transfer::split(&flags.source)
        .ok_or_else(|| transfer::malformed(&flags.source, "PEER/NAME"))?;
    let target = flags.target.as_deref().unwrap_or(source);
    let mut client = session.client()?;
    let request = PullImage {
        peer: peer.to_owned(),
        source: Some(source.to_owned()),
        quote: false,
        terms: flags.terms.terms(),
    };
    let started = client.pull_image(target, &request)?;
    let done = format!("pulled {source} from {peer} as {target}");
    transfer::finish(session, &mut client, started, "pull", &done)
}
