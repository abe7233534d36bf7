//! Clients that vanish, never listen, lie or talk nonsense, slow devices, and a server that goes away.

use crate::support::client::*;
use crate::support::memory::MemoryDisk;
use crate::support::{Fixture, Seeded};
use blockyard_nbd::Limits;
use std::io::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn fixture_with(disk: MemoryDisk, limits: Limits) -> (Fixture, Arc<MemoryDisk>) {
    let disk = Arc::new(disk);
    (Fixture::new([("disk", Arc::clone(&disk))], limits), disk)
}

#[test]
fn a_client_that_vanishes_in_a_payload_leaves_no_part_of_it() {
    let (fixture, disk) = fixture_with(MemoryDisk::new(64 * MIB), crate::limits());
    for sent in [0, 1, 5000, 1 << 20] {
        let mut client = Client::open(&fixture.socket, "disk", false);
        client.request(0, WRITE, 1, 0, 2 << 20);
        client.send(&vec![9; sent]);
        drop(client);
        fixture.wait_until_alone();
    }
    fixture.event(&["Disconnected", "closed within a request"]);
    assert_eq!(disk.bytes(0, 4096), [0; 4096]);
}

#[test]
fn requests_before_a_goodbye_are_done_and_answered() {
    let mut slow = MemoryDisk::new(MIB);
    slow.delay = Duration::from_millis(100);
    let (fixture, disk) = fixture_with(slow, crate::limits());
    let mut client = Client::open(&fixture.socket, "disk", false);
    let mut bytes = Vec::new();
    for cookie in 0..20 {
        bytes.extend(request_bytes(0, WRITE, cookie, cookie * 512, 512));
        bytes.extend([cookie as u8 + 1; 512]);
    }
    bytes.extend(request_bytes(0, DISC, 99, 0, 0));
    bytes.extend(request_bytes(0, WRITE, 100, 0, 1));
    client.send(&bytes);
    let answers = client.answers(&(0..20).collect::<Vec<_>>(), 0);
    assert!(answers.values().all(|chunks| chunks[..] == [Chunk::None]));
    assert!(client.is_closed());
    fixture.event(&["Disconnected", "Goodbye", "writes: 20"]);
    assert_eq!(disk.bytes(19 * 512, 1), [20]);
}

/// The whole queue of 32 reads must be under way at once, up to the number of threads.
pub(crate) fn keeps_busy(disk: MemoryDisk, at_once: RangeInclusive<usize>) {
    let (fixture, disk) = fixture_with(disk, crate::limits());
    let mut client = Client::open(&fixture.socket, "disk", false);
    for _ in 0..4 {
        let cookies: Vec<u64> = (0..32).collect();
        let read = |cookie: &u64| request_bytes(0, READ, *cookie, cookie * 4096, 4096);
        client.send(&cookies.iter().flat_map(read).collect::<Vec<u8>>());
        client.answers(&cookies, 4096);
    }
    let busiest = disk.running_max.load(Ordering::SeqCst);
    assert!(at_once.contains(&busiest), "{busiest} at once");
}

#[test]
fn a_queue_of_requests_keeps_a_device_busy_that_answers_later() {
    let mut disk = MemoryDisk::new(MIB);
    disk.delay = Duration::from_millis(30);
    keeps_busy(disk, if crate::limits().io_threads > 0 { 32..=32 } else { 12..=16 });
}

#[test]
fn a_request_that_waits_does_not_hold_up_a_quick_one_behind_it() {
    let mut disk = MemoryDisk::new(MIB);
    disk.delay = Duration::from_millis(500);
    let (fixture, _) = fixture_with(disk, crate::limits());
    let mut client = Client::open(&fixture.socket, "disk", false);
    client.request(0, FLUSH, 1, 0, 0);
    client.request(0, TRIM, 2, 0, 4096);
    client.request(0, CACHE, 3, 0, 4096);
    assert_eq!(client.chunk(0).0, 3);
    client.answers(&[1, 2], 0);
}

#[test]
fn a_client_that_never_listens_holds_its_own_bound_only() {
    let limits = Limits { bytes: 8 * MIB, requests: 64, ..crate::limits() };
    let mut disk = MemoryDisk::new(64 * MIB);
    disk.delay = Duration::from_millis(1);
    let (fixture, disk) = fixture_with(disk, limits);
    let mut deaf = Client::open(&fixture.socket, "disk", true);
    deaf.write_ok(0, &vec![1; 16 << 20]);
    deaf.socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let read = request_bytes(0, READ, 1, 0, 1 << 20);
    while deaf.socket.write_all(&read).is_ok() {}
    let served = disk.running_max.load(Ordering::SeqCst);
    assert!(served <= 9, "{served} reads of 1 MiB at once within 8 MiB");
    assert_eq!(disk.running.load(Ordering::SeqCst), 0, "all have stopped at the socket");
    let mut good = Client::open(&fixture.socket, "disk", false);
    assert_eq!(good.read(0, 4096), [1; 4096]);
    drop(deaf);
    drop(good);
    fixture.wait_until_alone();
}

#[test]
fn requests_beyond_the_bound_of_bytes_are_served_one_after_the_other() {
    let limits = Limits { bytes: 1, requests: 1, threads: 1, ..crate::limits() };
    let (fixture, _) = fixture_with(MemoryDisk::new(64 * MIB), limits);
    let mut client = Client::open(&fixture.socket, "disk", true);
    let mut bytes = request_bytes(0, WRITE, 1, 0, 100_000);
    bytes.extend([7; 100_000]);
    bytes.extend(request_bytes(0, READ, 2, 0, 100_000));
    bytes.extend(request_bytes(0, FLUSH, 3, 0, 0));
    bytes.extend(request_bytes(0, WRITE, 4, 5, 10));
    bytes.extend([8; 10]);
    bytes.extend(request_bytes(0, READ, 5, 0, 20));
    client.send(&bytes);
    let answers = client.answers(&[1, 2, 3, 4, 5], 0);
    assert_eq!(assemble(0, 100_000, answers[&2].clone()), [7; 100_000]);
    assert_eq!(assemble(0, 20, answers[&5].clone())[4..16], [7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7]);
}

#[test]
fn shutdown_answers_what_was_received_and_closes() {
    let mut disk = MemoryDisk::new(MIB);
    disk.delay = Duration::from_millis(300);
    let (mut fixture, disk) = fixture_with(disk, crate::limits());
    let mut client = Client::open(&fixture.socket, "disk", false);
    let mut idle = Client::open(&fixture.socket, "disk", false);
    let mut greeting = Client::connect(&fixture.socket);
    client.request(0, WRITE, 5, 0, 3);
    client.send(b"abc");
    while disk.running.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let left = fixture.server.take().unwrap().shutdown(Duration::from_secs(10));
    assert_eq!(left, 0);
    assert_eq!(client.answer(5, 0), [Chunk::None]);
    assert!(client.is_closed() && idle.is_closed() && greeting.is_closed());
    assert_eq!(disk.bytes(0, 3), b"abc");
    fixture.event(&["Disconnected", "ShutDown"]);
    assert!(std::os::unix::net::UnixStream::connect(&fixture.socket).is_err());
    let deadline = Instant::now() + Duration::from_secs(5);
    while Arc::strong_count(&disk) > 1 {
        assert!(Instant::now() < deadline, "a device stays open");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn shutdown_cuts_off_a_client_that_does_not_listen() {
    let (mut fixture, _) = fixture_with(MemoryDisk::new(64 * MIB), crate::limits());
    let mut deaf = Client::open(&fixture.socket, "disk", false);
    deaf.write_ok(0, &vec![1; 8 << 20]);
    deaf.request(0, READ, 1, 0, 8 << 20);
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    assert_eq!(fixture.server.take().unwrap().shutdown(Duration::from_millis(300)), 0);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_panic_below_costs_one_connection_and_is_reported() {
    let mut disk = MemoryDisk::new(MIB);
    disk.defect_offset = Some(4096);
    let (fixture, _) = fixture_with(disk, crate::limits());
    let mut good = Client::open(&fixture.socket, "disk", false);
    let mut unlucky = Client::open(&fixture.socket, "disk", false);
    unlucky.request(0, READ, 1, 4096, 1);
    assert!(unlucky.is_closed());
    fixture.event(&["Disconnected", "Defect"]);
    assert_eq!(good.read(0, 10), [0; 10]);
    drop(good);
    fixture.wait_until_alone();
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let wanted = rustix::process::Rlimit { current: Some(8192), maximum: Some(8192) };
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if now.current.is_some_and(|current| current < 8192) {
        let wanted = rustix::process::Rlimit { maximum: now.maximum, ..wanted };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    }
    let (fixture, _) = fixture_with(MemoryDisk::new(64 * MIB), crate::limits());
    let mut clients: Vec<_> =
        (0..1000).map(|_| Client::open(&fixture.socket, "disk", false)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.request(0, WRITE, 1, index as u64 * 1000, 1000);
        client.send(&[index as u8; 1000]);
    }
    for client in &mut clients {
        assert_eq!(client.answer(1, 0), [Chunk::None]);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(index as u64 * 1000, 1000), [index as u8; 1000]);
    }
    drop(clients);
    fixture.wait_until_alone();
}

/// A sound session of everything, as bytes.
fn session(seeded: &mut Seeded) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option_bytes(3, b""));
    bytes.extend(option_bytes(8, b""));
    bytes.extend(option_bytes(9, &context_query("disk", &[])));
    bytes.extend(option_bytes(10, &context_query("disk", &["base:allocation"])));
    bytes.extend(option_bytes(6, &info_query("disk", &[1, 2, 3])));
    bytes.extend(option_bytes(7, &info_query("disk", &[])));
    for cookie in 0..20 {
        let offset = seeded.below(MIB);
        let length = seeded.below(30_000) as u32;
        let command = seeded.below(9) as u16;
        let command = if command == DISC { BLOCK_STATUS } else { command };
        bytes.extend(request_bytes(seeded.below(40) as u16, command, cookie, offset, length));
        if command == WRITE {
            bytes.extend(seeded.bytes(length as usize));
        }
    }
    bytes
}

/// Changes, cuts, doubles or drops some of the bytes.
fn garble(bytes: &mut Vec<u8>, seeded: &mut Seeded) {
    for _ in 0..=seeded.below(6) {
        let at = seeded.below(bytes.len() as u64) as usize;
        match seeded.below(5) {
            0 => bytes[at] = seeded.next() as u8,
            1 => bytes[at] ^= 1 << seeded.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = bytes.len().min(at + seeded.below(64) as usize);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = bytes.len().min(at + seeded.below(8) as usize);
                bytes[at..end].fill(0xff);
            }
        }
    }
}

#[test]
fn nonsense_of_any_seed_is_survived() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("BLOCKYARD_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("BLOCKYARD_SEEDS").unwrap_or(400),
    };
    let limits = Limits { handshake_time: Duration::from_secs(1), ..crate::limits() };
    let (fixture, _) = fixture_with(MemoryDisk::new(MIB), limits);
    let mut opened = 0;
    for seed in seeds {
        let mut seeded = Seeded(seed);
        let mut bytes = session(&mut seeded);
        garble(&mut bytes, &mut seeded);
        let client = Client::connect_silently(&fixture.socket);
        let mut sender = client.socket.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let _ = sender.write_all(&bytes); // the server may close early
            let _ = sender.shutdown(std::net::Shutdown::Write);
        });
        let closed = std::io::copy(&mut &client.socket, &mut std::io::sink());
        let hung = closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!hung, "the server hangs: replay with BLOCKYARD_SEED={seed}");
        sending.join().unwrap();
        drop(client);
        fixture.wait_until_alone();
        let mut events = fixture.events.lock().unwrap();
        let defect = events.iter().any(|event| event.contains("Defect"));
        assert!(!defect, "the server panicked: replay with BLOCKYARD_SEED={seed}");
        opened += usize::from(events.iter().any(|event| event.contains("Opened")));
        events.clear();
    }
    println!("{opened} sessions got past the handshake");
    let mut good = Client::open(&fixture.socket, "disk", true);
    good.write_ok(1, b"still here");
    assert_eq!(good.read(1, 10), b"still here");
}
