//! Messages as the roles see them. Decoding bounds every length and refuses what contradicts itself, so that
//! nothing behind it needs to; it never panics, whatever came.

use crate::lazy::DependantId;
use crate::order::{Direction, Order, Terms};
use crate::v1;
use crate::v1::message::Kind;
use blockyard_block::{
    CLUSTER_SIZE, ContentHash, EXTENT_CLUSTERS, Error, ErrorKind, ImageName, Result,
};
use blockyard_pool::{ExtentHashes, PROFILE_RUNS_MAX};
use prost::bytes::Bytes;

/// Extents in one list of summaries.
pub(crate) const SUMMARIES_MAX: usize = 16 << 10;
/// Clusters in one message: 1 MiB.
pub(crate) const CLUSTERS_MAX: usize = 256;
/// No message is larger when it is encoded.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 << 20;
const TEXT_BYTES_MAX: usize = 2000;
const HASH_BYTES: usize = 32;

/// What an extent has in each of its slots: a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotBits([u8; EXTENT_CLUSTERS / 8]);

impl SlotBits {
    pub(crate) fn of(slots: impl Iterator<Item = usize>) -> SlotBits {
        let mut bits = [0; EXTENT_CLUSTERS / 8];
        slots.for_each(|slot| bits[slot / 8] |= 1 << (slot % 8));
        SlotBits(bits)
    }

    fn decode(bytes: &[u8]) -> Result<SlotBits> {
        bytes.try_into().map(SlotBits).map_err(|_| nonsense("slots without a bit for each"))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..EXTENT_CLUSTERS).filter(|slot| self.0[slot / 8] >> (slot % 8) & 1 == 1)
    }
}

/// Clusters on the way.
#[derive(Clone)]
pub(crate) enum Payload {
    Plain(Bytes),
    /// A zstd frame of `count` clusters, as it is said.
    Compressed {
        frame: Bytes,
        count: usize,
    },
}

impl Payload {
    /// Clusters in it.
    pub(crate) fn count(&self) -> usize {
        match self {
            Payload::Plain(data) => data.len() / CLUSTER_SIZE,
            Payload::Compressed { count, .. } => *count,
        }
    }
}

/// What the receiver found, in clusters unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Found {
    pub(crate) extents_whole: u64,
    pub(crate) listed: u64,
    pub(crate) found: u64,
    pub(crate) repeated: u64,
}

impl Found {
    /// Clusters that are to come.
    pub(crate) fn missing(&self) -> u64 {
        self.listed.saturating_sub(self.found).saturating_sub(self.repeated)
    }
}

/// One step of a conversation.
#[derive(Clone)]
pub(crate) enum Message {
    Hello { version: u32, hash: String, pool: [u8; 16] },
    Order(Order),
    Offer { size: u64, digest: ContentHash, clusters: u64 },
    Summaries { list: Vec<(u64, ContentHash)>, last: bool },
    Lacking(Vec<bool>),
    Hashes { index: u64, hashes: ExtentHashes },
    Found(Found),
    Confirm { index: u64, slots: SlotBits, key: [u8; 32] },
    Proofs { index: u64, hashes: Vec<ContentHash> },
    Sampled { clusters: u64, bytes: u64 },
    Wanted { index: u64, slots: SlotBits },
    WantedEnd,
    Clusters { index: u64, first_slot: usize, data: Payload },
    Held,
    Profile(Vec<u32>),
    Withheld { index: u64, slots: SlotBits },
    Finish { digest: ContentHash },
    Done,
    Failure { kind: ErrorKind, message: String, again: bool },
    Alive,
}

impl Message {
    /// The name in the .proto, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Message::Hello { .. } => "Hello",
            Message::Order(_) => "Order",
            Message::Offer { .. } => "Offer",
            Message::Summaries { .. } => "Summaries",
            Message::Lacking(_) => "Lacking",
            Message::Hashes { .. } => "ExtentHashes",
            Message::Found(_) => "Found",
            Message::Confirm { .. } => "Confirm",
            Message::Proofs { .. } => "Proofs",
            Message::Sampled { .. } => "Sampled",
            Message::Wanted { .. } | Message::WantedEnd => "Wanted",
            Message::Clusters { .. } => "Clusters",
            Message::Held => "Held",
            Message::Profile(_) => "Profile",
            Message::Withheld { .. } => "Withheld",
            Message::Finish { .. } => "Finish",
            Message::Done => "Done",
            Message::Failure { .. } => "Failure",
            Message::Alive => "Alive",
        }
    }

    pub(crate) fn failure(error: &Error, again: bool) -> Message {
        let mut message = error.message().to_owned();
        let cut = (0..=TEXT_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(cut.unwrap_or(0));
        Message::Failure { kind: error.kind(), message, again }
    }

    pub(crate) fn encode(self) -> v1::Message {
        let kind = match self {
            Message::Hello { version, hash, pool } => {
                Kind::Hello(v1::Hello { version, hash, pool: Bytes::copy_from_slice(&pool) })
            }
            Message::Order(order) => Kind::Order(encode_order(&order)),
            Message::Offer { size, digest, clusters } => {
                let digest = Bytes::copy_from_slice(&digest.0);
                Kind::Offer(v1::Offer { size, digest, clusters })
            }
            Message::Summaries { list, last } => Kind::Summaries(v1::Summaries {
                indices: list.iter().map(|(index, _)| *index).collect(),
                summaries: list.iter().flat_map(|(_, hash)| hash.0).collect::<Vec<u8>>().into(),
                last,
            }),
            Message::Lacking(lacking) => {
                let mut bits = vec![0u8; lacking.len().div_ceil(8)];
                for (at, lacks) in lacking.iter().enumerate() {
                    bits[at / 8] |= u8::from(*lacks) << (at % 8);
                }
                Kind::Lacking(v1::Lacking { bits: bits.into() })
            }
            Message::Hashes { index, hashes } => {
                let bits = SlotBits::of(hashes.iter().map(|(slot, _)| slot));
                Kind::ExtentHashes(v1::ExtentHashes {
                    index,
                    bits: Bytes::copy_from_slice(&bits.0),
                    hashes: hashes.iter().flat_map(|(_, hash)| hash.0).collect::<Vec<u8>>().into(),
                })
            }
            Message::Found(found) => Kind::Found(v1::Found {
                extents_whole: found.extents_whole,
                clusters_listed: found.listed,
                clusters_found: found.found,
                clusters_repeated: found.repeated,
            }),
            Message::Confirm { index, slots, key } => Kind::Confirm(v1::Confirm {
                index,
                bits: Bytes::copy_from_slice(&slots.0),
                key: Bytes::copy_from_slice(&key),
            }),
            Message::Proofs { index, hashes } => {
                let hashes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
                Kind::Proofs(v1::Proofs { index, hashes: hashes.into() })
            }
            Message::Sampled { clusters, bytes } => Kind::Sampled(v1::Sampled { clusters, bytes }),
            Message::Wanted { index, slots } => Kind::Wanted(v1::Wanted {
                index,
                bits: Bytes::copy_from_slice(&slots.0),
                end: false,
            }),
            Message::WantedEnd => {
                Kind::Wanted(v1::Wanted { index: 0, bits: Bytes::new(), end: true })
            }
            Message::Clusters { index, first_slot, data } => {
                let (data, compressed) = match data {
                    Payload::Plain(data) => (data, 0),
                    Payload::Compressed { frame, count } => (frame, count as u32),
                };
                let first_slot = first_slot as u32;
                Kind::Clusters(v1::Clusters { index, first_slot, data, compressed })
            }
            Message::Held => Kind::Held(v1::Held {}),
            Message::Profile(runs) => Kind::Profile(v1::Profile { runs }),
            Message::Withheld { index, slots } => {
                Kind::Withheld(v1::Withheld { index, bits: Bytes::copy_from_slice(&slots.0) })
            }
            Message::Finish { digest } => {
                Kind::Finish(v1::Finish { digest: Bytes::copy_from_slice(&digest.0) })
            }
            Message::Done => Kind::Done(v1::Done {}),
            Message::Failure { kind, message, again } => {
                Kind::Failure(v1::Failure { kind: kind.label().to_owned(), message, again })
            }
            Message::Alive => Kind::Alive(v1::Alive {}),
        };
        v1::Message { number: 0, kind: Some(kind) }
    }

    /// What came, if it takes about as much memory as it took on the wire. To be asked before it waits anywhere: [`Message::decode`]
    /// judges the rest when it is taken.
    pub(crate) fn bounded(message: v1::Message) -> Result<v1::Message> {
        match &message.kind {
            Some(Kind::Summaries(summaries)) if summaries.indices.len() > SUMMARIES_MAX => {
                Err(nonsense("too many extents"))
            }
            Some(Kind::Profile(profile)) if profile.runs.len() > PROFILE_RUNS_MAX => {
                Err(nonsense("a profile without end"))
            }
            _ => Ok(message),
        }
    }

    pub(crate) fn decode(message: v1::Message) -> Result<Message> {
        let Some(kind) = message.kind else { return Err(nonsense("an empty message")) };
        Ok(match kind {
            Kind::Hello(hello) => Message::Hello {
                version: hello.version,
                hash: checked_text(hello.hash)?,
                pool: hello.pool.as_ref().try_into().map_err(|_| nonsense("a pool's id"))?,
            },
            Kind::Order(order) => Message::Order(decode_order(&order)?),
            Kind::Offer(offer) => Message::Offer {
                size: offer.size,
                digest: one_hash(&offer.digest)?,
                clusters: offer.clusters,
            },
            Kind::Summaries(summaries) => decode_summaries(&summaries)?,
            Kind::Lacking(lacking) => {
                if lacking.bits.len() > SUMMARIES_MAX / 8 {
                    return Err(nonsense("too many extents"));
                }
                let bits = (0..lacking.bits.len() * 8).map(|at| lacking.bits[at / 8] >> (at % 8));
                Message::Lacking(bits.map(|bit| bit & 1 == 1).collect())
            }
            Kind::ExtentHashes(hashes) => decode_hashes(&hashes)?,
            Kind::Found(found) => Message::Found(Found {
                extents_whole: found.extents_whole,
                listed: found.clusters_listed,
                found: found.clusters_found,
                repeated: found.clusters_repeated,
            }),
            Kind::Confirm(confirm) => Message::Confirm {
                index: confirm.index,
                slots: SlotBits::decode(&confirm.bits)?,
                key: one_hash(&confirm.key)?.0,
            },
            Kind::Proofs(proofs) => decode_proofs(&proofs)?,
            Kind::Sampled(sampled) => {
                Message::Sampled { clusters: sampled.clusters, bytes: sampled.bytes }
            }
            Kind::Wanted(wanted) if wanted.end => Message::WantedEnd,
            Kind::Wanted(wanted) => {
                Message::Wanted { index: wanted.index, slots: SlotBits::decode(&wanted.bits)? }
            }
            Kind::Clusters(clusters) => decode_clusters(clusters)?,
            Kind::Held(_) => Message::Held,
            Kind::Profile(profile) if profile.runs.len() <= PROFILE_RUNS_MAX => {
                Message::Profile(profile.runs)
            }
            Kind::Profile(_) => return Err(nonsense("a profile without end")),
            Kind::Withheld(withheld) => Message::Withheld {
                index: withheld.index,
                slots: SlotBits::decode(&withheld.bits)?,
            },
            Kind::Finish(finish) => Message::Finish { digest: one_hash(&finish.digest)? },
            Kind::Done(_) => Message::Done,
            Kind::Failure(failure) => Message::Failure {
                kind: ErrorKind::from_label(&failure.kind).unwrap_or(ErrorKind::Io),
                message: checked_text(failure.message)?,
                again: failure.again,
            },
            Kind::Alive(_) => Message::Alive,
        })
    }
}

fn encode_order(order: &Order) -> v1::Order {
    let direction = match order.direction {
        Direction::Push => v1::order::Direction::Push,
        Direction::Pull => v1::order::Direction::Pull,
        Direction::Fetch => v1::order::Direction::Fetch,
        Direction::Release => v1::order::Direction::Release,
    };
    v1::Order {
        direction: direction.into(),
        image: order.image.to_string(),
        quote: order.quote,
        again: order.again,
        compress: order.terms.compress,
        rate: order.terms.rate.unwrap_or(0),
        unverified: !order.terms.verify,
        sample: order.terms.sample,
        dependant: order.dependant.map_or(Bytes::new(), |id| Bytes::copy_from_slice(&id.0)),
    }
}

fn decode_order(order: &v1::Order) -> Result<Order> {
    let direction = match v1::order::Direction::try_from(order.direction) {
        Ok(v1::order::Direction::Push) => Direction::Push,
        Ok(v1::order::Direction::Pull) => Direction::Pull,
        Ok(v1::order::Direction::Fetch) => Direction::Fetch,
        Ok(v1::order::Direction::Release) => Direction::Release,
        _ => return Err(nonsense("an order without a direction")),
    };
    let terms = Terms {
        compress: order.compress,
        rate: (order.rate > 0).then_some(order.rate),
        verify: !order.unverified,
        sample: order.sample,
    };
    terms.check()?;
    let image = ImageName::parse(&order.image)?;
    let dependant = match order.dependant.len() {
        0 => None,
        _ => Some(DependantId(
            order.dependant.as_ref().try_into().map_err(|_| nonsense("a dependant's id"))?,
        )),
    };
    let of_lazy = matches!(direction, Direction::Fetch | Direction::Release);
    if of_lazy && dependant.is_none() || dependant.is_some() && direction == Direction::Push {
        return Err(nonsense("an order for no dependant, or a push for one"));
    }
    Ok(Order { direction, image, quote: order.quote, again: order.again, terms, dependant })
}

fn decode_summaries(summaries: &v1::Summaries) -> Result<Message> {
    let count = summaries.indices.len();
    if count > SUMMARIES_MAX || summaries.summaries.len() != count * HASH_BYTES {
        return Err(nonsense("summaries that do not fit their extents"));
    }
    if !summaries.indices.is_sorted_by(|one, next| one < next) {
        return Err(nonsense("extents out of order"));
    }
    let hashes = summaries.summaries.chunks_exact(HASH_BYTES).map(one_hash);
    let list = summaries.indices.iter().zip(hashes);
    let list: Result<Vec<_>> = list.map(|(index, hash)| Ok((*index, hash?))).collect();
    Ok(Message::Summaries { list: list?, last: summaries.last })
}

fn decode_hashes(told: &v1::ExtentHashes) -> Result<Message> {
    let slots = SlotBits::decode(&told.bits)?;
    if told.hashes.len() != slots.iter().count() * HASH_BYTES {
        return Err(nonsense("hashes that do not fit their slots"));
    }
    let mut bytes = vec![0; ExtentHashes::BYTES];
    for (slot, hash) in slots.iter().zip(told.hashes.chunks_exact(HASH_BYTES)) {
        bytes[slot * HASH_BYTES..][..HASH_BYTES].copy_from_slice(hash);
    }
    let hashes = ExtentHashes::from_bytes(bytes).ok_or_else(|| nonsense("hashes"))?;
    Ok(Message::Hashes { index: told.index, hashes })
}

fn decode_proofs(proofs: &v1::Proofs) -> Result<Message> {
    let whole = proofs.hashes.len().is_multiple_of(HASH_BYTES);
    if !whole || proofs.hashes.len() > EXTENT_CLUSTERS * HASH_BYTES {
        return Err(nonsense("proofs that fit no extent"));
    }
    let hashes: Result<Vec<_>> = proofs.hashes.chunks_exact(HASH_BYTES).map(one_hash).collect();
    Ok(Message::Proofs { index: proofs.index, hashes: hashes? })
}

fn decode_clusters(clusters: v1::Clusters) -> Result<Message> {
    let (bytes, first_slot) = (clusters.data.len(), clusters.first_slot as usize);
    let count = match clusters.compressed {
        0 => bytes / CLUSTER_SIZE,
        count => count as usize,
    };
    let fits = (1..=CLUSTERS_MAX).contains(&count)
        && first_slot < EXTENT_CLUSTERS
        && first_slot + count <= EXTENT_CLUSTERS
        && match clusters.compressed {
            0 => bytes == count * CLUSTER_SIZE,
            // It would have been sent as it is.
            _ => bytes < count * CLUSTER_SIZE,
        };
    let data = match clusters.compressed {
        0 => Payload::Plain(clusters.data),
        _ => Payload::Compressed { frame: clusters.data, count },
    };
    match fits {
        true => Ok(Message::Clusters { index: clusters.index, first_slot, data }),
        false => Err(nonsense("clusters that fit no extent")),
    }
}

fn one_hash(bytes: impl AsRef<[u8]>) -> Result<ContentHash> {
    bytes.as_ref().try_into().map(ContentHash).map_err(|_| nonsense("a hash of another length"))
}

/// Text of a peer ends up in messages and logs: it has no control characters, and an end.
fn checked_text(text: String) -> Result<String> {
    match text.len() <= TEXT_BYTES_MAX {
        true => Ok(text.replace(char::is_control, " ")),
        false => Err(nonsense("a text without end")),
    }
}

/// The error for a message that means nothing.
pub(crate) fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("the peer sent nonsense: {what}"))
}

#[cfg(test)]
mod tests;
