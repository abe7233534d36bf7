//! Pulls of images that are used before they are there, ended at any moment: what they leave, and what they do not.

use super::{HostPool, TestPool, image};
use crate::allowed::Allowed;
use crate::lazy::{DependantId, Kept, Origins, pull_lazily};
use crate::order::{Account, Caller, Failed, Moved, Progress, Terms, Unwatched, answer, pull};
use crate::v1;
use crate::wire::{Fate, wire_pair_through};
use blockyard_block::{Error, ErrorKind, HashAlgorithm, ImageName, Result};
use blockyard_io::{HostDirectory, block_on};
use blockyard_pool::Volume;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tokio::runtime::Runtime;

/// Keeps for as long as a call takes what it sends.
struct Holds(Arc<HostPool>);

impl Origins<HostDirectory> for Holds {
    fn hold<'a>(
        &'a self,
        image: &'a ImageName,
        _dependant: DependantId,
    ) -> Kept<'a, Volume<HostDirectory>> {
        Box::pin(self.0.hold_snapshot(image, false, 1))
    }

    fn open(
        &self,
        image: &ImageName,
        _dependant: DependantId,
    ) -> Result<(Volume<HostDirectory>, Vec<u32>)> {
        Ok((block_on(self.0.hold_snapshot(image, false, 1))?, Vec::new()))
    }

    fn let_go(&self, _dependant: DependantId) -> Kept<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Ends at the look of this number, counted from one.
struct Ends {
    looks: Cell<u64>,
    at: u64,
    /// Cancelled; else the daemon stops.
    cancels: bool,
}

impl Ends {
    fn looks(&self, counts: bool) -> bool {
        self.looks.set(self.looks.get() + u64::from(counts));
        self.looks.get() >= self.at
    }
}

impl Progress for Ends {
    fn moved(&self, _moved: Moved) {}

    fn is_cancelled(&self) -> bool {
        self.looks(self.cancels) && self.cancels
    }

    fn is_stopping(&self) -> bool {
        self.looks(!self.cancels) && !self.cancels
    }
}

/// A line that is cut at the message of this number.
fn cut_at(number: u64) -> impl Fn(v1::Message) -> Fate + Clone + Send + 'static {
    let count = Arc::new(AtomicU64::new(0));
    move |message| match count.fetch_add(1, Ordering::Relaxed) >= number {
        true => Fate::IsCutOff,
        false => Fate::Comes(message),
    }
}

/// Pulls "here" of one pool as "there" into the other.
fn pull_from(
    from: &TestPool,
    to: &TestPool,
    lazy: bool,
    progress: &dyn Progress,
    line: impl Fn(v1::Message) -> Fate + Clone + Send + 'static,
) -> Result<Account, Failed> {
    let runtime = Runtime::new().unwrap();
    let (ours, theirs) = wire_pair_through(runtime.handle(), line);
    thread::scope(|scope| {
        scope.spawn(move || {
            let allowed = Allowed { pull: true, ..Allowed::default() };
            let origins = Holds(Arc::clone(&from.pool));
            // How it ends the other side tells.
            let _ = block_on(answer(theirs, &from.pool, &allowed, 1, &Unwatched, |_| {}, &origins));
        });
        let caller = Caller {
            pool: &to.pool,
            terms: Terms::default(),
            quote: false,
            again: false,
            now_unix_s: 1,
            progress,
        };
        let (here, there) = (image("here"), image("there"));
        let dependant = DependantId([3; 16]);
        match lazy {
            true => {
                let origin = b"origin".to_vec();
                block_on(pull_lazily(ours, &caller, &here, &there, dependant, origin))
            }
            false => block_on(pull(ours, &caller, &here, &there)),
        }
    })
}

/// Twelve extents with twenty clusters each.
fn source(place: &TestPool) {
    let mut bytes = vec![0; 12 << 22];
    for (number, extent) in bytes.chunks_mut(1 << 22).enumerate() {
        for slot in 0..20 {
            let tag = (number * 20 + slot) as u32 + 1;
            extent[slot * 8192..][..4].copy_from_slice(&tag.to_le_bytes());
        }
    }
    drop(place.image("here", &bytes));
}

fn assert_ends(failed: &Failed, cut: bool) {
    let error: &Error = &failed.error;
    assert_eq!((error.kind(), failed.cut), (ErrorKind::ShutDown, cut), "{error}");
}

#[test]
fn a_lazy_pull_that_ends_at_any_moment_leaves_no_list_and_if_cut_off_all_that_came_before() {
    let (from, to) = (TestPool::new(HashAlgorithm::Blake3), TestPool::new(HashAlgorithm::Blake3));
    source(&from);
    // A plain pull, before, brought a part.
    let cut = pull_from(&from, &to, false, &Unwatched, cut_at(30)).unwrap_err();
    assert!(cut.cut, "{}", cut.error);
    let part = || -> u64 { to.pool.bytes_physical().unwrap() };
    let came = part();
    assert!(came > 0 && to.pool.left_images().len() == 1);
    let mut ends = 0;
    loop {
        let progress = Ends { looks: Cell::new(0), at: ends + 1, cancels: false };
        let Err(failed) = pull_from(&from, &to, true, &progress, Fate::Comes) else { break };
        assert_ends(&failed, true);
        to.assert_no_sorts();
        assert_eq!(to.files("lazy"), [""; 0], "ended at look {}", ends + 1);
        assert_eq!(to.pool.left_images().len(), 1, "ended at look {}", ends + 1);
        assert!(part() >= came, "ended at look {}", ends + 1);
        ends += 1;
    }
    // Lists, what is found and what is missing were gone through: twelve extents each.
    assert!(ends > 36, "the last end was at look {ends}");
    assert!(to.pool.lazy_images()[0].bytes_missing < 240 * 4096);
    block_on(to.pool.remove_image(&image("there"), true)).unwrap();
    to.assert_only(&[]);
}

#[test]
fn a_lazy_pull_that_is_cancelled_leaves_nothing() {
    let (from, to) = (TestPool::new(HashAlgorithm::Blake3), TestPool::new(HashAlgorithm::Blake3));
    source(&from);
    let mut ends = 0;
    loop {
        let progress = Ends { looks: Cell::new(0), at: ends + 1, cancels: true };
        let Err(failed) = pull_from(&from, &to, true, &progress, Fate::Comes) else { break };
        assert_ends(&failed, false);
        to.assert_only(&[]);
        assert_eq!(to.files("lazy"), [""; 0], "ended at look {}", ends + 1);
        ends += 1;
    }
    assert!(ends > 36, "the last end was at look {ends}");
    block_on(to.pool.remove_image(&image("there"), true)).unwrap();
    to.assert_only(&[]);
}
