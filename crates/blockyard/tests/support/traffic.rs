//! A client that never rests: several connections to one image, each with many requests in flight,
//! writing tagged blocks to random places until the daemon is gone. Every reply is judged against
//! the model.

use super::Daemon;
use super::model::{Model, UNIT};
use super::pipelined::{Command, FUA, NO_HOLE, Replies, Requests, connect};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

/// An image under test: what it holds, and the next tag.
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) model: Mutex<Model>,
    tags: AtomicU32,
}

impl Image {
    pub(crate) fn new(name: &str, number: u64, size: u64) -> Arc<Image> {
        let model = Mutex::new(Model::new(number, size));
        Arc::new(Image { name: name.to_owned(), model, tags: AtomicU32::new(1) })
    }
}

/// What a reply is to.
type ByCookie = HashMap<u64, (Command, Range<u64>)>;

/// Requests of one connection.
struct InFlight {
    /// `None` once the daemon is gone.
    requests: Mutex<Option<ByCookie>>,
    reply_came: Condvar,
}

/// The threads of one connection.
pub(crate) struct Connection {
    sender: JoinHandle<()>,
    receiver: JoinHandle<u64>,
}

impl Connection {
    /// Opens it and goes on until the daemon is gone.
    pub(crate) fn start(daemon: &Daemon, image: &Arc<Image>, depth: usize, seed: u64) -> Self {
        let (requests, replies) = connect(daemon, &image.name);
        let in_flight = Arc::new(InFlight {
            requests: Mutex::new(Some(HashMap::new())),
            reply_came: Condvar::new(),
        });
        let (of_sender, sent) = (Arc::clone(image), Arc::clone(&in_flight));
        let of_receiver = Arc::clone(image);
        Connection {
            sender: thread::spawn(move || {
                send_all(requests, &of_sender, &sent, depth, Random(seed));
            }),
            receiver: thread::spawn(move || receive_all(replies, &of_receiver, &in_flight)),
        }
    }

    /// Waits until the last reply has been read; returns how many came.
    pub(crate) fn finish(self) -> u64 {
        self.sender.join().unwrap();
        self.receiver.join().unwrap()
    }
}

fn send_all(
    mut requests: Requests,
    image: &Image,
    in_flight: &InFlight,
    depth: usize,
    mut random: Random,
) {
    for cookie in 0.. {
        let (command, flags, bytes, payload) = loop {
            if let Some(chosen) = choose(image, &mut random) {
                break chosen;
            }
        };
        let mut sent = in_flight.requests.lock().unwrap();
        while sent.as_ref().is_some_and(|sent| sent.len() >= depth) {
            sent = in_flight.reply_came.wait(sent).unwrap();
        }
        let Some(open) = sent.as_mut() else { return };
        open.insert(cookie, (command, bytes.clone()));
        drop(sent);
        if requests.send(command, flags, cookie, &bytes, &payload).is_err() {
            return;
        }
    }
}

/// A request that meets no other in flight; it is in the model from now on, sent or not.
fn choose(image: &Image, random: &mut Random) -> Option<(Command, u16, Range<u64>, Vec<u8>)> {
    let (command, unit, units_max) = match random.below(100) {
        0..45 => (Command::Write, 4096, 1),
        45..60 => (Command::Write, UNIT, 80),
        60..68 => (Command::Write, 65536, 1),
        68..71 => (Command::Write, 65536, 6),
        71..78 => (Command::Trim, 4096, 48),
        78..80 => (Command::Trim, UNIT, 200),
        80..86 => (Command::WriteZeroes, 4096, 20),
        86..88 => (Command::WriteZeroes, UNIT, 100),
        88..97 => (Command::Read, UNIT, 300),
        _ => return Some((Command::Flush, 0, 0..0, Vec::new())),
    };
    let flags = match command {
        Command::Read => 0,
        Command::WriteZeroes if random.below(2) == 0 => NO_HOLE,
        _ if random.below(16) == 0 => FUA,
        _ => 0,
    };
    let mut model = image.model.lock().unwrap();
    let length = unit * (1 + random.below(units_max));
    let start = unit * random.below((model.size() - length) / unit + 1);
    let bytes = start..start + length;
    let tag = match command {
        Command::Write => image.tags.fetch_add(1, Ordering::Relaxed),
        _ => 0,
    };
    let free = match command {
        Command::Read => model.begin_read(&bytes),
        _ => model.begin(&bytes, tag),
    };
    let payload = if tag == 0 { Vec::new() } else { model.content(&bytes, tag) };
    free.then_some((command, flags, bytes, payload))
}

/// Counts the replies. Ends when the daemon is gone.
fn receive_all(mut replies: Replies, image: &Image, in_flight: &InFlight) -> u64 {
    let mut count = 0;
    while let Ok((cookie, code)) = replies.take() {
        let request = in_flight.requests.lock().unwrap().as_mut().unwrap().remove(&cookie);
        let (command, bytes) = request.expect("a reply to nothing");
        assert_eq!(code, 0, "{command:?} of {bytes:?} failed");
        if command == Command::Read {
            let Ok(found) = replies.take_data((bytes.end - bytes.start) as usize) else { break };
            image.model.lock().unwrap().settle(&bytes, &found).unwrap();
        } else {
            image.model.lock().unwrap().acknowledge(&bytes);
        }
        count += 1;
        in_flight.reply_came.notify_all();
    }
    *in_flight.requests.lock().unwrap() = None;
    in_flight.reply_came.notify_all();
    count
}

/// Xorshift: a seed replays the choices, not their timing.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }
}
