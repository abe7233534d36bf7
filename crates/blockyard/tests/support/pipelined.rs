//! An NBD client that sends without waiting: one half sends requests, the other takes their replies,
//! each on a thread of its own. It shares no code with the server. What a request was about is the
//! caller's to remember, by cookie.

use super::{Daemon, NbdClient};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const ENOSPC: u32 = 28;

/// What a client asks of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
}

/// Flags of a request.
pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;

/// Sends requests.
pub(crate) struct Requests(UnixStream);

/// Takes replies.
pub(crate) struct Replies(UnixStream);

/// The two halves of a new connection.
pub(crate) fn connect(daemon: &Daemon, export: &str) -> (Requests, Replies) {
    connect_at(&daemon.nbd_socket(), export)
}

fn connect_at(socket: &Path, export: &str) -> (Requests, Replies) {
    let stream = NbdClient::open_at(socket, export).stream;
    (Requests(stream.try_clone().unwrap()), Replies(stream))
}

impl Requests {
    /// A request that the daemon does not take for so long is an error.
    pub(crate) fn give_up_after(&mut self, time: Duration) {
        self.0.set_write_timeout(Some(time)).unwrap();
    }

    /// An error means that the daemon is gone.
    pub(crate) fn send(
        &mut self,
        command: Command,
        flags: u16,
        cookie: u64,
        bytes: &Range<u64>,
        payload: &[u8],
    ) -> io::Result<()> {
        let code: u16 = match command {
            Command::Read => 0,
            Command::Write => 1,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::WriteZeroes => 6,
        };
        let length = u32::try_from(bytes.end - bytes.start).unwrap();
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend(code.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(bytes.start.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        self.0.write_all(&request)
    }
}

impl Replies {
    /// The next reply: its cookie and error code. An error means that the daemon is gone.
    pub(crate) fn take(&mut self) -> io::Result<(u64, u32)> {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply)?;
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok((number(&reply[8..]), number(&reply[4..8]) as u32))
    }

    /// What follows the reply to a read that succeeded.
    pub(crate) fn take_data(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; length];
        self.0.read_exact(&mut data)?;
        Ok(data)
    }
}

/// One request at a time, for tests that need no depth.
pub(crate) struct Plain {
    requests: Requests,
    replies: Replies,
}

impl Plain {
    pub(crate) fn open(daemon: &Daemon, export: &str) -> Plain {
        let (requests, replies) = connect(daemon, export);
        Plain { requests, replies }
    }

    pub(crate) fn open_at(socket: &Path, export: &str) -> Plain {
        let (requests, replies) = connect_at(socket, export);
        Plain { requests, replies }
    }

    /// What follows the reply to a read that succeeded.
    pub(crate) fn take_data(&mut self, length: usize) -> Vec<u8> {
        self.replies.take_data(length).unwrap()
    }

    /// Zero, or the error code of the reply.
    pub(crate) fn ask(&mut self, command: Command, bytes: Range<u64>, payload: &[u8]) -> u32 {
        self.requests.send(command, 0, 1, &bytes, payload).unwrap();
        let (cookie, code) = self.replies.take().unwrap();
        assert_eq!(cookie, 1);
        code
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.ask(Command::Write, offset..offset + data.len() as u64, data)
    }

    pub(crate) fn flush(&mut self) -> u32 {
        self.ask(Command::Flush, 0..0, &[])
    }

    pub(crate) fn trim(&mut self, bytes: Range<u64>) -> u32 {
        self.ask(Command::Trim, bytes, &[])
    }

    /// Reads must always work.
    pub(crate) fn read(&mut self, bytes: Range<u64>) -> Vec<u8> {
        let length = (bytes.end - bytes.start) as usize;
        assert_eq!(self.ask(Command::Read, bytes, &[]), 0, "a read failed");
        self.replies.take_data(length).unwrap()
    }
}
