//! For fuzzers alone: what a stranger says, as bytes, to a side with a pool of its own. The bytes of a message go
//! through the decoder that gRPC uses; whatever the side answers is thrown away.

use crate::allowed::Allowed;
use crate::lazy::NoOrigins;
use crate::order::{Account, Caller, Failed, Terms, Unwatched, answer, pull, push};
use crate::v1;
use crate::wire::Wire;
use blockyard_block::{Error, ErrorKind, ImageName};
use blockyard_io::{Directory, block_on};
use blockyard_pool::{Pool, Volume};
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Messages of the side that are kept for nobody.
const ANSWERS_MAX: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// Who the side is that hears the stranger.
pub enum Side<'a, D: Directory> {
    /// It was called by the stranger, who may do everything.
    Called,
    /// It called, to send this image.
    Pushes(&'a Volume<D>),
    /// It called, to make an image of this name.
    Pulls(&'a ImageName),
}

/// What comes of a stranger who says `messages` and hangs up.
pub fn hear<D: Directory>(
    runtime: &Handle,
    pool: &Arc<Pool<D>>,
    side: Side<'_, D>,
    terms: Terms,
    messages: &[&[u8]],
) -> Result<Account, Failed> {
    let (outgoing, _answers) = mpsc::channel(ANSWERS_MAX);
    let (stranger, incoming) = mpsc::channel(messages.len() + 1);
    for bytes in messages {
        let decoded = v1::Message::decode(*bytes)
            .map_err(|error| Error::new(ErrorKind::Io, format!("no message: {error}")));
        let last = decoded.is_err();
        let _ = stranger.try_send(decoded); // there is room for all of them
        if last {
            break;
        }
    }
    drop(stranger);
    let wire = Wire::new(runtime, outgoing, incoming).with_patience(PATIENCE, PATIENCE);
    let caller =
        Caller { pool, terms, quote: false, again: false, now_unix_s: 1, progress: &Unwatched };
    match side {
        Side::Called => {
            let allowed = Allowed { push: true, pull: true, images: Vec::new() };
            block_on(answer(wire, pool, &allowed, 1, &Unwatched, |_| Ok(()), &NoOrigins))
        }
        Side::Pushes(source) => block_on(push(wire, &caller, source, &ImageName::parse("there")?)),
        Side::Pulls(target) => block_on(pull(wire, &caller, target, target)),
    }
}
