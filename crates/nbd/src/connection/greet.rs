//! The handshake over a socket, with a deadline.

use crate::exports::EndReason;
use crate::handshake::{self, Agreement, Catalogue, Handshake, Progress};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const READ_SIZE: usize = 4096;

/// A socket that has to be done by some time.
struct Hurried<'a> {
    socket: &'a UnixStream,
    deadline: Instant,
}

/// Negotiates until the client opens an export. Also returns what it sent after that.
pub(super) fn negotiate<C: Catalogue>(
    socket: &UnixStream,
    catalogue: &C,
    time: Duration,
) -> Result<(Agreement<C::Device>, Vec<u8>), EndReason> {
    let hurried = Hurried { socket, deadline: Instant::now() + time };
    hurried.send(&handshake::greeting())?;
    let mut handshake = Handshake::default();
    let mut input = Vec::new();
    let mut output = Vec::new();
    loop {
        let (taken, progress) = handshake.advance(&input, catalogue, &mut output);
        input.drain(..taken);
        hurried.send(&output)?;
        output.clear();
        match progress {
            Progress::Again => {}
            Progress::More => hurried.receive(&mut input)?,
            Progress::End(reason) => return Err(reason),
            Progress::Serve(agreement) => {
                hurried.relax()?;
                return Ok((agreement, input));
            }
        }
    }
}

impl Hurried<'_> {
    /// A timeout for the next system call, or the end of patience.
    fn time_left(&self) -> Result<Option<Duration>, EndReason> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(EndReason::TooSlow),
        }
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), EndReason> {
        while !bytes.is_empty() {
            let left = self.time_left()?;
            self.socket.set_write_timeout(left).map_err(|error| broken(&error))?;
            match (&mut &*self.socket).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if passing(&error) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    fn receive(&self, input: &mut Vec<u8>) -> Result<(), EndReason> {
        let before = input.len();
        input.resize(before + READ_SIZE, 0);
        loop {
            let left = self.time_left()?;
            self.socket.set_read_timeout(left).map_err(|error| broken(&error))?;
            match (&mut &*self.socket).read(&mut input[before..]) {
                Ok(0) if before == 0 => return Err(EndReason::Closed),
                Ok(0) => return Err(EndReason::Broken("closed within an option".to_owned())),
                Ok(count) => {
                    input.truncate(before + count);
                    return Ok(());
                }
                Err(error) if passing(&error) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Requests may take their time.
    fn relax(&self) -> Result<(), EndReason> {
        self.socket
            .set_read_timeout(None)
            .and_then(|()| self.socket.set_write_timeout(None))
            .map_err(|error| broken(&error))
    }
}

/// Whether to look at the clock and try again.
fn passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn broken(error: &io::Error) -> EndReason {
    EndReason::Broken(error.to_string())
}
