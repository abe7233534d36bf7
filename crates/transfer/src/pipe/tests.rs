//! Whole transfers through a pipe, and other ends that are no peers.

use super::{FIRST_LINE, wire_over};
use crate::allowed::Allowed;
use crate::fake::{TestPool, image};
use crate::lazy::NoOrigins;
use crate::message::{MESSAGE_BYTES_MAX, Message};
use crate::order::{Caller, Terms, Unwatched, answer, push};
use crate::wire::Session;
use blockyard_block::{Error, HashAlgorithm};
use blockyard_io::block_on;
use std::thread;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

#[test]
fn an_image_crosses_a_pipe() {
    let (from, to) = (TestPool::new(HashAlgorithm::Blake3), TestPool::new(HashAlgorithm::Blake3));
    let bytes: Vec<u8> = (0..8u32 << 20).map(|at| (at / 4096 * 7 + at % 61) as u8).collect();
    let source = from.image("web", &bytes);
    let runtime = Runtime::new().unwrap();
    // Smaller than a message.
    let (one, other) = tokio::io::duplex(1000);
    let (one, other) = (wire_over(runtime.handle(), one), wire_over(runtime.handle(), other));
    let caller = Caller {
        pool: &from.pool,
        terms: Terms::default(),
        quote: false,
        again: false,
        now_unix_s: 1,
        progress: &Unwatched,
    };
    let allowed = Allowed { push: true, ..Allowed::default() };
    let account = thread::scope(|scope| {
        scope.spawn(|| {
            block_on(answer(other, &to.pool, &allowed, 1, &Unwatched, |_| Ok(()), &NoOrigins))
                .unwrap()
        });
        block_on(push(one, &caller, &source, &image("there"))).unwrap()
    });
    assert!(account.clusters_sent > 0);
    let digest = block_on(source.digest()).unwrap();
    assert_eq!(block_on(to.pool.digest(&image("there"))).unwrap(), digest);
}

/// What a side makes of these bytes.
fn heard(bytes: &[u8]) -> (Error, bool) {
    let runtime = Runtime::new().unwrap();
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let mut session = Session::new(wire_over(runtime.handle(), ours), &Unwatched);
    runtime.block_on(theirs.write_all(bytes)).unwrap();
    drop(theirs);
    loop {
        match block_on(session.receive()) {
            Ok(Message::WantedEnd) => {}
            Ok(other) => panic!("{}", other.name()),
            Err(error) => return (error, session.is_cut()),
        }
    }
}

#[test]
fn what_is_no_peer_is_quoted_and_a_garbled_pipe_is_a_cut() {
    let (banner, _) = heard(b"Welcome to \x1b[1mhost\nbe nice\n");
    assert!(banner.message().contains("\"Welcome to  [1mhost\""), "{banner}");
    let (almost, _) = heard(b"blockyard 0.1\n");
    assert!(almost.message().contains("\"blockyard 0.1\""), "{almost}");
    let (nothing, _) = heard(b"");
    assert!(nothing.message().contains("said nothing"), "{nothing}");
    let (part, _) = heard(&FIRST_LINE[..9]);
    assert!(part.message().contains("said nothing"), "{part}");

    let message = Message::WantedEnd.encode();
    let message = prost::Message::encode_to_vec(&message);
    let framed = [&(message.len() as u32).to_be_bytes()[..], &message].concat();
    let good = [FIRST_LINE, &framed].concat();
    for (rest, what) in [
        (Vec::new(), "ended before"),
        (framed[..framed.len() - 1].to_vec(), "ended before"),
        ((MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes().to_vec(), "garbled"),
        (vec![0, 0, 0, 2, 0xff, 0xff], "garbled"),
    ] {
        let (error, cut) = heard(&[&good[..], &rest].concat());
        assert!(error.message().contains(what) && cut, "{what}: {error}");
    }
}
