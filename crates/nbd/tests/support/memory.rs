//! A disk in memory with holes, whose operations can be made to wait or to fail.

use blockyard_block::{
    AllocationRun, AllocationState, BlockDevice, Buffer, CLUSTER_SIZE, Error, ErrorKind, Result,
    Segment, ZeroOptions,
};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

const CLUSTER: u64 = CLUSTER_SIZE as u64;

/// A cluster that is there: with data, or only its place.
#[derive(Clone)]
enum Slot {
    Data(Vec<u8>),
    Reserved,
}

pub struct MemoryDisk {
    pub size: u64,
    pub read_only: bool,
    slots: Mutex<BTreeMap<u64, Slot>>,
    /// Each operation waits this long, as a future that is woken from elsewhere.
    pub delay: Duration,
    /// Each operation blocks its thread this long.
    pub stall: Duration,
    /// Reads and writes that touch this offset fail.
    pub bad_offset: Option<u64>,
    /// Operations that touch this offset panic.
    pub defect_offset: Option<u64>,
    pub running: AtomicUsize,
    pub running_max: AtomicUsize,
    pub flushes: AtomicU64,
    pub writes_with_fua: AtomicU64,
}

impl MemoryDisk {
    pub fn new(size: u64) -> MemoryDisk {
        MemoryDisk {
            size,
            read_only: false,
            slots: Mutex::default(),
            delay: Duration::ZERO,
            stall: Duration::ZERO,
            bad_offset: None,
            defect_offset: None,
            running: AtomicUsize::new(0),
            running_max: AtomicUsize::new(0),
            flushes: AtomicU64::new(0),
            writes_with_fua: AtomicU64::new(0),
        }
    }

    /// Puts bytes on the disk behind the server's back.
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let mut slots = self.slots.lock().unwrap();
        let mut at = offset;
        for part in split(offset, bytes.len() as u64) {
            let slot = slots.entry(at / CLUSTER).or_insert(Slot::Reserved);
            let mut data = match slot {
                Slot::Data(data) => std::mem::take(data),
                Slot::Reserved => vec![0; CLUSTER_SIZE],
            };
            let from = (at - offset) as usize;
            data[(at % CLUSTER) as usize..][..part as usize]
                .copy_from_slice(&bytes[from..from + part as usize]);
            *slot = Slot::Data(data);
            at += part;
        }
    }

    pub fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let slots = self.slots.lock().unwrap();
        let mut bytes = vec![0; length];
        let mut at = offset;
        for part in split(offset, length as u64) {
            if let Some(Slot::Data(data)) = slots.get(&(at / CLUSTER)) {
                bytes[(at - offset) as usize..][..part as usize]
                    .copy_from_slice(&data[(at % CLUSTER) as usize..][..part as usize]);
            }
            at += part;
        }
        bytes
    }

    async fn enter(&self, offset: u64, length: u64, change: bool) -> Result<Running<'_>> {
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(Error::new(ErrorKind::OutOfRange, format!("{length} bytes at {offset}")));
        }
        if change && self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only"));
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        let guard = Running(self);
        if !self.stall.is_zero() {
            std::thread::sleep(self.stall);
        }
        if !self.delay.is_zero() {
            later(self.delay).await;
        }
        let range = offset..offset + length;
        assert!(!self.defect_offset.is_some_and(|at| range.contains(&at)), "panic on purpose");
        match self.bad_offset {
            Some(bad) if range.contains(&bad) => {
                Err(Error::new(ErrorKind::Io, format!("bad sector at {bad}")))
            }
            _ => Ok(guard),
        }
    }

    fn zero(&self, offset: u64, length: u64, keep_place: bool) {
        let mut at = offset;
        for part in split(offset, length) {
            if part == CLUSTER {
                let mut slots = self.slots.lock().unwrap();
                match keep_place {
                    true => slots.insert(at / CLUSTER, Slot::Reserved),
                    false => slots.remove(&(at / CLUSTER)),
                };
            } else if self.slots.lock().unwrap().contains_key(&(at / CLUSTER)) {
                self.put(at, &vec![0; part as usize]);
            }
            at += part;
        }
    }

    fn state(&self, cluster: u64) -> AllocationState {
        match self.slots.lock().unwrap().get(&cluster) {
            Some(Slot::Data(_)) => AllocationState::Data,
            Some(Slot::Reserved) => AllocationState::ReservedZero,
            None => AllocationState::Hole,
        }
    }

    fn runs(&self, offset: u64, length: u64, runs_max: usize) -> Vec<AllocationRun> {
        let mut runs: Vec<AllocationRun> = Vec::new();
        let mut at = offset;
        for part in split(offset, length) {
            let state = self.state(at / CLUSTER);
            let full = runs.len() == runs_max;
            match runs.last_mut() {
                Some(last) if last.state == state => last.length += part,
                _ if full => break,
                _ => runs.push(AllocationRun { length: part, state }),
            }
            at += part;
        }
        runs
    }
}

/// An operation that is under way.
struct Running<'a>(&'a MemoryDisk);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The lengths of the parts of a range within one cluster each.
fn split(offset: u64, length: u64) -> impl Iterator<Item = u64> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let part = (CLUSTER - at % CLUSTER).min(offset + length - at);
        at += part;
        (part > 0).then_some(part)
    })
}

/// Is ready after `delay`, woken by a thread of its own.
async fn later(delay: Duration) {
    let mut started = false;
    poll_fn(|context| {
        if started {
            return Poll::Ready(());
        }
        started = true;
        let waker = context.waker().clone();
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            waker.wake();
        });
        Poll::Pending
    })
    .await;
}

impl BlockDevice for MemoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<Segment>> {
        let _running = self.enter(offset, length, false).await?;
        let mut at = offset;
        let segment = |run: AllocationRun| {
            let begin = at;
            at += run.length;
            match run.state {
                AllocationState::Data => {
                    Segment::Data(Buffer::copy_of(&self.bytes(begin, run.length as usize)))
                }
                _ => Segment::Zeroes(run.length),
            }
        };
        Ok(self.runs(offset, length, usize::MAX).into_iter().map(segment).collect())
    }

    async fn write(&self, offset: u64, data: Buffer, fua: bool) -> Result<()> {
        let _running = self.enter(offset, data.len() as u64, true).await?;
        let first_boundary = offset.next_multiple_of(CLUSTER) - offset;
        if first_boundary < data.len() as u64 {
            let tail = data.slice(first_boundary as usize..data.len());
            assert!(tail.is_aligned(), "cluster boundaries are page boundaries");
        }
        self.writes_with_fua.fetch_add(u64::from(fua), Ordering::SeqCst);
        self.put(offset, &data);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let _running = self.enter(0, 0, false).await?;
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn discard(&self, offset: u64, length: u64, _fua: bool) -> Result<()> {
        let _running = self.enter(offset, length, true).await?;
        self.zero(offset, length, false);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, options: ZeroOptions) -> Result<()> {
        let _running = self.enter(offset, length, true).await?;
        self.zero(offset, length, options.keep_place);
        Ok(())
    }

    async fn allocation(
        &self,
        offset: u64,
        length: u64,
        runs_max: usize,
    ) -> Result<Vec<AllocationRun>> {
        let _running = self.enter(offset, length, false).await?;
        Ok(self.runs(offset, length, runs_max))
    }
}
