//! Every kind of message, right, wrong and without sense, to each role in each of its states.

use super::{Peer, TestPool, called, greet, image};
use crate::message::{Found, Message, Payload, SlotBits};
use crate::order::{Direction, Order, Terms};
use crate::v1;
use crate::v1::message::Kind;
use blockyard_block::{ContentHash, ErrorKind, HashAlgorithm};
use blockyard_pool::{ExtentHashes, root_hash};
use prost::bytes::Bytes;
use std::time::Duration;

/// Whoever waits for more gives up soon.
const IMPATIENT: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(300));
const HASH: HashAlgorithm = HashAlgorithm::Blake3;
const SIZE: u64 = 1 << 20;

/// What a role has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Nothing,
    Hello,
    /// Of one that sends.
    OrderedToSend,
    Lacking,
    Found,
    WantedEnd,
    /// Of one that receives.
    OrderedToReceive,
    Offer,
    Summaries,
    Hashes,
    Clusters,
}

const STATES: [State; 11] = [
    State::Nothing,
    State::Hello,
    State::OrderedToSend,
    State::Lacking,
    State::Found,
    State::WantedEnd,
    State::OrderedToReceive,
    State::Offer,
    State::Summaries,
    State::Hashes,
    State::Clusters,
];

fn order(direction: Direction, name: &str) -> Order {
    let terms = Terms::default();
    Order { direction, image: image(name), quote: false, again: false, terms, dependant: None }
}

/// The image that is pushed: four clusters in its first extent, that no other conversation has.
fn clusters(number: u32) -> Vec<u8> {
    let cluster = |slot: u32| [&(4 * number + slot).to_le_bytes()[..], &[1; 4092]].concat();
    (0..4).flat_map(cluster).collect()
}

fn hashes(number: u32) -> ExtentHashes {
    let mut bytes = vec![0; ExtentHashes::BYTES];
    for (slot, cluster) in clusters(number).chunks(4096).enumerate() {
        bytes[slot * 32..][..32].copy_from_slice(&HASH.hash(cluster).0);
    }
    ExtentHashes::from_bytes(bytes).unwrap()
}

fn digest(number: u32) -> ContentHash {
    root_hash(HASH, SIZE, &[(0, hashes(number).summary(HASH))])
}

/// Brings a role to a state.
fn drive(session: &mut Peer<'_>, state: State, number: u32) {
    let hello = Message::Hello { version: crate::VERSION, hash: "blake3".into(), pool: [1; 16] };
    let push = [State::Offer, State::Summaries, State::Hashes, State::Clusters];
    match state {
        State::Nothing => return,
        State::Hello => return session.send(hello).unwrap(),
        state if state == State::OrderedToReceive || push.contains(&state) => {
            greet(session, order(Direction::Push, &format!("new-{number}")));
        }
        _ => {
            greet(session, order(Direction::Pull, "web"));
            session.receive().unwrap(); // Offer
            session.receive().unwrap(); // Summaries
        }
    }
    let list = vec![(0, hashes(number).summary(HASH))];
    let data = Payload::Plain(clusters(number).into());
    let steps = [
        (State::Lacking, Message::Lacking([&[true][..], &[false; 7]].concat()), 1),
        (State::Found, Message::Found(Found { listed: 16, ..Found::default() }), 0),
        (State::WantedEnd, Message::WantedEnd, 1),
        (State::Offer, Message::Offer { size: SIZE, digest: digest(number), clusters: 0 }, 0),
        (State::Summaries, Message::Summaries { list, last: true }, 1),
        (State::Hashes, Message::Hashes { index: 0, hashes: hashes(number) }, 2),
        (State::Clusters, Message::Clusters { index: 0, first_slot: 0, data }, 1),
    ];
    let (sends, receives) = steps.split_at(3);
    let way = if push.contains(&state) { receives } else { sends };
    if !way.iter().any(|(reached, _, _)| *reached == state) {
        return;
    }
    for (reached, message, answers) in way {
        session.send(message.clone()).unwrap();
        for _ in 0..*answers {
            session.receive().unwrap();
        }
        if *reached == state {
            return;
        }
    }
}

/// Messages that are right in one state at most, and would be wrong there, too.
fn strange() -> Vec<v1::Message> {
    let bits = |slots: &[usize]| SlotBits::of(slots.iter().copied());
    let wrong = ContentHash([9; 32]);
    let plain = |bytes: usize| Payload::Plain(vec![3; bytes].into());
    let frame = |frame: &'static [u8], count| Payload::Compressed {
        frame: Bytes::from_static(frame),
        count,
    };
    let messages = [
        Message::Hello { version: 9, hash: "blake3".into(), pool: [1; 16] },
        Message::Hello { version: crate::VERSION, hash: "sha256".into(), pool: [1; 16] },
        Message::Order(order(Direction::Pull, "nothing")),
        Message::Offer { size: 0, digest: wrong, clusters: 0 },
        Message::Offer { size: u64::MAX, digest: wrong, clusters: 0 },
        Message::Offer { size: 513, digest: wrong, clusters: 0 },
        Message::Summaries { list: Vec::new(), last: true },
        Message::Summaries { list: vec![(0, wrong), (u64::MAX, wrong)], last: true },
        Message::Summaries { list: vec![(0, wrong)], last: false },
        Message::Lacking(Vec::new()),
        Message::Lacking(vec![true; 16384]),
        Message::Hashes { index: 0, hashes: ExtentHashes::from_bytes(vec![1; 32768]).unwrap() },
        Message::Hashes { index: u64::MAX, hashes: hashes(0) },
        Message::Found(Found { found: u64::MAX, repeated: u64::MAX, ..Found::default() }),
        Message::Wanted { index: u64::MAX, slots: bits(&[1023]) },
        Message::Wanted { index: 0, slots: bits(&[]) },
        Message::Wanted { index: 1, slots: bits(&[0]) },
        Message::Confirm { index: 0, slots: bits(&[0]), key: [1; 32] },
        Message::Proofs { index: 0, hashes: vec![wrong; 1024] },
        Message::Sampled { clusters: 0, bytes: u64::MAX },
        Message::Clusters { index: 0, first_slot: 0, data: plain(4096) },
        Message::Clusters { index: 0, first_slot: 0, data: plain(256 * 4096) },
        Message::Clusters { index: u64::MAX, first_slot: 1023, data: plain(4096) },
        Message::Clusters { index: 0, first_slot: 0, data: frame(b"no frame", 4) },
        Message::Clusters { index: 0, first_slot: 0, data: frame(b"", 1) },
        Message::Finish { digest: wrong },
        Message::Failure { kind: ErrorKind::NoSpace, message: "so".into(), again: false },
        Message::Failure { kind: ErrorKind::Busy, message: "so".into(), again: true },
    ];
    let raw = [
        Kind::Clusters(v1::Clusters {
            index: 0,
            first_slot: 0,
            data: vec![1; 9].into(),
            compressed: 256,
        }),
        Kind::Clusters(v1::Clusters {
            index: 0,
            first_slot: u32::MAX,
            data: Bytes::new(),
            compressed: u32::MAX,
        }),
        Kind::Proofs(v1::Proofs { index: 0, hashes: vec![1; 33].into() }),
        Kind::Confirm(v1::Confirm { index: 0, bits: vec![1; 128].into(), key: vec![1; 31].into() }),
        Kind::Order(v1::Order { direction: 2, image: "web".into(), rate: 1, ..Default::default() }),
        Kind::Finish(v1::Finish { digest: Bytes::new() }),
    ];
    let empty = std::iter::once(v1::Message { number: 0, kind: None });
    let raw = raw.into_iter().map(|kind| v1::Message { number: 0, kind: Some(kind) });
    messages.into_iter().map(Message::encode).chain(raw).chain(empty).collect()
}

#[test]
fn no_message_in_any_state_does_harm() {
    let place = TestPool::new(HASH);
    let bytes: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 4096 + 1) as u8).collect();
    drop(place.image("web", &bytes));
    for state in STATES {
        std::thread::scope(|scope| {
            for (number, message) in (100 * state as u32..).zip(strange()) {
                let place = &place;
                scope.spawn(move || {
                    let outcome = called(&place.pool, IMPATIENT, |session| {
                        drive(session, state, number);
                        session.send_raw(message);
                    });
                    assert!(outcome.is_err(), "message {number} after {state:?}: {outcome:?}");
                });
            }
        });
        place.remove_left();
        place.assert_only(&["web"]);
    }
    // The rest is as it should be: the same image, told right.
    let received =
        called(&place.pool, (Duration::from_secs(9), Duration::from_secs(9)), |session| {
            drive(session, State::Clusters, 9999);
            session.send(Message::Finish { digest: digest(9999) }).unwrap();
        });
    received.unwrap();
    place.assert_only(&["new-9999", "web"]);
}
