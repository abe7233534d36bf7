//! One order between two daemons, from greeting to end: who may ask what, and who sends.

use crate::VERSION;
use crate::allowed::Allowed;
use crate::lazy::{DependantId, Origins, answer_dependant};
use crate::message::{Message, nonsense};
use crate::receiver::{Receiver, receive_image};
use crate::sender::send_image;
use crate::wire::{Session, Wire, unexpected};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{Pool, Volume};
use std::sync::Arc;
use std::time::Duration;

/// Which way the image goes, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Push,
    Pull,
    /// Clusters of an image that was pulled to be used at once.
    Fetch,
    /// An end of that.
    Release,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub direction: Direction,
    /// As the callee calls the image, or shall call it.
    pub image: ImageName,
    /// Only tell what it would take.
    pub quote: bool,
    /// Asked for before, and cut off.
    pub again: bool,
    pub terms: Terms,
    /// Of a pull: the callee keeps what it sends for this one.
    pub dependant: Option<DependantId>,
}

/// How an image shall cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Compress what becomes smaller.
    pub compress: bool,
    /// Bytes a second that the sender sends at most, before TLS; at least [`Terms::RATE_MIN`].
    pub rate: Option<u64>,
    /// Read what is taken by reference, and compare it with its hash (I9).
    pub verify: bool,
    /// Of a quote: read some clusters to estimate how small the missing ones become.
    pub sample: bool,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { compress: true, rate: None, verify: true, sample: false }
    }
}

impl Terms {
    /// A message of a MiB takes 16 s then: longer, and the peer would give up.
    pub const RATE_MIN: u64 = 64 << 10;

    pub fn check(&self) -> Result<()> {
        match self.rate {
            Some(rate) if rate < Terms::RATE_MIN => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a rate of {rate} bytes a second: it is at least {}", Terms::RATE_MIN),
            )),
            _ => Ok(()),
        }
    }
}

/// What a transfer came to. Clusters are 4096 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Size of the image in bytes.
    pub size: u64,
    /// Clusters with data in the image, as its side told; 0 if it did not.
    pub clusters: u64,
    /// Extents of 4 MiB that the receiver had whole.
    pub extents_whole: u64,
    /// Clusters with data in all other extents.
    pub clusters_listed: u64,
    /// Of these, those that the receiver found in its pool.
    pub clusters_found: u64,
    /// Of the rest, those whose content came with another.
    pub clusters_repeated: u64,
    /// Those that were sent, or of a quote: that would be.
    pub clusters_sent: u64,
    /// What was taken by reference and is not what it should be: it was sent.
    pub clusters_damaged: u64,
    /// Of a quote that was asked for a sample: what the clusters sent would take, about.
    pub compressed_estimate: Option<u64>,
    /// Bytes of all messages, before TLS, as this side counted them.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Connections that carried them.
    pub streams: usize,
}

/// How far a transfer is. Clusters are 4096 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Clusters that crossed, and those that cross in all.
    pub done: u64,
    pub total: u64,
    /// Clusters that need not cross.
    pub saved: u64,
    /// Times that a cluster could not be given, or had not the hash it was listed with.
    pub refused: u64,
    /// Bytes of messages so far, both ways.
    pub bytes: u64,
}

/// Whoever waits for a transfer.
pub trait Progress {
    fn moved(&self, moved: Moved);
    /// The user wants it no more.
    fn is_cancelled(&self) -> bool;
    /// The peer may do it no more.
    fn is_revoked(&self) -> bool {
        false
    }
    /// The daemon goes away; the transfer may go on later.
    fn is_stopping(&self) -> bool;
}

/// Nobody waits for it.
pub struct Unwatched;

impl Progress for Unwatched {
    fn moved(&self, _moved: Moved) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

/// Why a transfer ended early.
#[derive(Debug)]
pub struct Failed {
    pub error: Error,
    /// It was cut off: asked for again it may go on.
    pub cut: bool,
    /// Bytes of all messages until then.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

impl Failed {
    /// Before there was a conversation.
    pub fn early(error: Error, cut: bool) -> Failed {
        Failed { error, cut, bytes_sent: 0, bytes_received: 0 }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::early(error, false)
    }
}

/// Whoever calls, and how.
pub struct Caller<'a, D: Directory> {
    pub pool: &'a Arc<Pool<D>>,
    pub terms: Terms,
    pub quote: bool,
    /// It called before, and was cut off.
    pub again: bool,
    pub now_unix_s: u64,
    pub progress: &'a dyn Progress,
}

impl<D: Directory> Caller<'_, D> {
    pub(crate) fn order(&self, direction: Direction, image: &ImageName) -> Order {
        let (quote, again, terms) = (self.quote, self.again, self.terms);
        Order { direction, image: image.clone(), quote, again, terms, dependant: None }
    }
}

/// Sends an image to the peer as `target`, or only asks what that would take.
pub async fn push<D: Directory>(
    wire: Wire,
    caller: &Caller<'_, D>,
    source: &Volume<D>,
    target: &ImageName,
) -> Result<Account, Failed> {
    let order = caller.order(Direction::Push, target);
    let mut session = Session::new(wire, caller.progress);
    let done = match call(&mut session, caller.pool, order.clone()).await {
        Ok(()) => send_image(&mut session, caller.pool, source, &order).await,
        Err(error) => Err(error),
    };
    end(&mut session, done).await
}

/// Makes the image `target` of the peer's `source`, or only finds out what that would take.
pub async fn pull<D: Directory>(
    wire: Wire,
    caller: &Caller<'_, D>,
    source: &ImageName,
    target: &ImageName,
) -> Result<Account, Failed> {
    let order = caller.order(Direction::Pull, source);
    let mut session = Session::new(wire, caller.progress);
    let now_unix_s = caller.now_unix_s;
    let receiver = Receiver { pool: caller.pool, name: target, now_unix_s, origin: None };
    let done = match call(&mut session, caller.pool, order.clone()).await {
        Ok(()) => receive_image(&mut session, &receiver, &order).await,
        Err(error) => Err(error),
    };
    end(&mut session, done).await
}

/// Somebody waits for the cancelled job to end.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(5);

/// Tells a peer that an image it was sent a part of does not come.
pub async fn give_up<D: Directory>(wire: Wire, pool: &Arc<Pool<D>>, target: &ImageName) {
    let (direction, image, terms) = (Direction::Push, target.clone(), Terms::default());
    let order = Order { direction, image, quote: false, again: true, terms, dependant: None };
    let wire = wire.with_patience(GIVE_UP_PATIENCE, GIVE_UP_PATIENCE);
    let mut session = Session::new(wire, &Unwatched);
    // If it does not hear of it, it forgets the part after a day.
    if call(&mut session, pool, order).await.is_ok() {
        session.fail(&Error::new(ErrorKind::ShutDown, "cancelled; nothing of it remains")).await;
        // What was not heard yet is lost with the connection: let the peer end it.
        let _ = session.receive().await;
    }
}

/// Does what a peer asks for over `wire`, if it is allowed to. `noted` is told what that is, and may refuse; `origins`
/// keeps what dependants fetch.
pub async fn answer<D: Directory>(
    wire: Wire,
    pool: &Arc<Pool<D>>,
    allowed: &Allowed,
    now_unix_s: u64,
    progress: &dyn Progress,
    noted: impl FnOnce(&Order) -> Result<()>,
    origins: &dyn Origins<D>,
) -> Result<Account, Failed> {
    let mut session = Session::new(wire, progress);
    let done = answer_in(&mut session, pool, allowed, now_unix_s, noted, origins).await;
    end(&mut session, done).await
}

async fn answer_in<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    allowed: &Allowed,
    now_unix_s: u64,
    noted: impl FnOnce(&Order) -> Result<()>,
    origins: &dyn Origins<D>,
) -> Result<Account> {
    session.send(hello(pool)?).await?;
    greet(session, pool).await?;
    let order = match session.receive().await? {
        Message::Order(order) => order,
        other => return Err(unexpected(&other, "Order")),
    };
    if let Err(error) = noted(&order) {
        // Others may have ended by then.
        if error.kind() == ErrorKind::Busy {
            session.may_be_asked_again();
        }
        return Err(error);
    }
    // Whoever may do nothing with the image any more can still let go of it.
    if order.direction != Direction::Release && !allowed.names(&order.image) {
        let image = &order.image;
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "the caller may do nothing with images of that name: {image} is none of the --images that it was allowed"
            ),
        ));
    }
    match order.direction {
        Direction::Push if !allowed.push => Err(denied("push images to this pool", "push")),
        Direction::Pull | Direction::Fetch if !allowed.pull => {
            Err(denied("pull images from this pool", "pull"))
        }
        Direction::Push => {
            let receiver = Receiver { pool, name: &order.image, now_unix_s, origin: None };
            receive_image(session, &receiver, &order).await
        }
        Direction::Pull | Direction::Fetch | Direction::Release if order.dependant.is_some() => {
            answer_dependant(session, pool, &order, origins).await
        }
        Direction::Fetch | Direction::Release => Err(nonsense("an order for no dependant")),
        Direction::Pull => {
            let source = pool.hold_snapshot(&order.image, false, now_unix_s).await?;
            send_image(session, pool, &source, &order).await
        }
    }
}

fn denied(what: &str, permission: &str) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!(
            "the caller may not {what}: `blockyard peer add ... --allow {permission}` here would allow it"
        ),
    )
}

pub(crate) async fn call<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    order: Order,
) -> Result<()> {
    session.send(hello(pool)?).await?;
    session.send(Message::Order(order)).await?;
    greet(session, pool).await
}

fn hello<D: Directory>(pool: &Pool<D>) -> Result<Message> {
    let (id, hash) = pool.identity();
    Ok(Message::Hello { version: VERSION, hash: hash.name().to_owned(), pool: id.0 })
}

/// Hears who the peer is, and whether both can understand each other.
async fn greet<D: Directory>(session: &mut Session<'_>, pool: &Pool<D>) -> Result<()> {
    let (version, theirs) = match session.receive().await? {
        Message::Hello { version, hash, .. } => (version, hash),
        other => return Err(unexpected(&other, "Hello")),
    };
    if version != VERSION {
        let message = format!(
            "the peer speaks version {version} of the protocol, this daemon {VERSION}: use the same release of blockyard on both sides"
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let ours = pool.identity().1.name();
    if theirs != ours {
        let message = format!(
            "one pool hashes with {theirs}, the other with {ours}, so their hashes cannot be compared: export and import the image, or make one of the pools anew with the other's --hash"
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(())
}

/// Tells the peer of a failure of this side, and counts.
pub(crate) async fn end(
    session: &mut Session<'_>,
    done: Result<Account>,
) -> Result<Account, Failed> {
    let (bytes_sent, bytes_received) = session.bytes();
    match done {
        Ok(account) => {
            let streams = session.streams();
            Ok(Account { bytes_sent, bytes_received, streams, ..account })
        }
        Err(error) => {
            let error = session.reason(error).await;
            session.fail(&error).await;
            Err(Failed { error, cut: session.is_cut(), bytes_sent, bytes_received })
        }
    }
}
