//! HTTP/1.1 over a unix socket, blocking: hyper on a runtime of the calling thread.

use crate::types::{ErrorBody, Image};
use blockyard_block::{Error, ErrorKind, Result};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{Connection as Driver, SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// No answer is larger: a page of a map with hashes takes some 150 KiB, a list of images 300 bytes
/// an image.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Parts of an upload that wait to be sent.
const UPLOAD_PARTS: usize = 4;

/// Requests one after the other over one kept connection.
pub(crate) struct Connection {
    socket: PathBuf,
    runtime: Runtime,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) fn new(socket: PathBuf) -> Result<Connection> {
        Ok(Connection { socket, runtime: new_runtime()?, sender: None })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The body of a successful answer; any other answer as the error it carries.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "blockyard")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| lost(&error))?;
        let Connection { socket, runtime, sender } = self;
        runtime.block_on(async {
            // The daemon closes quiet connections: a closed one is replaced, not an error.
            let open = match sender.as_mut() {
                Some(open) => open.ready().await.is_ok(),
                None => false,
            };
            if !open {
                *sender = None;
            }
            let sender = match sender {
                Some(sender) => sender,
                None => sender.insert(connect(socket).await?),
            };
            let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
            answer(response).await
        })
    }
}

/// Writes the body of a successful answer to `target` as it comes, over a connection of its own.
/// A body that ends early is an error; `target` then has a part of it.
pub(crate) fn download(socket: &Path, path: &str, target: &mut dyn Write) -> Result<()> {
    let request = Request::builder()
        .uri(path)
        .header("host", "blockyard")
        .body(Full::new(Bytes::new()))
        .map_err(|error| lost(&error))?;
    new_runtime()?.block_on(async {
        let mut sender = connect(socket).await?;
        let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
        if !response.status().is_success() {
            return answer(response).await.map(drop);
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| lost(&error))?;
            if let Some(part) = frame.data_ref() {
                target.write_all(part).map_err(|error| Error::io("cannot write", error))?;
            }
        }
        target.flush().map_err(|error| Error::io("cannot write", error))
    })
}

/// A body on its way. Dropped before [`Upload::finish`], the daemon keeps nothing of it.
pub struct Upload {
    // First, so that nothing is driven any more when the sender goes: a dropped sender would end the
    // body as if it were complete.
    runtime: Runtime,
    response: JoinHandle<hyper::Result<Response<Incoming>>>,
    body: Sender<Bytes, io::Error>,
}

impl Upload {
    pub(crate) fn start(socket: &Path, path: &str) -> Result<Upload> {
        let runtime = new_runtime()?;
        let (body, receiver) = Channel::<Bytes, io::Error>::new(UPLOAD_PARTS);
        let request = Request::builder()
            .method("PUT")
            .uri(path)
            .header("host", "blockyard")
            .header("content-type", "application/octet-stream")
            .body(receiver)
            .map_err(|error| lost(&error))?;
        let response = runtime.block_on(async {
            let mut sender = connect(socket).await?;
            Ok::<_, Error>(tokio::spawn(async move { sender.send_request(request).await }))
        })?;
        Ok(Upload { runtime, response, body })
    }

    /// Sends a part. False when the daemon takes no more: [`Upload::finish`] tells why.
    pub fn send(&mut self, part: Vec<u8>) -> bool {
        let Upload { runtime, response, body } = self;
        runtime.block_on(async {
            tokio::select! {
                sent = body.send_data(Bytes::from(part)) => sent.is_ok(),
                () = ended(response) => false,
            }
        })
    }

    /// Ends the body and waits until the image is there.
    pub fn finish(self) -> Result<Image> {
        let Upload { runtime, response, body } = self;
        drop(body);
        let body = runtime.block_on(async {
            let response = response.await.map_err(|error| lost(&error))?;
            answer(response.map_err(|error| lost(&error))?).await
        })?;
        super::decode(body)
    }
}

/// Returns when the answer is there, without taking it.
async fn ended<T>(response: &JoinHandle<T>) {
    while !response.is_finished() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(super) fn new_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::io("cannot start the client", error))
}

async fn connect<B>(socket: &Path) -> Result<SendRequest<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = connect_with(socket).await?;
    // Ends with the sender; its error reaches the request that was under way.
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection that the caller drives.
pub(super) async fn connect_with<B>(
    socket: &Path,
) -> Result<(SendRequest<B>, Driver<TokioIo<UnixStream>, B>)>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket).await.map_err(|error| no_daemon(socket, error))?;
    handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))
}

pub(super) async fn answer(response: Response<Incoming>) -> Result<Vec<u8>> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| lost(&error))?
        .to_bytes()
        .to_vec();
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(refusal) => Err(refusal.error.into()),
        Err(_) => Err(Error::new(ErrorKind::Io, format!("the daemon answered {status}"))),
    }
}

fn no_daemon(socket: &Path, error: io::Error) -> Error {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::ShutDown, format!("no daemon answers at {shown}"))
        }
        _ => Error::io(format_args!("cannot reach the daemon at {shown}"), error),
    }
}

pub(super) fn lost(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::ShutDown, format!("the connection to the daemon was lost: {error}"))
}
