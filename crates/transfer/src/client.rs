//! Calling a peer.

use crate::identity::{Fingerprint, Identity, SERVER_NAME};
use crate::message::MESSAGE_BYTES_MAX;
use crate::tls::client_config;
use crate::v1;
use crate::v1::transfer_client::TransferClient;
use crate::wire::{QUEUE, Wire};
use blockyard_block::{Error, ErrorKind, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

/// From the first packet to the greeting.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A wire to the peer at `address` (host:port), if it has the key to the certificate with this fingerprint. Blocks,
/// for some 10 s at most; `runtime` carries the conversation on.
pub fn connect(
    runtime: &Handle,
    identity: &Identity,
    address: &str,
    peer: Fingerprint,
) -> Result<Wire> {
    let config = Arc::new(client_config(identity, peer)?);
    let called = runtime.block_on(async {
        tokio::time::timeout(CONNECT_TIME, call(config, address.to_owned())).await
    });
    match called {
        Ok(Ok((outgoing, streaming))) => {
            let (to_wire, incoming) = mpsc::channel(QUEUE);
            runtime.spawn(pass_on(streaming, to_wire));
            Ok(Wire::new(runtime, outgoing, incoming))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(unreachable(address, "it does not answer")),
    }
}

type Call = (mpsc::Sender<v1::Message>, Streaming<v1::Message>);

async fn call(config: Arc<rustls::ClientConfig>, address: String) -> Result<Call> {
    // Connected by hand first: what the layers above make of an error does not say what it was.
    let stream = dial(config, &address).await.map_err(|error| refused(&address, &error))?;
    let channel = over(stream).await.map_err(|error| unreachable(&address, &error.to_string()))?;
    let mut client = TransferClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let answer = client.transfer(ReceiverStream::new(messages)).await;
    let answer = answer.map_err(|status| broken(&status).at(&address))?;
    Ok((outgoing, answer.into_inner()))
}

async fn dial(
    config: Arc<rustls::ClientConfig>,
    address: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// gRPC over the one connection; when it ends, so does the channel.
async fn over(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection ended"));
        async move { stream.map(TokioIo::new) }
    });
    Endpoint::from_static("http://blockyard")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_with_connector(connector)
        .await
}

/// Passes messages on to a wire until either end is gone.
pub(crate) async fn pass_on(
    mut from: Streaming<v1::Message>,
    to: mpsc::Sender<Result<v1::Message>>,
) {
    loop {
        let message = tokio::select! {
            message = from.message() => message,
            () = to.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => Ok(message),
            Ok(None) => return,
            Err(status) => Err(broken(&status)),
        };
        let last = message.is_err();
        if to.send(message).await.is_err() || last {
            return;
        }
    }
}

fn broken(status: &Status) -> Error {
    let kind = match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => ErrorKind::Denied,
        tonic::Code::ResourceExhausted => ErrorKind::Busy,
        _ => ErrorKind::Io,
    };
    let message: String = status.message().chars().take(500).collect();
    Error::new(kind, format!("the connection to the peer broke: {message}"))
}

fn unreachable(address: &str, why: &str) -> Error {
    Error::new(ErrorKind::Io, format!("cannot reach the peer at {address}: {why}"))
}

/// What a failed handshake means to whoever set the peers up.
fn refused(address: &str, error: &io::Error) -> Error {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidCertificate(_)) => Error::new(
            ErrorKind::Denied,
            format!(
                "the daemon at {address} has another certificate than the one this peer is known by: compare `blockyard identity` there with `blockyard peer list` here"
            ),
        ),
        Some(other) => unreachable(address, &other.to_string()),
        None => unreachable(address, &error.to_string()),
    }
}
