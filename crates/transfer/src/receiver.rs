//! The side that wants the image. It takes what it finds, asks for the rest, and shows the image only when it is
//! whole. Cut off, it leaves what came to be found again; ended for any other reason, it leaves nothing.

use crate::crew::{Crew, Work};
use crate::message::{Found, Message, Payload, SUMMARIES_MAX, SlotBits, nonsense};
use crate::order::{Account, Moved, Order};
use crate::payload::Unpacker;
use crate::sender::estimate;
use crate::tls::random_key;
use crate::wire::{Session, unexpected};
use blockyard_block::{CLUSTER_SIZE, ContentHash, Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{FoundHere, Lookup, Missing, Pool, Receive, Writer, check_image_size};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Clusters that are asked for before the first of them came, and extents that they may lie in. Where only a few clusters of each extent
/// are missing, a long way would be waited for again and again if these were few extents.
const AHEAD_CLUSTERS: usize = 8 << 10;
const AHEAD_EXTENTS: usize = 128;
/// Messages of clusters that came and are still to be written.
const STORED_BEHIND: usize = 4;
/// What came before a crash is waited for this long to be hashed again; what is not is asked for anew.
const UNTRUSTED_WAIT: Duration = Duration::from_secs(600);
/// Between two looks at whether everything is hashed again after a crash.
const UNTRUSTED_LOOK: Duration = Duration::from_millis(200);

/// Where an image goes.
pub(crate) struct Receiver<'a, D: Directory> {
    pub(crate) pool: &'a Arc<Pool<D>>,
    pub(crate) name: &'a ImageName,
    pub(crate) now_unix_s: u64,
    /// It shows before its clusters have come; this names where they are fetched.
    pub(crate) origin: Option<Vec<u8>>,
}

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
}

/// Receives an image; for a quote, only finds out what that would take.
pub(crate) async fn receive_image<D: Directory>(
    session: &mut Session<'_>,
    receiver: &Receiver<'_, D>,
    order: &Order,
) -> Result<Account> {
    let (pool, name) = (receiver.pool, receiver.name);
    if receiver.origin.is_some() {
        await_held(session).await?;
    }
    let given_up = pool.parts_given_up();
    let (size, digest, clusters) = match session.receive().await {
        Ok(Message::Offer { size, digest, clusters }) => (size, digest, clusters),
        Ok(other) => return Err(unexpected(&other, "Offer")),
        Err(error) => {
            // Whoever gives up what was cut off before says so here.
            if order.again && !order.quote && !session.is_cut() {
                pool.give_up_parts(name);
            }
            return Err(error);
        }
    };
    check_image_size(size)?;
    if order.quote {
        let account = quote(session, Lookup::new(pool, size), size, order).await?;
        return Ok(Account { clusters, ..account });
    }
    if order.again && is_there(session, receiver, digest).await? {
        session.receive().await?;
        session.send(Message::Done).await?;
        return Ok(Account { size, ..Account::default() });
    }
    let receive = pool.begin_receive(name, size, receiver.now_unix_s).await?;
    // Whoever asked for this may have lost power, and cancelled it, before its first words came.
    pool.keep_no_part_given_up_since(given_up, name);
    let mut target = Target::Image(Box::new(receive));
    let mut summaries = Vec::new();
    let lazy = receiver.origin.is_some();
    let account =
        fill_target(session, &mut target, pool, size, order, lazy.then_some(&mut summaries)).await;
    let Target::Image(mut receive) = target else { return account };
    let prepared = async {
        let account = account?;
        let told = told_digest(session).await?;
        receive.make_summaries(&mut || session.still_working()).await?;
        let listed = match &receiver.origin {
            Some(origin) => {
                let working = || session.still_working();
                let (origin, verify) = (origin.clone(), order.terms.verify);
                Some(receive.list_missing(told, &summaries, origin, verify, working).await?)
            }
            None => None,
        };
        Ok((account, told, listed))
    };
    match prepared.await {
        Ok((account, told, listed)) => {
            let finished = match listed {
                Some(listed) => receive.show_lazily(listed).await,
                None => receive.finish(told).await,
            };
            match finished {
                // The one before this had heard everything, and only now made it.
                Err(error) if error.kind() == ErrorKind::Exists && order.again => {
                    if !is_there(session, receiver, told).await? {
                        return Err(error);
                    }
                }
                finished => drop(finished?),
            }
            // It is there, whether the sender hears of it or not.
            let _ = session.send(Message::Done).await;
            Ok(Account { clusters, ..account })
        }
        Err(error) => {
            let error = session.reason(error).await;
            match session.is_cut() {
                true => receive.leave(receiver.now_unix_s).await,
                false => {
                    receive.abandon().await;
                    if order.again {
                        // Nor is what came before it was cut off.
                        pool.give_up_parts(name);
                    }
                }
            }
            Err(error)
        }
    }
}

/// An older daemon would send an image and keep nothing.
async fn await_held(session: &mut Session<'_>) -> Result<()> {
    match session.receive().await? {
        Message::Held => Ok(()),
        Message::Offer { .. } => Err(Error::new(
            ErrorKind::Unsupported,
            "the peer's blockyard knows no images that are used before they are there: pull without --lazy",
        )),
        other => Err(unexpected(&other, "Held")),
    }
}

/// Whether the pool has an image of that name and content. After a crash that is not known at once.
async fn is_there<D: Directory>(
    session: &mut Session<'_>,
    receiver: &Receiver<'_, D>,
    digest: ContentHash,
) -> Result<bool> {
    let started = session.now();
    loop {
        match receiver.pool.digest(receiver.name).await {
            Ok(found) if found == digest => {
                // Whoever made it may not have got that far.
                receiver.pool.make_durable().await?;
                return Ok(true);
            }
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() != ErrorKind::Busy => return Err(error),
            Err(error) if session.since(started) > UNTRUSTED_WAIT => return Err(error),
            Err(_) => {}
        }
        session.still_working()?;
        session.sleep(UNTRUSTED_LOOK).await;
    }
}

async fn fill_target<D: Directory>(
    session: &mut Session<'_>,
    target: &mut Target<D>,
    pool: &Pool<D>,
    size: u64,
    order: &Order,
    lazy: Option<&mut Vec<(u64, ContentHash)>>,
) -> Result<Account> {
    if let Target::Image(receive) = target {
        let started = session.now();
        while receive.waits_for_hashes()? && session.since(started) < UNTRUSTED_WAIT {
            session.still_working()?;
            session.sleep(UNTRUSTED_LOOK).await;
        }
    }
    let is_lazy = lazy.is_some();
    let (found, account) = find(session, target, size, lazy).await?;
    let Target::Image(receive) = target else { return Ok(account) };
    check_space(pool, &account)?;
    let writes = &*receive;
    let storing = || Ok(Storing { writer: writes.writer(), unpacker: Unpacker::new()? });
    let mut filling = Filling {
        storing: Crew::new(session.threads(), storing)?,
        receive,
        verify: order.terms.verify,
        coming: VecDeque::new(),
        moved: Moved {
            total: found.missing(),
            saved: found.found + found.repeated,
            ..Moved::default()
        },
    };
    filling.take_found(session).await?;
    if is_lazy {
        session.send(Message::WantedEnd).await?;
        return Ok(account);
    }
    session.widen(found.missing());
    if let Err(error) = filling.fill(session).await {
        return Err(filling.end_early(session, error));
    }
    let (clusters_sent, (_, damaged)) = (filling.moved.done, filling.receive.verified());
    Ok(Account { clusters_sent, clusters_damaged: damaged, ..account })
}

async fn quote<D: Directory>(
    session: &mut Session<'_>,
    lookup: Lookup<D>,
    size: u64,
    order: &Order,
) -> Result<Account> {
    let mut target = Target::Quote(Box::new(lookup));
    let mut account = find(session, &mut target, size, None).await.map(|(_, account)| account);
    if let Target::Quote(lookup) = target {
        lookup.close().await;
    }
    if let (Ok(account), true) = (&mut account, order.terms.sample) {
        match session.receive().await? {
            Message::Sampled { clusters, bytes } => {
                account.compressed_estimate = estimate(account.clusters_sent, clusters, bytes);
            }
            other => return Err(unexpected(&other, "Sampled")),
        }
    }
    account
}

/// From the lists to what the pool has of them.
async fn find<D: Directory>(
    session: &mut Session<'_>,
    target: &mut Target<D>,
    size: u64,
    mut told: Option<&mut Vec<(u64, ContentHash)>>,
) -> Result<(Found, Account)> {
    let mut extents_whole = 0;
    let mut next = 0;
    loop {
        let (list, last) = match session.receive().await? {
            Message::Summaries { list, last } => (list, last),
            other => return Err(unexpected(&other, "Summaries")),
        };
        match (list.first(), list.last()) {
            (Some((first, _)), Some((end, _))) if *first >= next => next = end.saturating_add(1),
            (None, None) if last => {}
            _ => return Err(nonsense("lists without an end, or out of order")),
        }
        // Each costs a walk over all maps.
        if !last && list.len() < SUMMARIES_MAX {
            return Err(nonsense("a list that is not full, and not the last"));
        }
        if let Some(told) = &mut told {
            told.extend_from_slice(&list);
        }
        let mut working = || session.still_working();
        let whole = match target {
            Target::Image(receive) => receive.take_whole(&list, &mut working).await?,
            Target::Quote(lookup) => lookup.find_whole(&list, &mut working).await?,
        };
        extents_whole += whole.iter().filter(|whole| **whole).count() as u64;
        session.send(Message::Lacking(whole.iter().map(|whole| !whole).collect())).await?;
        for ((index, summary), _) in list.iter().zip(whole).filter(|(_, whole)| !whole) {
            add_hashes(session, target.lookup(), *index, *summary).await?;
        }
        if last {
            break;
        }
    }
    let mut working = || session.still_working();
    match target {
        Target::Image(receive) => receive.search(&mut working).await?,
        Target::Quote(lookup) => lookup.search(&mut working).await?,
    }
    let lookup = target.lookup();
    let found = Found {
        extents_whole,
        listed: lookup.wanted_count(),
        found: lookup.found_count(),
        repeated: lookup.repeated_count(),
    };
    session.send(Message::Found(found)).await?;
    let account = Account {
        size,
        extents_whole,
        clusters_listed: found.listed,
        clusters_found: found.found,
        clusters_repeated: found.repeated,
        clusters_sent: found.missing(),
        ..Account::default()
    };
    Ok((found, account))
}

async fn add_hashes<D: Directory>(
    session: &mut Session<'_>,
    lookup: &mut Lookup<D>,
    expected: u64,
    summary: ContentHash,
) -> Result<()> {
    match session.receive().await? {
        Message::Hashes { index, hashes } if index == expected => {
            lookup.add(index, summary, hashes).await
        }
        Message::Hashes { .. } => Err(nonsense("the hashes of another extent")),
        other => Err(unexpected(&other, "ExtentHashes")),
    }
}

/// Refuses before anything is sent what would take all that is free from the images that are used here.
fn check_space<D: Directory>(pool: &Pool<D>, account: &Account) -> Result<()> {
    let missing = account.clusters_sent.saturating_mul(CLUSTER_SIZE as u64);
    let status = pool.status()?;
    let (capacity, used) = (status.bytes_capacity, status.bytes_physical);
    let free = capacity.saturating_sub(used);
    if missing <= free {
        return Ok(());
    }
    let message = format!(
        "the image needs {missing} bytes that the pool does not have, and {free} of its {capacity} are free: reclaim or remove something there, or give it more space"
    );
    Err(Error::new(ErrorKind::NoSpace, message))
}

/// An image that is being filled.
struct Filling<'a, D: Directory> {
    receive: &'a mut Receive<D>,
    verify: bool,
    storing: Crew<Storing<D>>,
    /// What was asked for and did not come yet.
    coming: VecDeque<Missing>,
    moved: Moved,
}

impl<D: Directory> Filling<'_, D> {
    /// Takes everything that was found, before anything is asked for: then all that is of use of a part that was
    /// received before is here.
    async fn take_found(&mut self, session: &mut Session<'_>) -> Result<()> {
        let key = random_key()?;
        while let Some(found) = self.receive.next_found().await? {
            session.still_working()?;
            if !self.receive.needs_proof() {
                self.receive.take(found, None).await?;
            } else if found.slots().next().is_some() {
                let hashes = prove(session, &found, &key).await?;
                self.receive.take(found, Some((&key, &hashes))).await?;
            }
        }
        self.receive.remove_parts();
        Ok(())
    }

    /// Asks for what is missing, some extents ahead, and stores it; then fills what repeats it.
    async fn fill(&mut self, session: &mut Session<'_>) -> Result<()> {
        session.moved(self.moved);
        while let Some(missing) = self.receive.next_missing(self.verify).await? {
            self.ask(session, missing).await?;
        }
        self.store_all(session).await?;
        while let Some(missing) = self.receive.next_repeat().await? {
            self.ask(session, missing).await?;
        }
        self.make_room(session).await?;
        session.send(Message::WantedEnd).await?;
        self.store_all(session).await
    }

    /// For a message to be sent without waiting: the peer may be waiting to send, too, and each would wait for the other.
    async fn make_room(&mut self, session: &mut Session<'_>) -> Result<()> {
        while !self.coming.is_empty() && !session.has_room() {
            self.store_next(session).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, session: &mut Session<'_>, missing: Missing) -> Result<()> {
        if missing.slots.is_empty() {
            return session.still_working();
        }
        while self.coming.len() >= AHEAD_EXTENTS
            || self.clusters_coming() + missing.slots.len() > AHEAD_CLUSTERS
        {
            self.store_next(session).await?;
        }
        self.make_room(session).await?;
        let slots = SlotBits::of(missing.slots.iter().map(|(slot, _)| *slot));
        session.send(Message::Wanted { index: missing.index, slots }).await?;
        self.coming.push_back(missing);
        Ok(())
    }

    fn clusters_coming(&self) -> usize {
        self.coming.iter().map(|missing| missing.slots.len()).sum()
    }

    async fn store_all(&mut self, session: &mut Session<'_>) -> Result<()> {
        while !self.coming.is_empty() {
            self.store_next(session).await?;
        }
        self.stored_until(session, 0)
    }

    /// Gives what comes next to be stored.
    async fn store_next(&mut self, session: &mut Session<'_>) -> Result<()> {
        let Some(missing) = self.coming.front_mut() else { return Ok(()) };
        let next = next_clusters(session, missing).await?;
        if missing.slots.is_empty() {
            self.coming.pop_front();
        }
        self.stored_until(session, STORED_BEHIND - 1)?;
        self.storing.give(next).await;
        Ok(())
    }

    /// Waits until no more than so many messages are still to be written. What is written has come.
    fn stored_until(&mut self, session: &mut Session<'_>, most: usize) -> Result<()> {
        while self.storing.count() > most {
            let stored = self.storing.take(|| session.still_working())?;
            self.has_come(session, stored);
        }
        Ok(())
    }

    fn has_come(&mut self, session: &Session<'_>, stored: Option<u64>) {
        self.moved.done += stored.unwrap_or(0);
        self.moved.total = self.moved.total.max(self.moved.done);
        session.moved(self.moved);
    }

    /// It ends because of this error. But if something that came cannot be stored, it would end again, and that is why,
    /// even if the wire was cut before that was known.
    fn end_early(&mut self, session: &mut Session<'_>, error: Error) -> Error {
        while self.storing.count() > 0 {
            match self.storing.take(|| Ok(())) {
                Ok(stored) => self.has_come(session, stored),
                Err(wrong) if session.is_cut() && wrong.kind() != ErrorKind::ShutDown => {
                    session.must_not_be_asked_again();
                    return wrong;
                }
                Err(_) => {}
            }
        }
        error
    }
}

/// Decompresses, compares with the hashes, and writes.
struct Storing<D: Directory> {
    writer: Writer<D>,
    unpacker: Unpacker,
}

/// Clusters of an extent that came, and their hashes.
struct Came {
    index: u64,
    slots: Vec<(usize, ContentHash)>,
    data: Payload,
}

impl<D: Directory> Work for Storing<D> {
    type Job = Came;
    /// Clusters.
    type Done = u64;

    async fn run(&mut self, came: Came) -> Result<u64> {
        let data = self.unpacker.unpack(came.data)?;
        let mut at = 0;
        for run in came.slots.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let hashes: Vec<ContentHash> = run.iter().map(|(_, hash)| *hash).collect();
            let end = at + run.len() * CLUSTER_SIZE;
            self.writer.write(came.index, run[0].0, &hashes, &data.slice(at..end)).await?;
            at = end;
        }
        Ok(came.slots.len() as u64)
    }
}

async fn prove(
    session: &mut Session<'_>,
    found: &FoundHere,
    key: &[u8; 32],
) -> Result<Vec<ContentHash>> {
    let slots = SlotBits::of(found.slots());
    let count = slots.iter().count();
    session.send(Message::Confirm { index: found.index, slots, key: *key }).await?;
    match session.receive().await? {
        Message::Proofs { index, hashes } if index == found.index && hashes.len() == count => {
            Ok(hashes)
        }
        Message::Proofs { .. } => Err(nonsense("proofs of other clusters")),
        other => Err(unexpected(&other, "Proofs")),
    }
}

/// The next clusters of an extent that were asked for.
async fn next_clusters(session: &mut Session<'_>, missing: &mut Missing) -> Result<Came> {
    let (index, first_slot, data) = match session.receive().await? {
        Message::Clusters { index, first_slot, data } => (index, first_slot, data),
        other => return Err(unexpected(&other, "Clusters")),
    };
    let first = missing.slots.first().map(|(slot, _)| *slot);
    if index != missing.index || first != Some(first_slot) || data.count() > missing.slots.len() {
        return Err(nonsense("clusters that were not asked for"));
    }
    let slots = missing.slots.drain(..data.count()).collect();
    Ok(Came { index, slots, data })
}

async fn told_digest(session: &mut Session<'_>) -> Result<ContentHash> {
    match session.receive().await? {
        Message::Finish { digest } => Ok(digest),
        other => Err(unexpected(&other, "Finish")),
    }
}
