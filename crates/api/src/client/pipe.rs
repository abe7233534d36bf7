//! A connection to the control socket that becomes a pipe.

use super::connection::{answer, connect_with, lost, new_runtime};
use crate::types::{PIPE_JOB, PIPE_PROTOCOL};
use blockyard_block::{Error, ErrorKind, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Both directions of a transfer, for whoever passes the bytes on.
#[derive(Debug)]
pub struct Pipe {
    /// The daemon's job at this end.
    pub job: u64,
    pub stream: UnixStream,
    /// What has come out of it already.
    pub begun: Vec<u8>,
}

pub(crate) fn open(socket: &Path, path: &str, body: Vec<u8>) -> Result<Pipe> {
    let request = Request::builder()
        .method("POST")
        .uri(path)
        .header("host", "blockyard")
        .header("content-type", "application/json")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PIPE_PROTOCOL)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| lost(&error))?;
    new_runtime()?.block_on(async {
        let (mut sender, connection) = connect_with(socket).await?;
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer(response).await?;
            return Err(no_pipe());
        }
        let job = response.headers().get(PIPE_JOB).and_then(|job| job.to_str().ok()?.parse().ok());
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| lost(&error))?;
        let parts = upgraded.downcast::<TokioIo<tokio::net::UnixStream>>();
        let parts = parts.map_err(|_| no_pipe())?;
        let stream = parts.io.into_inner().into_std().map_err(|error| lost(&error))?;
        stream.set_nonblocking(false).map_err(|error| lost(&error))?;
        Ok(Pipe { job: job.ok_or_else(no_pipe)?, stream, begun: parts.read_buf.to_vec() })
    })
}

fn no_pipe() -> Error {
    Error::new(ErrorKind::Unsupported, "the daemon opens no pipe; are both of the same version?")
}
