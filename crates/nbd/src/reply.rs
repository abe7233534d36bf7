//! Replies, encoded into batches that leave in one vectored write. No sockets.
//!
//! A batch holds the replies' headers in one run of bytes and payloads by reference, so that
//! encoding a reply to a small request allocates nothing. Zeros are sent from one static block.

#[cfg(test)]
mod tests;

use crate::execute::Outcome;
use crate::protocol::{
    ErrorCode, SIMPLE_REPLY_MAGIC, STRING_MAX, STRUCTURED_REPLY_MAGIC, allocation, chunk,
};
use crate::transmission::Terms;
use blockyard_block::{AllocationRun, AllocationState, Buffer, Segment};
use std::io::IoSlice;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

enum Piece {
    /// So many of the next bytes of the headers.
    Headers(usize),
    Data(Buffer),
    Zeroes(u64),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Headers(length) => *length as u64,
            Piece::Data(buffer) => buffer.len() as u64,
            Piece::Zeroes(length) => *length,
        }
    }
}

/// Encoded replies, in order, and how much of them has been sent.
#[derive(Default)]
pub struct Batch {
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    /// Pieces and header bytes that are gone entirely, and bytes gone of the piece after them.
    pieces_sent: usize,
    headers_sent: usize,
    partly_sent: u64,
    length: u64,
    requests: usize,
    weight: u64,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Bytes encoded, sent or not.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many requests this answers.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// The payload bytes these requests were charged with.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Encodes the answer to one request that was charged with `weight`.
    pub fn answer(&mut self, terms: &Terms, answer: Answer, weight: u64) {
        let Answer { cookie, outcome } = answer;
        self.requests += 1;
        self.weight += weight;
        match (outcome, terms.structured) {
            (Outcome::Failed(code, message), true) => self.put_error(cookie, code, message),
            (Outcome::Failed(code, _), false) => self.put_simple(cookie, code as u32),
            (Outcome::Done, true) => self.put_chunk(cookie, chunk::NONE, true, &[], 0),
            (Outcome::Done, false) => self.put_simple(cookie, 0),
            (Outcome::Read { segments, .. }, false) => {
                self.put_simple(cookie, 0);
                segments.into_iter().for_each(|segment| self.put_segment(segment));
            }
            (Outcome::Read { offset, segments, whole: true }, true) => {
                self.put_whole(cookie, offset, segments);
            }
            (Outcome::Read { offset, segments, whole: false }, true) => {
                self.put_chunks(cookie, offset, segments);
            }
            (Outcome::Status { context, runs }, _) => self.put_status(cookie, context, &runs),
        }
    }

    /// Moves all of `other` behind what is here.
    pub fn append(&mut self, other: Batch) {
        if self.is_empty() {
            *self = other;
            return;
        }
        debug_assert!(other.partly_sent == 0 && other.pieces_sent == 0, "appended unsent");
        self.headers.extend_from_slice(&other.headers);
        self.pieces.extend(other.pieces);
        self.length += other.length;
        self.requests += other.requests;
        self.weight += other.weight;
    }

    /// What is still to be sent, as far as one vectored write takes it: fills `slices` from the
    /// front and returns how many were filled. None are when all is sent.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut headers = &self.headers[self.headers_sent..];
        let mut skip = self.partly_sent;
        for piece in &self.pieces[self.pieces_sent..] {
            let mut left = piece.length() - skip;
            while left > 0 {
                if count == slices.len() {
                    return count;
                }
                let bytes = match piece {
                    Piece::Headers(length) => &headers[skip as usize..*length],
                    Piece::Data(buffer) => &buffer[skip as usize..],
                    Piece::Zeroes(_) => &ZEROES[..left.min(ZEROES.len() as u64) as usize],
                };
                slices[count] = IoSlice::new(bytes);
                count += 1;
                left -= bytes.len() as u64;
            }
            if let Piece::Headers(length) = piece {
                headers = &headers[*length..];
            }
            skip = 0;
        }
        count
    }

    /// Notes that `sent` bytes of what [`Batch::slices`] gave are on their way. Payloads that are gone
    /// are let go.
    pub fn advance(&mut self, sent: usize) {
        let mut sent = sent as u64 + self.partly_sent;
        while let Some(piece) = self.pieces.get_mut(self.pieces_sent) {
            let length = piece.length();
            if sent < length {
                break;
            }
            sent -= length;
            match piece {
                Piece::Headers(length) => self.headers_sent += *length,
                Piece::Data(_) | Piece::Zeroes(_) => *piece = Piece::Zeroes(0),
            }
            self.pieces_sent += 1;
        }
        self.partly_sent = sent;
    }

    /// Empties the batch and keeps its memory for the next, unless it grew large.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        let mut pieces = std::mem::take(&mut self.pieces);
        headers.clear();
        pieces.clear();
        headers.shrink_to(64 << 10);
        pieces.shrink_to(1 << 10);
        *self = Batch { headers, pieces, ..Batch::default() };
    }

    fn put(&mut self, bytes: &[u8]) {
        self.headers.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        match self.pieces.last_mut() {
            Some(Piece::Headers(length)) => *length += bytes.len(),
            _ => self.pieces.push(Piece::Headers(bytes.len())),
        }
    }

    fn put_segment(&mut self, segment: Segment) {
        self.length += segment.length();
        self.pieces.push(match segment {
            Segment::Data(buffer) => Piece::Data(buffer),
            Segment::Zeroes(length) => Piece::Zeroes(length),
        });
    }

    fn put_simple(&mut self, cookie: u64, code: u32) {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&code.to_be_bytes());
        bytes[8..].copy_from_slice(&cookie.to_be_bytes());
        self.put(&bytes);
    }

    /// A chunk's header and its `fields`; `follows` bytes of payload come after.
    fn put_chunk(&mut self, cookie: u64, kind: u16, last: bool, fields: &[u8], follows: u64) {
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        let length = (fields.len() as u64 + follows) as u32; // at most PAYLOAD_MAX and some fields
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&length.to_be_bytes());
        self.put(&bytes);
        self.put(fields);
    }

    fn put_error(&mut self, cookie: u64, code: ErrorCode, message: &str) {
        let message = &message.as_bytes()[..message.floor_char_boundary(STRING_MAX)];
        let mut fields = (code as u32).to_be_bytes().to_vec();
        fields.extend_from_slice(&(message.len() as u16).to_be_bytes());
        fields.extend_from_slice(message);
        self.put_chunk(cookie, chunk::ERROR, true, &fields, 0);
    }

    /// A read that the client wants unfragmented.
    fn put_whole(&mut self, cookie: u64, offset: u64, segments: Vec<Segment>) {
        let length: u64 = segments.iter().map(Segment::length).sum();
        if length == 0 {
            return self.put_chunk(cookie, chunk::NONE, true, &[], 0);
        }
        if segments.iter().all(|segment| matches!(segment, Segment::Zeroes(_))) {
            return self.put_hole(cookie, offset, length, true);
        }
        self.put_chunk(cookie, chunk::OFFSET_DATA, true, &offset.to_be_bytes(), length);
        segments.into_iter().for_each(|segment| self.put_segment(segment));
    }

    /// A read as one chunk for each run of data or zeros.
    fn put_chunks(&mut self, cookie: u64, mut offset: u64, segments: Vec<Segment>) {
        let mut segments = segments.into_iter().filter(|segment| segment.length() > 0).peekable();
        if segments.peek().is_none() {
            return self.put_chunk(cookie, chunk::NONE, true, &[], 0);
        }
        while let Some(segment) = segments.next() {
            let length = segment.length();
            let last = segments.peek().is_none();
            match segment {
                Segment::Zeroes(_) => self.put_hole(cookie, offset, length, last),
                Segment::Data(_) => {
                    let at = offset.to_be_bytes();
                    self.put_chunk(cookie, chunk::OFFSET_DATA, last, &at, length);
                    self.put_segment(segment);
                }
            }
            offset += length;
        }
    }

    fn put_hole(&mut self, cookie: u64, offset: u64, length: u64, last: bool) {
        let mut fields = [0; 12];
        fields[..8].copy_from_slice(&offset.to_be_bytes());
        fields[8..].copy_from_slice(&(length as u32).to_be_bytes()); // at most PAYLOAD_MAX
        self.put_chunk(cookie, chunk::OFFSET_HOLE, last, &fields, 0);
    }

    fn put_status(&mut self, cookie: u64, context: u32, runs: &[AllocationRun]) {
        let mut fields = context.to_be_bytes().to_vec();
        for run in runs {
            let flags = match run.state {
                AllocationState::Data => 0,
                AllocationState::Hole => allocation::HOLE | allocation::ZERO,
                AllocationState::ReservedZero => allocation::ZERO,
            };
            fields.extend_from_slice(&(run.length as u32).to_be_bytes()); // of a 32 bit range
            fields.extend_from_slice(&flags.to_be_bytes());
        }
        self.put_chunk(cookie, chunk::BLOCK_STATUS, true, &fields, 0);
    }
}

/// What is to be said to one request.
pub struct Answer {
    pub cookie: u64,
    pub outcome: Outcome,
}
