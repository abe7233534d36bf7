//! A client written by hand from the protocol's text, that can say anything. It shares no code
//! with the server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ENOTSUP: u32 = 95;

pub const ACK: u32 = 1;
pub const ERR_UNSUP: u32 = (1 << 31) + 1;
pub const ERR_POLICY: u32 = (1 << 31) + 2;
pub const ERR_INVALID: u32 = (1 << 31) + 3;
pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;

pub struct Client {
    pub socket: UnixStream,
    pub structured: bool,
    pub size: u64,
    pub flags: u16,
}

/// One content chunk, or a simple reply as a whole.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Chunk {
    None,
    Data { offset: u64, bytes: Vec<u8> },
    Hole { offset: u64, length: u32 },
    Status { context: u32, extents: Vec<(u32, u32)> },
    Error { code: u32, message: String },
}

impl Client {
    /// Connects and exchanges flags.
    pub fn connect(socket: &Path) -> Client {
        Client::connect_with_flags(socket, 3)
    }

    pub fn connect_with_flags(socket: &Path, flags: u32) -> Client {
        let mut client = Client::connect_silently(socket);
        let mut greeting = [0; 18];
        client.socket.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        client.send(&flags.to_be_bytes());
        client
    }

    pub fn connect_silently(socket: &Path) -> Client {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { socket, structured: false, size: 0, flags: 0 }
    }

    /// Opens an export, with structured replies and `base:allocation` or without both.
    pub fn open(socket: &Path, export: &str, structured: bool) -> Client {
        let mut client = Client::connect(socket);
        if structured {
            client.agree_on_structured();
            let replies = client.option(10, &context_query(export, &["base:allocation"]));
            assert_eq!(replies.last().unwrap().0, ACK);
        }
        client.go(export);
        client
    }

    pub fn agree_on_structured(&mut self) {
        assert_eq!(self.option(8, b""), [(ACK, vec![])]);
        self.structured = true;
    }

    pub fn go(&mut self, export: &str) {
        let replies = self.option(7, &info_query(export, &[]));
        assert_eq!(replies.last().unwrap().0, ACK, "{replies:?}");
        let info = &replies.iter().find(|reply| reply.0 == 3 && reply.1[..2] == [0, 0]).unwrap().1;
        self.size = u64::from_be_bytes(info[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(info[10..12].try_into().unwrap());
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server closes the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.socket.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub fn send_option(&mut self, code: u32, data: &[u8]) {
        let bytes = option_bytes(code, data);
        self.send(&bytes);
    }

    /// Sends an option and returns its replies up to ACK or the first error.
    pub fn option(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(code, data);
        self.option_replies(code)
    }

    pub fn option_replies(&mut self, code: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let header = self.take(20);
            assert_eq!(header[..8], 0x3e889045565a9_u64.to_be_bytes());
            assert_eq!(number(&header[8..12]), u64::from(code));
            let kind = number(&header[12..16]) as u32;
            let data = self.take(number(&header[16..20]) as usize);
            replies.push((kind, data));
            if kind == ACK || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    pub fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&request_bytes(flags, command, cookie, offset, length));
    }

    /// One simple reply, or one chunk: its cookie, whether it is the last, and what it holds. A simple
    /// reply to a read is followed by `length` bytes if it is no error.
    pub fn chunk(&mut self, length: u32) -> (u64, bool, Chunk) {
        let magic = number(&self.take(4)) as u32;
        match magic {
            0x6744_6698 => {
                let rest = self.take(12);
                let cookie = number(&rest[4..]);
                let chunk = match number(&rest[..4]) as u32 {
                    0 if length == 0 => Chunk::None,
                    0 => Chunk::Data { offset: 0, bytes: self.take(length as usize) },
                    code => Chunk::Error { code, message: String::new() },
                };
                (cookie, true, chunk)
            }
            0x668e_33ef => {
                assert!(self.structured, "a chunk without STRUCTURED_REPLY");
                let rest = self.take(16);
                let (flags, kind) = (number(&rest[..2]), number(&rest[2..4]));
                let body = self.take(number(&rest[12..]) as usize);
                (number(&rest[4..12]), flags & 1 == 1, parse_chunk(kind, &body))
            }
            _ => panic!("magic {magic:x}"),
        }
    }

    /// Sends one request and takes its whole answer.
    pub fn ask(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> Vec<Chunk> {
        self.request(flags, command, 77, offset, length);
        self.answer(77, if command == READ { length } else { 0 })
    }

    pub fn answer(&mut self, cookie: u64, length: u32) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let (got, last, chunk) = self.chunk(length);
            assert_eq!(got, cookie);
            chunks.push(chunk);
            if last {
                return chunks;
            }
        }
    }

    /// The code of a request that must fail.
    pub fn refusal(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> u32 {
        match &self.ask(flags, command, offset, length)[..] {
            [Chunk::Error { code, .. }] => *code,
            chunks => panic!("no error but {chunks:?}"),
        }
    }

    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let chunks = self.ask(0, READ, offset, length);
        assemble(offset, length, chunks)
    }

    pub fn write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> Vec<Chunk> {
        self.request(flags, WRITE, 78, offset, bytes.len() as u32);
        self.send(bytes);
        self.answer(78, 0)
    }

    pub fn write_ok(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(self.write(0, offset, bytes), [Chunk::None]);
    }

    /// Takes the answers to all of `cookies`, in whatever order they come.
    pub fn answers(&mut self, cookies: &[u64], length: u32) -> BTreeMap<u64, Vec<Chunk>> {
        let mut answers: BTreeMap<u64, Vec<Chunk>> = BTreeMap::new();
        let mut open = cookies.len();
        while open > 0 {
            let (cookie, last, chunk) = self.chunk(length);
            assert!(cookies.contains(&cookie), "cookie {cookie} was not sent");
            answers.entry(cookie).or_default().push(chunk);
            open -= usize::from(last);
        }
        answers
    }
}

/// The bytes of a read from its chunks, which must cover it exactly once.
pub fn assemble(offset: u64, length: u32, chunks: Vec<Chunk>) -> Vec<u8> {
    if let [Chunk::Data { offset: 0, bytes }] = &chunks[..] {
        return bytes.clone();
    }
    let mut bytes = vec![0xee; length as usize];
    let mut covered = 0;
    for chunk in chunks {
        match chunk {
            Chunk::Data { offset: at, bytes: part } => {
                covered += part.len();
                bytes[(at - offset) as usize..][..part.len()].copy_from_slice(&part);
            }
            Chunk::Hole { offset: at, length } => {
                covered += length as usize;
                bytes[(at - offset) as usize..][..length as usize].fill(0);
            }
            Chunk::None => {}
            other => panic!("{other:?} in a read"),
        }
    }
    assert_eq!(covered, length as usize);
    bytes
}

fn parse_chunk(kind: u64, body: &[u8]) -> Chunk {
    match kind {
        0 => {
            assert!(body.is_empty());
            Chunk::None
        }
        1 => {
            assert!(body.len() > 8, "no empty chunk of data");
            Chunk::Data { offset: number(&body[..8]), bytes: body[8..].to_vec() }
        }
        2 => {
            assert_eq!(body.len(), 12);
            Chunk::Hole { offset: number(&body[..8]), length: number(&body[8..]) as u32 }
        }
        5 => {
            let pair = |b: &[u8]| (number(&b[..4]) as u32, number(&b[4..]) as u32);
            let extents = body[4..].chunks_exact(8).map(pair).collect();
            Chunk::Status { context: number(&body[..4]) as u32, extents }
        }
        0x8001 => {
            let message = String::from_utf8(body[6..].to_vec()).unwrap();
            assert_eq!(number(&body[4..6]), message.len() as u64);
            Chunk::Error { code: number(&body[..4]) as u32, message }
        }
        _ => panic!("chunk of kind {kind}"),
    }
}

pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub fn request_bytes(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub fn info_query(export: &str, kinds: &[u16]) -> Vec<u8> {
    let mut bytes = string(export);
    bytes.extend((kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|kind| bytes.extend(kind.to_be_bytes()));
    bytes
}

pub fn context_query(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = string(export);
    bytes.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| bytes.extend(string(query)));
    bytes
}
