//! Whichever way messages take, they come once and in order; a link that stands still keeps no others.

use super::{Bundle, Ends, Hears, LINKS_MAX, Link, Says};
use crate::message::Message;
use crate::v1;
use crate::v1::message::Kind;
use blockyard_block::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};

/// One that can be told from others.
fn message(number: u64) -> v1::Message {
    Message::Wanted { index: number, slots: crate::message::SlotBits::of(0..1) }.encode()
}

fn which(message: &v1::Message) -> u64 {
    match &message.kind {
        Some(Kind::Wanted(wanted)) => wanted.index,
        _ => panic!("not what was said"),
    }
}

fn in_runtime(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

/// Lets others work so often.
async fn turns(count: u64) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// A connection of which each message takes another time.
async fn carry(mut says: Says, hears: Hears, seed: u64) {
    let mut state = seed;
    while let Some(message) = says.next().await {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        turns(state >> 58).await;
        if !hears.pass_on(Ok(message)).await {
            return;
        }
    }
}

#[test]
fn messages_come_once_and_in_order_whichever_link_they_take() {
    for seed in 0..20 {
        in_runtime(async {
            let (here, first, Ends { outgoing, .. }) = Bundle::new();
            let (there, other, mut ends) = Bundle::new();
            let mut pairs = vec![(first.says, other.hears)];
            // They join while the first carries messages.
            pairs.extend((0..3).map(|_| (here.link().unwrap().says, there.link().unwrap().hears)));
            for (number, (says, hears)) in (0..).zip(pairs) {
                tokio::spawn(async move {
                    turns(100 * number).await;
                    carry(says, hears, seed * 10 + number).await;
                });
            }
            tokio::spawn(async move {
                for number in 0..500 {
                    outgoing.send(message(number)).await.unwrap();
                }
            });
            for number in 0..500 {
                let came = ends.incoming.recv().await.unwrap().unwrap();
                assert_eq!((which(&came), came.number), (number, 0), "seed {seed}");
            }
            assert!(ends.incoming.recv().await.is_none());
        });
    }
}

#[test]
fn a_link_that_asked_for_a_message_and_has_no_room_any_more_keeps_none_from_others() {
    in_runtime(async {
        let (bundle, mut stands, Ends { outgoing, incoming: _incoming }) = Bundle::new();
        let mut goes = bundle.link().unwrap().says;
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut stands.says).poll_next(&mut nobody).is_pending());
        tokio::spawn(async move {
            for number in 0..100 {
                outgoing.send(message(number)).await.unwrap();
            }
        });
        for number in 0..100 {
            let came = timeout(Duration::from_secs(30), goes.next()).await;
            assert_eq!(which(&came.unwrap().unwrap()), number);
        }
        assert!(goes.next().await.is_none());
    });
}

#[test]
fn a_message_that_is_left_out_is_waited_for_and_one_that_comes_twice_ends_it() {
    in_runtime(async {
        let (_bundle, Link { hears, says: _says }, Ends { mut incoming, outgoing: _outgoing }) =
            Bundle::new();
        let numbered = |number| Ok(v1::Message { number, ..message(number) });
        assert!(hears.pass_on(numbered(1)).await);
        let early = timeout(Duration::from_millis(50), hears.pass_on(numbered(3)));
        assert!(early.await.is_err());
        assert!(hears.pass_on(numbered(2)).await);
        assert!(hears.pass_on(numbered(0)).await);
        assert!(!hears.pass_on(numbered(1)).await);
        let came = [(); 3].map(|()| which(&incoming.try_recv().unwrap().unwrap()));
        assert_eq!(came, [1, 2, 0]);
        let twice = incoming.try_recv().unwrap().unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::InvalidArgument);
        // The highest number there is ends nothing but what follows.
        hears.turn.send_replace(u64::MAX);
        assert!(hears.pass_on(numbered(u64::MAX)).await);
    });
}

#[test]
fn links_are_bounded_and_those_of_a_conversation_that_is_over_are_not_made() {
    let (bundle, first, ends) = Bundle::new();
    let links: Vec<Link> = std::iter::from_fn(|| bundle.link()).collect();
    assert_eq!((links.len() + 1, bundle.links()), (LINKS_MAX, LINKS_MAX));
    let (bundle, other, _ends) = Bundle::new();
    drop((first, links, ends, other));
    assert!(bundle.link().is_none());
}

#[test]
fn whoever_waits_in_vain_for_its_turn_is_let_go_with_the_conversation() {
    in_runtime(async {
        let (_bundle, link, ends) = Bundle::new();
        let waits = tokio::spawn(async move {
            link.hears.pass_on(Ok(v1::Message { number: 9, ..message(9) })).await
        });
        turns(10).await;
        drop(ends);
        assert!(!waits.await.unwrap());
    });
}
