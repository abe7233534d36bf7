//! The handshake as a state machine over bytes: fixed newstyle, with and without NO_ZEROES.
//!
//! Bytes in, answers out; it owns no socket and no clock, and holds nothing of an option beyond what
//! the caller's input buffer holds. An option larger than [`OPTION_MAX`] is answered TOO_BIG and its
//! bytes are skipped; beyond `SKIP_MAX` the connection ends. How long a client may take is the
//! caller's business.

mod options;
#[cfg(test)]
mod tests;

use crate::exports::{EndReason, ExportSummary};
use crate::protocol::{
    GREETING_MAGIC, OPTION_MAGIC, handshake_flag, option, option_reply, transmission_flag,
};
use crate::transmission::Terms;
use blockyard_block::{BlockDevice, Error, ErrorKind, Result};
use options::{OptionFailure, put_option_reply};
use std::sync::Arc;

/// The largest option that is looked at.
pub const OPTION_MAX: usize = 64 << 10;
/// The largest option that is skipped with an answer.
const SKIP_MAX: u64 = 32 << 20;

const CLIENT_FLAGS_SIZE: usize = 4;
const OPTION_HEADER_SIZE: usize = 16;

/// What the handshake asks about exports.
pub trait Catalogue {
    type Device: BlockDevice;
    fn list(&self) -> Vec<ExportSummary>;
    fn open(&self, name: &str) -> Result<Arc<Self::Device>>;
}

/// An export and what was agreed for serving it.
#[derive(Debug)]
pub struct Agreement<D> {
    pub name: String,
    pub device: Arc<D>,
    pub terms: Terms,
}

/// What came of one call of [`Handshake::advance`].
#[derive(Debug)]
pub enum Progress<D> {
    /// The input holds no whole message; come back with more.
    More,
    /// One message was taken. Send the output, then call again with the rest.
    Again,
    /// Send the output; what follows on the wire are requests.
    Serve(Agreement<D>),
    /// Send the output and close.
    End(EndReason),
}

/// What this side says first.
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    bytes[16..].copy_from_slice(&flags.to_be_bytes());
    bytes
}

enum Phase {
    ClientFlags,
    Options,
    /// So many bytes of an option too large to look at are still to come.
    Skipping(u64),
}

/// One client's negotiation, from its flags to GO.
pub struct Handshake {
    phase: Phase,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    allocation_context_for: Option<String>,
}

impl Default for Handshake {
    fn default() -> Handshake {
        Handshake {
            phase: Phase::ClientFlags,
            fixed: false,
            no_zeroes: false,
            structured: false,
            allocation_context_for: None,
        }
    }
}

impl Handshake {
    /// Takes at most one message from the front of `input` and appends the answer to `output`.
    /// Returns how many bytes were taken. An input of `OPTION_MAX` + 16 bytes always holds a message.
    pub fn advance<C: Catalogue>(
        &mut self,
        input: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> (usize, Progress<C::Device>) {
        match self.phase {
            Phase::ClientFlags => match input.first_chunk::<CLIENT_FLAGS_SIZE>() {
                Some(flags) => (CLIENT_FLAGS_SIZE, self.take_flags(u32::from_be_bytes(*flags))),
                None => (0, Progress::More),
            },
            Phase::Skipping(remaining) => {
                let taken = remaining.min(input.len() as u64);
                if taken == remaining {
                    self.phase = Phase::Options;
                    return (taken as usize, Progress::Again);
                }
                self.phase = Phase::Skipping(remaining - taken);
                (taken as usize, Progress::More)
            }
            Phase::Options => self.take_option(input, catalogue, output),
        }
    }

    fn take_flags<D>(&mut self, flags: u32) -> Progress<D> {
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        if flags & !known != 0 {
            return Progress::End(EndReason::Violation("unknown client flags"));
        }
        self.fixed = flags & u32::from(handshake_flag::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
        self.phase = Phase::Options;
        Progress::Again
    }

    fn take_option<C: Catalogue>(
        &mut self,
        input: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> (usize, Progress<C::Device>) {
        if let Some(magic) = input.first_chunk::<8>()
            && u64::from_be_bytes(*magic) != OPTION_MAGIC
        {
            return (0, Progress::End(EndReason::Violation("wrong magic of an option")));
        }
        let Some(header) = input.first_chunk::<OPTION_HEADER_SIZE>() else {
            return (0, Progress::More);
        };
        let code = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let length = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        if !self.fixed && code != option::EXPORT_NAME {
            let reason = "an option that needs the fixed newstyle handshake";
            return (OPTION_HEADER_SIZE, Progress::End(EndReason::Violation(reason)));
        }
        if length as usize > OPTION_MAX {
            return (OPTION_HEADER_SIZE, self.refuse_size(code, length, output));
        }
        let whole = OPTION_HEADER_SIZE + length as usize;
        match input.get(OPTION_HEADER_SIZE..whole) {
            Some(data) => (whole, self.answer(code, data, catalogue, output)),
            None => (0, Progress::More),
        }
    }

    fn refuse_size<D>(&mut self, code: u32, length: u32, output: &mut Vec<u8>) -> Progress<D> {
        if code == option::EXPORT_NAME || u64::from(length) > SKIP_MAX {
            return Progress::End(EndReason::Violation("an option far too large"));
        }
        put_option_reply(output, code, option_reply::TOO_BIG, b"this option is too large");
        self.phase = Phase::Skipping(u64::from(length));
        Progress::Again
    }

    fn answer<C: Catalogue>(
        &mut self,
        code: u32,
        data: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> Progress<C::Device> {
        let answered = match code {
            option::EXPORT_NAME => return self.export_name(data, catalogue, output),
            option::ABORT => {
                put_option_reply(output, code, option_reply::ACK, b"");
                return Progress::End(EndReason::Goodbye);
            }
            option::GO => match self.info(code, data, catalogue, output) {
                Ok((name, device)) => {
                    return Progress::Serve(self.agree(name, device));
                }
                Err(failure) => Err(failure),
            },
            option::INFO => self.info(code, data, catalogue, output).map(drop),
            option::LIST => options::list(data, catalogue, output),
            option::STRUCTURED_REPLY => self.structured_reply(data, output),
            option::LIST_META_CONTEXT => self.list_contexts(data, catalogue, output),
            option::SET_META_CONTEXT => self.set_contexts(data, catalogue, output),
            _ => Err(OptionFailure::new(option_reply::UNSUPPORTED, "this option is not supported")),
        };
        if let Err(failure) = answered {
            put_option_reply(output, code, failure.reply, failure.message.as_bytes());
        }
        Progress::Again
    }

    /// The old way to open an export: no error can be told, so a failure closes the connection.
    fn export_name<C: Catalogue>(
        &mut self,
        data: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> Progress<C::Device> {
        let opened = options::name_of(data).map_err(|failure| failure.message).and_then(|name| {
            match catalogue.open(&name) {
                Ok(device) => Ok((name, device)),
                Err(error) => Err(error.to_string()),
            }
        });
        let (name, device) = match opened {
            Ok(opened) => opened,
            Err(message) => return Progress::End(EndReason::NoExport(message)),
        };
        let agreement = self.agree(name, device);
        output.extend_from_slice(&agreement.terms.size.to_be_bytes());
        output.extend_from_slice(&transmission_flags(&agreement.terms).to_be_bytes());
        if !self.no_zeroes {
            output.extend_from_slice(&[0; 124]);
        }
        Progress::Serve(agreement)
    }

    /// INFO and GO up to and including the ACK.
    fn info<C: Catalogue>(
        &mut self,
        code: u32,
        data: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> std::result::Result<(String, Arc<C::Device>), OptionFailure> {
        let asked = options::parse_info(data)?;
        let device = catalogue.open(&asked.name).map_err(|error| open_failure(&error))?;
        let terms = self.terms(&asked.name, &*device);
        options::put_info(output, code, &asked, &terms, catalogue);
        put_option_reply(output, code, option_reply::ACK, b"");
        Ok((asked.name, device))
    }

    fn structured_reply(
        &mut self,
        data: &[u8],
        output: &mut Vec<u8>,
    ) -> std::result::Result<(), OptionFailure> {
        if !data.is_empty() {
            return Err(OptionFailure::invalid("STRUCTURED_REPLY carries no data"));
        }
        if self.structured {
            return Err(OptionFailure::invalid("structured replies were agreed before"));
        }
        self.structured = true;
        put_option_reply(output, option::STRUCTURED_REPLY, option_reply::ACK, b"");
        Ok(())
    }

    fn list_contexts<C: Catalogue>(
        &mut self,
        data: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> std::result::Result<(), OptionFailure> {
        let asked = self.parse_contexts(data, catalogue)?;
        if asked.listing_includes_allocation() {
            options::put_context(output, option::LIST_META_CONTEXT, 0);
        }
        put_option_reply(output, option::LIST_META_CONTEXT, option_reply::ACK, b"");
        Ok(())
    }

    fn set_contexts<C: Catalogue>(
        &mut self,
        data: &[u8],
        catalogue: &C,
        output: &mut Vec<u8>,
    ) -> std::result::Result<(), OptionFailure> {
        self.allocation_context_for = None; // a failed selection leaves none
        let asked = self.parse_contexts(data, catalogue)?;
        if asked.names_allocation() {
            options::put_context(output, option::SET_META_CONTEXT, ALLOCATION_CONTEXT_ID);
            self.allocation_context_for = Some(asked.export.clone());
        }
        put_option_reply(output, option::SET_META_CONTEXT, option_reply::ACK, b"");
        Ok(())
    }

    fn parse_contexts<'a, C: Catalogue>(
        &self,
        data: &'a [u8],
        catalogue: &C,
    ) -> std::result::Result<options::ContextQuery<'a>, OptionFailure> {
        let asked = options::parse_context_query(data)?;
        if !self.structured {
            return Err(OptionFailure::invalid("agree on STRUCTURED_REPLY first"));
        }
        catalogue.open(&asked.export).map_err(|error| open_failure(&error))?;
        Ok(asked)
    }

    fn terms<D: BlockDevice>(&self, name: &str, device: &D) -> Terms {
        let selected = self.allocation_context_for.as_deref() == Some(name);
        Terms {
            size: device.size(),
            read_only: device.read_only(),
            structured: self.structured,
            allocation_context: selected.then_some(ALLOCATION_CONTEXT_ID),
        }
    }

    fn agree<D: BlockDevice>(&self, name: String, device: Arc<D>) -> Agreement<D> {
        let terms = self.terms(&name, &*device);
        Agreement { name, device, terms }
    }
}

/// The id we give `base:allocation`; a listing shows 0, as the protocol wants.
const ALLOCATION_CONTEXT_ID: u32 = 1;

/// What an export can do, as told to the client.
fn transmission_flags(terms: &Terms) -> u16 {
    use transmission_flag::*;
    let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
    flags |= match terms.read_only {
        true => READ_ONLY,
        false => SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO,
    };
    if terms.structured {
        flags |= SEND_DF;
    }
    flags
}

/// The client hears the kind; what the message says of our files is not its business.
fn open_failure(error: &Error) -> OptionFailure {
    let reply = match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidArgument => option_reply::UNKNOWN_EXPORT,
        ErrorKind::ShutDown => option_reply::SHUTDOWN,
        _ => option_reply::POLICY,
    };
    OptionFailure {
        reply,
        message: format!("the export cannot be opened: {}", error.kind().label()),
    }
}
