//! A directory in memory that can lose power: what was not synced is kept apart, sector by
//! sector, and lost, torn and reordered when the power goes. Every operation may be made to fail,
//! and may take a few polls, so that others run in between.

use blockyard_block::{Buffer, BufferMut};
use blockyard_io::{Directory, Disk};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

const SECTOR: usize = 512;

/// SplitMix64: small, seeded, good enough.
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What an operation does instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Eio,
    /// Only of operations that take space; others go on as if nothing were set.
    Enospc,
    /// The power goes: this and every later operation fails until `restart`.
    PowerCut,
}

#[derive(Clone, Default)]
struct File {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What survives for sure.
    durable: Vec<u8>,
    /// Sectors written and not synced, in order.
    pending: Vec<(usize, [u8; SECTOR])>,
}

struct World {
    random: Random,
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    dark: bool,
    slow: bool,
    syncs_ignored: bool,
}

#[derive(Clone)]
pub(super) struct MemoryDirectory {
    world: Arc<Mutex<World>>,
}

pub(super) struct MemoryDisk {
    world: Arc<Mutex<World>>,
    file: usize,
}

impl MemoryDirectory {
    pub(super) fn new(seed: u64) -> MemoryDirectory {
        let world = World {
            random: Random(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            operations: 0,
            fault: None,
            dark: false,
            slow: false,
            syncs_ignored: false,
        };
        MemoryDirectory { world: Arc::new(Mutex::new(world)) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> u64 {
        self.world().operations
    }

    /// The `after`th operation from now (0: the next) goes wrong.
    pub(super) fn set_fault(&self, after: u64, fault: Fault) {
        let mut world = self.world();
        world.fault = Some((world.operations + after, fault));
    }

    pub(super) fn clear_fault(&self) {
        self.world().fault = None;
    }

    /// Whether the power is gone.
    pub(super) fn is_dark(&self) -> bool {
        self.world().dark
    }

    /// Operations take some polls.
    pub(super) fn set_slow(&self, slow: bool) {
        self.world().slow = slow;
    }

    /// A broken disk, to see that the tests notice: syncs do nothing.
    pub(super) fn ignore_syncs(&self) {
        self.world().syncs_ignored = true;
    }

    /// The machine loses power and starts again.
    pub(super) fn power_cut(&self) {
        self.world().power_cut();
    }

    /// The bytes of a file as read, to look at or to damage.
    pub(super) fn with_bytes<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut world = self.world();
        let file = world.names[name];
        let file = &mut world.files[file];
        let result = change(&mut file.seen);
        file.durable = file.seen.clone();
        file.pending.clear();
        result
    }

    /// A copy with its own fate.
    pub(super) fn copy(&self) -> MemoryDirectory {
        let world = self.world();
        let copy = World {
            random: world.random.clone(),
            files: world.files.clone(),
            names: world.names.clone(),
            durable_names: world.durable_names.clone(),
            operations: 0,
            fault: None,
            dark: false,
            slow: false,
            syncs_ignored: world.syncs_ignored,
        };
        MemoryDirectory { world: Arc::new(Mutex::new(copy)) }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.world().names.keys().cloned().collect()
    }

    async fn step(&self, takes_space: bool) -> io::Result<()> {
        step(&self.world, takes_space).await
    }
}

impl World {
    fn power_cut(&mut self) {
        let World { random, files, .. } = self;
        for file in files.iter_mut() {
            // The length may or may not have reached the medium.
            if random.one_in(2) {
                file.durable.resize(file.seen.len(), 0);
            }
            let keep = random.below(4);
            for (at, sector) in std::mem::take(&mut file.pending) {
                if random.below(3) < keep && at + SECTOR <= file.durable.len() {
                    file.durable[at..at + SECTOR].copy_from_slice(&sector);
                }
            }
            file.seen = file.durable.clone();
        }
        // Each creation and removal reached the medium or not, by itself.
        let all: Vec<String> =
            self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for name in all {
            if self.random.one_in(2) {
                match self.names.get(&name).copied() {
                    Some(file) => self.durable_names.insert(name, file),
                    None => self.durable_names.remove(&name),
                };
            }
        }
        self.names = self.durable_names.clone();
        self.fault = None;
        self.dark = false;
    }

    /// The sync failed: part of it was written, and the cache believes that all of it was.
    fn lose_pending(&mut self, file: usize) {
        let keep = self.random.below(4);
        for (at, sector) in std::mem::take(&mut self.files[file].pending) {
            let file = &mut self.files[file];
            if self.random.below(3) < keep && at + SECTOR <= file.durable.len() {
                file.durable[at..at + SECTOR].copy_from_slice(&sector);
            }
        }
    }
}

fn dark() -> io::Error {
    io::Error::other("the power is gone")
}

/// Takes some polls, then lets the operation happen or fail.
async fn step(world: &Mutex<World>, takes_space: bool) -> io::Result<()> {
    let polls = {
        let mut world = world.lock().unwrap();
        if world.slow { 1 + world.random.below(3) } else { 0 }
    };
    for _ in 0..polls {
        YieldOnce(false).await;
    }
    let mut world = world.lock().unwrap();
    if world.dark {
        return Err(dark());
    }
    let operation = world.operations;
    world.operations += 1;
    match world.fault {
        Some((at, fault)) if at <= operation => match fault {
            Fault::Eio => {
                world.fault = None;
                Err(io::Error::from_raw_os_error(5))
            }
            Fault::Enospc if takes_space => {
                world.fault = None;
                Err(io::Error::from_raw_os_error(28))
            }
            Fault::Enospc => Ok(()),
            Fault::PowerCut => {
                world.dark = true;
                Err(dark())
            }
        },
        _ => Ok(()),
    }
}

struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Directory for MemoryDirectory {
    type Disk = MemoryDisk;

    async fn open(&self, name: &str) -> io::Result<MemoryDisk> {
        self.step(false).await?;
        let file = *self.world().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemoryDisk { world: Arc::clone(&self.world), file })
    }

    async fn create(&self, name: &str) -> io::Result<MemoryDisk> {
        self.step(true).await?;
        let mut world = self.world();
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.files.push(File::default());
        let file = world.files.len() - 1;
        world.names.insert(name.to_owned(), file);
        Ok(MemoryDisk { world: Arc::clone(&self.world), file })
    }

    async fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.step(false).await?;
        let prefix = format!("{folder}/");
        let world = self.world();
        let names = world.names.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(names.map(str::to_owned).collect())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.step(false).await?;
        let removed = self.world().names.remove(name);
        removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn sync(&self) -> io::Result<()> {
        self.step(false).await?;
        let mut world = self.world();
        if !world.syncs_ignored {
            world.durable_names = world.names.clone();
        }
        Ok(())
    }

    async fn space_available(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl MemoryDisk {
    fn with_file<T>(&self, run: impl FnOnce(&mut File) -> T) -> T {
        run(&mut self.world.lock().unwrap().files[self.file])
    }
}

impl Disk for MemoryDisk {
    async fn read(&self, offset: u64, mut buffer: BufferMut) -> (io::Result<()>, BufferMut) {
        if let Err(error) = step(&self.world, false).await {
            return (Err(error), buffer);
        }
        assert_eq!((offset % 4096, buffer.len() % 4096), (0, 0), "O_DIRECT would refuse");
        let result = self.with_file(|file| {
            let bytes = file.seen.get(offset as usize..offset as usize + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        });
        (result, buffer)
    }

    async fn write(&self, offset: u64, data: Buffer) -> io::Result<()> {
        assert_eq!((offset % 4096, data.len() % 4096), (0, 0), "O_DIRECT would refuse");
        assert!(data.is_aligned(), "O_DIRECT would refuse");
        let allowed = step(&self.world, true).await;
        let share = match &allowed {
            Ok(()) => 4,
            Err(_) => self.world.lock().unwrap().random.below(4),
        };
        for (at, sector) in data.chunks(SECTOR).enumerate() {
            let at = offset as usize + at * SECTOR;
            let mut world = self.world.lock().unwrap();
            if world.random.below(4) >= share {
                continue;
            }
            let file = &mut world.files[self.file];
            file.seen.resize(file.seen.len().max(at + SECTOR), 0);
            file.seen[at..at + SECTOR].copy_from_slice(sector);
            file.pending.push((at, sector.try_into().unwrap()));
        }
        allowed
    }

    async fn sync(&self) -> io::Result<()> {
        let allowed = step(&self.world, false).await;
        let mut world = self.world.lock().unwrap();
        if world.syncs_ignored {
            return allowed;
        }
        match &allowed {
            Ok(()) => {
                // Only what is pending reaches the medium: what a failed sync lost stays lost.
                let file = &mut world.files[self.file];
                file.durable.resize(file.seen.len(), 0);
                for (at, sector) in std::mem::take(&mut file.pending) {
                    file.durable[at..at + SECTOR].copy_from_slice(&sector);
                }
            }
            Err(_) => world.lose_pending(self.file),
        }
        allowed
    }

    async fn length(&self) -> io::Result<u64> {
        step(&self.world, false).await?;
        Ok(self.with_file(|file| file.seen.len() as u64))
    }

    async fn set_length(&self, length: u64) -> io::Result<()> {
        step(&self.world, true).await?;
        self.with_file(|file| file.seen.resize(length as usize, 0));
        Ok(())
    }

    async fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        step(&self.world, true).await?;
        let end = (offset + length) as usize;
        self.with_file(|file| file.seen.resize(file.seen.len().max(end), 0));
        Ok(())
    }

    async fn space_available(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    async fn punch(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs one future to its end.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// Runs several futures in turns that the seed picks; gives up (dropping the rest) after `turns`.
pub(super) fn run_together<'a>(
    random: &mut Random,
    futures: Vec<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    turns: u64,
) {
    let mut futures = futures;
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..turns {
        if futures.is_empty() {
            return;
        }
        let at = random.below(futures.len() as u64) as usize;
        if futures[at].as_mut().poll(&mut context).is_ready() {
            drop(futures.swap_remove(at));
        }
    }
}
