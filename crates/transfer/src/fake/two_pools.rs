//! Both roles on pools of their own, and a line between them that is cut, or flips bits, at any message.

use super::{HostPool, TestPool, image};
use crate::allowed::Allowed;
use crate::lazy::NoOrigins;
use crate::order::{Account, Caller, Failed, Terms, Unwatched, answer, push};
use crate::v1::Message;
use crate::wire::{Fate, wire_pair_through};
use blockyard_block::HashAlgorithm;
use blockyard_io::{HostDirectory, block_on};
use blockyard_pool::Volume;
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;

/// What happens to the message of this number, counted in both directions.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    Cut(u64),
    Flip(u64),
}

fn push_through(
    trouble: Trouble,
    again: bool,
    from: &Arc<HostPool>,
    source: &Volume<HostDirectory>,
    to: &Arc<HostPool>,
) -> (Result<Account, Failed>, Result<Account, Failed>) {
    let count = Arc::new(AtomicU64::new(0));
    let spoil = move |message: Message| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        match trouble {
            Trouble::Cut(at) if number >= at => Fate::IsCutOff,
            Trouble::Flip(at) if number == at => Fate::Comes(flipped(&message, u64::MAX / 2)),
            _ => Fate::Comes(message),
        }
    };
    // Only what is changed may leave both sides waiting.
    let stall = match trouble {
        Trouble::Flip(_) => Duration::from_millis(200),
        Trouble::None | Trouble::Cut(_) => Duration::from_secs(20),
    };
    push_over(spoil, stall, again, from, source, to)
}

/// The message with a bit changed; `at` is a part of `u64::MAX` of its bytes.
fn flipped(message: &Message, at: u64) -> Message {
    let mut bytes = message.encode_to_vec();
    let place = ((u128::from(at) * bytes.len() as u128) >> 64) as usize;
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << (at % 8);
    }
    Message::decode(bytes.as_slice()).unwrap_or_default()
}

fn push_over(
    line: impl Fn(Message) -> Fate + Clone + Send + 'static,
    stall: Duration,
    again: bool,
    from: &Arc<HostPool>,
    source: &Volume<HostDirectory>,
    to: &Arc<HostPool>,
) -> (Result<Account, Failed>, Result<Account, Failed>) {
    let runtime = Runtime::new().unwrap();
    let (ours, theirs) = wire_pair_through(runtime.handle(), line);
    let patience = (stall, Duration::from_secs(20));
    // What is asked for again goes on in turn, without threads.
    let threads = if again { 0 } else { 2 };
    thread::scope(|scope| {
        let allowed = Allowed { push: true, ..Allowed::default() };
        let answering = scope.spawn(move || {
            let theirs = theirs.with_patience(patience.0, patience.1).with_threads(threads);
            block_on(answer(theirs, to, &allowed, 1, &Unwatched, |_| Ok(()), &NoOrigins))
        });
        let caller = Caller {
            pool: from,
            terms: Terms::default(),
            quote: false,
            again,
            now_unix_s: 1,
            progress: &Unwatched,
        };
        let ours = ours.with_patience(patience.0, patience.1).with_threads(threads);
        let pushed = block_on(push(ours, &caller, source, &image("there")));
        (pushed, answering.join().unwrap())
    })
}

/// Twelve extents with a few clusters each, some of them the same.
fn source(place: &TestPool) -> Volume<HostDirectory> {
    let mut bytes = vec![0; 12 << 22];
    for (number, extent) in bytes.chunks_mut(1 << 22).enumerate() {
        for slot in 0..20 {
            let tag = (number * 20 + slot) % 211 + 1;
            extent[slot * 8192..][..4096].fill(tag as u8);
        }
    }
    place.image("here", &bytes)
}

fn cut_and_go_on(hash: HashAlgorithm) {
    let (from, to) = (TestPool::new(hash), TestPool::new(hash));
    let source = source(&from);
    let digest = block_on(source.digest()).unwrap();
    let whole = push_through(Trouble::None, false, &from.pool, &source, &to.pool).0.unwrap();
    block_on(to.pool.remove_image(&image("there"), false)).unwrap();
    to.assert_only(&[]);
    let mut cut_at = 0;
    loop {
        let (pushed, received) =
            push_through(Trouble::Cut(cut_at), false, &from.pool, &source, &to.pool);
        let (Err(failed), first) = (pushed, received) else { break };
        assert!(failed.cut, "cut at {cut_at}: {}", failed.error);
        let came = first.map_or_else(|failed| failed.bytes_received, |done| done.bytes_received);
        let next = push_through(Trouble::None, true, &from.pool, &source, &to.pool).0;
        let account = next.unwrap_or_else(|failed| panic!("cut at {cut_at}: {}", failed.error));
        assert_eq!(block_on(to.pool.digest(&image("there"))).unwrap(), digest);
        assert!(account.clusters_sent <= whole.clusters_sent);
        // Whatever came did not come again, but for lists and what was in flight.
        if came > 700 << 10 {
            assert!(account.clusters_sent < whole.clusters_sent, "cut at {cut_at}: {account:?}");
        }
        block_on(to.pool.remove_image(&image("there"), false)).unwrap();
        to.assert_only(&[]);
        cut_at += if cut_at < 10 { 1 } else { 4 };
    }
    assert!(cut_at > 40, "the last cut was at {cut_at}");
}

#[test]
fn a_line_that_is_cut_at_any_message_costs_nothing_that_came() {
    cut_and_go_on(HashAlgorithm::Blake3);
}

#[test]
fn so_it_is_in_sha1_pools() {
    cut_and_go_on(HashAlgorithm::Sha1);
}

#[test]
fn a_bit_that_flips_in_any_message_never_makes_another_image() {
    let (from, to) = (TestPool::new(HashAlgorithm::Blake3), TestPool::new(HashAlgorithm::Blake3));
    let source = source(&from);
    let digest = block_on(source.digest()).unwrap();
    for at in (0..12).chain((12..60).step_by(5)) {
        drop(push_through(Trouble::Flip(at), false, &from.pool, &source, &to.pool));
        if to.pool.image(&image("there")).is_ok() {
            assert_eq!(block_on(to.pool.digest(&image("there"))).unwrap(), digest, "flip in {at}");
            block_on(to.pool.remove_image(&image("there"), false)).unwrap();
        }
        for other in to.pool.images() {
            // The name itself was hit.
            block_on(to.pool.remove_image(&other.name, false)).unwrap();
        }
        to.remove_left();
        to.assert_only(&[]);
    }
}

/// A line that does all of it, by a seed. Counts what it did: lost, late, cut off, changed.
#[derive(Clone)]
struct Lossy {
    state: Arc<AtomicU64>,
    counts: Arc<[AtomicU64; 4]>,
}

impl Lossy {
    fn random(&self) -> u64 {
        // splitmix64
        let mut value = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn fate(&self, message: Message) -> Fate {
        let what = self.random() % 300;
        if let Some(count) = self.counts.get(what as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        match what {
            0 => Fate::IsLost,
            1 => Fate::ComesLate(message, Duration::from_millis(self.random() % 30)),
            2 => Fate::IsCutOff,
            3 => Fate::Comes(flipped(&message, self.random())),
            _ => Fate::Comes(message),
        }
    }
}

#[test]
fn over_a_line_that_loses_delays_cuts_and_corrupts_the_image_comes_as_it_is_or_not_at_all() {
    let counts: Arc<[AtomicU64; 4]> = Arc::default();
    for (hash, seeds) in [(HashAlgorithm::Blake3, 0..12), (HashAlgorithm::Sha1, 12..16)] {
        let (from, to) = (TestPool::new(hash), TestPool::new(hash));
        let source = source(&from);
        let digest = block_on(source.digest()).unwrap();
        for seed in seeds {
            let line =
                Lossy { state: Arc::new(AtomicU64::new(seed << 32)), counts: counts.clone() };
            let mut attempts = 0;
            loop {
                let each = line.clone();
                let fate = move |message| each.fate(message);
                let pushed = push_over(
                    fate,
                    Duration::from_millis(200),
                    attempts > 0,
                    &from.pool,
                    &source,
                    &to.pool,
                )
                .0;
                attempts += 1;
                let there = block_on(to.pool.digest(&image("there")));
                assert!(there.as_ref().map_or(true, |there| *there == digest), "seed {seed}");
                for other in to.pool.images() {
                    // The order's name was hit.
                    if other.name != image("there") {
                        block_on(to.pool.remove_image(&other.name, false)).unwrap();
                    }
                }
                if pushed.is_ok() && there.is_ok() {
                    break;
                }
                assert!(attempts < 200, "seed {seed}: {:?}", pushed.err().map(|it| it.error));
            }
            to.remove_left();
            block_on(to.pool.remove_image(&image("there"), false)).unwrap();
            to.assert_only(&[]);
        }
    }
    for (count, what) in counts.iter().zip(["lost", "late", "cut off", "changed"]) {
        assert_ne!(count.load(Ordering::Relaxed), 0, "nothing was {what}");
    }
}
