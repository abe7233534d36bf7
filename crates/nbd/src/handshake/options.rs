//! The payloads of options and of their replies. Decoders take any bytes.

use super::{Catalogue, transmission_flags};
use crate::protocol::{
    BLOCK_SIZE_PREFERRED, OPTION_REPLY_MAGIC, PAYLOAD_MAX, STRING_MAX, info, option, option_reply,
};
use crate::transmission::Terms;

const ALLOCATION_CONTEXT: &str = "base:allocation";

/// An option that is answered with an error; the negotiation goes on.
pub(super) struct OptionFailure {
    pub(super) reply: u32,
    pub(super) message: String,
}

impl OptionFailure {
    pub(super) fn new(reply: u32, message: &str) -> OptionFailure {
        OptionFailure { reply, message: message.to_owned() }
    }

    pub(super) fn invalid(message: &str) -> OptionFailure {
        OptionFailure::new(option_reply::INVALID, message)
    }
}

type Result<T> = std::result::Result<T, OptionFailure>;

/// Appends one reply to the option `code`.
pub(super) fn put_option_reply(output: &mut Vec<u8>, code: u32, reply: u32, data: &[u8]) {
    output.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    output.extend_from_slice(&code.to_be_bytes());
    output.extend_from_slice(&reply.to_be_bytes());
    output.extend_from_slice(&(data.len() as u32).to_be_bytes());
    output.extend_from_slice(data);
}

/// Takes fields from the front of an option's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| OptionFailure::invalid("the option is shorter than it says"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    fn end(&self) -> Result<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(OptionFailure::invalid("the option is longer than it says")),
        }
    }
}

/// An export name as the client sent it.
pub(super) fn name_of(bytes: &[u8]) -> Result<String> {
    if bytes.len() > STRING_MAX {
        return Err(OptionFailure::new(option_reply::TOO_BIG, "the name is too long"));
    }
    match std::str::from_utf8(bytes) {
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(OptionFailure::invalid("the name is not UTF-8")),
    }
}

pub(super) fn list<C: Catalogue>(data: &[u8], catalogue: &C, output: &mut Vec<u8>) -> Result<()> {
    if !data.is_empty() {
        return Err(OptionFailure::invalid("LIST carries no data"));
    }
    for summary in catalogue.list() {
        let name = cut(&summary.name).as_bytes();
        let mut entry = (name.len() as u32).to_be_bytes().to_vec();
        entry.extend_from_slice(name);
        entry.extend_from_slice(cut(&summary.description).as_bytes());
        put_option_reply(output, option::LIST, option_reply::SERVER, &entry);
    }
    put_option_reply(output, option::LIST, option_reply::ACK, b"");
    Ok(())
}

/// The longest front of `text` that the protocol takes as a string.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_MAX)]
}

/// What INFO or GO asks for.
pub(super) struct InfoRequest {
    pub(super) name: String,
    wants_name: bool,
    wants_description: bool,
}

pub(super) fn parse_info(data: &[u8]) -> Result<InfoRequest> {
    let mut fields = Fields(data);
    let name = name_of(fields.string()?)?;
    let count = fields.u16()?;
    let mut asked = InfoRequest { name, wants_name: false, wants_description: false };
    for _ in 0..count {
        match fields.u16()? {
            info::NAME => asked.wants_name = true,
            info::DESCRIPTION => asked.wants_description = true,
            _ => {} // the others are sent anyway, or unknown and to be ignored
        }
    }
    fields.end()?;
    Ok(asked)
}

pub(super) fn put_info<C: Catalogue>(
    output: &mut Vec<u8>,
    code: u32,
    asked: &InfoRequest,
    terms: &Terms,
    catalogue: &C,
) {
    let mut put = |kind: u16, fields: &[&[u8]]| {
        let data = [&kind.to_be_bytes()[..], &fields.concat()].concat();
        put_option_reply(output, code, option_reply::INFO, &data);
    };
    let flags = transmission_flags(terms).to_be_bytes();
    put(info::EXPORT, &[&terms.size.to_be_bytes(), &flags]);
    if asked.wants_name {
        put(info::NAME, &[asked.name.as_bytes()]);
    }
    if asked.wants_description
        && let Some(summary) = catalogue.list().iter().find(|summary| summary.name == asked.name)
    {
        put(info::DESCRIPTION, &[cut(&summary.description).as_bytes()]);
    }
    let [minimum, preferred] = [1, BLOCK_SIZE_PREFERRED].map(u32::to_be_bytes);
    put(info::BLOCK_SIZE, &[&minimum, &preferred, &PAYLOAD_MAX.to_be_bytes()]);
}

/// What LIST_META_CONTEXT or SET_META_CONTEXT asks for.
pub(super) struct ContextQuery<'a> {
    pub(super) export: String,
    queries: Vec<&'a [u8]>,
}

impl ContextQuery<'_> {
    /// A listing takes no query, or "base:", as a wish for all there is.
    pub(super) fn listing_includes_allocation(&self) -> bool {
        self.queries.is_empty() || self.queries.contains(&&b"base:"[..]) || self.names_allocation()
    }

    pub(super) fn names_allocation(&self) -> bool {
        self.queries.contains(&ALLOCATION_CONTEXT.as_bytes())
    }
}

pub(super) fn parse_context_query(data: &[u8]) -> Result<ContextQuery<'_>> {
    let mut fields = Fields(data);
    let export = name_of(fields.string()?)?;
    let count = fields.u32()?;
    let mut queries = Vec::new(); // grows with the data only, whatever the count says
    for _ in 0..count {
        let query = fields.string()?;
        if query.len() > STRING_MAX {
            return Err(OptionFailure::new(option_reply::TOO_BIG, "a context name is too long"));
        }
        queries.push(query);
    }
    fields.end()?;
    Ok(ContextQuery { export, queries })
}

/// Offers or confirms `base:allocation`, the only context we have.
pub(super) fn put_context(output: &mut Vec<u8>, code: u32, id: u32) {
    let data = [&id.to_be_bytes()[..], ALLOCATION_CONTEXT.as_bytes()].concat();
    put_option_reply(output, code, option_reply::META_CONTEXT, &data);
}
