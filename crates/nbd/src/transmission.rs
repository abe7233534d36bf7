//! Requests, decoded from bytes. No sockets, no device.
//!
//! A request is judged as soon as its header is there: what comes out is either something the
//! device may be asked, or a refusal to answer with. A write stops at its header until the caller
//! says that there is room ([`Decoder::begin_payload`]); its payload then goes to memory aligned for
//! the disk, straight from the socket if the caller likes. The decoder holds one payload at most.

#[cfg(test)]
mod tests;

use crate::protocol::{ErrorCode, PAYLOAD_MAX, REQUEST_MAGIC, command, command_flag};
use blockyard_block::{Buffer, BufferMut, CLUSTER_SIZE, ZeroOptions};

/// The size of a request's header.
pub const HEADER_SIZE: usize = 28;
/// Writes too large to serve are skipped and answered up to this length; beyond it the client has
/// lost the protocol.
const SKIP_MAX: u32 = 2 * PAYLOAD_MAX;

/// What the handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub size: u64,
    pub read_only: bool,
    /// Reads and refusals are answered in chunks.
    pub structured: bool,
    /// The id of `base:allocation`, if it was selected.
    pub allocation_context: Option<u32>,
}

/// A request whose header was sound, with its payload if it has one.
#[derive(Debug)]
pub struct Request {
    /// The client's own name for it, to be sent back.
    pub cookie: u64,
    pub operation: Operation,
}

/// What is to be done. Ranges lie within the export.
#[derive(Debug)]
pub enum Operation {
    Read {
        offset: u64,
        length: u32,
        /// Answer with one chunk.
        whole: bool,
    },
    Write {
        offset: u64,
        data: Buffer,
        fua: bool,
    },
    Flush,
    Trim {
        offset: u64,
        length: u32,
        fua: bool,
    },
    WriteZeroes {
        offset: u64,
        length: u32,
        options: ZeroOptions,
    },
    /// Nothing to do but to say so.
    Nothing,
    BlockStatus {
        offset: u64,
        length: u32,
        /// Answer with one extent.
        one: bool,
    },
    Refused(Refusal),
}

impl Operation {
    /// Payload bytes this request makes the server hold until it is answered.
    pub fn weight(&self) -> u64 {
        match self {
            Operation::Read { length, .. } => u64::from(*length),
            Operation::Write { data, .. } => data.len() as u64,
            _ => 0,
        }
    }
}

/// The answer to a request that must not reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: &'static str,
}

/// Something a connection cannot go on after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// What came of one call of [`Decoder::decode`].
#[derive(Debug)]
pub enum Decoded {
    /// Come back with more bytes.
    More,
    Request(Request),
    /// A write of so many bytes: call [`Decoder::begin_payload`] when there is room for them.
    Payload(u32),
    /// The client said goodbye; what it asked before is still to be answered.
    Disconnect,
}

/// A write whose payload is not complete.
#[derive(Debug, Clone, Copy)]
struct WriteHeader {
    cookie: u64,
    offset: u64,
    length: u32,
    fua: bool,
}

enum State {
    Header,
    Waiting(WriteHeader),
    Payload { header: WriteHeader, buffer: BufferMut, filled: usize },
    Skipping { cookie: u64, remaining: u32, refusal: Refusal },
}

pub struct Decoder {
    terms: Terms,
    state: State,
}

impl Decoder {
    pub fn new(terms: Terms) -> Decoder {
        Decoder { terms, state: State::Header }
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether the last bytes taken ended a request, so that a closed socket cuts nothing off.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Header)
    }

    /// Whether there is memory for a payload that is not complete.
    pub fn is_within_payload(&self) -> bool {
        matches!(self.state, State::Payload { .. })
    }

    /// Takes bytes from the front of `input` until there is something to tell.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Decoded, Violation> {
        match &mut self.state {
            State::Header => self.decode_header(input),
            State::Waiting(header) => Ok(Decoded::Payload(header.length)),
            State::Payload { buffer, filled, .. } => {
                let taken = input.len().min(buffer.len() - *filled);
                buffer[*filled..*filled + taken].copy_from_slice(&input[..taken]);
                *filled += taken;
                *input = &input[taken..];
                Ok(self.finish_payload())
            }
            State::Skipping { cookie, remaining, refusal } => {
                let taken = input.len().min(*remaining as usize);
                *remaining -= taken as u32;
                *input = &input[taken..];
                if *remaining > 0 {
                    return Ok(Decoded::More);
                }
                let request = Request { cookie: *cookie, operation: Operation::Refused(*refusal) };
                self.state = State::Header;
                Ok(Decoded::Request(request))
            }
        }
    }

    /// Makes room for the payload of the write that [`Decoded::Payload`] told of.
    pub fn begin_payload(&mut self) {
        if let State::Waiting(header) = self.state {
            let phase = (header.offset % CLUSTER_SIZE as u64) as usize;
            let buffer = BufferMut::to_be_filled_at_phase(header.length as usize, phase);
            self.state = State::Payload { header, buffer, filled: 0 };
        }
    }

    /// Where the next bytes of the socket may be read to, if they are payload. Tell
    /// [`Decoder::payload_received`] how many there were.
    pub fn payload_space(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Payload { buffer, filled, .. } => Some(&mut buffer[*filled..]),
            _ => None,
        }
    }

    /// Says that the first `count` bytes of [`Decoder::payload_space`] hold payload.
    pub fn payload_received(&mut self, count: usize) -> Decoded {
        if let State::Payload { buffer, filled, .. } = &mut self.state {
            *filled = (*filled + count).min(buffer.len());
        }
        self.finish_payload()
    }

    fn finish_payload(&mut self) -> Decoded {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Payload { header, buffer, filled } if filled == buffer.len() => {
                let WriteHeader { cookie, offset, fua, .. } = header;
                let operation = Operation::Write { offset, data: buffer.freeze(), fua };
                Decoded::Request(Request { cookie, operation })
            }
            unfinished => {
                self.state = unfinished;
                Decoded::More
            }
        }
    }

    fn decode_header(&mut self, input: &mut &[u8]) -> Result<Decoded, Violation> {
        if let Some(magic) = input.first_chunk::<4>()
            && u32::from_be_bytes(*magic) != REQUEST_MAGIC
        {
            return Err(Violation("wrong magic of a request"));
        }
        let Some((bytes, rest)) = input.split_first_chunk::<HEADER_SIZE>() else {
            return Ok(Decoded::More);
        };
        *input = rest;
        let header = Header::parse(bytes);
        if header.command == command::DISCONNECT {
            return Ok(Decoded::Disconnect);
        }
        let judged = self.judge(&header);
        let cookie = header.cookie;
        match (judged, header.command) {
            (Ok(_), command::WRITE) if header.length > 0 => {
                let Header { offset, length, .. } = header;
                let fua = header.has(command_flag::FUA);
                self.state = State::Waiting(WriteHeader { cookie, offset, length, fua });
                Ok(Decoded::Payload(length))
            }
            (Err(refusal), command::WRITE) if header.length > 0 => {
                if header.length > SKIP_MAX {
                    return Err(Violation("a write far too large"));
                }
                self.state = State::Skipping { cookie, remaining: header.length, refusal };
                self.decode(input)
            }
            (Ok(operation), _) => Ok(Decoded::Request(Request { cookie, operation })),
            (Err(refusal), _) => {
                let operation = Operation::Refused(refusal);
                Ok(Decoded::Request(Request { cookie, operation }))
            }
        }
    }

    /// What a header asks for, if it may. A write comes out as `Nothing`: its payload decides.
    fn judge(&self, header: &Header) -> Result<Operation, Refusal> {
        let Header { offset, length, .. } = *header;
        header.check_flags(&self.terms)?;
        let fua = header.has(command_flag::FUA);
        match header.command {
            command::READ => {
                header.check_range(&self.terms, ErrorCode::Invalid)?;
                header.check_payload()?;
                Ok(Operation::Read { offset, length, whole: header.has(command_flag::DF) })
            }
            command::WRITE => {
                self.check_writable()?;
                header.check_payload()?;
                header.check_range(&self.terms, ErrorCode::NoSpace)?;
                Ok(Operation::Nothing)
            }
            command::FLUSH if offset != 0 || length != 0 => Err(invalid("FLUSH takes no range")),
            command::FLUSH => Ok(Operation::Flush),
            command::TRIM => {
                self.check_writable()?;
                header.check_range(&self.terms, ErrorCode::Invalid)?;
                Ok(header.unless_empty(Operation::Trim { offset, length, fua }))
            }
            command::WRITE_ZEROES => {
                self.check_writable()?;
                header.check_range(&self.terms, ErrorCode::NoSpace)?;
                header.check_fast_zero()?;
                let keep_place = header.has(command_flag::NO_HOLE);
                let options = ZeroOptions { keep_place, fua };
                Ok(header.unless_empty(Operation::WriteZeroes { offset, length, options }))
            }
            // A hint; what is worth keeping in memory is for the engine to find out.
            command::CACHE => {
                header.check_range(&self.terms, ErrorCode::Invalid)?;
                Ok(Operation::Nothing)
            }
            command::BLOCK_STATUS => self.judge_block_status(header),
            _ => Err(invalid("unknown command")),
        }
    }

    fn judge_block_status(&self, header: &Header) -> Result<Operation, Refusal> {
        if self.terms.allocation_context.is_none() {
            return Err(invalid("no meta context was selected"));
        }
        if header.length == 0 {
            return Err(invalid("BLOCK_STATUS of nothing"));
        }
        header.check_range(&self.terms, ErrorCode::Invalid)?;
        let Header { offset, length, .. } = *header;
        Ok(Operation::BlockStatus { offset, length, one: header.has(command_flag::REQ_ONE) })
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        match self.terms.read_only {
            true => {
                Err(Refusal { code: ErrorCode::NotPermitted, message: "the export is read-only" })
            }
            false => Ok(()),
        }
    }
}

fn invalid(message: &'static str) -> Refusal {
    Refusal { code: ErrorCode::Invalid, message }
}

/// A request's header as it is on the wire.
struct Header {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

impl Header {
    /// The fields behind the magic.
    fn parse(b: &[u8; HEADER_SIZE]) -> Header {
        let wide = |at: usize| {
            u64::from_be_bytes([
                b[at],
                b[at + 1],
                b[at + 2],
                b[at + 3],
                b[at + 4],
                b[at + 5],
                b[at + 6],
                b[at + 7],
            ])
        };
        Header {
            flags: u16::from_be_bytes([b[4], b[5]]),
            command: u16::from_be_bytes([b[6], b[7]]),
            cookie: wide(8),
            offset: wide(16),
            length: u32::from_be_bytes([b[24], b[25], b[26], b[27]]),
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// FUA is allowed everywhere once offered; the others belong to one command each.
    fn check_flags(&self, terms: &Terms) -> Result<(), Refusal> {
        use command_flag::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
        let allowed = FUA
            | match self.command {
                command::READ if terms.structured => DF,
                command::WRITE_ZEROES => NO_HOLE | FAST_ZERO,
                command::BLOCK_STATUS => REQ_ONE,
                _ => 0,
            };
        match self.flags & !allowed {
            0 => Ok(()),
            _ => Err(invalid("a flag this command does not take")),
        }
    }

    fn check_range(&self, terms: &Terms, code: ErrorCode) -> Result<(), Refusal> {
        match self.offset.checked_add(u64::from(self.length)) {
            Some(end) if end <= terms.size => Ok(()),
            _ => Err(Refusal { code, message: "beyond the end of the export" }),
        }
    }

    fn check_payload(&self) -> Result<(), Refusal> {
        match self.length <= PAYLOAD_MAX {
            true => Ok(()),
            false => Err(invalid("longer than the maximal block size")),
        }
    }

    /// Zeroing frees whole clusters and writes the rest, so a range without a whole cluster is no
    /// faster than a write; with FAST_ZERO the client asked to be told instead.
    fn check_fast_zero(&self) -> Result<(), Refusal> {
        let cluster = CLUSTER_SIZE as u64;
        let end = self.offset + u64::from(self.length); // in range, as was checked before
        let holds_cluster = self.offset.next_multiple_of(cluster) + cluster <= end;
        match self.has(command_flag::FAST_ZERO) && self.length > 0 && !holds_cluster {
            true => Err(Refusal {
                code: ErrorCode::NotSupported,
                message: "zeroing less than a cluster is no faster than writing it",
            }),
            false => Ok(()),
        }
    }

    fn unless_empty(&self, operation: Operation) -> Operation {
        match self.length {
            0 => Operation::Nothing,
            _ => operation,
        }
    }
}
