//! `blockyard pull PEER/NAME [TARGET]`, or `pull NAME --via COMMAND [TARGET]`.

use crate::commands::{Session, transfer, via};
use anyhow::Result;
use blockyard_api::{CallThroughPipe, PipeDirection, PullImage};
use clap::Args;

/// Get an image from another daemon, as it is there now; only what is missing here crosses
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// PEER/NAME; with --via only NAME
    source: String,
    /// Its name here, if it shall be another
    target: Option<String>,
    /// Pull through this command, such as "ssh host": it is started with `blockyard send` behind it, and no peer needs
    /// to be known
    #[arg(long, value_name = "COMMAND")]
    via: Option<String>,
    #[command(flatten)]
    terms: transfer::TermsFlags,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    if let Some(command) = &flags.via {
        let (source, target) = (&flags.source, flags.target.as_ref().unwrap_or(&flags.source));
        let request = CallThroughPipe {
            direction: PipeDirection::Pull,
            image: target.clone(),
            there: Some(source.clone()),
            quote: false,
            terms: flags.terms.terms(),
        };
        let done = format!("pulled {source} through `{command}` as {target}");
        return via::run(session, command, &request, "pull", &done);
    }
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
