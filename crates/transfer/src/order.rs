//! One order between two daemons, from greeting to end: who may ask what, and who sends.

use crate::VERSION;
use crate::message::Message;
use crate::receiver::receive_image;
use crate::sender::send_image;
use crate::wire::{Session, Wire, unexpected};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::{Directory, block_on};
use blockyard_pool::{Pool, Volume};
use std::sync::Arc;

/// Which way the image goes, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Push,
    Pull,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub direction: Direction,
    /// As the callee calls the image, or shall call it.
    pub image: ImageName,
    /// Only tell what it would take.
    pub quote: bool,
}

/// What a peer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    pub push: bool,
    pub pull: bool,
}

/// What a transfer came to. Clusters are 4096 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Size of the image in bytes.
    pub size: u64,
    /// Extents of 4 MiB that the receiver had whole.
    pub extents_whole: u64,
    /// Clusters with data in all other extents.
    pub clusters_listed: u64,
    /// Of these, those that the receiver found in its pool.
    pub clusters_found: u64,
    /// Those that were sent, or of a quote: that would be.
    pub clusters_sent: u64,
    /// Bytes of all messages, before TLS, as this side counted them.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// How far a transfer is, for whoever waits for it.
pub trait Progress {
    /// Clusters that cross in all, once that is known; and those that did.
    fn clusters(&self, done: u64, total: u64);
    fn is_cancelled(&self) -> bool;
}

/// Sends an image to the peer as `target`, or only asks what that would take.
pub fn push<D: Directory>(
    wire: Wire,
    pool: &Arc<Pool<D>>,
    source: &Volume<D>,
    target: &ImageName,
    quote: bool,
    progress: &dyn Progress,
) -> Result<Account> {
    let order = Order { direction: Direction::Push, image: target.clone(), quote };
    let mut session = Session::new(wire, progress);
    let done =
        call(&mut session, pool, order).and_then(|()| send_image(&mut session, source, quote));
    end(&mut session, done)
}

/// Makes the image `target` of the peer's `source`, or only finds out what that would take.
pub fn pull<D: Directory>(
    wire: Wire,
    pool: &Arc<Pool<D>>,
    source: &ImageName,
    target: &ImageName,
    quote: bool,
    now_unix_s: u64,
    progress: &dyn Progress,
) -> Result<Account> {
    let order = Order { direction: Direction::Pull, image: source.clone(), quote };
    let mut session = Session::new(wire, progress);
    let target = (!quote).then_some(target);
    let done = call(&mut session, pool, order)
        .and_then(|()| receive_image(&mut session, pool, target, now_unix_s));
    end(&mut session, done)
}

/// Does what a peer asks for over `wire`, if it is allowed to. `noted` is told what that is.
pub fn answer<D: Directory>(
    wire: Wire,
    pool: &Arc<Pool<D>>,
    allowed: Allowed,
    now_unix_s: u64,
    progress: &dyn Progress,
    noted: impl FnOnce(&Order),
) -> Result<Account> {
    let mut session = Session::new(wire, progress);
    let done = answer_in(&mut session, pool, allowed, now_unix_s, noted);
    end(&mut session, done)
}

fn answer_in<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    allowed: Allowed,
    now_unix_s: u64,
    noted: impl FnOnce(&Order),
) -> Result<Account> {
    session.send(hello(pool)?)?;
    greet(session, pool)?;
    let order = match session.receive()? {
        Message::Order(order) => order,
        other => return Err(unexpected(&other, "Order")),
    };
    noted(&order);
    match order.direction {
        Direction::Push if !allowed.push => Err(denied("push images to this pool", "push")),
        Direction::Pull if !allowed.pull => Err(denied("pull images from this pool", "pull")),
        Direction::Push => {
            let target = (!order.quote).then_some(&order.image);
            receive_image(session, pool, target, now_unix_s)
        }
        Direction::Pull => {
            let source = block_on(pool.hold_snapshot(&order.image, now_unix_s))?;
            send_image(session, &source, order.quote)
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

fn call<D: Directory>(session: &mut Session<'_>, pool: &Arc<Pool<D>>, order: Order) -> Result<()> {
    session.send(hello(pool)?)?;
    session.send(Message::Order(order))?;
    greet(session, pool)
}

fn hello<D: Directory>(pool: &Pool<D>) -> Result<Message> {
    let (id, hash) = pool.identity();
    Ok(Message::Hello { version: VERSION, hash: hash.name().to_owned(), pool: id.0 })
}

/// Hears who the peer is, and whether both can understand each other.
fn greet<D: Directory>(session: &mut Session<'_>, pool: &Pool<D>) -> Result<()> {
    let (version, theirs) = match session.receive()? {
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
            "the peer's pool hashes with {theirs}, this one with {ours}, so their hashes cannot be compared: export and import the image, or make one of the pools anew with the other's --hash"
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(())
}

/// Tells the peer of a failure of this side, and counts.
fn end(session: &mut Session<'_>, done: Result<Account>) -> Result<Account> {
    let (bytes_sent, bytes_received) = session.bytes();
    match done {
        Ok(account) => Ok(Account { bytes_sent, bytes_received, ..account }),
        Err(error) => {
            session.fail(&error);
            Err(error)
        }
    }
}
