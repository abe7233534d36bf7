//! Streaming between daemons: an image is offered as a list of hashes, and only what the receiver lacks crosses.
//!
//! `message.rs` bounds what comes from the wire. [`Wire`] is a conversation of such messages; what carries it is not its business: gRPC with mutual TLS does (`client.rs`, `server.rs`), or a pipe that
//! somebody else protects (`pipe.rs`). The two roles (`sender.rs`, `receiver.rs`) speak over a `Wire` and know no network. Which peers there
//! are, and what they may, is the [`Host`]'s business.
#![forbid(unsafe_code)]

mod allowed;
mod authority;
mod bundle;
mod client;
mod crew;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod lazy;
mod line;
mod message;
mod order;
mod payload;
mod pipe;
mod receiver;
mod sender;
mod server;
mod tls;
mod wire;

#[cfg(test)]
mod fake;

pub use allowed::Allowed;
pub use authority::Authority;
pub use client::connect;
pub use identity::{Fingerprint, Identity, PeerId};
pub use lazy::{
    DependantId, Fetched, Fetching, Kept, LetGo, NoOrigins, Origins, fetch, hold_for_dependant,
    not_needed, pull_lazily, release,
};
pub use line::{Crossing, Heard, Said, wire_with_line};
pub use order::{
    Account, Caller, Direction, Failed, Moved, Order, Progress, Terms, Unwatched, answer, give_up,
    pull, push,
};
pub use pipe::wire_over;
pub use server::{Host, serve};
pub use wire::{Clock, Wire, wire_pair};

/// What build.rs makes of the .proto.
mod v1 {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        missing_docs,
        reason = "generated"
    )]
    tonic::include_proto!("blockyard.transfer.v1");
}

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;
