//! Calling a peer.

use crate::authority::Authority;
use crate::bundle::{Bundle, Hears, Link, Opening, Says};
use crate::identity::{Identity, PeerId};
use crate::message::MESSAGE_BYTES_MAX;
use crate::tls::{client_config, random_key};
use crate::v1;
use crate::v1::transfer_client::TransferClient;
use crate::wire::{FRAME_BYTES, WINDOW_BYTES, Wire};
use blockyard_block::{Error, ErrorKind, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

/// From the first packet to the answer of a call.
const CONNECT_TIME: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A peer that was told the last word has this long to end the call.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The metadata that tells which conversation a call belongs to.
pub(crate) const CONVERSATION: &str = "conversation-bin";

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
    let mut conversation = [0; 16];
    conversation.copy_from_slice(&random_key()?[..16]);
    let callee =
        Callee { config: Arc::new(config), name, address: address.to_owned(), conversation };
    let (bundle, link, ends) = Bundle::new();
    let called = runtime
        .block_on(async { tokio::time::timeout(CONNECT_TIME, callee.call(link.says)).await });
    let (streaming, round_trip) =
        called.map_err(|_| unreachable(address, "it does not answer"))??;
    runtime.spawn(carry(streaming, link.hears));
    let (bundle, handle) = (Arc::new(bundle), runtime.clone());
    let joined = Arc::clone(&bundle);
    let add_link = move || drop(handle.spawn(callee.clone().join(Arc::clone(&joined))));
    Ok(Wire::of_bundle(runtime, ends, bundle).with_links(round_trip, Box::new(add_link)))
}

/// Where a peer is, what it must show, and the conversation with it.
#[derive(Clone)]
struct Callee {
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    address: String,
    conversation: [u8; 16],
}

impl Callee {
    /// With the time until it was answered.
    async fn call(&self, says: Says) -> Result<(Streaming<v1::Message>, Duration)> {
        let (mut client, alert) = self.dial().await?;
        let asked = Instant::now();
        let answer = client.transfer(self.request(says)).await;
        let answer = answer.map_err(|status| alert.or(broken(&status).at(&self.address)))?;
        Ok((answer.into_inner(), asked.elapsed()))
    }

    /// Adds a link to the conversation. One that cannot be made, or that the peer does not want, is not needed.
    async fn join(self, bundle: Arc<Bundle>) {
        let joined = async {
            let (mut client, _) = self.dial().await.ok()?;
            let (open, opening) = Opening::new(true);
            let answer = client.join(self.request(opening)).await.ok()?;
            let Link { says, hears } = bundle.link()?;
            open.send(says).ok()?;
            Some((answer.into_inner(), hears))
        };
        if let Ok(Some((streaming, hears))) = tokio::time::timeout(CONNECT_TIME, joined).await {
            carry(streaming, hears).await;
        }
    }

    async fn dial(&self) -> Result<(TransferClient<Channel>, TurnedAway)> {
        // Connected by hand first: what the layers above make of an error does not say what it was.
        let dialed = dial(Arc::clone(&self.config), self.name.clone(), &self.address).await;
        let (stream, alert) = dialed.map_err(|error| refused(&self.address, &error))?;
        let turned_away = TurnedAway { alert, address: self.address.clone() };
        let channel = over(stream)
            .await
            .map_err(|error| turned_away.or(unreachable(&self.address, &error.to_string())))?;
        let client = TransferClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((client, turned_away))
    }

    fn request<T>(&self, says: T) -> Request<T> {
        let mut request = Request::new(says);
        let id = MetadataValue::from_bytes(&self.conversation);
        request.metadata_mut().insert_bin(CONVERSATION, id);
        request
    }
}

/// The error of a call that the peer's TLS may have refused.
struct TurnedAway {
    alert: Alert,
    address: String,
}

impl TurnedAway {
    fn or(&self, error: Error) -> Error {
        match self.alert.lock() {
            Ok(alert) => alert.map_or(error, |alert| told_by_alert(&self.address, alert)),
            Err(_) => error,
        }
    }
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

/// Passes messages on to a wire until either end is gone, and lets the peer hear what was said last: it would be thrown away with
/// the call.
async fn carry(mut from: Streaming<v1::Message>, to: Hears) {
    pass_on(&mut from, to).await;
    let ends = async { while let Ok(Some(_)) = from.message().await {} };
    let _ = tokio::time::timeout(LAST_WORDS, ends).await; // it had its time
}

/// Passes messages on to a wire until either end is gone.
pub(crate) async fn pass_on(from: &mut Streaming<v1::Message>, to: Hears) {
    loop {
        let message = tokio::select! {
            message = from.message() => message.map_err(|status| broken(&status)).transpose(),
            () = to.closed() => return,
        };
        let Some(message) = message else { return };
        if !to.pass_on(message).await {
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
