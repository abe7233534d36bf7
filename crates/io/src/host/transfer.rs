//! Whole reads and writes out of calls that may move less than asked or be interrupted.
//!
//! After a short call the rest starts again on a multiple of `step` (4096 for O_DIRECT, which
//! accepts nothing else, 1 otherwise). The calls are passed in, so that every short answer a
//! kernel may give can be tested.

use rustix::io::Errno;
use std::io;

/// Fills `bytes`; `UnexpectedEof` when `read_at` gives no further whole step.
pub(super) fn read_whole(
    offset: u64,
    bytes: &mut [u8],
    step: usize,
    mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let result = read_at(offset + done as u64, &mut bytes[done..]);
        match advance(done, bytes.len(), step, result.map_err(io::Error::from))? {
            Some(further) => done = further,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(())
}

/// Writes all of `bytes`; `WriteZero` when `write_at` takes no further whole step.
pub(super) fn write_whole(
    offset: u64,
    bytes: &[u8],
    step: usize,
    mut write_at: impl FnMut(u64, &[u8]) -> Result<usize, Errno>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let result = write_at(offset + done as u64, &bytes[done..]);
        match advance(done, bytes.len(), step, result.map_err(io::Error::from))? {
            Some(further) => done = further,
            None => return Err(io::ErrorKind::WriteZero.into()),
        }
    }
    Ok(())
}

/// Where to go on after one call; `None` if it did not get anywhere.
pub(super) fn advance(
    done: usize,
    length: usize,
    step: usize,
    result: io::Result<usize>,
) -> io::Result<Option<usize>> {
    match result {
        Ok(count) if done + count == length => Ok(Some(length)),
        Ok(count) => {
            let further = (done + count) / step * step;
            Ok((further > done).then_some(further))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(done)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
