//! Two pools, each on a machine of its own, and images that move between them over a line that loses, delays, cuts off and
//! changes messages, while either side is killed, loses power or gets I/O errors.
//!
//! The roles are those of `blockyard_transfer`; what the daemon adds is played by `daemon.rs`. Each machine has a world and an
//! executor of its own, the line has a third: so one can crash while the others go on. Which of them moves next, and all
//! trouble, is drawn from the seed.

mod clock;
mod daemon;
mod driver;
mod job;
mod kept;
mod line;
mod net;
mod site;
mod transfer;

pub use driver::run_transfers;

#[cfg(test)]
mod tests;
