//! Answering peers. TLS comes first: whoever is not listed gets no further than its handshake. A connection carries one
//! call, has a place of its peer as long as it is there, and does not outlive its conversation for long.

use crate::authority::Authority;
use crate::bundle::{Bundle, Hears, Link, Opening};
use crate::client::{CONVERSATION, pass_on};
use crate::identity::{Identity, PeerId};
use crate::message::MESSAGE_BYTES_MAX;
use crate::tls::{Judge, Listed, server_config};
use crate::v1;
use crate::v1::transfer_server::{Transfer, TransferServer};
use crate::wire::{FRAME_BYTES, WINDOW_BYTES, Wire};
use blockyard_block::{Error, Result};
use rustls::pki_types::UnixTime;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Handshakes at the same time; more wait in the kernel.
const HANDSHAKES_MAX: usize = 32;
/// A caller that is turned away has this long to hear why, and is read so often.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_READS: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Calls on one connection.
const CALLS_MAX: u32 = 1;
/// Connections at the same time: more are closed. What waits to be sent on one takes some 5 MiB at worst.
const CONNECTIONS_MAX: usize = 720;
const CONNECTIONS_OF_PEER_MAX: usize = 216;
/// A connection on which nobody calls, or whose conversation has ended, is closed after this long. A peer that takes nothing
/// more would have what waits for it be kept.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Who knows the peers, and does what they ask for.
pub trait Host: Send + Sync + 'static {
    /// Whether this is a peer, now.
    fn is_listed(&self, peer: &PeerId) -> bool;

    /// The DNS names of the peers that are known by one.
    fn names(&self) -> Vec<String>;

    /// A listed peer called. Must not block: the work is for a thread.
    fn answer(&self, peer: PeerId, wire: Wire);

    /// Somebody was turned away, or a connection broke before it was one.
    fn refused(&self, address: &str, why: &str);
}

/// The host as the handshake asks it.
struct AsListed<H>(Arc<H>);

impl<H: Host> Listed for AsListed<H> {
    fn is_listed(&self, peer: &PeerId) -> bool {
        self.0.is_listed(peer)
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

/// Serves peers on `listener` until `stop` is ready. Runs on the current runtime.
pub async fn serve<H: Host>(
    listener: std::net::TcpListener,
    identity: &Identity,
    authority: Option<&Authority>,
    host: Arc<H>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let failed = |error| Error::io("cannot listen for peers", error);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let judge = Arc::new(Judge::new(Arc::new(AsListed(Arc::clone(&host))), authority)?);
    let config = server_config(identity, &judge)?;
    let (accepted, connections) = mpsc::channel(1);
    let door = Door { acceptor: Arc::new(config).into(), judge, places: Arc::default() };
    let accepting = accept(listener, door, Arc::clone(&host), accepted);
    let service = TransferServer::new(Service { host, conversations: Arc::default() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(CALLS_MAX)
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(connections));
    tokio::select! {
        served = serving => {
            served.map_err(|error| Error::io("serving peers", io::Error::other(error)))
        }
        () = accepting => Ok(()),
        () = stop => Ok(()),
    }
}

/// What a caller passes.
#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    judge: Arc<Judge>,
    places: Arc<Places>,
}

/// How many connections each peer has.
#[derive(Default)]
struct Places {
    taken: Mutex<BTreeMap<String, usize>>,
}

impl Places {
    fn take(self: &Arc<Self>, peer: &PeerId) -> io::Result<Place> {
        let (mut taken, peer) = (self.lock(), peer.to_string());
        let of_peer = taken.get(&peer).copied().unwrap_or(0);
        if of_peer >= CONNECTIONS_OF_PEER_MAX || taken.values().sum::<usize>() >= CONNECTIONS_MAX {
            let message = format!("too many connections: {of_peer} of this peer are open");
            return Err(io::Error::other(message));
        }
        taken.insert(peer.clone(), of_peer + 1);
        Ok(Place { places: Arc::clone(self), peer })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is given back when dropped.
struct Place {
    places: Arc<Places>,
    peer: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let left = taken.remove(&self.peer).unwrap_or(0).saturating_sub(1);
        if left > 0 {
            taken.insert(self.peer.clone(), left);
        }
    }
}

async fn accept<H: Host>(
    listener: TcpListener,
    door: Door,
    host: Arc<H>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(connected) => connected,
            Err(error) => {
                // Out of descriptors, say: others may end soon.
                host.refused("nobody", &error.to_string());
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (door, host, accepted) = (door.clone(), Arc::clone(&host), accepted.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_TIME, shake(door, stream)).await;
            drop(place);
            match shaken {
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => host.refused(&address.to_string(), &error.to_string()),
                Err(_) => host.refused(&address.to_string(), "no handshake in time"),
            }
        });
    }
}

async fn shake(door: Door, stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = match door.acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            // However that ends, the caller is turned away.
            let _ = timeout(LAST_WORDS, let_hear(stream)).await;
            return Err(error);
        }
    };
    // Asked once more, to be told who it is: the list may have changed since.
    let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.split_first());
    let (certificate, intermediates) =
        shown.ok_or_else(|| io::Error::other("no certificate was shown"))?;
    let who = door.judge.who(certificate, intermediates, UnixTime::now());
    let peer = who.map_err(io::Error::other)?;
    let place = door.places.take(&peer)?;
    let (open, ended) = oneshot::channel();
    let caller = Caller { peer, open: Arc::new(Mutex::new(Some(open))) };
    let quiet = caller.clone();
    tokio::spawn(async move {
        sleep(QUIET_MAX).await;
        drop(quiet.take());
    });
    Ok(Connection { stream, caller, ended: Some(ended), _place: place })
}

/// Takes what a caller says until it hangs up: closed before that was read, the connection is reset, and the reason that was
/// sent may never be heard.
async fn let_hear(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut taken = [0; 4096];
    for _ in 0..LAST_READS {
        if stream.read(&mut taken).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A connection of a peer that has shown who it is.
struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    /// Ready when what keeps it open is dropped; none when that was seen.
    ended: Option<oneshot::Receiver<()>>,
    _place: Place,
}

/// Who calls, and what keeps the connection open: the one call takes it.
#[derive(Clone)]
struct Caller {
    peer: PeerId,
    open: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Caller {
    fn take(&self) -> Option<oneshot::Sender<()>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Connection {
    fn check_open(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(ended) = &mut self.ended
            && Pin::new(ended).poll(context).is_pending()
        {
            return Ok(());
        }
        self.ended = None;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Service<H> {
    host: Arc<H>,
    conversations: Arc<Conversations>,
}

/// Who calls, and the id that it gave the conversation.
type Named = (String, [u8; 16]);

/// Conversations that other connections may join.
#[derive(Default)]
struct Conversations {
    bundles: Mutex<BTreeMap<Named, Weak<Bundle>>>,
}

impl Conversations {
    fn add(self: &Arc<Self>, name: Named, bundle: &Arc<Bundle>) -> Result<Joinable, Status> {
        let mut bundles = self.lock();
        if bundles.contains_key(&name) {
            return Err(Status::already_exists("there is such a conversation already"));
        }
        bundles.insert(name.clone(), Arc::downgrade(bundle));
        Ok(Joinable { conversations: Arc::clone(self), name })
    }

    fn link(&self, name: &Named) -> Option<Link> {
        self.lock().get(name)?.upgrade()?.link()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Named, Weak<Bundle>>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A conversation that may be joined, until it is dropped.
struct Joinable {
    conversations: Arc<Conversations>,
    name: Named,
}

impl Drop for Joinable {
    fn drop(&mut self) {
        self.conversations.lock().remove(&self.name);
    }
}

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Message, Status>> + Send>>;

#[tonic::async_trait]
impl<H: Host> Transfer for Service<H> {
    type TransferStream = Answers;

    async fn transfer(
        &self,
        request: Request<Streaming<v1::Message>>,
    ) -> Result<Response<Answers>, Status> {
        let caller = self.caller(&request)?;
        let (bundle, Link { says, hears }, ends) = Bundle::new();
        let bundle = Arc::new(bundle);
        let name = conversation(&request, &caller.peer);
        let named = name.map(|name| self.conversations.add(name, &bundle)).transpose()?;
        let stays = caller.take().ok_or_else(one_call)?;
        let mut from = request.into_inner();
        tokio::spawn(async move {
            carry(&mut from, hears, stays).await;
            drop(named);
        });
        self.host.answer(caller.peer, Wire::of_bundle(&Handle::current(), ends, bundle));
        Ok(Response::new(Box::pin(says.map(Ok))))
    }

    type JoinStream = Answers;

    async fn join(
        &self,
        request: Request<Streaming<v1::Message>>,
    ) -> Result<Response<Answers>, Status> {
        let caller = self.caller(&request)?;
        let name = conversation(&request, &caller.peer);
        let link = name.and_then(|name| self.conversations.link(&name));
        let Link { says, hears } =
            link.ok_or_else(|| Status::not_found("no conversation that may be joined"))?;
        let stays = caller.take().ok_or_else(one_call)?;
        let (open, opening) = Opening::new(false);
        let mut from = request.into_inner();
        tokio::spawn(async move {
            // By its first message, which says nothing, the caller shows that it has the answer.
            if let Ok(Ok(Some(_))) = timeout(QUIET_MAX, from.message()).await
                && open.send(says).is_ok()
            {
                carry(&mut from, hears, stays).await;
            }
        });
        Ok(Response::new(Box::pin(opening.map(Ok))))
    }
}

impl<H: Host> Service<H> {
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        // A peer that was removed keeps its connection for a moment, but nothing is answered on it.
        caller
            .filter(|caller| self.host.is_listed(&caller.peer))
            .ok_or_else(|| Status::permission_denied("this certificate is not that of a peer"))
    }
}

fn one_call() -> Status {
    Status::resource_exhausted("a connection carries one call")
}

fn conversation<T>(request: &Request<T>, peer: &PeerId) -> Option<Named> {
    let id = request.metadata().get_bin(CONVERSATION)?.to_bytes().ok()?;
    Some((peer.to_string(), id.as_ref().try_into().ok()?))
}

/// Passes on what a link hears. When nothing more comes, what was said last is still to be taken; after that, the connection ends, and
/// with it the conversation, of which other links may still wait for what was lost on this one.
async fn carry(from: &mut Streaming<v1::Message>, hears: Hears, stays: oneshot::Sender<()>) {
    let ender = hears.ender();
    pass_on(from, hears).await;
    sleep(QUIET_MAX).await;
    drop(stays);
    ender.end().await;
}

#[cfg(test)]
mod tests;
