//! Peers that mean no good: each is refused or given up, with a clear error, and nothing is left.

use super::{TestPool, called, greet, image};
use crate::message::{Found, Message, SlotBits};
use crate::order::{Direction, Order, Terms};
use blockyard_block::HashAlgorithm;
use blockyard_pool::ExtentHashes;
use std::thread;
use std::time::Duration;

const PATIENT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

fn order(direction: Direction, name: &str) -> Order {
    Order {
        direction,
        image: image(name),
        quote: false,
        again: false,
        terms: Terms::default(),
        dependant: None,
    }
}

#[test]
fn a_peer_that_only_says_that_it_is_alive_is_given_up() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    let patience = (Duration::from_secs(20), Duration::from_millis(600));
    let given_up = called(&place.pool, patience, |session| {
        greet(session, order(Direction::Push, "new"));
        while session.send(Message::Alive).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let error = given_up.unwrap_err().error;
    // On a busy machine its greeting was waited for, too.
    let reasons = ["does not go on", "too slow"];
    assert!(reasons.iter().any(|reason| error.message().contains(reason)), "{error}");
    place.assert_only(&[]);
}

#[test]
fn a_peer_that_says_little_and_seldom_is_given_up() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    let mut one = vec![0; ExtentHashes::BYTES];
    one[..32].fill(7);
    let hashes = ExtentHashes::from_bytes(one).unwrap();
    let summary = hashes.summary(HashAlgorithm::Blake3);
    let mut told = 0;
    // Never silent for as long as would be too long.
    let patience = (Duration::from_secs(20), Duration::from_millis(600));
    let given_up = called(&place.pool, patience, |session| {
        greet(session, order(Direction::Push, "new"));
        session.send(Message::Offer { size: 1 << 30, digest: summary, clusters: 0 }).unwrap();
        let list = (0..200).map(|index| (index, summary)).collect();
        session.send(Message::Summaries { list, last: true }).unwrap();
        session.receive().unwrap(); // Lacking
        while told < 200
            && session.send(Message::Hashes { index: told, hashes: hashes.clone() }).is_ok()
        {
            told += 1;
            thread::sleep(Duration::from_millis(50));
        }
    });
    let error = given_up.unwrap_err().error;
    assert!(error.message().contains("too slow"), "{error}");
    assert!(told < 200, "all lists were heard");
    place.remove_left();
    place.assert_only(&[]);
}

#[test]
fn a_list_that_is_not_full_is_the_last() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    let summary = HashAlgorithm::Blake3.hash(b"");
    let refused = called(&place.pool, PATIENT, |session| {
        greet(session, order(Direction::Push, "new"));
        session.send(Message::Offer { size: 1 << 30, digest: summary, clusters: 0 }).unwrap();
        session.send(Message::Summaries { list: vec![(0, summary)], last: false }).unwrap();
    });
    let error = refused.unwrap_err().error;
    assert!(error.message().contains("not full"), "{error}");
    place.assert_only(&[]);
}

#[test]
fn lists_of_an_image_that_the_pool_could_never_hold_are_refused() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    let hashes = ExtentHashes::from_bytes(vec![7; ExtentHashes::BYTES]).unwrap();
    let summary = hashes.summary(HashAlgorithm::Blake3);
    let mut told = 0;
    let refused = called(&place.pool, PATIENT, |session| {
        greet(session, order(Direction::Push, "new"));
        session.send(Message::Offer { size: 1 << 40, digest: summary, clusters: 0 }).unwrap();
        let list = (0..2000).map(|index| (index, summary)).collect();
        session.send(Message::Summaries { list, last: true }).unwrap();
        session.receive().unwrap(); // Lacking
        while session.send(Message::Hashes { index: told, hashes: hashes.clone() }).is_ok() {
            told += 1;
        }
    });
    let error = refused.unwrap_err().error;
    assert!(error.message().contains("too large for a pool"), "{error}");
    // 8 MiB of lists are taken from anybody.
    assert!((256..300).contains(&told), "{told} lists");
    place.assert_only(&[]);
}

#[test]
fn a_peer_that_wants_nothing_or_more_than_there_is_gets_no_further() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    drop(place.image("web", &[7; 64 << 10]));
    for wanted in [vec![vec![]], vec![(0..16).collect(), vec![3]], vec![vec![16]]] {
        let refused = called(&place.pool, PATIENT, |session| {
            greet(session, order(Direction::Pull, "web"));
            session.receive().unwrap(); // Offer
            session.receive().unwrap(); // Summaries
            session.send(Message::Lacking([&[true][..], &[false; 7]].concat())).unwrap();
            session.receive().unwrap(); // ExtentHashes
            let found = Message::Found(Found { listed: 16, ..Found::default() });
            session.send(found).unwrap();
            for slots in wanted {
                let slots: Vec<usize> = slots;
                let slots = SlotBits::of(slots.into_iter());
                let _ = session.send(Message::Wanted { index: 0, slots });
            }
        });
        let error = refused.unwrap_err().error;
        assert!(error.message().contains("it wants"), "{error}");
    }
    place.assert_only(&["web"]);
}
