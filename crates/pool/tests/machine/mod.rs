//! A simulated machine with one pool on it, and the few words the stories of these tests need.

use blockyard_block::{BlockDevice, Buffer, HashAlgorithm, ImageName, Segment};
use blockyard_io::Directory;
use blockyard_pool::{Client, CreateOptions, OpenOptions, Pool, PoolId, Volume};
use blockyard_sim::{Executor, SimDirectory, SimWorld};
use std::future::Future;
use std::sync::Arc;

pub(crate) type SimPool = Arc<Pool<SimDirectory>>;

pub(crate) struct Machine {
    pub(crate) world: SimWorld,
    pub(crate) executor: Executor,
    now_ms: u64,
    capacity_bytes: Option<u64>,
    reserve_bytes: u64,
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) verify_reads: bool,
}

pub(crate) fn name(text: &str) -> ImageName {
    ImageName::parse(text).unwrap()
}

pub(crate) fn client(writes: bool) -> Client {
    Client { connection: 1, pid: None, uid: None, writes, purpose: "test".to_owned() }
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Machine {
        Machine::with_hash(seed, HashAlgorithm::Blake3)
    }

    /// One whose pool allocates at most this much.
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) fn with_capacity(seed: u64, bytes: u64) -> Machine {
        Machine { capacity_bytes: Some(bytes), ..Machine::new(seed) }
    }

    /// What the pool may allocate from the next open on.
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) fn limit_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = Some(bytes);
    }

    /// What the pool leaves alone on the file system, from the next open on.
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) fn reserve_space(&mut self, bytes: u64) {
        self.reserve_bytes = bytes;
    }

    /// Lets the file system have so much room from now on.
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) fn leave_room(&mut self, bytes: u64) {
        let world = self.world.clone();
        self.run(async move {
            let plenty = 1 << 40;
            world.set_capacity(Some(plenty));
            let used = plenty - world.directory().space_available().await.unwrap();
            world.set_capacity(Some(used + bytes));
        });
    }

    pub(crate) fn with_hash(seed: u64, hash: HashAlgorithm) -> Machine {
        let world = SimWorld::new(seed);
        let executor = Executor::new(&world);
        let mut machine = Machine {
            world,
            executor,
            now_ms: 0,
            capacity_bytes: None,
            reserve_bytes: 0,
            verify_reads: false,
        };
        let directory = machine.world.directory();
        machine.executor.run(async move {
            let data = directory.create("data").await.unwrap();
            let options = CreateOptions {
                id: PoolId([9; 16]),
                hash,
                log_segments: 4,
                log_segment_bytes: 256 << 10,
                data_on_device: false,
                now_unix_s: 1,
            };
            Pool::create(&directory, &data, &options).await.unwrap();
        });
        machine
    }

    pub(crate) fn open(&mut self) -> SimPool {
        let directory = self.world.directory();
        let journal = Box::new(self.world.mapped(1 << 20));
        let options = OpenOptions {
            boot_id: self.world.boot_id(),
            capacity_bytes: self.capacity_bytes,
            grow_regions: 1,
            space_reserve_bytes: self.reserve_bytes,
            sort_records_max: 100,
            verify_reads: self.verify_reads,
            ..OpenOptions::default()
        };
        let pool = self.executor.run(async move {
            let data = directory.open("data").await.unwrap();
            Pool::open(directory, data, journal, options).await.unwrap()
        });
        let tasks = [0, 1, 2, 3].map(|_| Arc::clone(&pool));
        let [sync, commit, maintenance, reclaim] = tasks;
        self.executor.spawn(async move { sync.run_sync().await });
        self.executor.spawn(async move { commit.run_commit().await });
        self.executor.spawn(async move { maintenance.run_maintenance().await });
        self.executor.spawn(async move { reclaim.run_reclaim().await });
        pool
    }

    /// Closes the pool in order.
    #[allow(dead_code, reason = "each test program uses a part of the machine")]
    pub(crate) fn shut_down(&mut self, pool: SimPool) {
        let closing = Arc::clone(&pool);
        let done = self.executor.spawn(async move { closing.shutdown().await.unwrap() });
        while !done.is_done() {
            self.pass(&pool, 50);
        }
    }

    pub(crate) fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.executor.run(future)
    }

    /// Lets this much time pass.
    pub(crate) fn pass(&mut self, pool: &SimPool, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            pool.tick(self.now_ms);
            self.executor.run_until_idle();
        }
    }
}

pub(crate) fn pattern(tag: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| tag ^ (at % 251) as u8).collect()
}

pub(crate) async fn read(volume: &Volume<SimDirectory>, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in volume.read(offset, length).await.unwrap() {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(&data),
            Segment::Zeroes(count) => bytes.resize(bytes.len() + count as usize, 0),
        }
    }
    bytes
}

pub(crate) async fn write(volume: &Volume<SimDirectory>, offset: u64, bytes: &[u8]) {
    volume.write(offset, Buffer::copy_of(bytes), false).await.unwrap();
}

/// Bytes of distinct contents.
#[allow(dead_code, reason = "each test program uses a part of the machine")]
pub(crate) async fn unique(pool: &SimPool) -> u64 {
    pool.count_contents().await.unwrap().unwrap().distinct * 4096
}
