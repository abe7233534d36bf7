//! `blockyard quote NAME PEER`, or `PEER/NAME`, or `quote NAME --via COMMAND`, with `--pull` the other way round.

use crate::commands::{Session, transfer, via};
use crate::size::Size;
use anyhow::Result;
use blockyard_api::{CallThroughPipe, PipeDirection, PullImage, PushImage, TransferTerms};
use clap::Args;

/// Tell what a push or a pull would take; reads no data on either side, but for --sample
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// NAME, to be pushed; or PEER/NAME, to be pulled
    image: String,
    /// Whom it would be pushed to
    peer: Option<String>,
    /// As it would be pushed through this command, such as "ssh host"
    #[arg(long, value_name = "COMMAND", conflicts_with = "peer")]
    via: Option<String>,
    /// With --via: what a pull of that image would take, which is NAME there
    #[arg(long, requires = "via")]
    pull: bool,
    /// Tell how long it takes to send so many bytes a second: 10M, 512K
    #[arg(long)]
    rate: Option<Size>,
    /// Read and compress some clusters of the source, to estimate what compression leaves of the missing ones
    #[arg(long)]
    sample: bool,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let rate = flags.rate.map(|size| size.0);
    let terms = TransferTerms { sample: flags.sample, rate, ..TransferTerms::default() };
    if let Some(command) = &flags.via {
        let (direction, verb) = match flags.pull {
            true => (PipeDirection::Pull, "pull"),
            false => (PipeDirection::Push, "push"),
        };
        let image = flags.image.clone();
        let request = CallThroughPipe { direction, image, there: None, quote: true, terms };
        let done = format!("a {verb} of {} through `{command}`:", flags.image);
        return via::run(session, command, &request, "quote", &done);
    }
    let mut client = session.client()?;
    let (started, done) = match (&flags.peer, transfer::split(&flags.image)) {
        (Some(peer), None) => {
            let request = PushImage { peer: peer.clone(), target: None, quote: true, terms };
            let done = format!("a push of {} to {peer}:", flags.image);
            (client.push_image(&flags.image, &request)?, done)
        }
        (None, Some((peer, source))) => {
            let request = PullImage {
                peer: peer.to_owned(),
                source: Some(source.to_owned()),
                lazy: None,
                quote: true,
                terms,
            };
            let done = format!("a pull of {source} from {peer}:");
            (client.pull_image(source, &request)?, done)
        }
        _ => return Err(transfer::malformed(&flags.image, "NAME with a PEER, or PEER/NAME")),
    };
    transfer::finish(session, &mut client, started, "quote", &done)
}
