//! Connections of peers are bounded, and end with what they were made for.

use super::{CONNECTIONS_OF_PEER_MAX, Conversations, Host, QUIET_MAX, serve};
use crate::bundle::Bundle;
use crate::client::connect;
use crate::identity::{Identity, PeerId};
use crate::message::{Message, Payload};
use crate::order::Unwatched;
use crate::wire::{STREAM_CLUSTERS, Session, Wire};
use blockyard_block::{CLUSTER_SIZE, Result};
use blockyard_io::block_on;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Everybody is listed; what becomes of calls, a test says.
struct Open<F>(F);

impl<F: Fn(Wire) + Send + Sync + 'static> Host for Open<F> {
    fn is_listed(&self, _peer: &PeerId) -> bool {
        true
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn answer(&self, _peer: PeerId, wire: Wire) {
        (self.0)(wire);
    }

    fn refused(&self, _address: &str, _why: &str) {}
}

/// A daemon that answers so, as those who call it see it.
struct Called {
    runtime: Runtime,
    address: String,
    peer: PeerId,
}

fn identity() -> Identity {
    Identity::from_pem(&Identity::generate_pem().unwrap()).unwrap()
}

impl Called {
    fn new(answer: impl Fn(Wire) + Send + Sync + 'static) -> Called {
        let runtime = Runtime::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let identity = identity();
        let peer = PeerId::Certificate(identity.fingerprint());
        runtime.spawn(async move {
            let host = Arc::new(Open(answer));
            serve(listener, &identity, None, host, std::future::pending()).await
        });
        Called { runtime, address, peer }
    }

    fn call(&self, identity: &Identity) -> Result<Wire> {
        connect(self.runtime.handle(), identity, None, &self.address, &self.peer)
    }
}

#[test]
fn one_peer_has_so_many_connections_and_takes_none_of_others() {
    let kept = Mutex::new(Vec::new());
    let called = Called::new(move |wire| kept.lock().unwrap().push(wire));
    let (greedy, other) = (identity(), identity());
    let mut wires: Vec<Wire> =
        (0..CONNECTIONS_OF_PEER_MAX).map(|_| called.call(&greedy).unwrap()).collect();
    assert!(called.call(&greedy).is_err());
    called.call(&other).unwrap();
    wires.pop();
    let started = Instant::now();
    while called.call(&greedy).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "its place stays taken");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_a_caller_does_not_take_is_given_up_soon_after_the_conversation() {
    // What the windows and queues between two wires hold, those of the side that says it included.
    const MESSAGES: usize = 10;
    let called = Called::new(|wire| {
        thread::spawn(move || {
            let mut session = Session::new(wire, &Unwatched);
            for index in 0..MESSAGES as u64 {
                let data = Payload::Plain(vec![1; 200 * CLUSTER_SIZE].into());
                let message = Message::Clusters { index, first_slot: 0, data };
                block_on(session.send_raw(message.encode()));
            }
        });
    });
    let wire = called.call(&identity()).unwrap();
    thread::sleep(QUIET_MAX + Duration::from_secs(5));
    let mut session = Session::new(wire, &Unwatched);
    let came = (0..).take_while(|_| block_on(session.receive()).is_ok()).count();
    assert!(came > 0 && came < MESSAGES, "{came} messages were kept");
}

#[test]
fn what_is_said_over_several_connections_is_heard_in_order() {
    const STREAMS: usize = 4;
    const MESSAGES: u64 = 300;
    // It says back what it hears.
    let called = Called::new(|wire| {
        thread::spawn(move || {
            let mut session = Session::new(wire, &Unwatched);
            while let Ok(message) = block_on(session.receive()) {
                if block_on(session.send(message)).is_err() {
                    break;
                }
            }
        });
    });
    let caller = identity();
    let wire = called.call(&caller).unwrap();
    let mut session = Session::new(wire.with_streams(Some(STREAMS)), &Unwatched);
    session.widen(u64::MAX);
    let started = Instant::now();
    let mut index = 0;
    while index < MESSAGES || session.streams() < STREAMS {
        assert!(started.elapsed() < Duration::from_secs(60), "{} have joined", session.streams());
        let clusters = 1 + (index * 37 % 256) as usize;
        let data = Payload::Plain(vec![index as u8; clusters * CLUSTER_SIZE].into());
        block_on(session.send(Message::Clusters { index, first_slot: 0, data })).unwrap();
        if index >= 3 {
            match block_on(session.receive()).unwrap() {
                Message::Clusters { index: came, .. } => assert_eq!(came, index - 3),
                other => panic!("{}", other.name()),
            }
        }
        index += 1;
    }
    // All of them end with it.
    drop(session);
    let started = Instant::now();
    let all =
        || (0..CONNECTIONS_OF_PEER_MAX).map(|_| called.call(&caller)).collect::<Result<Vec<_>>>();
    while all().is_err() {
        assert!(started.elapsed() < Duration::from_secs(40), "connections are kept");
    }
}

#[test]
fn a_conversation_is_joined_by_who_has_it_and_while_it_goes_on() {
    let conversations = Arc::new(Conversations::default());
    let (bundle, _link, _ends) = Bundle::new();
    let bundle = Arc::new(bundle);
    let (mine, of_others) = (("one".to_owned(), [1; 16]), ("other".to_owned(), [1; 16]));
    let open = conversations.add(mine.clone(), &bundle).unwrap();
    assert!(conversations.add(mine.clone(), &bundle).is_err());
    assert!(conversations.link(&of_others).is_none());
    assert!(conversations.link(&("one".to_owned(), [2; 16])).is_none());
    assert!(conversations.link(&mine).is_some());
    drop(open);
    assert!(conversations.link(&mine).is_none());
}

/// Passes connections on to `to`, each message of the network after `delay`; their address.
fn far_away(to: String, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let callee = TcpStream::connect(&to).unwrap();
            let ways =
                [(caller.try_clone().unwrap(), callee.try_clone().unwrap()), (callee, caller)];
            for (mut from, mut to) in ways {
                let (sender, late) = channel::<(Instant, Vec<u8>)>();
                thread::spawn(move || {
                    for (due, bytes) in late {
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        if to.write_all(&bytes).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both); // it may be gone
                });
                thread::spawn(move || {
                    let mut buffer = vec![0; 65536];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        if sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_err()
                        {
                            break;
                        }
                    }
                });
            }
        }
    });
    address
}

#[test]
fn a_long_way_gets_more_connections_and_each_of_them_more_patience() {
    // It says nothing.
    let kept = Mutex::new(Vec::new());
    let mut called = Called::new(move |wire| kept.lock().unwrap().push(wire));
    called.address = far_away(called.address, Duration::from_millis(20));
    const STALL: Duration = Duration::from_millis(300);
    let wire = called.call(&identity()).unwrap().with_patience(STALL, Duration::from_secs(60));
    let mut session = Session::new(wire, &Unwatched);
    // For the 40 ms of a round trip there are four more, if all of them get enough to carry.
    session.widen(2 * STREAM_CLUSTERS);
    let started = Instant::now();
    while session.streams() < 3 {
        assert!(started.elapsed() < Duration::from_secs(30), "{} have joined", session.streams());
        thread::sleep(Duration::from_millis(10));
    }
    let started = Instant::now();
    let Err(error) = block_on(session.receive()) else { panic!("it said something") };
    assert!(error.message().contains("does not go on"), "{error}");
    assert!(started.elapsed() >= 3 * STALL, "given up after {:?}", started.elapsed());
    assert_eq!(session.streams(), 3, "each has 16 MiB to carry");
    let wire = called.call(&identity()).unwrap();
    let mut session = Session::new(wire, &Unwatched);
    session.widen(u64::MAX);
    let started = Instant::now();
    while session.streams() < 5 {
        assert!(started.elapsed() < Duration::from_secs(30), "{} have joined", session.streams());
        thread::sleep(Duration::from_millis(10));
    }
}
