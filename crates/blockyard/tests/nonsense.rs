//! Clients that mean no good, against the program itself, however its loop is built: that say nothing,
//! read nothing, vanish in the middle, come by the thousand, or ask for more than memory holds. Others
//! are served meanwhile, memory stays bounded, and the pool is sound afterwards.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::Random;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support::host::text;
use support::pipelined::{Command, Plain, connect};
use support::{Daemon, NbdClient, Place, eventually};

const IMAGE_BYTES: u64 = 64 << 20;
const LARGEST: u64 = 32 << 20;
/// Far more than a daemon needs, and far less than what is asked for below.
const MEMORY_MAX: u64 = 1 << 30;

/// A served pool with the image "web", and a client that is served whatever others do.
struct Attacked {
    place: Place,
    daemon: Daemon,
    honest: Plain,
    writes: u64,
}

impl Attacked {
    fn new() -> Attacked {
        let place = Place::new();
        let daemon = place.serve(&[]);
        place.ok(&["image", "create", "web", &IMAGE_BYTES.to_string()]);
        place.ok(&["image", "create", "honest", "1M"]);
        let honest = Plain::open(&daemon, "honest");
        Attacked { place, daemon, honest, writes: 0 }
    }

    /// Writes, flushes and reads go on, and so does the control socket.
    fn others_are_served(&mut self) {
        self.writes += 1;
        let content = vec![self.writes as u8; 4096];
        assert_eq!(self.honest.write(8192, &content), 0);
        assert_eq!(self.honest.flush(), 0);
        assert!(self.honest.read(8192..12288) == content);
        assert!(self.place.ok(&["image", "list"]).contains("honest"));
    }

    /// Anonymous memory that the daemon has taken.
    fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.daemon.pid());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// The attackers have been forgotten, and nothing is damaged.
    fn ends_sound(self) {
        let clients =
            || self.place.json(&["image", "info", "web"])["clients"].as_array().map(Vec::len);
        eventually("the end of the last client", || clients() == Some(0));
        drop(self.honest);
        self.daemon.stop();
        self.place.ok(&["check", "--data", text(&self.place.pool())]);
    }
}

#[test]
fn a_thousand_connections_that_say_nothing_or_half_a_word_keep_nobody_out() {
    let mut attacked = Attacked::new();
    let mut silent = Vec::new();
    for number in 0..1000 {
        // The listen queue is finite: a connection that is refused for now is tried again.
        let socket = attacked.daemon.nbd_socket();
        let mut stream = None;
        eventually("a connection", || {
            stream = UnixStream::connect(&socket).ok();
            stream.is_some()
        });
        let mut stream = stream.unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(&[0, 0, 0, 3, b'I', b'H']); // it may be refused already
        }
        silent.push(stream);
        if number % 250 == 249 {
            attacked.others_are_served();
        }
    }
    let memory = attacked.memory();
    assert!(memory < MEMORY_MAX, "{memory} bytes for a thousand that said nothing");
    drop(silent);
    attacked.others_are_served();
    attacked.ends_sound();
}

#[test]
fn a_request_that_comes_byte_by_byte_keeps_nobody_waiting() {
    let mut attacked = Attacked::new();
    let mut slow = NbdClient::open(&attacked.daemon, "web");
    let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    request.extend(0_u64.to_be_bytes());
    request.extend(64_u32.to_be_bytes());
    request.extend([5; 64]);
    for (at, byte) in request.iter().enumerate() {
        slow.send(&[*byte]).unwrap();
        if at % 16 == 0 {
            attacked.others_are_served();
        }
    }
    assert_eq!(slow.reply(), Some((7, 0)));
    drop(slow);
    attacked.ends_sound();
}

/// A thousand reads of 32 MiB are 32 GiB, if they were all taken at once. Writes are done as they come.
#[test]
fn the_largest_requests_at_depth_1000_from_a_client_that_reads_nothing_take_bounded_memory() {
    let mut attacked = Attacked::new();
    for (command, count) in [(Command::Read, 1000), (Command::Write, 50)] {
        let (mut requests, replies) = connect(&attacked.daemon, "web");
        requests.give_up_after(Duration::from_secs(3));
        let payload = vec![9; if command == Command::Write { LARGEST as usize } else { 0 }];
        let mut sent = 0;
        for cookie in 0..count {
            // When the daemon takes no more, the socket is full: that is what bounds it.
            if requests.send(command, 0, cookie, &(0..LARGEST), &payload).is_err() {
                break;
            }
            sent += 1;
            if cookie % (count / 10) == 0 {
                attacked.others_are_served();
                let memory = attacked.memory();
                assert!(memory < MEMORY_MAX, "{command:?} {cookie}: {memory} bytes");
            }
        }
        println!("{command:?}: {sent} taken, {} MiB", attacked.memory() >> 20);
        assert!(sent > 0);
        attacked.others_are_served();
        assert!(attacked.memory() < MEMORY_MAX, "{} bytes", attacked.memory());
        drop((requests, replies));
    }
    attacked.others_are_served();
    attacked.ends_sound();
}

#[test]
fn clients_that_vanish_at_any_byte_leave_nothing_behind() {
    let mut attacked = Attacked::new();
    let mut random = Random::new(11);
    for round in 0..200 {
        let mut client = NbdClient::open(&attacked.daemon, "web");
        let length = 4096 * (1 + random.below(64)) as u32;
        let mut bytes = Vec::new();
        for cookie in 0..1 + random.below(4) {
            bytes.extend(0x2560_9513_u32.to_be_bytes());
            bytes.extend([0, 0, 0, random.below(2) as u8]);
            bytes.extend(cookie.to_be_bytes());
            bytes.extend((4096 * random.below(1000)).to_be_bytes());
            bytes.extend(length.to_be_bytes());
            if bytes[bytes.len() - 21] == 1 {
                bytes.resize(bytes.len() + length as usize, 3);
            }
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        let _ = client.send(&bytes); // it may be refused before the end
        drop(client);
        if round % 50 == 0 {
            attacked.others_are_served();
        }
    }
    attacked.ends_sound();
}

#[test]
fn bytes_that_mean_nothing_end_their_own_connection_and_no_other() {
    let mut attacked = Attacked::new();
    let mut random = Random::new(12);
    for round in 0..300 {
        let noise: Vec<u8> = (0..random.below(5000)).map(|_| random.below(256) as u8).collect();
        if round % 2 == 0 {
            let mut client = NbdClient::open(&attacked.daemon, "web");
            let _ = client.send(&noise); // it is closed at the first wrong byte
        } else {
            let mut stream = UnixStream::connect(attacked.daemon.nbd_socket()).unwrap();
            let _ = stream.write_all(&noise); // the same
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        if round % 100 == 0 {
            attacked.others_are_served();
        }
    }
    attacked.ends_sound();
}

#[test]
fn control_connections_that_say_nothing_keep_nobody_out() {
    let mut attacked = Attacked::new();
    let mut silent = Vec::new();
    for number in 0..300 {
        let mut stream = UnixStream::connect(attacked.daemon.api_socket()).unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(b"POST /v1/images HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
        }
        silent.push(stream);
    }
    attacked.others_are_served();
    let memory = attacked.memory();
    assert!(memory < MEMORY_MAX, "{memory}");
    drop(silent);
    attacked.ends_sound();
}
