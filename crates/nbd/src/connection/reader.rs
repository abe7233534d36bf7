//! The read side of a connection: takes as much as the socket has and decodes all of it.
//!
//! Payloads of large writes are read straight into their own memory; what one system call reads
//! beyond is kept in a buffer that starts small and grows for clients that fill it.

use crate::exports::{Counts, EndReason};
use crate::transmission::{Decoded, Decoder, Operation, Request, Terms};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};
use std::os::unix::net::UnixStream;

const BUFFER_MIN: usize = 16 << 10;
const BUFFER_MAX: usize = 256 << 10;
/// Writes from this size on are worth a system call of their own rather than a copy.
const LARGE: usize = 16 << 10;
/// How far to read ahead of a large payload: the next headers, little of the next payload.
const AHEAD_OF_LARGE: usize = 4 << 10;

pub(crate) struct Reader {
    decoder: Decoder,
    buffer: Vec<u8>,
    /// Received and not decoded yet: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Decoded, but there was no room to admit it.
    held: Option<Request>,
    /// What must be admitted before anything can be read.
    wants: u64,
    last_was_large: bool,
    /// The socket had no more than what was received last.
    drained: bool,
    /// Admitted requests of the last turn, for the caller to take.
    pub(crate) batch: VecDeque<Request>,
    counts: Counts,
}

impl Reader {
    /// `early` is what came along with the end of the handshake.
    pub(crate) fn new(terms: Terms, early: Vec<u8>) -> Reader {
        let end = early.len();
        let mut buffer = early;
        buffer.resize(end.max(BUFFER_MIN), 0);
        Reader {
            decoder: Decoder::new(terms),
            buffer,
            start: 0,
            end,
            held: None,
            wants: 0,
            last_was_large: false,
            drained: false,
            batch: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn wants(&self) -> u64 {
        self.wants
    }

    /// Whether a write is admitted whose payload is not complete.
    pub(crate) fn is_within_payload(&self) -> bool {
        self.decoder.is_within_payload()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A read may bring something again, although it may come after what was received already.
    pub(crate) fn socket_is_readable(&mut self) {
        self.drained = false;
    }

    /// Whether the socket is to become readable before another read can bring something.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained && self.held.is_none() && self.wants == 0
    }

    /// Fills `batch` with at least one request, waiting for the socket if need be, or stops at a
    /// request that `admit` has no room for, or where a socket that does not wait has no more. An
    /// error is the end of reading.
    pub(crate) fn read(
        &mut self,
        socket: &UnixStream,
        mut admit: impl FnMut(u64) -> bool,
    ) -> Result<(), EndReason> {
        self.wants = 0;
        if let Some(request) = self.held.take()
            && !self.take(request, &mut admit)
        {
            return Ok(());
        }
        loop {
            let mut input = &self.buffer[self.start..self.end];
            let decoded = self.decoder.decode(&mut input);
            self.start = self.end - input.len();
            match decoded.map_err(|violation| EndReason::Violation(violation.0))? {
                Decoded::More if !self.batch.is_empty() => return Ok(()),
                Decoded::More => match self.receive(socket)? {
                    Received::Write(write) => self.keep(write),
                    Received::Bytes => {}
                    Received::Nothing => return Ok(()),
                },
                Decoded::Disconnect => return Err(EndReason::Goodbye),
                Decoded::Payload(length) if admit(u64::from(length)) => {
                    self.decoder.begin_payload();
                }
                Decoded::Payload(length) => {
                    self.wants = u64::from(length);
                    return Ok(());
                }
                // A write was admitted before its payload.
                Decoded::Request(request) if is_write(&request) => self.keep(request),
                Decoded::Request(request) => {
                    if !self.take(request, &mut admit) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Puts a request into the batch, if there is room for it; else keeps it for the next turn.
    fn take(&mut self, request: Request, admit: &mut impl FnMut(u64) -> bool) -> bool {
        let weight = request.operation.weight();
        if admit(weight) {
            self.keep(request);
            return true;
        }
        self.wants = weight;
        self.held = Some(request);
        false
    }

    fn keep(&mut self, request: Request) {
        self.count(&request.operation);
        self.batch.push_back(request);
    }

    fn count(&mut self, operation: &Operation) {
        let counts = &mut self.counts;
        match operation {
            Operation::Read { length, .. } => {
                counts.reads += 1;
                counts.bytes_read += u64::from(*length);
                self.last_was_large = false;
            }
            Operation::Write { data, .. } => {
                counts.writes += 1;
                counts.bytes_written += data.len() as u64;
                self.last_was_large = data.len() >= LARGE;
            }
            Operation::Flush => counts.flushes += 1,
            Operation::Trim { .. } | Operation::WriteZeroes { .. } => counts.trims += 1,
            Operation::Nothing | Operation::BlockStatus { .. } | Operation::Refused(_) => {
                counts.others += 1;
            }
        }
    }

    /// One system call's worth of bytes.
    fn receive(&mut self, socket: &UnixStream) -> Result<Received, EndReason> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let between = self.decoder.is_between_requests() && self.end == 0;
        let space = self.decoder.payload_space().unwrap_or_default();
        let space_length = space.len();
        let ahead = match self.last_was_large || space_length >= LARGE {
            true => self.buffer.len().min(self.end + AHEAD_OF_LARGE),
            false => self.buffer.len(),
        };
        let window = &mut self.buffer[self.end..ahead];
        let window_length = window.len();
        let count = loop {
            let mut slices = [IoSliceMut::new(space), IoSliceMut::new(window)];
            match (&mut &*socket).read_vectored(&mut slices) {
                Ok(0) if between => return Err(EndReason::Closed),
                Ok(0) => return Err(EndReason::Broken("closed within a request".to_owned())),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.drained = true;
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(EndReason::Broken(error.to_string())),
            }
        };
        self.drained = count < space_length + window_length;
        let payload = count.min(space_length);
        self.end += count - payload;
        if count - payload == window_length && ahead == self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).min(BUFFER_MAX), 0);
        }
        match self.decoder.payload_received(payload) {
            Decoded::Request(request) => Ok(Received::Write(request)),
            _ => Ok(Received::Bytes),
        }
    }
}

/// What one system call brought.
enum Received {
    Bytes,
    /// They completed the payload of this write.
    Write(Request),
    /// The socket does not wait, and has nothing.
    Nothing,
}

fn is_write(request: &Request) -> bool {
    matches!(request.operation, Operation::Write { .. })
}
