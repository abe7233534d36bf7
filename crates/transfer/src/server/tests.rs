//! Connections of peers are bounded, and end with what they were made for.

use super::{CONNECTIONS_OF_PEER_MAX, Host, QUIET_MAX, serve};
use crate::client::connect;
use crate::identity::{Identity, PeerId};
use crate::message::{Message, Payload};
use crate::order::Unwatched;
use crate::wire::{Session, Wire};
use blockyard_block::{CLUSTER_SIZE, Result};
use blockyard_io::block_on;
use std::net::TcpListener;
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
