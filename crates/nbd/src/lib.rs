//! An NBD server over unix sockets for any [`blockyard_block::BlockDevice`].
//!
//! Two layers. The protocol is decoded and encoded by state machines over bytes that own no socket,
//! thread or clock ([`handshake`], [`transmission`], [`reply`], [`execute`]), so that fuzzers and
//! other executors drive the same code. Above it, [`Server`] serves all connections on a few threads
//! with a ring each, or where io_uring is barred each connection with a few blocking threads.
//!
//! Whatever a client sends gets the protocol's answer or a closed connection: never a panic, a
//! hang, or more memory than [`Limits`] allows. What an export is and who may open it is up to the
//! program, through [`Exports`].
#![forbid(unsafe_code)]

mod connection;
pub mod execute;
mod exports;
pub mod handshake;
mod protocol;
pub mod reply;
mod rings;
mod server;
pub mod transmission;

pub use exports::{
    ClientInfo, ConnectionId, Counts, EndReason, Event, ExportSummary, Exports, Limits,
};
pub use protocol::{BLOCK_SIZE_PREFERRED, PAYLOAD_MAX};
pub use server::Server;
