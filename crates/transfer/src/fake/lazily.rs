//! Pulls of images that are used before they are there, ended at any moment: what they leave, and what they do not.

use super::{HostPool, TestPool, converse, image};
use crate::allowed::Allowed;
use crate::lazy::{DependantId, Fetching, Kept, Origins, fetch, pull_lazily};
use crate::message::Message;
use crate::order::{Account, Caller, Failed, Moved, Progress, Terms, Unwatched, answer, pull};
use crate::v1;
use crate::v1::message::Kind;
use crate::wire::{Fate, wire_pair_through};
use blockyard_block::{BlockDevice, Error, ErrorKind, HashAlgorithm, ImageId, ImageName, Result};
use blockyard_io::{HostDirectory, block_on};
use blockyard_pool::{Client, ExtentHashes, Volume, root_hash};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
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
            let _ =
                block_on(answer(theirs, &from.pool, &allowed, 1, &Unwatched, |_| Ok(()), &origins));
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
    let cut = pull_from(&from, &to, false, &Unwatched, cut_at(36)).unwrap_err();
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

/// Notes how far it came.
#[derive(Default)]
struct Seen(Cell<Moved>);

impl Progress for Seen {
    fn moved(&self, moved: Moved) {
        self.0.set(moved);
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

#[test]
fn wrong_clusters_of_an_origin_that_hangs_up_end_the_pull_for_good_and_did_not_come() {
    let (from, to) = (TestPool::new(HashAlgorithm::Blake3), TestPool::new(HashAlgorithm::Blake3));
    source(&from);
    let is_spoilt = Arc::new(AtomicBool::new(false));
    let line = move |mut message: v1::Message| {
        if let Some(Kind::Clusters(clusters)) = &mut message.kind {
            if is_spoilt.load(Ordering::Relaxed) {
                return Fate::IsCutOff;
            }
            let mut data = clusters.data.to_vec();
            data.iter_mut().rev().take(9).for_each(|byte| *byte ^= 0x55);
            clusters.data = data.into();
            is_spoilt.store(true, Ordering::Relaxed);
        }
        Fate::Comes(message)
    };
    let progress = Seen::default();
    let failed = pull_from(&from, &to, false, &progress, line).unwrap_err();
    assert!(!failed.cut, "{}", failed.error);
    assert_eq!(progress.0.get(), Moved { done: 0, ..progress.0.get() });
    to.assert_only(&[]);
    // What came before a cut is counted, all of it.
    let cut = pull_from(&from, &to, false, &progress, cut_at(30)).unwrap_err();
    assert!(cut.cut, "{}", cut.error);
    assert_eq!(to.pool.left_images().len(), 1);
    let came = progress.0.get().done;
    assert_eq!(to.pool.bytes_physical(), Some(came * 4096));
}

/// An image called "web" of four extents, of which nothing is there.
fn show(place: &TestPool) -> ImageId {
    let hashes = ExtentHashes::from_bytes(vec![7; ExtentHashes::BYTES]).unwrap();
    let (size, summary) = (4 << 22, hashes.summary(HashAlgorithm::Blake3));
    let summaries: Vec<_> = (0..4).map(|index| (index, summary)).collect();
    let digest = root_hash(HashAlgorithm::Blake3, size, &summaries);
    block_on(async {
        let mut receive = place.pool.begin_receive(&image("web"), size, 1).await.unwrap();
        for (index, summary) in &summaries {
            receive.lookup().add(*index, *summary, hashes.clone()).await.unwrap();
        }
        let origin = b"origin".to_vec();
        let listed = receive.list_missing(digest, &summaries, origin, true, || Ok(())).await;
        receive.show_lazily(listed.unwrap()).await.unwrap()
    })
}

/// Cancelled once it is told.
struct Told(Arc<AtomicBool>);

impl Progress for Told {
    fn moved(&self, _moved: Moved) {}

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

#[test]
fn an_origin_that_gives_nothing_is_asked_seldom_but_at_once_for_what_a_read_waits_for() {
    let place = TestPool::new(HashAlgorithm::Blake3);
    let id = show(&place);
    let ended = Arc::new(AtomicBool::new(false));
    let (pool, ends) = (&place.pool, Arc::clone(&ended));
    let mut asked = Vec::new();
    let patience = (Duration::from_secs(20), Duration::from_secs(20));
    let side = |wire| {
        let progress = Told(ended);
        let caller = Caller {
            pool,
            terms: Terms::default(),
            quote: false,
            again: false,
            now_unix_s: 1,
            progress: &progress,
        };
        let source = image("web");
        let (dependant, background) = (DependantId([3; 16]), &|| true);
        let fetching =
            Fetching { image: id, source: &source, dependant, background, missing: 4096 };
        block_on(fetch(wire, &caller, &fetching))
    };
    let done = converse(patience, side, |session| {
        let hello =
            Message::Hello { version: crate::VERSION, hash: "blake3".into(), pool: [9; 16] };
        session.send(hello).unwrap();
        session.receive().unwrap(); // Hello
        session.receive().unwrap(); // Order
        session.send(Message::Held).unwrap();
        session.send(Message::Profile(Vec::new())).unwrap();
        let mut window: Vec<Message> = (0..4).map(|_| session.receive().unwrap()).collect();
        let reader = pool.open_image(&image("web"), client()).unwrap();
        let waits = thread::spawn(move || block_on(reader.read(15 << 20, 4096)).map(drop));
        while !pool.has_demand(id) {
            thread::sleep(Duration::from_millis(5));
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(1_500) {
            for wanted in window.drain(..) {
                let Message::Wanted { index, slots } = wanted else { panic!("{}", wanted.name()) };
                session.send(Message::Withheld { index, slots }).unwrap();
                asked.push(index);
            }
            window.extend(session.receive());
        }
        assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Io);
        ends.store(true, Ordering::Relaxed);
    });
    assert_eq!(done.unwrap_err().error.kind(), ErrorKind::ShutDown);
    assert_eq!(asked[..5], [0, 0, 0, 0, 3], "the read's, and no other");
    // All of 64 messages, if it did not rest; a few after one second else.
    assert!((6..=14).contains(&asked.len()), "{asked:?}");
    let told = pool.lazy_image(id).unwrap();
    assert!(told.bytes_refused >= (4 * 64 + 33) * 4096, "{told:?}");
}

fn client() -> Client {
    Client { connection: 1, pid: None, uid: None, writes: false, purpose: "test".to_owned() }
}
