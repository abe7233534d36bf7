//! What the user sees: tables for people, JSON for programs, progress, errors with exit codes.

pub(crate) mod job;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod time;

use anyhow::Result;
use blockyard_block::Error;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json }
    }

    pub(crate) fn json(self) -> bool {
        self.json
    }

    /// The data as JSON, or else the text for people.
    pub(crate) fn print(self, data: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            // As an I/O error a pipe that nobody reads any more is known for what it is.
            serde_json::to_writer_pretty(&mut out, data).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            out.write_all(text().as_bytes())?;
        }
        Ok(out.flush()?)
    }
}

/// The error with its causes on one line; nothing when the reader of our output went away.
pub(crate) fn print_error(error: &anyhow::Error) {
    let reader_gone = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if !reader_gone {
        eprintln!("blockyard: {}", one_line(error));
    }
}

/// The error and its causes. Our own errors carry their cause in the message already.
fn one_line(error: &anyhow::Error) -> String {
    let mut messages = Vec::new();
    for cause in error.chain() {
        messages.push(cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    messages.join(": ")
}

/// The exit code: that of the kind of error it is, 1 if it is none of ours.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Cancelled>() {
        return 130; // as shells have it for a program that Ctrl-C ended
    }
    if error.is::<CannotTell>() {
        return 2;
    }
    error.downcast_ref::<Error>().map_or(1, |error| error.kind().exit_code())
}

/// A job that the user stopped: what is said of it.
#[derive(Debug)]
pub(crate) struct Cancelled(pub(crate) String);

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cancelled {}

/// Context of whatever kept `check` from a verdict: 1 is the exit code of a bad one.
#[derive(Debug)]
pub(crate) struct CannotTell(pub(crate) PathBuf);

impl fmt::Display for CannotTell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot tell whether {} is sound", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::{exit_code, one_line};
    use anyhow::Context;
    use blockyard_block::{Error, ErrorKind};
    use std::io;

    #[test]
    fn an_error_is_told_once_and_keeps_its_exit_code_under_context() {
        let below = Error::io("data", io::Error::from(io::ErrorKind::NotFound));
        let error = Err::<(), _>(below).context("opening the pool").unwrap_err();
        assert_eq!(one_line(&error), "opening the pool: data: entity not found");
        assert_eq!(exit_code(&error), ErrorKind::NotFound.exit_code());
        assert_eq!(exit_code(&anyhow::anyhow!("else")), 1);
    }
}
