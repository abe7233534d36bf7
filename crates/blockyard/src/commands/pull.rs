//! `blockyard pull PEER/NAME [TARGET]`, or `pull NAME --via COMMAND [TARGET]`.

use crate::commands::{Session, transfer, via};
use anyhow::Result;
use blockyard_api::{CallThroughPipe, LazyTerms, PipeDirection, PullImage};
use clap::Args;

/// Get an image from another daemon, as it is there now; only what is missing here crosses
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// PEER/NAME; with --via only NAME
    source: String,
    /// Its name here, if it shall be another
    target: Option<String>,
    /// Show the image at once, to be used while it is filled: what is read first comes first
    #[arg(long, conflicts_with = "streams")]
    lazy: bool,
    /// Fetch only what is read, until `image fill`
    #[arg(long, requires = "lazy")]
    no_fill: bool,
    /// Seconds that a read of what is missing waits for a peer that is away, before it fails
    #[arg(long, requires = "lazy", value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    /// Pull through this command, such as "ssh host": it is started with `blockyard send` behind it, and no peer needs
    /// to be known
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["lazy", "streams"])]
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
        lazy: flags.lazy.then_some(LazyTerms { fill: !flags.no_fill, wait_s: flags.wait }),
    };
    let started = client.pull_image(target, &request)?;
    let done = match flags.lazy {
        false => format!("pulled {source} from {peer} as {target}"),
        true => format!(
            "{target} can be used; what is missing of it comes from {peer} (`blockyard image info {target}` shows how much)"
        ),
    };
    transfer::finish(session, &mut client, started, "pull", &done)
}
