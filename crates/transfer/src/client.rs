//! Calling a peer.

use crate::authority::Authority;
use crate::identity::{Identity, PeerId};
use crate::message::{MESSAGE_BYTES_MAX, Message};
use crate::tls::client_config;
use crate::v1;
use crate::v1::transfer_client::TransferClient;
use crate::wire::{FRAME_BYTES, QUEUE, WINDOW_BYTES, Wire};
use blockyard_block::{Error, ErrorKind, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// A wire to the peer at `address` (host:port), if it proves to be `peer`. Blocks, for some 10 s at most; `runtime`
/// carries the conversation on.
pub fn connect(
    runtime: &Handle,
    identity: &Identity,
    authority: Option<&Authority>,
    address: &str,
    peer: &PeerId,
) -> Result<Wire> {
    let (config, name) = client_config(identity, authority, peer)?;
    let called = runtime.block_on(async {
        tokio::time::timeout(CONNECT_TIME, call(Arc::new(config), name, address)).await
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

async fn call(
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    address: &str,
) -> Result<Call> {
    // Connected by hand first: what the layers above make of an error does not say what it was.
    let (stream, alert) =
        dial(config, name, address).await.map_err(|error| refused(address, &error))?;
    let turned_away = |error: Error| match alert.lock() {
        Ok(alert) => alert.map_or(error, |alert| told_by_alert(address, alert)),
        Err(_) => error,
    };
    let channel = over(stream)
        .await
        .map_err(|error| turned_away(unreachable(address, &error.to_string())))?;
    let mut client = TransferClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (outgoing, messages) = mpsc::channel(QUEUE);
    let answer = client.transfer(ReceiverStream::new(messages)).await;
    let answer = answer.map_err(|status| turned_away(broken(&status).at(address)))?;
    Ok((outgoing, answer.into_inner()))
}

async fn dial(
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    address: &str,
) -> io::Result<(Watched, Alert)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let alert = Alert::default();
    Ok((Watched { stream, alert: Arc::clone(&alert) }, alert))
}

/// What the other side's TLS has said in the end. In TLS 1.3 it judges our certificate when for us the handshake is over.
type Alert = Arc<Mutex<Option<AlertDescription>>>;

/// A connection that notes an alert.
struct Watched {
    stream: TlsStream<TcpStream>,
    alert: Alert,
}

impl Watched {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(rustls::Error::AlertReceived(alert)) =
                error.get_ref().and_then(|inner| inner.downcast_ref())
            && let Ok(mut noted) = self.alert.lock()
        {
            *noted = Some(*alert);
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(polled)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(polled)
    }
}

/// gRPC over the one connection; when it ends, so does the channel.
async fn over(stream: Watched) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection ended"));
        async move { stream.map(TokioIo::new) }
    });
    Endpoint::from_static("http://blockyard")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
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
            Ok(Some(message)) => Message::bounded(message),
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
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        )) => Error::new(
            ErrorKind::Denied,
            format!(
                "the daemon at {address} has another certificate than the one this peer is known by: compare `blockyard identity` there with `blockyard peer list` here"
            ),
        ),
        Some(rustls::Error::InvalidCertificate(error)) => Error::new(
            ErrorKind::Denied,
            format!("the certificate of the daemon at {address} is not accepted: {error}"),
        ),
        Some(rustls::Error::AlertReceived(alert)) => told_by_alert(address, *alert),
        Some(other) => unreachable(address, &other.to_string()),
        None => unreachable(address, &error.to_string()),
    }
}

/// What the other side has against our certificate.
fn told_by_alert(address: &str, alert: AlertDescription) -> Error {
    let why = match alert {
        AlertDescription::AccessDenied => {
            "does not know this one: `blockyard peer add` there would change that".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "finds that this daemon's certificate is not valid at this time".to_owned()
        }
        // The second if the authority only has the same name.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "knows neither this daemon's certificate nor the authority that signed it".to_owned()
        }
        other => format!("does not accept this daemon's certificate ({other:?})"),
    };
    Error::new(ErrorKind::Denied, format!("the daemon at {address} {why}"))
}
