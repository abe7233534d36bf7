//! What the server promises, however it serves.

pub(crate) mod adversity;
mod handshake;
mod real_programs;
mod transmission;
