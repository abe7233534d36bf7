//! A wire over any two-way stream of bytes that somebody else protects: ssh, say. After a first line, which tells a
//! peer from whatever else a command may print, each message comes behind its length.
//!
//! No certificate is asked here: who may speak through the stream is the business of whoever opened it.

use crate::message::{MESSAGE_BYTES_MAX, Message};
use crate::v1;
use crate::wire::{QUEUE, Wire};
use blockyard_block::{Error, ErrorKind, Result};
use prost::Message as _;
use prost::bytes::Bytes;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Both sides begin with it.
const FIRST_LINE: &[u8] = b"blockyard transfer over a pipe\n";
/// What a command printed in its place is quoted up to so many bytes, if they come in this time.
const QUOTED_BYTES: usize = 200;
const QUOTED_TIME: Duration = Duration::from_millis(300);

/// A conversation over `stream`, whose other end does the same. `runtime` carries it on until either side ends it.
pub fn wire_over(runtime: &Handle, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Wire {
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let (to_wire, incoming) = mpsc::channel(QUEUE);
    runtime.spawn(carry(stream, messages, to_wire));
    Wire::new(runtime, outgoing, incoming)
}

/// Until the wire is gone and its last message sent, or the stream has ended.
async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    messages: mpsc::Receiver<v1::Message>,
    to_wire: mpsc::Sender<Result<v1::Message>>,
) {
    let (from, to) = tokio::io::split(stream);
    let mut writing = pin!(write_all(to, messages));
    let mut reading = pin!(read_all(from, to_wire));
    tokio::select! {
        // The other end may have said why it takes no more.
        _ = &mut writing => {
            reading.await;
        }
        ended = &mut reading => {
            if let Ended::Wire = ended {
                // If it cannot be written nobody is there to be told.
                let _ = writing.await;
            }
        }
    }
}

async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<v1::Message>,
) -> io::Result<()> {
    to.write_all(FIRST_LINE).await?;
    to.flush().await?;
    let mut bytes = Vec::new();
    while let Some(message) = messages.recv().await {
        bytes.clear();
        bytes.extend((message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut bytes).map_err(io::Error::other)?;
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    to.shutdown().await
}

/// Which end of a carried conversation is gone.
enum Ended {
    Wire,
    Stream,
}

/// Passes messages on to a wire until either end is gone.
async fn read_all(
    mut from: impl AsyncRead + Unpin,
    to: mpsc::Sender<Result<v1::Message>>,
) -> Ended {
    let first = tokio::select! {
        first = expect_first_line(&mut from) => first,
        () = to.closed() => return Ended::Wire,
    };
    if let Err(error) = first {
        let _ = to.send(Err(error)).await; // nobody may wait for it any more
        return Ended::Stream;
    }
    loop {
        let message = tokio::select! {
            message = read_message(&mut from) => message,
            () = to.closed() => return Ended::Wire,
        };
        let Some(message) = message.transpose() else { return Ended::Stream };
        let last = message.is_err();
        match to.send(message).await {
            Ok(()) if last => return Ended::Stream,
            Ok(()) => {}
            Err(_) => return Ended::Wire,
        }
    }
}

async fn expect_first_line(from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut came = Vec::new();
    while came.len() < FIRST_LINE.len() {
        let rest = FIRST_LINE.len() - came.len();
        let before = came.len();
        let count = from.take(rest as u64).read_buf(&mut came).await.map_err(broken)?;
        if came[before..] != FIRST_LINE[before..before + count] {
            return Err(no_peer(from, came).await);
        }
        if count == 0 {
            return Err(Error::new(ErrorKind::Io, "the other end said nothing before it ended"));
        }
    }
    Ok(())
}

/// The error for an other end that says something else.
async fn no_peer(from: &mut (impl AsyncRead + Unpin), mut came: Vec<u8>) -> Error {
    let rest = async {
        while came.len() < QUOTED_BYTES && !came.contains(&b'\n') {
            if !from.read_buf(&mut came).await.is_ok_and(|count| count > 0) {
                break;
            }
        }
    };
    let _ = timeout(QUOTED_TIME, rest).await; // what came by then is quoted
    came.truncate(QUOTED_BYTES);
    let text = String::from_utf8_lossy(&came);
    let line = text.lines().next().unwrap_or_default().replace(char::is_control, " ");
    let message = format!(
        "the other end is no blockyard that transfers: it said {line:?}. Nothing else may write to the standard output of that command; a shell's start files often do"
    );
    Error::new(ErrorKind::Unsupported, message)
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<v1::Message>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(broken(error)),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        let message = format!("a message of {length} bytes came through the pipe: it is garbled");
        return Err(Error::new(ErrorKind::Io, message));
    }
    let mut bytes = vec![0; length];
    match from.read_exact(&mut bytes).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(broken(error)),
    }
    let garbled = |error| Error::new(ErrorKind::Io, format!("what came is garbled: {error}"));
    let message = v1::Message::decode(Bytes::from(bytes)).map_err(garbled)?;
    Message::bounded(message).map(Some)
}

fn broken(error: io::Error) -> Error {
    Error::io("the pipe to the peer broke", error)
}

#[cfg(test)]
mod tests;
