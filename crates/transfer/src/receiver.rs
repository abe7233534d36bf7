//! The side that wants the image. It has what it finds, asks for the rest, and shows the image only when it is
//! whole; whatever ends it before leaves nothing.

use crate::message::{Message, SlotBits, nonsense};
use crate::order::Account;
use crate::wire::{Session, unexpected};
use blockyard_block::{
    Buffer, BufferMut, CLUSTER_SIZE, ContentHash, Error, ErrorKind, ImageName, Result,
};
use blockyard_io::{Directory, block_on};
use blockyard_pool::{Lookup, Missing, Pool, Receive};
use prost::bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Extents whose clusters are asked for before the first of them came.
const AHEAD: usize = 8;

/// What is being filled: an image, or nothing.
enum Target<D: Directory> {
    Image(Box<Receive<D>>),
    Quote(Box<Lookup<D>>),
}

impl<D: Directory> Target<D> {
    fn lookup(&mut self) -> &mut Lookup<D> {
        match self {
            Target::Image(receive) => receive.lookup(),
            Target::Quote(lookup) => lookup,
        }
    }

    fn abandon(self) {
        match self {
            Target::Image(receive) => block_on(receive.abandon()),
            Target::Quote(lookup) => block_on(lookup.close()),
        }
    }
}

/// Receives an image as `name`; without a name, only finds out what that would take.
pub(crate) fn receive_image<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    name: Option<&ImageName>,
    now_unix_s: u64,
) -> Result<Account> {
    let size = match session.receive()? {
        Message::Offer { size } => size,
        other => return Err(unexpected(&other, "Offer")),
    };
    let mut target = match name {
        Some(name) => {
            Target::Image(Box::new(block_on(pool.begin_receive(name, size, now_unix_s))?))
        }
        None => Target::Quote(Box::new(Lookup::new(pool, size))),
    };
    let account = find(session, &mut target, size);
    let account = account.and_then(|account| {
        if let Target::Image(receive) = &mut target {
            check_space(pool, &account)?;
            return fill(session, receive, account);
        }
        Ok(account)
    });
    match (account, target) {
        (Ok(account), Target::Image(receive)) => {
            finish(session, *receive)?;
            Ok(account)
        }
        (account, target) => {
            target.abandon();
            account
        }
    }
}

/// From the lists to what the pool has of them.
fn find<D: Directory>(
    session: &mut Session<'_>,
    target: &mut Target<D>,
    size: u64,
) -> Result<Account> {
    let mut extents_whole = 0;
    loop {
        let (list, last) = match session.receive()? {
            Message::Summaries { list, last } => (list, last),
            other => return Err(unexpected(&other, "Summaries")),
        };
        let mut working = || session.still_working();
        let whole = match target {
            Target::Image(receive) => block_on(receive.take_whole(&list, &mut working))?,
            Target::Quote(lookup) => block_on(lookup.find_whole(&list, &mut working))?,
        };
        extents_whole += whole.iter().filter(|whole| **whole).count() as u64;
        session.send(Message::Lacking(whole.iter().map(|whole| !whole).collect()))?;
        for ((index, summary), _) in list.iter().zip(whole).filter(|(_, whole)| !whole) {
            add_hashes(session, target.lookup(), *index, *summary)?;
        }
        if last {
            break;
        }
    }
    let mut working = || session.still_working();
    match target {
        Target::Image(receive) => block_on(receive.search(&mut working))?,
        Target::Quote(lookup) => block_on(lookup.search(&mut working))?,
    }
    let lookup = target.lookup();
    let (clusters_listed, clusters_found) = (lookup.wanted_count(), lookup.found_count());
    session.send(Message::Found { extents_whole, clusters_listed, clusters_found })?;
    Ok(Account {
        size,
        extents_whole,
        clusters_listed,
        clusters_found,
        clusters_sent: clusters_listed - clusters_found,
        ..Account::default()
    })
}

fn add_hashes<D: Directory>(
    session: &mut Session<'_>,
    lookup: &mut Lookup<D>,
    expected: u64,
    summary: ContentHash,
) -> Result<()> {
    match session.receive()? {
        Message::Hashes { index, hashes } if index == expected => {
            block_on(lookup.add(index, summary, hashes))
        }
        Message::Hashes { .. } => Err(nonsense("the hashes of another extent")),
        other => Err(unexpected(&other, "ExtentHashes")),
    }
}

/// Refuses before anything is sent what cannot fit whatever is given up.
fn check_space<D: Directory>(pool: &Pool<D>, account: &Account) -> Result<()> {
    let missing = account.clusters_sent.saturating_mul(CLUSTER_SIZE as u64);
    let capacity = pool.status()?.bytes_capacity;
    if missing <= capacity {
        return Ok(());
    }
    let message = format!(
        "the image needs {missing} bytes that the pool does not have, which may hold {capacity} in all: give it more space"
    );
    Err(Error::new(ErrorKind::NoSpace, message))
}

/// Takes what is there and asks for the rest, some extents ahead.
fn fill<D: Directory>(
    session: &mut Session<'_>,
    receive: &mut Receive<D>,
    account: Account,
) -> Result<Account> {
    let mut coming: VecDeque<Missing> = VecDeque::new();
    let mut more = true;
    let mut came = 0;
    session.progress.clusters(came, account.clusters_sent);
    loop {
        while more && coming.len() < AHEAD {
            match block_on(receive.take())? {
                Some(missing) if missing.slots.is_empty() => session.still_working()?,
                Some(missing) => {
                    let slots = SlotBits::of(missing.slots.iter().map(|(slot, _)| *slot));
                    session.send(Message::Wanted { index: missing.index, slots })?;
                    coming.push_back(missing);
                }
                None => {
                    session.send(Message::WantedEnd)?;
                    more = false;
                }
            }
        }
        let Some(missing) = coming.front_mut() else { break };
        came += store_next(session, receive, missing)?;
        session.progress.clusters(came, account.clusters_sent.max(came));
        if missing.slots.is_empty() {
            coming.pop_front();
        }
    }
    Ok(Account { clusters_sent: came, ..account })
}

/// Stores the next clusters of an extent that were asked for; returns how many came.
fn store_next<D: Directory>(
    session: &mut Session<'_>,
    receive: &Receive<D>,
    missing: &mut Missing,
) -> Result<u64> {
    let (index, first_slot, data) = match session.receive()? {
        Message::Clusters { index, first_slot, data } => (index, first_slot, data),
        other => return Err(unexpected(&other, "Clusters")),
    };
    let count = data.len() / CLUSTER_SIZE;
    let expected = missing.slots.get(..count).unwrap_or(&[]);
    let in_order = expected.iter().zip(first_slot..).all(|((slot, _), next)| *slot == next);
    if index != missing.index || expected.len() != count || !in_order {
        return Err(nonsense("clusters that were not asked for"));
    }
    let hashes: Vec<ContentHash> = expected.iter().map(|(_, hash)| *hash).collect();
    block_on(receive.write(index, first_slot, &hashes, &aligned(&data)))?;
    missing.slots.drain(..count);
    Ok(count as u64)
}

fn aligned(data: &Bytes) -> Buffer {
    BufferMut::copy_of(data).freeze()
}

fn finish<D: Directory>(session: &mut Session<'_>, receive: Receive<D>) -> Result<()> {
    let digest = match session.receive() {
        Ok(Message::Finish { digest }) => digest,
        other => {
            block_on(receive.abandon());
            return Err(other.map_or_else(|error| error, |other| unexpected(&other, "Finish")));
        }
    };
    block_on(receive.finish(digest))?;
    // It is there, whether the sender hears of it or not.
    let _ = session.send(Message::Done);
    Ok(())
}
