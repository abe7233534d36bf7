//! The side that has the image. It reads data only for what it sends.

use crate::message::{CLUSTERS_MAX, Message, SUMMARIES_MAX, SlotBits, nonsense};
use crate::order::Account;
use crate::wire::{Session, unexpected};
use blockyard_block::{
    BlockDevice, CLUSTER_SIZE, ContentHash, EXTENT_SIZE, Error, ErrorKind, Result, Segment,
};
use blockyard_io::{Directory, block_on};
use blockyard_pool::Volume;
use prost::bytes::Bytes;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Clusters that wait to be hashed again after a crash are waited for this long.
const UNTRUSTED_WAIT: Duration = Duration::from_secs(30);
const UNTRUSTED_LOOK: Duration = Duration::from_millis(200);

/// Sends `source`, which must not change meanwhile; for a quote, only its lists.
pub(crate) fn send_image<D: Directory>(
    session: &mut Session<'_>,
    source: &Volume<D>,
    quote: bool,
) -> Result<Account> {
    let size = source.size();
    session.send(Message::Offer { size })?;
    send_lists(session, source)?;
    let (extents_whole, clusters_listed, clusters_found) = match session.receive()? {
        Message::Found { extents_whole, clusters_listed, clusters_found } => {
            (extents_whole, clusters_listed, clusters_found)
        }
        other => return Err(unexpected(&other, "Found")),
    };
    let mut clusters_sent = clusters_listed.saturating_sub(clusters_found);
    if !quote {
        clusters_sent = send_wanted(session, source, clusters_sent)?;
        let digest = patiently(session, || block_on(source.digest()))?;
        session.send(Message::Finish { digest })?;
        match session.receive()? {
            Message::Done => {}
            other => return Err(unexpected(&other, "Done")),
        }
    }
    Ok(Account {
        size,
        extents_whole,
        clusters_listed,
        clusters_found,
        clusters_sent,
        ..Account::default()
    })
}

/// All summaries, and the hashes of those extents that the receiver does not have whole.
fn send_lists<D: Directory>(session: &mut Session<'_>, source: &Volume<D>) -> Result<()> {
    let mut first = 0;
    loop {
        let list = patiently(session, || block_on(source.extent_summaries(first, SUMMARIES_MAX)))?;
        let last = list.len() < SUMMARIES_MAX;
        first = list.last().map_or(first, |(index, _)| index + 1);
        let indices: Vec<u64> = list.iter().map(|(index, _)| *index).collect();
        send_batch(session, source, list, &indices, last)?;
        if last {
            return Ok(());
        }
    }
}

fn send_batch<D: Directory>(
    session: &mut Session<'_>,
    source: &Volume<D>,
    list: Vec<(u64, ContentHash)>,
    indices: &[u64],
    last: bool,
) -> Result<()> {
    session.send(Message::Summaries { list, last })?;
    let lacking = match session.receive()? {
        Message::Lacking(lacking) if lacking.len() == indices.len().next_multiple_of(8) => lacking,
        Message::Lacking(_) => return Err(nonsense("an answer to other extents")),
        other => return Err(unexpected(&other, "Lacking")),
    };
    for (index, _) in indices.iter().zip(lacking).filter(|(_, lacks)| *lacks) {
        let hashes = patiently(session, || block_on(source.extent_hashes(*index)))?;
        session.send(Message::Hashes { index: *index, hashes })?;
    }
    Ok(())
}

/// Answers what the receiver wants; returns how many clusters that were.
fn send_wanted<D: Directory>(
    session: &mut Session<'_>,
    source: &Volume<D>,
    total: u64,
) -> Result<u64> {
    let clusters_max = source.size().div_ceil(CLUSTER_SIZE as u64);
    let mut sent = 0;
    session.progress.clusters(sent, total);
    loop {
        let (index, slots) = match session.receive()? {
            Message::Wanted { index, slots } => (index, slots),
            Message::WantedEnd => return Ok(sent),
            other => return Err(unexpected(&other, "Wanted")),
        };
        let count = slots.iter().count() as u64;
        if count == 0 || sent + count > clusters_max {
            return Err(nonsense("it wants nothing, or more than all of the image"));
        }
        for (first_slot, count) in runs(&slots) {
            let data = read_run(source, index, first_slot, count)?;
            session.send(Message::Clusters { index, first_slot, data })?;
            sent += count as u64;
            session.progress.clusters(sent, total);
        }
    }
}

/// Consecutive wanted slots, at most so many that fit a message.
fn runs(slots: &SlotBits) -> Vec<(usize, usize)> {
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
fn read_run<D: Directory>(
    source: &Volume<D>,
    index: u64,
    first_slot: usize,
    count: usize,
) -> Result<Bytes> {
    let offset = index
        .checked_mul(EXTENT_SIZE)
        .and_then(|start| start.checked_add((first_slot * CLUSTER_SIZE) as u64))
        .filter(|offset| *offset < source.size())
        .ok_or_else(|| nonsense("it wants what lies behind the end of the image"))?;
    let length = (source.size() - offset).min((count * CLUSTER_SIZE) as u64);
    let mut bytes = Vec::with_capacity(count * CLUSTER_SIZE);
    for segment in block_on(source.read(offset, length))? {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(&data),
            Segment::Zeroes(zeros) => bytes.resize(bytes.len() + zeros as usize, 0),
        }
    }
    bytes.resize(count * CLUSTER_SIZE, 0);
    Ok(bytes.into())
}

/// Tries again for a while if clusters are still to be hashed again (I8).
fn patiently<T>(session: &mut Session<'_>, ask: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if error.kind() == ErrorKind::Busy => {
                if started.elapsed() > UNTRUSTED_WAIT {
                    return Err(error);
                }
                session.still_working()?;
                sleep(UNTRUSTED_LOOK);
            }
            done => return done,
        }
    }
}
