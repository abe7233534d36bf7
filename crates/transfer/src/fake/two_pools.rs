//! Both roles on pools of their own, and a line between them that is cut, or flips bits, at any message.

use super::{HostPool, TestPool, image};
use crate::allowed::Allowed;
use crate::order::{Account, Caller, Failed, Terms, Unwatched, answer, push};
use crate::wire::wire_pair_through;
use blockyard_block::HashAlgorithm;
use blockyard_io::{HostDirectory, block_on};
use blockyard_pool::Volume;
use prost::Message as _;
use std::sync::Arc;
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
    let runtime = Runtime::new().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let spoil = move |message: crate::v1::Message| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match trouble {
            Trouble::Cut(at) if number >= at => None,
            Trouble::Flip(at) if number == at => {
                let mut bytes = message.encode_to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                Some(crate::v1::Message::decode(bytes.as_slice()).unwrap_or_default())
            }
            _ => Some(message),
        }
    };
    let (ours, theirs) = wire_pair_through(runtime.handle(), spoil);
    let patience = (Duration::from_millis(200), Duration::from_secs(5));
    thread::scope(|scope| {
        let allowed = Allowed { push: true, ..Allowed::default() };
        let answering = scope.spawn(move || {
            let theirs = theirs.with_patience(patience.0, patience.1);
            answer(theirs, to, &allowed, 1, &Unwatched, |_| {})
        });
        let caller = Caller {
            pool: from,
            terms: Terms::default(),
            quote: false,
            again,
            now_unix_s: 1,
            progress: &Unwatched,
        };
        let ours = ours.with_patience(patience.0, patience.1);
        let pushed = push(ours, &caller, source, &image("there"));
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
