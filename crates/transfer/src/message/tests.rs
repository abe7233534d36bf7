//! What a message becomes on the wire and back, and that nonsense is refused.

use super::{Message, PROFILE_RUNS_MAX, SUMMARIES_MAX, SlotBits};
use crate::v1;
use crate::v1::message::Kind;
use blockyard_block::{ContentHash, Error, ErrorKind};
use blockyard_pool::ExtentHashes;
use prost::Message as _;
use prost::bytes::Bytes;

fn there_and_back(message: Message) -> Message {
    let bytes = message.encode().encode_to_vec();
    Message::decode(v1::Message::decode(bytes.as_slice()).unwrap()).unwrap()
}

#[test]
fn lists_and_bits_come_back_as_they_were() {
    let list: Vec<_> = (0..100).map(|at| (at * 3, ContentHash([at as u8; 32]))).collect();
    match there_and_back(Message::Summaries { list: list.clone(), last: true }) {
        Message::Summaries { list: found, last: true } => assert_eq!(found, list),
        other => panic!("{}", other.name()),
    }
    let mut bytes = vec![0; ExtentHashes::BYTES];
    for slot in [0, 1, 7, 8, 1023] {
        bytes[slot * 32..][..32].fill(slot as u8 | 1);
    }
    let hashes = ExtentHashes::from_bytes(bytes).unwrap();
    match there_and_back(Message::Hashes { index: 9, hashes: hashes.clone() }) {
        Message::Hashes { index: 9, hashes: found } => assert!(found == hashes),
        other => panic!("{}", other.name()),
    }
    let lacking: Vec<bool> = (0..24).map(|at| at % 5 == 0).collect();
    match there_and_back(Message::Lacking(lacking.clone())) {
        Message::Lacking(found) => assert_eq!(found, lacking),
        other => panic!("{}", other.name()),
    }
    let slots = SlotBits::of([3, 700].into_iter());
    match there_and_back(Message::Wanted { index: 2, slots }) {
        Message::Wanted { index: 2, slots } => {
            assert_eq!(slots.iter().collect::<Vec<_>>(), [3, 700]);
        }
        other => panic!("{}", other.name()),
    }
}

#[test]
fn a_failure_keeps_its_kind_and_is_cut_at_a_character() {
    let error = Error::new(ErrorKind::NoSpace, "ä".repeat(3000));
    match there_and_back(Message::failure(&error, true)) {
        Message::Failure { kind, message, again: true } => {
            assert_eq!((kind, message), (ErrorKind::NoSpace, "ä".repeat(1000)));
        }
        other => panic!("{}", other.name()),
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let hash = [1u8; 32];
    let bits = |slots: &[usize]| Bytes::copy_from_slice(&SlotBits::of(slots.iter().copied()).0);
    let summaries = |indices: Vec<u64>, hashes: usize| {
        Kind::Summaries(v1::Summaries {
            indices,
            summaries: hash.repeat(hashes).into(),
            last: true,
        })
    };
    let clusters = |first_slot, bytes| {
        Kind::Clusters(v1::Clusters {
            index: 0,
            first_slot,
            data: vec![0; bytes].into(),
            compressed: 0,
        })
    };
    let order = |direction, image: &str| {
        Kind::Order(v1::Order { direction, image: image.to_owned(), ..v1::Order::default() })
    };
    let hello = |hash: String, id: usize| {
        Kind::Hello(v1::Hello { version: 1, hash, pool: vec![1; id].into() })
    };
    let hashes = |bits, count: usize| {
        Kind::ExtentHashes(v1::ExtentHashes { index: 0, bits, hashes: hash.repeat(count).into() })
    };
    let wrong = [
        hello("blake3".to_owned(), 15),
        hello("x".repeat(2001), 16),
        order(0, "a"),
        order(1, "../a"),
        order(9, "a"),
        summaries(vec![1, 2], 1),
        summaries(vec![2, 2], 2),
        summaries((0..16385).collect(), 16385),
        Kind::Lacking(v1::Lacking { bits: vec![0; 2049].into() }),
        hashes(bits(&[1, 2]), 1),
        hashes(vec![1; 127].into(), 127),
        Kind::Wanted(v1::Wanted { index: 0, bits: vec![1; 129].into(), end: false }),
        clusters(0, 0),
        clusters(0, 4095),
        clusters(1023, 8192),
        clusters(u32::MAX, 4096),
        clusters(0, 257 * 4096),
        Kind::Finish(v1::Finish { digest: vec![0; 31].into() }),
        Kind::Failure(v1::Failure {
            kind: "I/O error".into(),
            message: "x".repeat(2001),
            again: false,
        }),
    ];
    for (number, kind) in wrong.into_iter().enumerate() {
        let refused = Message::decode(v1::Message { number: 0, kind: Some(kind) });
        assert!(refused.is_err(), "message {number} was taken");
    }
    assert!(Message::decode(v1::Message { number: 0, kind: None }).is_err());
}

#[test]
fn what_is_larger_in_memory_than_on_the_wire_does_not_wait() {
    let summaries = |count| {
        let indices = vec![0; count];
        let summaries = v1::Summaries { indices, summaries: Bytes::new(), last: false };
        v1::Message { number: 0, kind: Some(Kind::Summaries(summaries)) }
    };
    assert!(Message::bounded(summaries(SUMMARIES_MAX)).is_ok());
    assert!(Message::bounded(summaries(SUMMARIES_MAX + 1)).is_err());
    let profile = v1::Profile { runs: vec![0; PROFILE_RUNS_MAX + 1] };
    assert!(
        Message::bounded(v1::Message { number: 0, kind: Some(Kind::Profile(profile)) }).is_err()
    );
}
