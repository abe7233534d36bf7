//! A peer that says whatever a test wants, to either role with a pool of its own behind it.

mod every_message;
mod nonsense;
mod two_pools;

use crate::allowed::Allowed;
use crate::lazy::NoOrigins;
use crate::message::Message;
use crate::order::{Account, Failed, Unwatched, answer};
use crate::v1;
use crate::wire::{Session, Wire, wire_pair};
use blockyard_block::{BlockDevice, Buffer, HashAlgorithm, ImageName, Result};
use blockyard_io::{HostDirectory, HostDisk, HostOptions, MappedFile, block_on};
use blockyard_pool::{Client, CreateOptions, OpenOptions, Pool, PoolId, Volume};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub(crate) type HostPool = Pool<HostDirectory>;

/// Bytes that each pool may hold.
pub(crate) const CAPACITY: u64 = 64 << 20;

/// A pool in a folder of its own, with the threads that it needs; closed and gone when dropped.
pub(crate) struct TestPool {
    pub(crate) pool: Arc<HostPool>,
    threads: Vec<thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl TestPool {
    pub(crate) fn new(hash: HashAlgorithm) -> TestPool {
        let folder = tempfile::tempdir().unwrap();
        let options = HostOptions {
            direct: false,
            read_only: false,
            fence: None,
            fence_wait: Duration::from_secs(1),
        };
        let directory = HostDirectory::create(folder.path(), options.clone()).unwrap();
        let data = HostDisk::create(folder.path().join("data"), &options).unwrap();
        let made = CreateOptions {
            id: PoolId([7; 16]),
            hash,
            log_segments: 4,
            log_segment_bytes: 1 << 20,
            data_on_device: false,
            now_unix_s: 1,
        };
        block_on(Pool::create(&directory, &data, &made)).unwrap();
        let journal = MappedFile::open(
            folder.path().join("journal"),
            HostPool::JOURNAL_BYTES as u64,
            Duration::from_secs(1),
        );
        let opened = OpenOptions {
            capacity_bytes: Some(CAPACITY),
            space_reserve_bytes: 0,
            commit_interval_ms: 50,
            ..OpenOptions::default()
        };
        let journal = Box::new(journal.unwrap());
        let pool = block_on(Pool::open(directory, data, journal, opened)).unwrap();
        let run = |run: fn(&HostPool)| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || run(&pool))
        };
        let (ticked, started) = (Arc::downgrade(&pool), Instant::now());
        // Ends with the pool.
        thread::spawn(move || {
            while let Some(pool) = ticked.upgrade() {
                pool.tick(started.elapsed().as_millis() as u64);
                drop(pool);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let threads = vec![
            run(|pool| block_on(pool.run_sync())),
            run(|pool| block_on(pool.run_commit())),
            run(|pool| block_on(pool.run_maintenance())),
        ];
        TestPool { pool, threads, _folder: folder }
    }

    /// An image with this content.
    pub(crate) fn image(&self, name: &str, bytes: &[u8]) -> Volume<HostDirectory> {
        block_on(self.pool.create_image(&image(name), bytes.len() as u64, 1)).unwrap();
        let client = |writes| Client {
            connection: 1,
            pid: None,
            uid: None,
            writes,
            purpose: "test".to_owned(),
        };
        let volume = self.pool.open_image(&image(name), client(true)).unwrap();
        block_on(volume.write(0, Buffer::copy_of(bytes), false)).unwrap();
        self.pool.open_image(&image(name), client(false)).unwrap()
    }

    /// Removes what was left to go on with.
    pub(crate) fn remove_left(&self) {
        self.pool.remove_left(1, |_| true);
    }

    /// Nothing of a transfer is left: no image but these, no file of the index, no space in use beside.
    pub(crate) fn assert_only(&self, names: &[&str]) {
        let found: Vec<String> =
            self.pool.images().into_iter().map(|image| image.name.to_string()).collect();
        assert_eq!(found, names);
        let mapped: u64 = self.pool.images().iter().map(|image| image.bytes_mapped).sum();
        for _ in 0..500 {
            if self.pool.bytes_physical() == Some(mapped) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} bytes are used, {mapped} mapped", self.pool.bytes_physical());
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        let _ = block_on(self.pool.shutdown()); // a test that failed need not end well
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(crate) fn image(name: &str) -> ImageName {
    ImageName::parse(name).unwrap()
}

/// A session of a thread that says what a test wants.
pub(crate) struct Peer<'a>(Session<'a>);

impl Peer<'_> {
    pub(crate) fn send(&mut self, message: Message) -> Result<()> {
        block_on(self.0.send(message))
    }

    pub(crate) fn send_raw(&mut self, message: v1::Message) {
        block_on(self.0.send_raw(message));
    }

    pub(crate) fn receive(&mut self) -> Result<Message> {
        block_on(self.0.receive())
    }
}

/// What `pool` makes of a caller that says what `fake` says; whoever may call may do everything.
pub(crate) fn called(
    pool: &Arc<HostPool>,
    patience: (Duration, Duration),
    fake: impl FnOnce(&mut Peer<'_>) + Send,
) -> Result<Account, Failed> {
    let allowed = Allowed { push: true, pull: true, images: Vec::new() };
    let side = |wire| block_on(answer(wire, pool, &allowed, 1, &Unwatched, |_| Ok(()), &NoOrigins));
    converse(patience, side, fake)
}

/// What came of `side` speaking to `fake`.
pub(crate) fn converse<T>(
    (stall, alive_max): (Duration, Duration),
    side: impl FnOnce(Wire) -> Result<T, Failed>,
    fake: impl FnOnce(&mut Peer<'_>) + Send,
) -> Result<T, Failed> {
    let runtime = Runtime::new().unwrap();
    let (ours, theirs) = wire_pair(runtime.handle());
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut session = Peer(Session::new(theirs, &Unwatched));
            fake(&mut session);
            // It stays on the line until the other side has ended.
            while session.receive().is_ok() {}
        });
        side(ours.with_patience(stall, alive_max))
    })
}

/// The greeting of a caller with this pool's hash, and its order.
pub(crate) fn greet(session: &mut Peer<'_>, order: crate::order::Order) {
    let hello =
        Message::Hello { version: crate::VERSION, hash: "blake3".to_owned(), pool: [9; 16] };
    session.send(hello).unwrap();
    session.send(Message::Order(order)).unwrap();
    session.receive().unwrap();
}
