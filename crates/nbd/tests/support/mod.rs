//! What the tests of the server share: a disk in memory, a server on a socket of its own, a client
//! that can say anything, and the running of real programs.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod client;
pub mod memory;
pub mod programs;

use blockyard_block::{Error, ErrorKind, Result};
use blockyard_nbd::{ClientInfo, Event, ExportSummary, Exports, Limits, Server};
use memory::MemoryDisk;
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Disks by name.
pub struct Shelf(BTreeMap<String, Arc<MemoryDisk>>);

impl Exports for Shelf {
    type Device = MemoryDisk;

    fn list(&self, _client: &ClientInfo) -> Vec<ExportSummary> {
        let summary = |(name, disk): (&String, &Arc<MemoryDisk>)| ExportSummary {
            name: name.clone(),
            size: disk.size,
            read_only: disk.read_only,
            description: format!("the disk {name}"),
        };
        self.0.iter().map(summary).collect()
    }

    fn open(&self, name: &str, _client: &ClientInfo) -> Result<Arc<MemoryDisk>> {
        match name {
            "denied" => Err(Error::new(ErrorKind::Denied, "not for you: /secret/place")),
            _ => self.0.get(name).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, name)),
        }
    }
}

/// A server with its own socket, gone with the value.
pub struct Fixture {
    pub socket: PathBuf,
    pub events: Arc<Mutex<Vec<String>>>,
    pub server: Option<Server>,
    folder: PathBuf,
}

impl Fixture {
    /// Serves one writable disk named `disk`.
    pub fn with_disk(disk: MemoryDisk) -> Fixture {
        Fixture::new([("disk", Arc::new(disk))], crate::limits())
    }

    pub fn new<const N: usize>(disks: [(&str, Arc<MemoryDisk>); N], limits: Limits) -> Fixture {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nbd-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let shelf = Shelf(disks.into_iter().map(|(name, disk)| (name.to_owned(), disk)).collect());
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let hear = move |event: Event<'_>| heard.lock().unwrap().push(format!("{event:?}"));
        let server = Server::start(listener, Arc::new(shelf), limits, hear).unwrap();
        Fixture { socket, events, server: Some(server), folder }
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Waits until an event's text contains all of `words`, and returns that text.
    pub fn event(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let events = self.events.lock().unwrap();
            let found = events.iter().find(|event| words.iter().all(|word| event.contains(word)));
            if let Some(event) = found {
                return event.clone();
            }
            assert!(Instant::now() < deadline, "no event with {words:?} in {events:#?}");
            drop(events);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nobody is connected.
    pub fn wait_until_alone(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.server.as_ref().unwrap().connections() > 0 {
            assert!(Instant::now() < deadline, "connections hang");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A small generator of numbers from a seed (splitmix64), so that a failure can be replayed.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}
