//! The few bytes of the NBD protocol that are needed: the handshake by EXPORT_NAME, so that replies are
//! simple ones, and requests. Numbers are big-endian.

use crate::Result;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub(crate) const REQUEST_BYTES: usize = 28;
pub(crate) const REPLY_BYTES: usize = 16;
pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const NEWSTYLE: &[u8] = b"NBDMAGICIHAVEOPT";

/// What a server said of its export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) size: u64,
    flags: u16,
}

impl Export {
    pub(crate) fn can_flush(self) -> bool {
        self.flags & 1 << 2 != 0
    }

    pub(crate) fn can_trim(self) -> bool {
        self.flags & 1 << 5 != 0
    }
}

pub(crate) fn open(socket: &mut UnixStream, export: &str) -> Result<Export> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if &greeting[..16] != NEWSTYLE {
        return Err("this is no NBD server of the new style".into());
    }
    // Fixed newstyle; no padding after the answer.
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(b"IHAVEOPT\0\0\0\x01");
    bytes.extend((export.len() as u32).to_be_bytes());
    bytes.extend(export.as_bytes());
    socket.write_all(&bytes)?;
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).map_err(|_| "the server refused the export")?;
    let (size, flags) = answer.split_at(8);
    let size = u64::from_be_bytes(size.try_into()?);
    Ok(Export { size, flags: u16::from_be_bytes(flags.try_into()?) })
}

pub(crate) fn request(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The cookie and the error (0 is none) of a simple reply's head.
pub(crate) fn reply(bytes: &[u8]) -> Result<(u64, u32)> {
    let head: &[u8; REPLY_BYTES] = bytes.first_chunk().ok_or("half a reply")?;
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(0) != REPLY_MAGIC {
        return Err(format!("a reply starts with {:#x}", word(0)).into());
    }
    Ok((u64::from(word(8)) << 32 | u64::from(word(12)), word(4)))
}
