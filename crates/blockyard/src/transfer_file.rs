//! Disks in files of the host: import into images and export from them.
//!
//! Everything here blocks, and is run on the thread of a job or of an upload. A [`source::Source`]
//! is a disk to read, a [`copy::Sink`] one to write; [`copy::copy`] moves the data of the first into
//! the second on a few threads and skips what is known to be zero. What makes the result appear all
//! at once (a hidden image revealed, a file given its name) is done by [`import`] and [`export`]
//! after everything is durable: cut off at any point, nothing remains.

mod copy;
mod detect;
pub(crate) mod export;
pub(crate) mod import;
mod layered;
mod progress;
mod publish;
mod qcow2_header;
mod qemu_img;
mod raw;
mod source;
mod stream;
mod unreadable;

#[cfg(test)]
mod testing;
