//! Images that are used before they are there. The origin keeps a snapshot for each dependant, under an id that the
//! dependant made; the dependant fetches clusters of it, checks each, and lets go at the end.

mod fetch;
mod keeping;

pub use fetch::{Fetched, Fetching, fetch};
pub use keeping::{LetGo, hold_for_dependant, not_needed};

use crate::message::{Message, nonsense};
use crate::order::{Account, Caller, Direction, Failed, Order, call, end};
use crate::payload::Packer;
use crate::receiver::{Receiver, receive_image};
use crate::sender::{read_run, runs, send_image};
use crate::wire::{Session, Wire, unexpected};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{Pool, Volume};
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

/// Made by the dependant, at random: one for each image that it pulls lazily.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DependantId(pub [u8; 16]);

impl DependantId {
    /// 32 hexadecimal digits.
    pub fn parse(text: &str) -> Result<DependantId> {
        let broken = || Error::new(ErrorKind::InvalidArgument, "not the id of a dependant");
        if text.len() != 32 || !text.is_ascii() {
            return Err(broken());
        }
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| broken())?;
        }
        Ok(DependantId(id))
    }
}

impl fmt::Display for DependantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is done for a dependant, once it is.
pub type Kept<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// What this pool keeps for the dependants of one peer.
pub trait Origins<D: Directory> {
    /// Keeps the image as it is now for a dependant, durably, in place of what was kept for it before.
    fn hold<'a>(&'a self, image: &'a ImageName, dependant: DependantId) -> Kept<'a, Volume<D>>;

    /// What is kept for it, and where that is read first. `NotFound` if nothing is kept.
    fn open(&self, image: &ImageName, dependant: DependantId) -> Result<(Volume<D>, Vec<u32>)>;

    /// Keeps it no more. Not an error if nothing is kept.
    fn let_go(&self, dependant: DependantId) -> Kept<'_, ()>;
}

/// Keeps nothing.
pub struct NoOrigins;

impl<D: Directory> Origins<D> for NoOrigins {
    fn hold<'a>(&'a self, _image: &'a ImageName, _dependant: DependantId) -> Kept<'a, Volume<D>> {
        let error = Error::new(ErrorKind::Unsupported, "nothing is kept for dependants here");
        Box::pin(ready(Err(error)))
    }

    fn open(&self, _image: &ImageName, _dependant: DependantId) -> Result<(Volume<D>, Vec<u32>)> {
        Err(Error::new(ErrorKind::NotFound, "nothing is kept for dependants here"))
    }

    fn let_go(&self, _dependant: DependantId) -> Kept<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}

/// Makes the image `target` of the peer's `source`, to be opened at once: what is missing is fetched later. `origin` is
/// kept with it.
pub async fn pull_lazily<D: Directory>(
    wire: Wire,
    caller: &Caller<'_, D>,
    source: &ImageName,
    target: &ImageName,
    dependant: DependantId,
    origin: Vec<u8>,
) -> Result<Account, Failed> {
    // What was shown is known by its dependant, not by its digest.
    let order =
        Order { again: false, dependant: Some(dependant), ..caller.order(Direction::Pull, source) };
    let mut session = Session::new(wire, caller.progress);
    let now_unix_s = caller.now_unix_s;
    let receiver = Receiver { pool: caller.pool, name: target, now_unix_s, origin: Some(origin) };
    let done = match call(&mut session, caller.pool, order.clone()).await {
        Ok(()) => receive_image(&mut session, &receiver, &order).await,
        Err(error) => Err(error),
    };
    end(&mut session, done).await
}

/// Lets go of what a peer keeps for a dependant.
pub async fn release<D: Directory>(
    wire: Wire,
    caller: &Caller<'_, D>,
    source: &ImageName,
    dependant: DependantId,
) -> Result<(), Failed> {
    let order = Order { dependant: Some(dependant), ..caller.order(Direction::Release, source) };
    let mut session = Session::new(wire, caller.progress);
    let done = async {
        call(&mut session, caller.pool, order).await?;
        match session.receive().await? {
            Message::Done => Ok(Account::default()),
            other => Err(unexpected(&other, "Done")),
        }
    };
    let done = done.await;
    end(&mut session, done).await.map(drop)
}

/// Does what a dependant asks for.
pub(crate) async fn answer_dependant<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    order: &Order,
    origins: &dyn Origins<D>,
) -> Result<Account> {
    let dependant = order.dependant.ok_or_else(|| nonsense("an order for no dependant"))?;
    match order.direction {
        Direction::Pull => {
            let source = origins.hold(&order.image, dependant).await?;
            session.send(Message::Held).await?;
            // However this ends, the dependant may have shown the image, or be about to: it asks again, or lets go.
            let sent = send_image(session, pool, &source, order).await;
            if sent.is_err() && blockyard_io::broken("I16-let-go-unasked") {
                origins.let_go(dependant).await?;
            }
            sent
        }
        Direction::Fetch => {
            let (source, profile) = origins.open(&order.image, dependant)?;
            session.send(Message::Held).await?;
            session.send(Message::Profile(profile)).await?;
            send_fetched(session, &source, order).await
        }
        Direction::Release => {
            origins.let_go(dependant).await?;
            session.send(Message::Done).await?;
            Ok(Account::default())
        }
        Direction::Push => Err(nonsense("a push for a dependant")),
    }
}

/// Answers what is wanted until the end.
async fn send_fetched<D: Directory>(
    session: &mut Session<'_>,
    source: &Volume<D>,
    order: &Order,
) -> Result<Account> {
    session.limit(order.terms.rate);
    let mut packer = Packer::new(order.terms.compress)?;
    let mut account =
        Account { size: blockyard_block::BlockDevice::size(source), ..Account::default() };
    loop {
        let (index, slots) = match session.receive().await? {
            Message::Wanted { index, slots } => (index, slots),
            Message::WantedEnd => return Ok(account),
            other => return Err(unexpected(&other, "Wanted")),
        };
        for (first_slot, count) in runs(&slots) {
            let message = match read_run(source, index, first_slot, count).await {
                Ok(bytes) => {
                    account.clusters_sent += count as u64;
                    Message::Clusters { index, first_slot, data: packer.pack(bytes) }
                }
                Err(error) if error.kind() == ErrorKind::InvalidArgument => return Err(error),
                // It is gone as a whole.
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
                Err(_) => {
                    let slots = crate::message::SlotBits::of(first_slot..first_slot + count);
                    Message::Withheld { index, slots }
                }
            };
            session.send(message).await?;
        }
    }
}
