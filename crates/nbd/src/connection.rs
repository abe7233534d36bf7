//! One client's connection: the handshake, and how it is served where there is no ring: by a few
//! threads that take turns.
//!
//! A turn is to send replies, to run one request, or to read from the socket; whoever is free takes
//! the next one. The thread that reads runs what it read itself as long as requests are answered at
//! once (cached data), so that a batch costs one `recv`, one `sendmsg` and no switch of threads. As
//! soon as a request waits for storage, or such requests lately did ([`pace`]), requests are
//! queued for as many threads as are needed to keep the disk busy, up to the limit.
//!
//! What always holds: one thread reads, one sends; a thread that drives a device's future never
//! waits for the client meanwhile; requests are admitted ([`InFlight::admit`]) before their payload has
//! memory, and charged until their replies are sent; nothing is read while the queue holds
//! requests; the device is closed before the connection's last event.

mod drive;
mod greet;
mod pace;
pub(crate) mod reader;
mod work;

use crate::exports::{ClientInfo, Counts, EndReason, Event, Exports, InFlight, Limits};
use crate::handshake::{Agreement, Catalogue};
use crate::reply::Batch;
use crate::server::{Seat, Shared};
use crate::transmission::{Request, Terms};
use blockyard_block::BlockDevice;
use pace::Pace;
use reader::Reader;
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The exports as one client sees them.
struct View<'a, E> {
    exports: &'a E,
    client: &'a ClientInfo,
}

impl<E: Exports> Catalogue for View<'_, E> {
    type Device = E::Device;

    fn list(&self) -> Vec<crate::ExportSummary> {
        self.exports.list(self.client)
    }

    fn open(&self, name: &str) -> blockyard_block::Result<Arc<E::Device>> {
        self.exports.open(name, self.client)
    }
}

/// A client that has opened an export.
pub(crate) struct Opened<E: Exports> {
    pub(crate) seat: Seat,
    pub(crate) client: ClientInfo,
    pub(crate) name: String,
    pub(crate) device: Arc<E::Device>,
    pub(crate) terms: Terms,
    /// What came along with the end of the handshake.
    pub(crate) early: Vec<u8>,
}

/// Negotiates with a fresh socket until the client has opened an export, or is gone.
pub(crate) fn greet<E: Exports>(
    shared: &Shared<E>,
    seat: Seat,
    client: ClientInfo,
) -> Option<Opened<E>> {
    shared.report(Event::Connected { client: &client });
    let view = View { exports: &*shared.exports, client: &client };
    let greeted = catch_unwind(AssertUnwindSafe(|| {
        greet::negotiate(seat.socket(), &view, shared.limits.handshake_time)
    }));
    let (Agreement { name, device, terms }, early) = match greeted.unwrap_or(Err(EndReason::Defect))
    {
        Ok(agreed) => agreed,
        Err(reason) => {
            let reason = seat.reason(reason);
            let counts = Counts::default();
            let client = &client;
            shared.report(Event::Disconnected { client, name: None, reason: &reason, counts });
            return None;
        }
    };
    shared.report(Event::Opened {
        client: &client,
        name: &name,
        size: terms.size,
        read_only: terms.read_only,
    });
    Some(Opened { seat, client, name, device, terms, early })
}

/// Serves an opened export until the client is gone. Runs on the connection's first thread.
pub(crate) fn serve<E: Exports>(shared: &Arc<Shared<E>>, opened: Opened<E>) {
    let Opened { seat, client, name, device, terms, early } = opened;
    let socket = Arc::clone(seat.socket());
    let state = State::new(Reader::new(terms.clone(), early), Arc::clone(&device), seat);
    let connection = Arc::new(Connection {
        shared: Arc::clone(shared),
        socket,
        client,
        name,
        terms,
        pace: Pace::default(),
        state: Mutex::new(state),
        turn: Condvar::new(),
    });
    connection.run_thread(device);
}

struct Connection<E: Exports> {
    shared: Arc<Shared<E>>,
    socket: Arc<UnixStream>,
    client: ClientInfo,
    name: String,
    terms: Terms,
    pace: Pace,
    state: Mutex<State<E::Device>>,
    /// Threads without work wait here.
    turn: Condvar,
}

struct State<D> {
    /// Here when nobody is reading. Gone for good once the connection ends.
    reader: Option<Box<Reader>>,
    /// Admitted requests that no thread has taken yet.
    queue: VecDeque<Request>,
    outbox: Batch,
    sending: bool,
    /// The socket takes no more replies.
    broken: bool,
    in_flight: InFlight,
    threads: usize,
    threads_idle: usize,
    end: Option<EndReason>,
    counts: Counts,
    failures: u64,
    /// Taken by the last thread, which closes the device and then gives up the seat.
    holdings: Option<(Arc<D>, Seat)>,
}

impl<D: BlockDevice> State<D> {
    fn new(reader: Reader, device: Arc<D>, seat: Seat) -> State<D> {
        State {
            reader: Some(Box::new(reader)),
            queue: VecDeque::new(),
            outbox: Batch::default(),
            sending: false,
            broken: false,
            in_flight: InFlight::default(),
            threads: 1,
            threads_idle: 0,
            end: None,
            counts: Counts::default(),
            failures: 0,
            holdings: Some((device, seat)),
        }
    }

    /// Whether it is time to read, and the reader is free.
    fn may_read(&self, limits: &Limits) -> bool {
        self.queue.is_empty()
            && self
                .reader
                .as_ref()
                .is_some_and(|reader| self.in_flight.has_room(reader.wants(), limits))
    }

    fn must_send(&self) -> bool {
        !self.sending && !self.outbox.is_empty()
    }

    fn has_turn(&self, limits: &Limits) -> bool {
        self.must_send() || !self.queue.is_empty() || self.may_read(limits)
    }

    /// Remembers the first reason only.
    fn end_with(&mut self, reason: EndReason) {
        if let Some(reader) = self.reader.take() {
            self.counts = reader.counts();
        }
        self.end.get_or_insert(reason);
    }
}

/// What a thread does next.
enum Turn {
    Send,
    Run(Request),
    Read(Box<Reader>),
}

impl<E: Exports> Connection<E> {
    fn lock(&self) -> MutexGuard<'_, State<E::Device>> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes turns until there are none left for this thread; the last thread closes up.
    fn run_thread(self: &Arc<Self>, device: Arc<E::Device>) {
        if catch_unwind(AssertUnwindSafe(|| self.take_turns(&*device))).is_err() {
            self.break_off(&mut self.lock(), EndReason::Defect);
        }
        drop(device);
        let mut state = self.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return;
        }
        let Some((device, seat)) = state.holdings.take() else { return };
        let mut counts = state.counts;
        counts.failures = state.failures;
        let reason = seat.reason(state.end.take().unwrap_or(EndReason::Defect));
        drop(state);
        drop(device);
        let _ = self.socket.shutdown(Shutdown::Both); // it may be closed already
        let (client, name) = (&self.client, Some(self.name.as_str()));
        self.shared.report(Event::Disconnected { client, name, reason: &reason, counts });
    }

    fn take_turns(self: &Arc<Self>, device: &E::Device) {
        let mut worker = work::Worker::new(self, device);
        while let Some(turn) = self.next_turn() {
            match turn {
                Turn::Send => self.send_outbox(),
                Turn::Run(request) => worker.run_queued(request),
                Turn::Read(reader) => worker.read(reader),
            }
        }
    }

    /// Waits for something to do. `None`: this thread is not needed any more.
    fn next_turn(self: &Arc<Self>) -> Option<Turn> {
        let limits = &self.shared.limits;
        let mut state = self.lock();
        loop {
            let turn = if state.must_send() {
                Some(Turn::Send)
            } else if let Some(request) = state.queue.pop_front() {
                Some(Turn::Run(request))
            } else if state.may_read(limits) {
                state.reader.take().map(Turn::Read)
            } else {
                None
            };
            if turn.is_some() {
                self.call_another(state);
                return turn;
            }
            if state.end.is_some() {
                return None;
            }
            state.threads_idle += 1;
            let (guard, waited) = self
                .turn
                .wait_timeout(state, limits.thread_idle_time)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.threads_idle -= 1;
            if waited.timed_out() && state.threads > 1 && !state.has_turn(limits) {
                return None;
            }
        }
    }

    /// Wakes or starts one more thread if there is another turn to take. That thread does the same, so
    /// as many come as find work.
    fn call_another(self: &Arc<Self>, mut state: MutexGuard<'_, State<E::Device>>) {
        if !state.has_turn(&self.shared.limits) {
            return;
        }
        if state.threads_idle > 0 {
            drop(state);
            self.turn.notify_one();
        } else if state.threads < self.shared.limits.threads
            && let Some((device, _)) = &state.holdings
        {
            let device = Arc::clone(device);
            state.threads += 1;
            drop(state);
            let connection = Arc::clone(self);
            let name = format!("nbd-{}", self.client.connection.0);
            let run = move || connection.run_thread(device);
            if thread::Builder::new().name(name).spawn(run).is_err() {
                self.lock().threads -= 1; // this one goes on alone
            }
        }
    }

    /// Ends the connection without waiting for what is still queued.
    fn break_off(&self, state: &mut State<E::Device>, reason: EndReason) {
        state.end_with(reason);
        state.broken = true;
        state.queue.clear();
        state.outbox.clear();
        let _ = self.socket.shutdown(Shutdown::Both); // wakes the thread that reads, if one does
        self.turn.notify_all();
    }

    /// Sends `batch`, or leaves it to the thread that is sending. Empties it.
    fn post(&self, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.sending || !state.outbox.is_empty() {
            state.outbox.append(std::mem::take(batch));
            drop(state);
            return self.send_outbox();
        }
        state.sending = true;
        let state = self.send(state, batch);
        self.send_rest(state);
    }

    /// Sends what is in the outbox, unless another thread is at it.
    fn send_outbox(&self) {
        let mut state = self.lock();
        if !state.sending {
            state.sending = true;
            self.send_rest(state);
        }
    }

    /// As the thread that sends: sends what the others left meanwhile.
    fn send_rest<'a>(&'a self, mut state: MutexGuard<'a, State<E::Device>>) {
        while !state.outbox.is_empty() {
            if state.threads_idle > 0 && state.may_read(&self.shared.limits) {
                self.turn.notify_one(); // reading may have stopped for want of room
            }
            let mut batch = std::mem::take(&mut state.outbox);
            state = self.send(state, &mut batch);
        }
        state.sending = false;
    }

    /// Sends one batch without the lock and gives back what its requests were charged with.
    fn send<'a>(
        &'a self,
        state: MutexGuard<'a, State<E::Device>>,
        batch: &mut Batch,
    ) -> MutexGuard<'a, State<E::Device>> {
        let broken = state.broken;
        drop(state);
        let sent = if broken { Ok(()) } else { work::send(&self.socket, batch) };
        let mut state = self.lock();
        state.in_flight.release(batch.requests(), batch.weight());
        batch.clear();
        if let Err(error) = sent {
            self.break_off(&mut state, EndReason::Broken(error.to_string()));
        }
        state
    }
}
