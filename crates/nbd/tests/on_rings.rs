//! The whole suite with all connections sharing two rings.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod suite;
mod support;

use blockyard_nbd::Limits;

fn limits() -> Limits {
    Limits { io_threads: 2, ..Limits::default() }
}
