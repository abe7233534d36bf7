//! Transfers through a command that reaches the other host: `--via "ssh host"`. The command is started with
//! `blockyard receive` behind it, and what it says passes between it and the local daemon. No shell reads it.

mod words;

use crate::commands::{Session, transfer};
use crate::output::job::{Patience, interrupts};
use anyhow::{Context, Result};
use blockyard_api::{CallThroughPipe, Pipe, PipeDirection};
use blockyard_block::{Error, ErrorKind};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const BUFFER: usize = 64 << 10;
/// When all is said, the command has this long to end.
const END_TIME: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// Starts the command with Ctrl-C ignored: a terminal sends it to the command, too, which would end before the other
/// side has heard that the transfer is cancelled. Rust has no safe way to say so to a child.
const SHIELD: &str = "trap \"\" INT; exec \"$@\"";
/// What a shell says of a program that it does not find, or cannot run.
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;

/// Moves an image through `command`, and prints what that came to.
pub(crate) fn run(
    session: &Session,
    command: &str,
    request: &CallThroughPipe,
    what: &str,
    done: &str,
) -> Result<()> {
    let words = words::split(command)?;
    let mut client = session.client()?;
    if request.direction == PipeDirection::Push {
        // Before anybody is asked for a password.
        client.image(&request.image)?;
    }
    let mut far = Far::start(&words, request.direction)?;
    let first = far.first_words()?;
    let pipe = client.call_through_pipe(request)?;
    let started = client.job(pipe.job, 0)?;
    far.pass_on(pipe, first)?;
    let finished =
        transfer::finish_within(session, &mut client, started, (what, done), Patience::OneDaemon);
    let ended = far.end();
    // A command that failed says why it did on standard error.
    finished.map_err(|error| match ended {
        Some(ended) => error.context(ended),
        None => error,
    })
}

/// Passes bytes on between standard input and output and the daemon, until the daemon has said all.
pub(crate) fn pass_on_here(pipe: Pipe) -> Result<()> {
    let Pipe { mut stream, begun, .. } = pipe;
    let to_daemon = stream.try_clone()?;
    // Ends with the process: it may be waiting for input.
    thread::spawn(move || pass_to_daemon(io::stdin(), to_daemon));
    let mut out = io::stdout();
    out.write_all(&begun)?;
    out.flush()?;
    match pass(&mut stream, &mut out) {
        // It has ended without having heard all that came.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        passed => Ok(passed?),
    }
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

/// The daemon hears of the end of `from`, and whatever ends it.
fn pass_to_daemon(mut from: impl Read, mut to: UnixStream) {
    // Either way nothing more comes, and the daemon tells the user.
    let _ = pass(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// The command, killed when dropped.
struct Far {
    shown: String,
    child: Child,
}

impl Far {
    fn start(words: &[String], direction: PipeDirection) -> Result<Far> {
        let role = match direction {
            PipeDirection::Push => "receive",
            PipeDirection::Pull => "send",
        };
        let child = Command::new("/bin/sh")
            .args(["-c", SHIELD, "blockyard"])
            .args(words)
            .args(["blockyard", role])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Far { shown: format!("`{} blockyard {role}`", words.join(" ")), child })
    }

    /// Waits until it says something: whoever it asks for a password has any time.
    fn first_words(&mut self) -> Result<(ChildStdout, Vec<u8>)> {
        let interrupted = interrupts()?;
        let mut out = self.child.stdout.take().context("the command has no output")?;
        let (sender, first) = channel();
        thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            let read = out.read(&mut buffer);
            buffer.truncate(*read.as_ref().unwrap_or(&0));
            let _ = sender.send((out, buffer)); // nobody waits after Ctrl-C
        });
        loop {
            match first.recv_timeout(LOOK) {
                Ok((out, buffer)) if !buffer.is_empty() => return Ok((out, buffer)),
                Err(RecvTimeoutError::Timeout) if !interrupted.load(Ordering::Relaxed) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(crate::output::Cancelled(
                        "cancelled; nothing was moved".to_owned(),
                    )
                    .into());
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(self.silent()),
            }
        }
    }

    /// The error for a command that ended before it said anything.
    fn silent(&mut self) -> anyhow::Error {
        let shown = &self.shown;
        let status = wait(&mut self.child, END_TIME);
        let (kind, message) = match status.and_then(|status| status.code()) {
            Some(NOT_FOUND) => {
                (ErrorKind::NotFound, format!("{shown} cannot be run: a program was not found"))
            }
            Some(NOT_RUN) => {
                (ErrorKind::Denied, format!("{shown} cannot be run: a program is not executable"))
            }
            _ => {
                let how = status.map(|status| format!(": {status}")).unwrap_or_default();
                (ErrorKind::Io, format!("{shown} ended before the transfer began{how}"))
            }
        };
        Error::new(kind, message).into()
    }

    /// Passes everything on, in both directions, on threads that end when both ends have.
    fn pass_on(&mut self, pipe: Pipe, first: (ChildStdout, Vec<u8>)) -> Result<()> {
        let Pipe { mut stream, begun, .. } = pipe;
        let mut to_child = self.child.stdin.take().context("the command has no input")?;
        let mut to_daemon = stream.try_clone()?;
        let (out, begin) = first;
        thread::spawn(move || {
            if to_daemon.write_all(&begin).is_ok() {
                pass_to_daemon(out, to_daemon);
            }
        });
        thread::spawn(move || {
            // A command that takes no more has ended, or soon does: its output tells.
            if to_child.write_all(&begun).is_ok() {
                let _ = pass(&mut stream, &mut to_child);
            }
        });
        Ok(())
    }

    /// How it ended, if not well.
    fn end(&mut self) -> Option<String> {
        let status = wait(&mut self.child, END_TIME)?;
        (!status.success()).then(|| format!("{} ended: {status}", self.shown))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            Ok(None) | Err(_) => return None,
        }
    }
}
