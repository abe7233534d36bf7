//! Whichever way messages take, they come once and in order; a link that stands still keeps no others.

use super::{Bundle, Ends, Hears, LINKS_MAX, Link, Opening, Says};
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
        let (bundle, before, Ends { outgoing, incoming: _incoming }) = Bundle::new();
        let (mut goes, after) = (bundle.link().unwrap().says, bundle.link().unwrap());
        let asks = |mut stands: Link| {
            let mut nobody = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut stands.says).poll_next(&mut nobody).is_pending());
            stands
        };
        let before = asks(before);
        let waits = tokio::spawn(async move { goes.next().await.map(|it| (which(&it), goes)) });
        turns(10).await;
        let _stand = (before, asks(after));
        outgoing.send(message(1)).await.unwrap();
        let came = timeout(Duration::from_secs(10), waits).await.unwrap();
        assert_eq!(came.unwrap().unwrap().0, 1);
    });
}

#[test]
fn a_message_that_is_left_out_is_waited_for_and_one_that_comes_twice_ends_it() {
    in_runtime(async {
        let (_bundle, Link { hears, says: _says }, Ends { mut incoming, outgoing: _outgoing }) =
            Bundle::new();
        let numbered = |number| Ok(v1::Message { number, ..message(number) });
        assert!(hears.pass_on(numbered(1)).await);
        assert_eq!(which(&incoming.recv().await.unwrap().unwrap()), 1);
        let early = timeout(Duration::from_millis(50), hears.pass_on(numbered(3)));
        assert!(early.await.is_err());
        for number in [2, 0] {
            assert!(hears.pass_on(numbered(number)).await);
            assert_eq!(which(&incoming.recv().await.unwrap().unwrap()), number);
        }
        assert!(!hears.pass_on(numbered(1)).await);
        let twice = incoming.recv().await.unwrap().unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::InvalidArgument);
        // The highest number there is ends nothing but what follows.
        hears.turn.send_replace(u64::MAX);
        assert!(hears.pass_on(numbered(u64::MAX)).await);
    });
}

#[test]
fn a_link_that_is_opened_says_so_and_one_that_is_given_up_ends() {
    in_runtime(async {
        let (bundle, _first, Ends { outgoing, incoming: _incoming }) = Bundle::new();
        outgoing.send(message(7)).await.unwrap();
        for greets in [true, false] {
            let (open, mut opening) = Opening::new(greets);
            let early = timeout(Duration::from_millis(10), opening.next()).await;
            assert!(early.is_err(), "it said something before it was opened");
            assert!(open.send(bundle.link().unwrap().says).is_ok());
            if greets {
                let alive = opening.next().await.unwrap();
                assert!(matches!((alive.number, alive.kind), (0, Some(Kind::Alive(_)))));
            } else {
                let said = opening.next().await.unwrap();
                assert_eq!((said.number, which(&said)), (1, 7));
            }
        }
        let (open, mut given_up) = Opening::new(true);
        drop(open);
        assert!(given_up.next().await.is_none());
    });
}

#[test]
fn a_conversation_of_which_a_link_is_gone_is_ended_and_one_that_is_over_is_not() {
    in_runtime(async {
        let (bundle, first, mut ends) = Bundle::new();
        let waits = bundle.link().unwrap();
        let (ender, late) = (first.hears.ender(), waits.hears.ender());
        drop(first);
        // It has what comes after a message that the first took with it.
        let waits = tokio::spawn(async move {
            waits.hears.pass_on(Ok(v1::Message { number: 2, ..message(2) })).await
        });
        turns(10).await;
        ender.end().await;
        assert_eq!(ends.incoming.recv().await.unwrap().unwrap_err().kind(), ErrorKind::Io);
        drop(ends);
        assert!(!waits.await.unwrap());
        late.end().await;
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
