//! The side that has the image. It reads data only for what it sends, proves, or is asked to sample.

use crate::crew::{Crew, Work};
use crate::message::{CLUSTERS_MAX, Found, Message, Payload, SUMMARIES_MAX, SlotBits, nonsense};
use crate::order::{Account, Moved, Order};
use crate::payload::Packer;
use crate::wire::{Session, unexpected};
use blockyard_block::{
    BlockDevice, CLUSTER_SIZE, ContentHash, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind,
    HashAlgorithm, Result, Segment, keyed_hash,
};
use blockyard_io::Directory;
use blockyard_pool::{ExtentHashes, Pool, Reader, Volume};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Clusters that wait to be hashed again after a crash are waited for this long.
const UNTRUSTED_WAIT: Duration = Duration::from_secs(600);
const UNTRUSTED_LOOK: Duration = Duration::from_millis(200);
/// A receiver may read what it has for this long before it asks for more: a second for so many bytes.
const VERIFIED_EACH_SECOND: u64 = 16 << 20;
/// Messages of clusters that are read and compressed before the first of them is sent.
const MADE_AHEAD: usize = 4;
/// Extents of which some clusters are sampled, at least, if there are so many; and how many clusters of each.
const SAMPLES_MAX: usize = 64;
const SAMPLE_CLUSTERS: usize = 16;

/// Sends `source`, which must not change meanwhile; for a quote, only its lists.
pub(crate) async fn send_image<D: Directory>(
    session: &mut Session<'_>,
    pool: &Arc<Pool<D>>,
    source: &Volume<D>,
    order: &Order,
) -> Result<Account> {
    let size = source.size();
    session.limit(order.terms.rate);
    session.allow(Duration::from_secs(size / VERIFIED_EACH_SECOND));
    let digest = digest_of(session, source).await?;
    let clusters = source.bytes_mapped() / CLUSTER_SIZE as u64;
    session.send(Message::Offer { size, digest, clusters }).await?;
    let mut sending = Sending { source, samples: Samples::default(), sent: 0, proved: 0 };
    if sending.send_lists(session, order.again).await? == Lists::NotNeeded {
        return Ok(Account { size, ..Account::default() });
    }
    let found = match session.receive().await? {
        Message::Found(found) => found,
        other => return Err(unexpected(&other, "Found")),
    };
    let mut account = Account {
        size,
        clusters,
        extents_whole: found.extents_whole,
        clusters_listed: found.listed,
        clusters_found: found.found,
        clusters_repeated: found.repeated,
        clusters_sent: found.missing(),
        ..Account::default()
    };
    if !order.quote {
        let proves = pool.identity().1 == HashAlgorithm::Sha1;
        account.clusters_sent =
            sending.send_wanted(session, &found, proves, order.terms.compress).await?;
        // The receiver asks for more than it said only where what it had was of no use.
        account.clusters_damaged = account.clusters_sent.saturating_sub(found.missing());
        session.send(Message::Finish { digest }).await?;
        match session.receive().await? {
            Message::Done => {}
            other => return Err(unexpected(&other, "Done")),
        }
    } else if order.terms.sample {
        let (clusters, bytes) = sending.sample().await?;
        session.send(Message::Sampled { clusters, bytes }).await?;
        account.compressed_estimate = estimate(account.clusters_sent, clusters, bytes);
    }
    Ok(account)
}

/// What clusters take, if they are like those that were sampled.
pub(crate) fn estimate(missing: u64, clusters: u64, bytes: u64) -> Option<u64> {
    let bytes = u128::from(bytes) * u128::from(missing);
    u64::try_from(bytes.checked_div(u128::from(clusters))?).ok()
}

/// The root hash. Summaries that are not known yet are made in batches, so that the peer hears of us.
async fn digest_of<D: Directory>(
    session: &mut Session<'_>,
    source: &Volume<D>,
) -> Result<ContentHash> {
    let mut first = 0;
    loop {
        let list = patiently(session, async || source.extent_summaries(first, SUMMARIES_MAX).await)
            .await?;
        session.still_working()?;
        match list.last() {
            Some((last, _)) if list.len() == SUMMARIES_MAX => first = last + 1,
            _ => break,
        }
    }
    patiently(session, async || source.digest().await).await
}

/// Listed clusters of which some are sampled.
#[derive(Default)]
struct Samples {
    /// Extent, first slot, clusters.
    places: Vec<(u64, usize, usize)>,
    /// Each so many extents.
    step: usize,
    seen: usize,
}

impl Samples {
    /// Keeps some that are spread over all that are noted.
    fn note(&mut self, index: u64, hashes: &ExtentHashes) {
        let Some((first, _)) = hashes.iter().next() else { return };
        let run = (first..EXTENT_CLUSTERS).take(SAMPLE_CLUSTERS);
        let count = run.take_while(|slot| hashes.get(*slot).is_some()).count();
        self.step = self.step.max(1);
        if self.seen.is_multiple_of(self.step) {
            self.places.push((index, first, count));
        }
        self.seen += 1;
        if self.places.len() == 2 * SAMPLES_MAX {
            let mut number = 0;
            self.places.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.step *= 2;
        }
    }
}

/// What became of the lists.
#[derive(PartialEq, Eq)]
enum Lists {
    Sent,
    /// The receiver has made the image already.
    NotNeeded,
}

/// An image on its way.
struct Sending<'a, D: Directory> {
    source: &'a Volume<D>,
    samples: Samples,
    sent: u64,
    proved: u64,
}

impl<D: Directory> Sending<'_, D> {
    /// All summaries, and the hashes of those extents that the receiver does not have whole. Asked for `again`, it
    /// may have made the image before.
    async fn send_lists(&mut self, session: &mut Session<'_>, again: bool) -> Result<Lists> {
        let mut first = 0;
        loop {
            let ask = async || self.source.extent_summaries(first, SUMMARIES_MAX).await;
            let list = patiently(session, ask).await?;
            let last = list.len() < SUMMARIES_MAX;
            let may_be_done = again && first == 0;
            first = list.last().map_or(first, |(index, _)| index + 1);
            let sent = self.send_batch(session, list, last, may_be_done).await?;
            if last || sent == Lists::NotNeeded {
                return Ok(sent);
            }
        }
    }

    async fn send_batch(
        &mut self,
        session: &mut Session<'_>,
        list: Vec<(u64, ContentHash)>,
        last: bool,
        may_be_done: bool,
    ) -> Result<Lists> {
        let indices: Vec<u64> = list.iter().map(|(index, _)| *index).collect();
        session.send(Message::Summaries { list, last }).await?;
        let lacking = match session.receive().await? {
            Message::Lacking(lacking) if lacking.len() == indices.len().next_multiple_of(8) => {
                lacking
            }
            Message::Done if may_be_done => return Ok(Lists::NotNeeded),
            Message::Lacking(_) => return Err(nonsense("an answer to other extents")),
            other => return Err(unexpected(&other, "Lacking")),
        };
        for (index, _) in indices.iter().zip(lacking).filter(|(_, lacks)| *lacks) {
            let hashes =
                patiently(session, async || self.source.extent_hashes(*index).await).await?;
            self.samples.note(*index, &hashes);
            session.send(Message::Hashes { index: *index, hashes }).await?;
        }
        Ok(Lists::Sent)
    }

    /// Answers what the receiver wants; returns how many clusters were sent. Some are read and compressed ahead of those that
    /// are being sent.
    async fn send_wanted(
        &mut self,
        session: &mut Session<'_>,
        found: &Found,
        proves: bool,
        compress: bool,
    ) -> Result<u64> {
        let mut moved = Moved {
            total: found.missing(),
            saved: found.found.saturating_add(found.repeated),
            ..Moved::default()
        };
        session.widen(moved.total);
        session.moved(moved);
        let make = || Ok(Making { source: self.source.reader(), packer: Packer::new(compress)? });
        let mut crew = Crew::new(session.threads(), make)?;
        let mut wanted = VecDeque::new();
        let (mut places, mut ended) = (VecDeque::new(), false);
        loop {
            let asked = match wanted.len() + crew.count() {
                _ if ended => None,
                0 => Some(session.receive().await?),
                count if count < MADE_AHEAD => session.look()?,
                _ => None,
            };
            match asked {
                Some(Message::Wanted { index, slots }) => {
                    self.sent = self.counted(self.sent, &slots)?;
                    wanted.extend(batches(&slots).into_iter().map(|slots| (index, slots)));
                }
                Some(Message::Confirm { index, slots, key }) if proves => {
                    let hashes = self.prove(index, &slots, &key).await?;
                    session.send(Message::Proofs { index, hashes }).await?;
                }
                Some(Message::WantedEnd) => ended = true,
                Some(other) => return Err(unexpected(&other, "Wanted")),
                None => {}
            }
            while crew.count() < MADE_AHEAD
                && let Some((index, slots)) = wanted.pop_front()
            {
                places.push_back((index, slots[0]));
                crew.give((index, slots)).await;
            }
            match (places.pop_front(), crew.take(|| session.still_working())?) {
                (Some((index, first_slot)), Some(data)) => {
                    moved.done += data.count() as u64;
                    session.send(Message::Clusters { index, first_slot, data }).await?;
                    session.moved(moved);
                }
                _ if ended => return Ok(self.sent),
                _ => {}
            }
        }
    }

    /// What was asked for in all, if that is not more than there is.
    fn counted(&self, before: u64, slots: &SlotBits) -> Result<u64> {
        let count = slots.iter().count() as u64;
        let clusters_max = self.source.size().div_ceil(CLUSTER_SIZE as u64);
        match count > 0 && before + count <= clusters_max {
            true => Ok(before + count),
            false => Err(nonsense("it wants nothing, or more than all of the image")),
        }
    }

    async fn prove(
        &mut self,
        index: u64,
        slots: &SlotBits,
        key: &[u8; 32],
    ) -> Result<Vec<ContentHash>> {
        self.proved = self.counted(self.proved, slots)?;
        let mut hashes = Vec::new();
        for (first_slot, count) in runs(slots) {
            let bytes = read_run(self.source, index, first_slot, count).await?;
            hashes.extend(bytes.chunks(CLUSTER_SIZE).map(|cluster| keyed_hash(key, cluster)));
        }
        Ok(hashes)
    }

    /// How many clusters were sampled, and the bytes that they would take.
    async fn sample(&self) -> Result<(u64, u64)> {
        let mut packer = Packer::new(true)?;
        let mut bytes = 0;
        for (index, first_slot, count) in &self.samples.places {
            bytes += match packer.pack(read_run(self.source, *index, *first_slot, *count).await?) {
                Payload::Plain(data) | Payload::Compressed { frame: data, .. } => data.len() as u64,
            };
        }
        let clusters = self.samples.places.iter().map(|(_, _, count)| *count as u64).sum();
        Ok((clusters, bytes))
    }
}

/// Reads and compresses.
struct Making<D: Directory> {
    source: Reader<D>,
    packer: Packer,
}

impl<D: Directory> Work for Making<D> {
    type Job = (u64, Vec<usize>);
    type Done = Payload;

    async fn run(&mut self, (index, slots): (u64, Vec<usize>)) -> Result<Payload> {
        let mut bytes = Vec::with_capacity(slots.len() * CLUSTER_SIZE);
        for run in slots.chunk_by(|one, next| one + 1 == *next) {
            append_run(&self.source, index, (run[0], run.len()), &mut bytes).await?;
        }
        Ok(self.packer.pack(bytes))
    }
}

/// Wanted slots in order, at most so many that fit a message.
fn batches(slots: &SlotBits) -> Vec<Vec<usize>> {
    let slots: Vec<usize> = slots.iter().collect();
    slots.chunks(CLUSTERS_MAX).map(<[usize]>::to_vec).collect()
}

/// Consecutive wanted slots, at most so many that fit a message.
pub(crate) fn runs(slots: &SlotBits) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for slot in slots.iter() {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == slot && *count < CLUSTERS_MAX => *count += 1,
            _ => runs.push((slot, 1)),
        }
    }
    runs
}

/// Whole clusters; behind the end of the image they are zero.
pub(crate) async fn read_run<D: Directory>(
    source: &Volume<D>,
    index: u64,
    first_slot: usize,
    count: usize,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count * CLUSTER_SIZE);
    append_run(&source.reader(), index, (first_slot, count), &mut bytes).await?;
    Ok(bytes)
}

async fn append_run<D: Directory>(
    source: &Reader<D>,
    index: u64,
    (first_slot, count): (usize, usize),
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let offset = index
        .checked_mul(EXTENT_SIZE)
        .and_then(|start| start.checked_add((first_slot * CLUSTER_SIZE) as u64))
        .filter(|offset| *offset < source.size())
        .ok_or_else(|| nonsense("it wants what lies behind the end of the image"))?;
    let length = (source.size() - offset).min((count * CLUSTER_SIZE) as u64);
    let end = bytes.len() + count * CLUSTER_SIZE;
    for segment in source.read(offset, length).await? {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(&data),
            Segment::Zeroes(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
        }
    }
    bytes.resize(end, 0);
    Ok(())
}

/// Tries again for a while if clusters are still to be hashed again (I8).
async fn patiently<T>(
    session: &mut Session<'_>,
    ask: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let started = session.now();
    loop {
        match ask().await {
            Err(error) if error.kind() == ErrorKind::Busy => {
                if session.since(started) > UNTRUSTED_WAIT {
                    session.may_be_asked_again();
                    return Err(error);
                }
                session.still_working()?;
                session.sleep(UNTRUSTED_LOOK).await;
            }
            done => return done,
        }
    }
}
