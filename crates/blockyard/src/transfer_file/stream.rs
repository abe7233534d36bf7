//! Raw bytes that come or go one after the other: standard input and output of a client.

use super::copy::CHUNK_BYTES;
use super::progress::Progress;
use super::qemu_img::unnamed_file;
use super::source::Source;
use blockyard_block::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Zeros of this many bytes at a stretch are not kept in a spooled file.
const SPOOL_HOLE_BYTES: usize = 64 << 10;

/// Keeps a stream of unknown length in an unnamed sparse file; returns it and its length.
pub(super) fn spool(stream: &mut dyn Read, folder: &Path) -> Result<(File, u64)> {
    let place = |error| Error::io("keeping the stream in a temporary file", error);
    let file = unnamed_file(folder)?;
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    let mut length = 0;
    loop {
        let filled = fill(stream, &mut chunk)?;
        let parts =
            chunk[..filled].chunks(SPOOL_HOLE_BYTES).zip((length..).step_by(SPOOL_HOLE_BYTES));
        for (part, offset) in parts.filter(|(part, _)| part.iter().any(|&byte| byte != 0)) {
            file.write_all_at(part, offset).map_err(place)?;
        }
        length += filled as u64;
        if filled < chunk.len() {
            file.set_len(length).map_err(place)?;
            return Ok((file, length));
        }
    }
}

/// Reads until `buffer` is full or the stream ends; returns how much.
fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read of the stream", error)),
        }
    }
    Ok(filled)
}

/// Writes the whole disk to `stream`, zeros too.
pub(super) fn write_stream(
    source: &dyn Source,
    stream: &mut dyn Write,
    progress: &Progress<'_>,
) -> Result<()> {
    let place = |error| Error::io("write to the stream", error);
    let size = source.size();
    progress.set_total(size);
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut offset = 0;
    while offset < size {
        let run = source.run_at(offset)?;
        let length = run.length.min(CHUNK_BYTES);
        let part = &mut buffer[..length as usize];
        if run.zero {
            part.fill(0);
        } else {
            source.read(offset, part)?;
        }
        stream.write_all(part).map_err(place)?;
        if run.zero { progress.add_zeros(length) } else { progress.add_data(length, length) }?;
        offset += length;
    }
    stream.flush().map_err(place)
}

#[cfg(test)]
mod tests;
