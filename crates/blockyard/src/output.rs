//! What the user sees: tables for people, JSON for programs, progress, errors with exit codes.

pub(crate) mod job;
pub(crate) mod table;
pub(crate) mod time;

use anyhow::Result;
use blockyard_block::{Error, ErrorKind};
use serde::Serialize;
use std::io::{self, Write};

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
            serde_json::to_writer_pretty(&mut out, data)?;
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
        // Our own errors carry their cause in the message already.
        match error.downcast_ref::<Error>() {
            Some(own) => eprintln!("blockyard: {own}"),
            None => eprintln!("blockyard: {error:#}"),
        }
    }
}

/// The exit code: that of the kind of error it is, 1 if it is none of ours.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Error>().map_or(1, |error| error.kind().exit_code())
}

/// A job that the user stopped.
pub(crate) fn cancelled(what: &str) -> Error {
    Error::new(ErrorKind::ShutDown, format!("{what} cancelled; nothing of it remains"))
}
