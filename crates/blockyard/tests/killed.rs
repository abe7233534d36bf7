//! A daemon killed with requests in flight loses nothing that it acknowledged (I15).
//!
//! Each round: clients write to two images, the daemon is killed at a random moment, `check --data`
//! judges the pool as it lies, the next daemon is ready soon, and everything acknowledged is there;
//! of what was in flight, each unit is old or new. Snapshots are taken and removed between rounds, so
//! that the clients also write to extents that are held twice.
//!
//! `BLOCKYARD_KILL_ROUNDS` says how many rounds (10), `BLOCKYARD_KILL_SEED` where the choices start.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::model::Model;
use support::pipelined::Plain;
use support::traffic::{Connection, Image, Random};
use support::{Daemon, Place};

const IMAGE_BYTES: u64 = 16 << 20;
const CONNECTIONS_PER_IMAGE: u64 = 3;
const DEPTH: usize = 16;
/// The promise is one second; a test machine may be busy with other things.
const READY_MAX: Duration = Duration::from_secs(10);
const SNAPSHOTS_MAX: usize = 3;

#[test]
fn a_killed_daemon_loses_nothing_it_acknowledged() {
    let rounds = setting("BLOCKYARD_KILL_ROUNDS").unwrap_or(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = setting("BLOCKYARD_KILL_SEED").unwrap_or(now);
    println!("BLOCKYARD_KILL_SEED={seed} BLOCKYARD_KILL_ROUNDS={rounds}");
    let mut test = Test::new(seed);
    for round in 0..rounds {
        test.round(round);
    }
    println!("replies {}, slowest restart {:?}", test.replies, test.slowest);
    assert!(test.replies > 50 * rounds, "the clients hardly got anything done");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

struct Test {
    place: Place,
    daemon: Option<Daemon>,
    random: Random,
    images: [Arc<Image>; 2],
    snapshots: Vec<(String, Model)>,
    replies: u64,
    slowest: Duration,
}

impl Test {
    fn new(seed: u64) -> Test {
        let place = Place::new();
        let daemon = place.serve(&[]);
        for name in ["one", "two"] {
            place.ok(&["image", "create", name, &IMAGE_BYTES.to_string()]);
        }
        let images = [Image::new("one", 1, IMAGE_BYTES), Image::new("two", 2, IMAGE_BYTES)];
        Test {
            place,
            daemon: Some(daemon),
            random: Random(seed | 1),
            images,
            snapshots: Vec::new(),
            replies: 0,
            slowest: Duration::ZERO,
        }
    }

    fn round(&mut self, round: u64) {
        let daemon = self.daemon.take().unwrap();
        self.change_snapshots(round);
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS_PER_IMAGE {
            for image in &self.images {
                let seed = self.random.below(u64::MAX) | 1;
                connections.push(Connection::start(&daemon, image, DEPTH, seed));
            }
        }
        // Now and then long enough for hashes to be written and intents to be cleared.
        let longest_ms = if round % 10 == 9 { 4000 } else { 400 };
        let lifetime = Duration::from_millis(5 + self.random.below(longest_ms));
        std::thread::sleep(lifetime);
        daemon.kill();
        let replies: u64 = connections.into_iter().map(Connection::finish).sum();
        self.place.ok(&["check", self.place.pool().to_str().unwrap(), "--data"]);
        let started = Instant::now();
        let daemon = self.place.serve(&[]);
        let ready = started.elapsed();
        println!(
            "round {round}: killed after {lifetime:?} and {replies} replies, ready in {ready:?}"
        );
        assert!(ready < READY_MAX, "round {round}: ready only after {ready:?}");
        self.replies += replies;
        self.slowest = self.slowest.max(ready);
        self.verify(&daemon, round);
        self.daemon = Some(daemon);
    }

    /// Everything acknowledged is there; what is found becomes what must be there from now on.
    fn verify(&mut self, daemon: &Daemon, round: u64) {
        for image in &self.images {
            settle(daemon, &image.name, &mut image.model.lock().unwrap(), round);
        }
        for (name, model) in &mut self.snapshots {
            settle(daemon, name, model, round);
        }
    }

    /// While no client writes, so that it is known what the snapshot holds.
    fn change_snapshots(&mut self, round: u64) {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            let (name, _) = self.snapshots.remove(0);
            self.place.ok(&["image", "remove", &name]);
        }
        if self.random.below(2) == 0 {
            let image = &self.images[self.random.below(2) as usize];
            let name = format!("snapshot-{round}");
            self.place.ok(&["image", "snapshot", &image.name, &name]);
            self.snapshots.push((name, image.model.lock().unwrap().clone()));
        }
    }
}

fn settle(daemon: &Daemon, name: &str, model: &mut Model, round: u64) {
    let mut client = Plain::open(daemon, name);
    for start in (0..model.size()).step_by(1 << 20) {
        let bytes = start..(start + (1 << 20)).min(model.size());
        let found = client.read(bytes.clone());
        let settled = model.settle(&bytes, &found);
        assert!(settled.is_ok(), "round {round}: {name}: {}", settled.unwrap_err());
    }
}
