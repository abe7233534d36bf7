//! The side that fills an image which is in use: it brings what reads wait for, and the rest behind.

use super::DependantId;
use crate::message::{Message, SlotBits, nonsense};
use crate::order::{Account, Caller, Direction, Failed, Moved, Order, call, end};
use crate::payload::Unpacker;
use crate::wire::{Session, Wire, unexpected};
use blockyard_block::{ContentHash, EXTENT_CLUSTERS, ImageId, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::{Fetch, Missing, PROFILE_RUN_CLUSTERS, Pool};
use std::collections::VecDeque;
use std::time::Duration;

/// Clusters asked for with one message: 256 KiB. What a read waits for stands behind no more than the window.
const BATCH_CLUSTERS: usize = 64;
/// Messages whose answers have not come.
const WINDOW: usize = 4;
/// Without anything to fetch the connection ends after this long.
const IDLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// An origin that gave nothing of what a message asked for is left alone for this long but for what reads wait for; longer
/// each time, until a cluster that it could not give would be asked for again.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(5);

/// What to fetch, and how.
pub struct Fetching<'a> {
    /// The image here, and as the origin called it.
    pub image: ImageId,
    pub source: &'a ImageName,
    pub dependant: DependantId,
    /// Whether to bring what nobody asked for, now.
    pub background: &'a dyn Fn() -> bool,
    /// Clusters that are missing when it begins.
    pub missing: u64,
}

/// How fetching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing is missing any more.
    Filled,
    /// There was nothing to do for a while.
    Idle,
}

/// Fetches until the image is filled, or there is nothing to do, or the wire is cut.
pub async fn fetch<D: Directory>(
    wire: Wire,
    caller: &Caller<'_, D>,
    fetching: &Fetching<'_>,
) -> Result<Fetched, Failed> {
    let order = Order {
        dependant: Some(fetching.dependant),
        ..caller.order(Direction::Fetch, fetching.source)
    };
    let mut session = Session::new(wire, caller.progress);
    let mut filled = Fetched::Idle;
    let done = async {
        call(&mut session, caller.pool, order).await?;
        begin(&mut session, caller.pool, fetching.image).await?;
        let mut work = Work {
            pool: caller.pool,
            fetching,
            unpacker: Unpacker::new()?,
            coming: VecDeque::new(),
            gave: false,
            rest: Duration::ZERO,
            rests_until: session.now(),
            moved: Moved { total: fetching.missing, ..Moved::default() },
        };
        filled = work.run(&mut session).await?;
        session.send(Message::WantedEnd).await?;
        Ok(Account::default())
    };
    let done = done.await;
    // What was on its way does not come.
    caller.pool.forget_fetches(fetching.image);
    end(&mut session, done).await.map(|_| filled)
}

/// The origin still has it; and where it is read first.
async fn begin<D: Directory>(
    session: &mut Session<'_>,
    pool: &Pool<D>,
    image: ImageId,
) -> Result<()> {
    match session.receive().await? {
        Message::Held => pool.note_origin(image, None),
        other => return Err(unexpected(&other, "Held")),
    }
    match session.receive().await? {
        Message::Profile(runs) => {
            let clusters = runs.into_iter().flat_map(|run| {
                let first = u64::from(run) * PROFILE_RUN_CLUSTERS;
                first..first + PROFILE_RUN_CLUSTERS
            });
            pool.set_fetch_order(image, clusters.collect());
            Ok(())
        }
        other => Err(unexpected(&other, "Profile")),
    }
}

struct Work<'a, D: Directory> {
    pool: &'a Pool<D>,
    fetching: &'a Fetching<'a>,
    unpacker: Unpacker,
    /// What was asked for and did not come yet.
    coming: VecDeque<Missing>,
    /// Something of the first of them.
    gave: bool,
    /// How long the background rested last, and until when, on the wire's clock.
    rest: Duration,
    rests_until: Duration,
    moved: Moved,
}

impl<D: Directory> Work<'_, D> {
    async fn run(&mut self, session: &mut Session<'_>) -> Result<Fetched> {
        let mut worked = session.now();
        loop {
            let demand = self.pool.demand();
            if self.ask(session).await? && self.coming.is_empty() {
                return Ok(Fetched::Filled);
            }
            if !self.coming.is_empty() {
                self.store_next(session).await?;
                worked = session.now();
                continue;
            }
            if session.since(worked) > IDLE {
                return Ok(Fetched::Idle);
            }
            match demand {
                Some(demand) => session.sleep_unless(LOOK, demand).await,
                None => session.sleep(LOOK).await,
            }
            session.still_working()?;
        }
    }

    /// Fills the window; true if nothing is missing.
    async fn ask(&mut self, session: &mut Session<'_>) -> Result<bool> {
        while self.coming.len() < WINDOW {
            let rests = session.now() < self.rests_until;
            let background = !rests && (self.fetching.background)();
            let image = self.fetching.image;
            match self.pool.next_fetch(image, BATCH_CLUSTERS, background).await? {
                Fetch::Missing(missing) if missing.slots.is_empty() => {}
                Fetch::Missing(missing) => {
                    let slots = SlotBits::of(missing.slots.iter().map(|(slot, _)| *slot));
                    session.send(Message::Wanted { index: missing.index, slots }).await?;
                    self.coming.push_back(missing);
                }
                Fetch::Nothing => return Ok(false),
                Fetch::Filled => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Keeps what comes next.
    async fn store_next(&mut self, session: &mut Session<'_>) -> Result<()> {
        let Some(expected) = self.coming.front_mut() else { return Ok(()) };
        let image = self.fetching.image;
        let (count, refused) = match session.receive().await? {
            Message::Clusters { index, first_slot, data } => {
                let hashes = next_hashes(expected, index, first_slot, data.count())?;
                let data = self.unpacker.unpack(data)?;
                let kept = self.pool.keep_fetched(image, index, first_slot, &hashes, &data);
                (hashes.len(), kept.await?)
            }
            Message::Withheld { index, slots } => {
                let slots: Vec<usize> = slots.iter().collect();
                let first = slots.first().copied().unwrap_or(EXTENT_CLUSTERS);
                next_hashes(expected, index, first, slots.len())?;
                self.pool.refuse_fetched(image, index, &slots);
                (slots.len(), slots.len())
            }
            other => return Err(unexpected(&other, "Clusters")),
        };
        expected.slots.drain(..count);
        self.gave |= refused < count;
        if expected.slots.is_empty() {
            self.coming.pop_front();
            self.rest_unless_it_gave(session.now());
        }
        self.moved.done += (count - refused) as u64;
        self.moved.refused += refused as u64;
        session.moved(self.moved);
        Ok(())
    }

    /// All that one message asked for was answered.
    fn rest_unless_it_gave(&mut self, now: Duration) {
        if std::mem::take(&mut self.gave) {
            (self.rest, self.rests_until) = (Duration::ZERO, now);
        } else if now >= self.rests_until {
            self.rest = (2 * self.rest).clamp(REST_FIRST, REST_MAX);
            self.rests_until = now + self.rest;
        }
    }
}

/// The hashes of consecutive clusters, which must be the next that were asked for.
fn next_hashes(
    expected: &Missing,
    index: u64,
    first_slot: usize,
    count: usize,
) -> Result<Vec<ContentHash>> {
    let next = expected.slots.get(..count).filter(|next| !next.is_empty()).unwrap_or(&[]);
    let in_order = next.iter().zip(first_slot..).all(|((slot, _), at)| *slot == at);
    match index == expected.index && !next.is_empty() && in_order {
        true => Ok(next.iter().map(|(_, hash)| *hash).collect()),
        false => Err(nonsense("clusters that were not asked for")),
    }
}
