//! A conversation of messages. Whatever carries it feeds two bounded channels; what time is, a [`Clock`] says, so that
//! a simulation can play both roles.

use crate::bundle::{Bundle, Ends};
use crate::message::{Message, nonsense};
use crate::order::{Moved, Progress};
use crate::v1;
use blockyard_block::{Error, ErrorKind, Result};
use prost::Message as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

/// Messages that wait to be sent, and to be taken: of at most 1 MiB each.
pub(crate) const QUEUE: usize = 4;
/// What may be on its way of a conversation before its other end takes it.
pub(crate) const WINDOW_BYTES: u32 = 2 << 20;
/// Frames of 16 KiB, which HTTP/2 has unless told otherwise, cost a system call each on both sides.
pub(crate) const FRAME_BYTES: u32 = 256 << 10;
/// Threads that read and compress, or decompress and write, beside each conversation.
const THREADS: usize = 2;
/// So many clusters are worth the handshake of a connection more: 16 MiB.
pub(crate) const STREAM_CLUSTERS: u64 = 4096;
/// For each of these that a round trip takes there is one connection more, unless told otherwise: each carries some 200 MiB a second
/// then. More of them than needed only have more on its way, to be lost if the transfer is cut off.
const STREAM_TIME: Duration = Duration::from_millis(10);
/// A peer that says nothing, or takes nothing, for this long is given up.
const STALL: Duration = Duration::from_secs(60);
/// A peer that only says that it still works is given up after this long. It may have to walk through all hashes
/// of its pool: 16 TiB of data have 128 GiB of them.
const ALIVE_MAX: Duration = Duration::from_secs(3600);
/// Beyond [`ALIVE_MAX`], all waiting for the peer must be paid for by bytes that crossed meanwhile, at this rate: a peer that
/// sends little and seldom would hold its place for ever.
const RATE_MIN: u64 = 16 << 10;
/// Cancelling is noticed within this time.
const LOOK: Duration = Duration::from_millis(200);
/// While it works without having anything to say, a side lets the other know this often.
const ALIVE: Duration = Duration::from_secs(5);
/// A limited rate is kept to within this time.
const BURST: Duration = Duration::from_millis(100);
/// How long the reason of a peer that hung up is waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Time as a conversation sees it.
pub trait Clock: Send + Sync {
    /// Since some moment in the past, always the same.
    fn now(&self) -> Duration;

    /// Ready when so much time has passed.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The host's, with the timers of a runtime. Its futures may be polled on any thread.
struct HostClock {
    runtime: Handle,
    started: Instant,
}

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // The timer must be made where the runtime is.
        let _entered = self.runtime.enter();
        Box::pin(tokio::time::sleep(time))
    }
}

/// One side's end of a conversation with a peer.
pub struct Wire {
    clock: Arc<dyn Clock>,
    outgoing: mpsc::Sender<v1::Message>,
    incoming: mpsc::Receiver<Result<v1::Message>>,
    bytes_sent: u64,
    bytes_received: u64,
    stall: Duration,
    alive_max: Duration,
    threads: usize,
    /// The connections that carry it, if there may be several.
    bundle: Option<Arc<Bundle>>,
    /// Adds one in the background; none if that is for the peer to do.
    add_link: Option<Box<dyn Fn() + Send>>,
    /// Until the peer answered the call.
    round_trip: Duration,
    /// Connections that are wanted; as many as the round trip needs, if none are said.
    streams: Option<usize>,
}

/// The two ends of a wire within the process, driven by `runtime`.
pub fn wire_pair(runtime: &Handle) -> (Wire, Wire) {
    wire_pair_through(runtime, Fate::Comes)
}

/// What becomes of a message on its way.
#[cfg_attr(not(test), expect(dead_code, reason = "only lines of tests are bad"))]
pub(crate) enum Fate {
    Comes(v1::Message),
    ComesLate(v1::Message, Duration),
    IsLost,
    /// With all after it.
    IsCutOff,
}

/// The same; `line` decides over each message.
pub(crate) fn wire_pair_through(
    runtime: &Handle,
    line: impl Fn(v1::Message) -> Fate + Clone + Send + 'static,
) -> (Wire, Wire) {
    let (one, mut from_one) = mpsc::channel(QUEUE);
    let (other, mut from_other) = mpsc::channel(QUEUE);
    let (to_one, to_other) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    let pass = |from: &mut mpsc::Receiver<v1::Message>, to: mpsc::Sender<Result<v1::Message>>| {
        let mut from = std::mem::replace(from, mpsc::channel(1).1);
        let line = line.clone();
        runtime.spawn(async move {
            while let Some(message) = from.recv().await {
                let message = match line(message) {
                    Fate::Comes(message) => message,
                    Fate::ComesLate(message, time) => {
                        tokio::time::sleep(time).await;
                        message
                    }
                    Fate::IsLost => continue,
                    Fate::IsCutOff => return,
                };
                if to.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
    };
    pass(&mut from_one, to_other.0);
    pass(&mut from_other, to_one.0);
    (Wire::new(runtime, one, to_one.1), Wire::new(runtime, other, to_other.1))
}

impl Wire {
    /// Connections of one transfer.
    pub const STREAMS_MAX: usize = crate::bundle::LINKS_MAX;

    pub(crate) fn new(
        runtime: &Handle,
        outgoing: mpsc::Sender<v1::Message>,
        incoming: mpsc::Receiver<Result<v1::Message>>,
    ) -> Wire {
        let clock = HostClock { runtime: runtime.clone(), started: Instant::now() };
        Wire { threads: THREADS, ..Wire::with_clock(Arc::new(clock), outgoing, incoming) }
    }

    /// Of another clock than the host's; it works in turn, with no threads, which no such clock could hold.
    pub(crate) fn with_clock(
        clock: Arc<dyn Clock>,
        outgoing: mpsc::Sender<v1::Message>,
        incoming: mpsc::Receiver<Result<v1::Message>>,
    ) -> Wire {
        Wire {
            clock,
            outgoing,
            incoming,
            bytes_sent: 0,
            bytes_received: 0,
            stall: STALL,
            alive_max: ALIVE_MAX,
            threads: 0,
            bundle: None,
            add_link: None,
            round_trip: Duration::ZERO,
            streams: None,
        }
    }

    /// Carried by the links of a bundle.
    pub(crate) fn of_bundle(runtime: &Handle, ends: Ends, bundle: Arc<Bundle>) -> Wire {
        Wire { bundle: Some(bundle), ..Wire::new(runtime, ends.outgoing, ends.incoming) }
    }

    /// `add_link` adds one without blocking; the peer answered the first after `round_trip`.
    pub(crate) fn with_links(self, round_trip: Duration, add_link: Box<dyn Fn() + Send>) -> Wire {
        Wire { round_trip, add_link: Some(add_link), ..self }
    }

    /// Clusters of one transfer may be carried by so many connections, or as many as the round trip needs, if the peer and whatever
    /// carries it can do that.
    pub fn with_streams(self, streams: Option<usize>) -> Wire {
        Wire { streams, ..self }
    }

    /// Ends it at once, without blocking, and tells the peer why.
    pub fn refuse(self, error: &Error) {
        // Nothing was sent before, so there is room.
        let again = error.kind() == ErrorKind::Busy;
        let _ = self.outgoing.try_send(Message::failure(error, again).encode());
    }

    /// Other times after which a peer is given up that says nothing, or nothing but that it is alive.
    pub fn with_patience(self, stall: Duration, alive_max: Duration) -> Wire {
        Wire { stall, alive_max, ..self }
    }

    /// With other than the usual number of threads for the work beside it: with none, all is done in turn.
    #[cfg(test)]
    pub(crate) fn with_threads(self, threads: usize) -> Wire {
        Wire { threads, ..self }
    }
}

/// A wire in use: it looks whether the work was cancelled, and says that it still works.
pub(crate) struct Session<'a> {
    wire: Wire,
    pub(crate) progress: &'a dyn Progress,
    /// Moments are those of the wire's clock.
    spoke: Duration,
    pace: Option<Pace>,
    /// For the peer, in all.
    waited: Duration,
    cut: bool,
    /// That the peer takes no more was found during work: it may have said why.
    closed: bool,
}

/// A bound on the bytes sent each second: a bucket that holds what fits [`BURST`].
struct Pace {
    rate: u64,
    /// When what was sent is paid for.
    paid_at: Duration,
}

impl Pace {
    /// How long the next message has to wait.
    fn wait(&self, now: Duration) -> Duration {
        self.paid_at.saturating_sub(now + BURST)
    }

    fn pay(&mut self, bytes: u64, now: Duration) {
        let time = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.paid_at = self.paid_at.max(now) + time;
    }
}

impl Session<'_> {
    pub(crate) fn new(wire: Wire, progress: &dyn Progress) -> Session<'_> {
        let (waited, spoke) = (Duration::ZERO, wire.clock.now());
        Session { wire, progress, spoke, pace: None, waited, cut: false, closed: false }
    }

    /// On the wire's clock.
    pub(crate) fn now(&self) -> Duration {
        self.wire.clock.now()
    }

    /// Since a moment on the wire's clock.
    pub(crate) fn since(&self, moment: Duration) -> Duration {
        self.now().saturating_sub(moment)
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.wire.clock.sleep(time).await;
    }

    /// Ready when `future` is, or so much time has passed.
    pub(crate) async fn sleep_unless(&self, time: Duration, future: impl Future) {
        let _ = within(&*self.wire.clock, time, future).await; // which of them does not matter
    }

    /// Sends no more than so many bytes a second from now on.
    pub(crate) fn limit(&mut self, rate: Option<u64>) {
        let now = self.now();
        self.pace = rate.map(|rate| Pace { rate, paid_at: now });
    }

    /// Lets a peer be alive without saying more for this much longer.
    pub(crate) fn allow(&mut self, time: Duration) {
        self.wire.alive_max = self.wire.alive_max.saturating_add(time);
    }

    /// So many clusters are to cross: by several connections, if that is worth it. They join when they are there.
    pub(crate) fn widen(&mut self, clusters: u64) {
        let worth = usize::try_from(clusters / STREAM_CLUSTERS).unwrap_or(usize::MAX);
        let needed = 1 + (self.wire.round_trip.as_millis() / STREAM_TIME.as_millis()) as usize;
        let streams = self.wire.streams.unwrap_or(needed).clamp(1, Wire::STREAMS_MAX);
        if let Some(add_link) = self.wire.add_link.take() {
            (0..worth.min(streams - 1)).for_each(|_| add_link());
        }
    }

    /// Connections that carried it.
    pub(crate) fn streams(&self) -> usize {
        self.wire.bundle.as_ref().map_or(1, |bundle| bundle.links())
    }

    /// For the work beside it.
    pub(crate) fn threads(&self) -> usize {
        self.wire.threads
    }

    /// Whether it ended by no fault of what was asked: asked for again it may succeed.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// What ends it now is no fault of what was asked.
    pub(crate) fn may_be_asked_again(&mut self) {
        self.cut = true;
    }

    /// What ends it now would end it again, whatever became of the wire.
    pub(crate) fn must_not_be_asked_again(&mut self) {
        (self.cut, self.closed) = (false, false);
    }

    /// Bytes of all messages so far, before TLS: sent and received.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.wire.bytes_sent, self.wire.bytes_received)
    }

    pub(crate) fn check(&mut self) -> Result<()> {
        // In this order: a daemon that stops says so first, and then cancels.
        let cancelled = self.progress.is_cancelled();
        if self.progress.is_stopping() {
            self.cut = true;
            return Err(Error::new(ErrorKind::ShutDown, "the daemon is going away"));
        }
        if self.progress.is_revoked() {
            return Err(Error::new(
                ErrorKind::Denied,
                "the peer was removed, or may do something else now: the transfer ends, and nothing of it remains",
            ));
        }
        match cancelled {
            true => Err(Error::new(ErrorKind::ShutDown, "cancelled; nothing of it remains")),
            false => Ok(()),
        }
    }

    pub(crate) async fn send(&mut self, message: Message) -> Result<()> {
        let message = message.encode();
        let length = message.encoded_len() as u64;
        self.wait_for_pace().await?;
        let started = self.now();
        loop {
            self.check()?;
            let place = self.wire.outgoing.clone().reserve_owned();
            match within(&*self.wire.clock, LOOK, place).await {
                Some(Ok(place)) => {
                    self.waited += self.since(started);
                    place.send(message);
                    self.sent(length);
                    return Ok(());
                }
                Some(Err(_closed)) => return Err(self.last_words().await),
                None if self.since(started) > self.stall() => return Err(self.stalled()),
                None => self.check_pace_of_peer(started)?,
            }
        }
    }

    /// Whether a message can be sent without waiting for the peer.
    pub(crate) fn has_room(&self) -> bool {
        self.wire.outgoing.capacity() > 0
    }

    fn sent(&mut self, length: u64) {
        let now = self.now();
        self.wire.bytes_sent += length;
        self.pace.iter_mut().for_each(|pace| pace.pay(length, now));
        self.spoke = now;
    }

    /// Sends what need not be a message.
    #[cfg(test)]
    pub(crate) async fn send_raw(&mut self, message: v1::Message) {
        // Whoever has hung up is not to be spoken to.
        let _ = within(&*self.wire.clock, LAST_WORDS, self.wire.outgoing.send(message)).await;
    }

    /// The next message that says something. A failure that the peer tells is an error here.
    pub(crate) async fn receive(&mut self) -> Result<Message> {
        let asked = self.now();
        let mut heard = asked;
        loop {
            self.check()?;
            if self.since(heard) > self.stall() || self.since(asked) > self.wire.alive_max {
                return Err(self.stalled());
            }
            self.check_pace_of_peer(asked)?;
            match within(&*self.wire.clock, LOOK, self.wire.incoming.recv()).await {
                Some(Some(message)) => match self.understand(message)? {
                    Message::Alive => heard = self.now(),
                    message => {
                        self.waited += self.since(asked);
                        return Ok(message);
                    }
                },
                Some(None) => return Err(self.hung_up()),
                None => {}
            }
        }
    }

    /// The next message, if one is there.
    pub(crate) fn look(&mut self) -> Result<Option<Message>> {
        self.check()?;
        match self.wire.incoming.try_recv() {
            Ok(message) => self
                .understand(message)
                .map(|it| Some(it).filter(|it| !matches!(it, Message::Alive))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.hung_up()),
        }
    }

    /// A failure that the peer tells is an error here.
    fn understand(&mut self, message: Result<v1::Message>) -> Result<Message> {
        // Nonsense is no fault of the line.
        let message =
            message.inspect_err(|error| self.cut = error.kind() != ErrorKind::InvalidArgument)?;
        self.wire.bytes_received += message.encoded_len() as u64;
        match Message::decode(message)? {
            Message::Failure { kind, message, again } => {
                self.cut = again;
                Err(told(kind, &message))
            }
            message => Ok(message),
        }
    }

    /// Tells whoever waits how far it is.
    pub(crate) fn moved(&self, moved: Moved) {
        let bytes = self.wire.bytes_sent + self.wire.bytes_received;
        self.progress.moved(Moved { bytes, ..moved });
    }

    /// To be called from time to time during long work, in the middle of which nothing can be waited for: a peer that has
    /// not taken what was said before need not hear more.
    pub(crate) fn still_working(&mut self) -> Result<()> {
        self.check()?;
        if self.since(self.spoke) <= ALIVE {
            return Ok(());
        }
        let message = Message::Alive.encode();
        let length = message.encoded_len() as u64;
        match self.wire.outgoing.try_send(message) {
            Ok(()) => self.sent(length),
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Closed(_)) => {
                self.closed = true;
                return Err(self.hung_up());
            }
        }
        Ok(())
    }

    /// The reason of a failure: the peer's, if it was only found to have hung up.
    pub(crate) async fn reason(&mut self, error: Error) -> Error {
        match std::mem::take(&mut self.closed) {
            true => self.last_words().await,
            false => error,
        }
    }

    /// Tells the peer why this ends, if it still listens.
    pub(crate) async fn fail(&mut self, error: &Error) {
        let message = Message::failure(error, self.cut).encode();
        // Whoever has hung up does not want to know.
        let _ = within(&*self.wire.clock, LAST_WORDS, self.wire.outgoing.send(message)).await;
    }

    /// Gives up a peer for which is waited since `since`, if it is too slow in all.
    fn check_pace_of_peer(&mut self, since: Duration) -> Result<()> {
        let bytes = self.wire.bytes_sent.saturating_add(self.wire.bytes_received);
        let paid = Duration::from_millis(bytes.saturating_mul(1000) / RATE_MIN);
        if self.waited + self.since(since) <= self.wire.alive_max.saturating_add(paid) {
            return Ok(());
        }
        self.cut = true;
        Err(Error::new(ErrorKind::Io, "the peer is too slow: given up"))
    }

    async fn wait_for_pace(&mut self) -> Result<()> {
        loop {
            let now = self.now();
            let wait = self.pace.as_ref().map_or(Duration::ZERO, |pace| pace.wait(now));
            if wait.is_zero() {
                return Ok(());
            }
            self.check()?;
            self.sleep(wait.min(LOOK)).await;
        }
    }

    /// Connections that share a slow line all carry a message before the first of them is through.
    fn stall(&self) -> Duration {
        self.wire.stall.saturating_mul(self.streams() as u32)
    }

    fn hung_up(&mut self) -> Error {
        self.cut = true;
        Error::new(ErrorKind::Io, "the connection to the peer ended before the transfer did")
    }

    fn stalled(&mut self) -> Error {
        self.cut = true;
        Error::new(ErrorKind::Io, "the peer does not go on: given up")
    }

    /// Why the peer takes no more: it may have said so before it left.
    async fn last_words(&mut self) -> Error {
        let deadline = self.now() + LAST_WORDS;
        loop {
            let left = deadline.saturating_sub(self.now());
            match within(&*self.wire.clock, left, self.wire.incoming.recv()).await {
                Some(Some(Ok(message))) => {
                    if let Ok(Message::Failure { kind, message, again }) = Message::decode(message)
                    {
                        self.cut = again;
                        return told(kind, &message);
                    }
                }
                Some(Some(Err(error))) => {
                    self.cut = true;
                    return error;
                }
                Some(None) | None => return self.hung_up(),
            }
        }
    }
}

/// `None` if it is not ready by then. A timer is made only if it has to be waited for.
async fn within<F: Future>(clock: &dyn Clock, time: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        let timer = timer.get_or_insert_with(|| clock.sleep(time));
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}

fn told(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, format!("the peer says: {message}"))
}

/// The error for a message that is not the next one.
pub(crate) fn unexpected(message: &Message, expected: &str) -> Error {
    nonsense(&format!("{} in place of {expected}", message.name()))
}
