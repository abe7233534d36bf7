//! Accepts clients and knows which are there. One thread accepts, and each client negotiates on a
//! thread of its own; then it is given to the least loaded ring (see `rings`), or where there are none
//! keeps threads of its own (see `connection`). What each may hold is bounded by [`Limits`].

use crate::connection;
use crate::exports::{ClientInfo, ConnectionId, EndReason, Event, Exports, Limits};
use crate::rings::Rings;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long to wait when `accept` fails for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What clients that were cut off may still take: their requests in flight must end.
const CUT_OFF_TIME: Duration = Duration::from_secs(1);

/// What all connections of a server share.
pub(crate) struct Shared<E> {
    pub(crate) exports: Arc<E>,
    pub(crate) limits: Limits,
    events: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

impl<E> Shared<E> {
    pub(crate) fn report(&self, event: Event<'_>) {
        (self.events)(event);
    }
}

/// The connections that exist.
#[derive(Default)]
struct Registry {
    sockets: Mutex<HashMap<ConnectionId, Arc<UnixStream>>>,
    /// Told when a connection ends.
    left: Condvar,
    stopping: AtomicBool,
}

impl Registry {
    fn sockets(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<UnixStream>>> {
        // Each holder changes the map by one call.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no connection is left, or until `deadline`; tells how many are.
    fn wait_empty(&self, deadline: Instant) -> usize {
        let mut sockets = self.sockets();
        while !sockets.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            sockets =
                self.left.wait_timeout(sockets, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        sockets.len()
    }

    fn shut_down_all(&self, how: Shutdown) {
        for socket in self.sockets().values() {
            let _ = socket.shutdown(how); // the client may be gone already
        }
    }
}

/// One connection's place in the registry, given up when dropped.
pub(crate) struct Seat {
    registry: Arc<Registry>,
    id: ConnectionId,
    socket: Arc<UnixStream>,
}

impl Seat {
    pub(crate) fn socket(&self) -> &Arc<UnixStream> {
        &self.socket
    }

    /// A connection that closes while the server stops was closed by the server.
    pub(crate) fn reason(&self, reason: EndReason) -> EndReason {
        let stopping = self.registry.stopping.load(Ordering::Relaxed);
        match reason {
            EndReason::Closed | EndReason::Broken(_) if stopping => EndReason::ShutDown,
            reason => reason,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.registry.sockets().remove(&self.id);
        self.registry.left.notify_all();
    }
}

/// A running server. Dropping it cuts all clients off; [`Server::shutdown`] is kinder.
pub struct Server {
    registry: Arc<Registry>,
    listener: Arc<UnixListener>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `exports` to whoever connects to `listener`. Errors: no thread could be started.
    pub fn start<E: Exports>(
        listener: UnixListener,
        exports: Arc<E>,
        limits: Limits,
        events: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let shared = Arc::new(Shared { exports, limits, events: Box::new(events) });
        let registry = Arc::new(Registry::default());
        let rings = match Rings::start(&shared) {
            Ok(rings) => rings.map(Arc::new),
            Err(error) => {
                shared.report(Event::NoRing { error: &error });
                None
            }
        };
        let listener = Arc::new(listener);
        let accepting = Acceptor {
            listener: Arc::clone(&listener),
            registry: Arc::clone(&registry),
            shared,
            rings,
        };
        let acceptor =
            thread::Builder::new().name("nbd-accept".to_owned()).spawn(move || accepting.run())?;
        Ok(Server { registry, listener, acceptor: Some(acceptor) })
    }

    /// How many clients are connected now.
    pub fn connections(&self) -> usize {
        self.registry.sockets().len()
    }

    /// Takes no more clients and no more requests; answers those that were received, then closes.
    /// Clients that do not take their replies within `grace` are cut off. Returns how many
    /// connections are still held by requests that the device has not completed.
    pub fn shutdown(mut self, grace: Duration) -> usize {
        self.stop(grace)
    }

    fn stop(&mut self, grace: Duration) -> usize {
        self.registry.stopping.store(true, Ordering::Relaxed);
        // Wakes the acceptor, and leaves the socket's name to its owner.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join(); // it holds nothing that a panic could leave undone
        }
        self.registry.shut_down_all(Shutdown::Read);
        if self.registry.wait_empty(Instant::now() + grace) == 0 {
            return 0;
        }
        self.registry.shut_down_all(Shutdown::Both);
        self.registry.wait_empty(Instant::now() + CUT_OFF_TIME)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.stop(Duration::ZERO);
        }
    }
}

struct Acceptor<E: Exports> {
    listener: Arc<UnixListener>,
    registry: Arc<Registry>,
    shared: Arc<Shared<E>>,
    rings: Option<Arc<Rings<E>>>,
}

impl<E: Exports> Acceptor<E> {
    fn run(self) {
        let mut last = 0;
        while !self.registry.stopping.load(Ordering::Relaxed) {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    last += 1;
                    self.admit(socket, ConnectionId(last));
                }
                Err(_) if self.registry.stopping.load(Ordering::Relaxed) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.shared.report(Event::AcceptFailed { error: &error });
                    thread::sleep(ACCEPT_RETRY);
                }
            }
        }
    }

    fn admit(&self, socket: UnixStream, id: ConnectionId) {
        let client = identify(&socket, id);
        let socket = Arc::new(socket);
        {
            let mut sockets = self.registry.sockets();
            if sockets.len() >= self.shared.limits.connections {
                drop(sockets);
                let reason = "too many connections";
                return self.shared.report(Event::Rejected { client: &client, reason });
            }
            sockets.insert(id, Arc::clone(&socket));
        }
        let seat = Seat { registry: Arc::clone(&self.registry), id, socket };
        let shared = Arc::clone(&self.shared);
        let (served, rings) = (client.clone(), self.rings.clone());
        let run = move || {
            let Some(opened) = connection::greet(&shared, seat, served) else { return };
            match rings {
                Some(rings) => rings.take_in(opened),
                None => connection::serve(&shared, opened),
            }
        };
        if thread::Builder::new().name(format!("nbd-{}", id.0)).spawn(run).is_err() {
            let reason = "no thread could be started";
            self.shared.report(Event::Rejected { client: &client, reason });
        }
    }
}

fn identify(socket: &UnixStream, connection: ConnectionId) -> ClientInfo {
    match rustix::net::sockopt::socket_peercred(socket) {
        Ok(peer) => ClientInfo {
            connection,
            pid: Some(peer.pid.as_raw_nonzero().get()),
            uid: Some(peer.uid.as_raw()),
            gid: Some(peer.gid.as_raw()),
        },
        Err(_) => ClientInfo { connection, pid: None, uid: None, gid: None },
    }
}
