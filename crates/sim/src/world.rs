//! The world: files, names, operations in flight, faults to come and counts of what happened.
//!
//! Each operation takes effect at one random moment and is answered at a later one. Which pending
//! operation moves next is drawn from the world's generator; the executor decides when.

use crate::fault::{self, Counters, Fault, FaultError};
use crate::file::{Change, Losses, PAGE, SimFile};
use crate::handle::{SimDirectory, SimMapped};
use crate::names::{FileId, Names};
use crate::operation::{Answer, Outcome, Request, SharedWorld, lock};
use blockyard_block::{Buffer, BufferMut, CLUSTER_SIZE};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// A machine with a disk, driven by a seed. Clones are the same world.
#[derive(Clone)]
pub struct SimWorld {
    shared: SharedWorld,
}

impl SimWorld {
    pub fn new(seed: u64) -> SimWorld {
        let world = World {
            rng: Rng::with_seed(seed),
            process: 0,
            boots: 0,
            files: Vec::new(),
            names: Names::default(),
            pending: Vec::new(),
            finished: BTreeMap::new(),
            next_operation: 0,
            failing_syncs: Vec::new(),
            faults: Vec::new(),
            ignored_syncs: Vec::new(),
            capacity: None,
            counters: Counters::default(),
            mapped: Vec::new(),
        };
        SimWorld { shared: Arc::new(Mutex::new(world)) }
    }

    /// The pool's directory as the running process sees it; useless after the next crash.
    pub fn directory(&self) -> SimDirectory {
        SimDirectory::new(&self.shared, lock(&self.shared).process)
    }

    /// The journal memory: what was left there since the last power cut, else zeros. Only one may
    /// exist at a time; dropping it (as a crash does) hands the bytes back to the world.
    pub fn mapped(&self, length: usize) -> SimMapped {
        let mut world = lock(&self.shared);
        let mut bytes = std::mem::take(&mut world.mapped);
        bytes.resize(length, 0);
        SimMapped::new(&self.shared, world.process, world.boots, bytes)
    }

    /// The process is dead from now on: its handles fail, its journal memory is out of its reach.
    /// Its tasks are to be dropped next, so that what they had in flight happens in part.
    pub(crate) fn end_process(&self) {
        let mut world = lock(&self.shared);
        world.process += 1;
        world.faults.clear();
    }

    /// The process was killed and is gone: the cache and the journal memory stay.
    pub(crate) fn kill(&self) {
        lock(&self.shared).counters.kills += 1;
    }

    /// The machine died: every unsynced change is kept, lost or torn.
    pub(crate) fn cut_power(&self) {
        let mut world = lock(&self.shared);
        world.counters.power_cuts += 1;
        world.boots += 1;
        world.cut_power();
    }

    /// Names the boot: the same after a kill, another after a power cut.
    pub fn boot_id(&self) -> [u8; 16] {
        let mut id = [0xB0; 16];
        id[..8].copy_from_slice(&lock(&self.shared).boots.to_le_bytes());
        id
    }

    /// Adds a failure to come. Crashes clear all of them.
    pub fn fail(&self, fault: Fault) {
        lock(&self.shared).faults.push(fault);
    }

    /// Forgets failures that have not struck yet.
    pub fn clear_faults(&self) {
        lock(&self.shared).faults.clear();
    }

    /// From now on files may take this many bytes together.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.shared).capacity = bytes;
    }

    /// From now on syncs of files whose name contains `part` succeed and do nothing; `.` is the
    /// directory. Shows that a test would notice a sync that is missing.
    pub fn ignore_sync_of(&self, part: &str) {
        lock(&self.shared).ignored_syncs.push(part.to_owned());
    }

    /// Flips one bit of a file, on the medium and in the cache. False if there is no such byte.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        let mut world = lock(&self.shared);
        let Some(id) = world.names.find(name) else { return false };
        let file = &mut world.files[id.0];
        if offset >= file.view.length {
            return false;
        }
        file.flip_bit(offset, bit);
        world.counters.flipped_bits += 1;
        true
    }

    /// What a read would see now, for judges. `None` if the file is missing or ends before.
    pub fn peek(&self, name: &str, offset: u64, length: usize) -> Option<Vec<u8>> {
        let world = lock(&self.shared);
        let file = &world.files[world.names.find(name)?.0];
        (offset + length as u64 <= file.view.length).then(|| file.bytes(offset, length))
    }

    /// Length of a file in bytes, for judges.
    pub fn peek_length(&self, name: &str) -> Option<u64> {
        let world = lock(&self.shared);
        world.names.find(name).map(|id| world.files[id.0].view.length)
    }

    pub fn counters(&self) -> Counters {
        lock(&self.shared).counters.clone()
    }

    /// A number below `bound` from the world's generator, for whoever drives the run.
    pub fn random_below(&self, bound: u64) -> u64 {
        lock(&self.shared).rng.u64(0..bound)
    }

    /// Operations in flight.
    pub fn pending(&self) -> usize {
        lock(&self.shared).pending.len()
    }

    /// Moves one random operation in flight on; wakes its task when it is answered.
    pub(crate) fn advance(&self) {
        let waker = lock(&self.shared).advance();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// An operation in flight.
struct Pending {
    id: u64,
    request: Option<Request>,
    /// Set when the operation has taken effect and only its answer is still to come.
    outcome: Option<Outcome>,
    waker: Waker,
    /// Stays in flight while much else happens, as one request of a busy disk may.
    slow: bool,
}

pub(crate) struct World {
    rng: Rng,
    /// Raised by each crash; handles of an earlier process are refused.
    process: u64,
    boots: u64,
    files: Vec<SimFile>,
    names: Names,
    pending: Vec<Pending>,
    finished: BTreeMap<u64, Outcome>,
    next_operation: u64,
    /// Syncs that have failed, but whose answers nobody has seen yet.
    failing_syncs: Vec<(u64, FileId)>,
    faults: Vec<Fault>,
    ignored_syncs: Vec<String>,
    capacity: Option<u64>,
    counters: Counters,
    mapped: Vec<u8>,
}

impl World {
    pub(crate) fn submit(&mut self, process: u64, mut request: Request, waker: Waker) -> u64 {
        let id = self.next_operation;
        self.next_operation += 1;
        match &mut request {
            Request::Sync { file, sync_point } => *sync_point = self.files[file.0].sync_point(),
            Request::SyncDirectory { sync_point } => *sync_point = self.names.sync_point(),
            _ => {}
        }
        let error = if process != self.process {
            Some(io::Error::other("this handle is of a process that crashed"))
        } else {
            self.overlapped_failure(&request)
        };
        let early = error.map(Outcome::failed);
        let transfers = matches!(request, Request::Read { .. } | Request::Write { .. });
        let slow = transfers && self.rng.u8(0..16) == 0;
        self.pending.push(Pending { id, request: Some(request), outcome: early, waker, slow });
        id
    }

    pub(crate) fn take_finished(&mut self, id: u64) -> Option<Outcome> {
        let outcome = self.finished.remove(&id)?;
        self.note_seen(id, &outcome);
        Some(outcome)
    }

    pub(crate) fn wait_again(&mut self, id: u64, waker: &Waker) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.waker.clone_from(waker);
        }
    }

    /// Nobody waits any more: what has not taken effect does so in part, now. A sync happens or
    /// not; it does not fail.
    pub(crate) fn abandon(&mut self, id: u64) {
        if let Some(outcome) = self.finished.remove(&id) {
            return self.note_seen(id, &outcome);
        }
        let Some(index) = self.pending.iter().position(|pending| pending.id == id) else { return };
        let pending = self.pending.remove(index);
        if let Some(outcome) = pending.outcome {
            return self.note_seen(id, &outcome);
        }
        let Some(request) = pending.request else { return };
        let changed = change_of(&request).map(|(file, _)| file);
        match self.rng.u8(0..3) {
            0 => drop(self.answer(request)),
            1 if changed.is_some() => self.take_effect_in_part(request),
            _ => {}
        }
        if let Some(file) = changed {
            let number = self.files[file.0].last_change();
            self.files[file.0].complete(number);
        }
    }

    /// A sync from now on covers what an operation changed whose end the engine knows of.
    fn note_seen(&mut self, id: u64, outcome: &Outcome) {
        self.failing_syncs.retain(|(sync, _)| *sync != id);
        let succeeded = match outcome.result {
            Ok(Answer::Changed(file, number)) => Some((file, number)),
            _ => None,
        };
        for (file, number) in succeeded.into_iter().chain(outcome.failed_change) {
            self.files[file.0].complete(number);
        }
    }

    pub(crate) fn keep_mapped(&mut self, boot: u64, bytes: Vec<u8>) {
        self.mapped = bytes;
        if boot != self.boots {
            self.mapped.fill(0);
        }
    }

    pub(crate) fn is_running(&self, process: u64) -> bool {
        self.process == process
    }

    fn advance(&mut self) -> Option<Waker> {
        if self.pending.is_empty() {
            return None;
        }
        let index = self.rng.usize(0..self.pending.len());
        if self.pending[index].slow && self.rng.u8(0..64) != 0 {
            return None;
        }
        if let Some(request) = self.pending[index].request.take() {
            if self.pending[index].outcome.is_none() {
                let synced = request.synced_file();
                let outcome = self.take_effect(request);
                if let Some(file) = synced.filter(|_| outcome.result.is_err()) {
                    self.fail_overlapping_syncs(self.pending[index].id, file);
                }
                self.pending[index].outcome = Some(outcome);
            }
            if self.rng.u8(0..4) == 0 {
                return None;
            }
        }
        let pending = self.pending.swap_remove(index);
        self.finished.insert(pending.id, pending.outcome?);
        Some(pending.waker)
    }

    /// The kernel tells a failure to one of several syncs; so a disk lets none succeed that overlaps
    /// the one that failed.
    fn fail_overlapping_syncs(&mut self, id: u64, file: FileId) {
        self.failing_syncs.push((id, file));
        for pending in &mut self.pending {
            if pending.request.as_ref().and_then(Request::synced_file) == Some(file) {
                pending.request = None;
                pending.outcome = Some(Outcome::failed(FaultError::Io.error()));
            }
        }
    }

    /// The error of a sync that is asked for while another's failure is on its way.
    fn overlapped_failure(&self, request: &Request) -> Option<io::Error> {
        let file = request.synced_file()?;
        self.failing_syncs
            .iter()
            .any(|(_, failing)| *failing == file)
            .then(|| FaultError::Io.error())
    }

    fn take_effect(&mut self, request: Request) -> Outcome {
        self.counters.operations += 1;
        let name = self.name_of(&request);
        let Some(error) = fault::strike(&mut self.faults, request.kind(), &name) else {
            return self.answer(request);
        };
        self.counters.injected_failures += 1;
        if matches!(request, Request::Sync { .. } | Request::SyncDirectory { .. }) {
            self.counters.failed_syncs += 1;
        }
        let changed = change_of(&request).map(|(file, _)| file);
        let buffer = match request {
            Request::Read { buffer, .. } => Some(buffer),
            request => {
                self.take_effect_in_part(request);
                None
            }
        };
        let failed_change = changed.map(|file| (file, self.files[file.0].last_change()));
        Outcome { result: Err(error.error()), buffer, failed_change }
    }

    fn name_of(&self, request: &Request) -> String {
        match request {
            Request::Open { name } | Request::Create { name } | Request::Remove { name } => {
                name.clone()
            }
            request => request.file().map_or(".", |file| &self.files[file.0].name).to_owned(),
        }
    }

    /// What a failed or abandoned operation leaves behind.
    fn take_effect_in_part(&mut self, request: Request) {
        let losses = match request {
            Request::Sync { file, sync_point } => {
                self.files[file.0].fail_sync(sync_point, &mut self.rng)
            }
            Request::SyncDirectory { sync_point } => {
                self.names.fail_sync(sync_point, &mut self.rng);
                Losses::default()
            }
            request => match change_of(&request) {
                Some((file, change)) if self.has_room(file, &change) => {
                    self.files[file.0].change_in_part(change, &mut self.rng)
                }
                _ => Losses::default(),
            },
        };
        self.counters.torn_writes += losses.torn;
    }

    fn answer(&mut self, request: Request) -> Outcome {
        if let Request::Read { file, offset, mut buffer } = request {
            let result = self.files[file.0].read(offset, &mut buffer);
            let (result, buffer) = (result.map(|()| Answer::Done), Some(buffer));
            return Outcome { result, buffer, failed_change: None };
        }
        let result = self.answer_without_buffer(request);
        Outcome { result, buffer: None, failed_change: None }
    }

    fn answer_without_buffer(&mut self, request: Request) -> io::Result<Answer> {
        if let Some((file, change)) = change_of(&request) {
            return self.change(file, change);
        }
        match request {
            Request::Sync { file, sync_point } => self.sync_file(file, sync_point),
            Request::SyncDirectory { sync_point } => self.sync_directory(sync_point),
            Request::Length { file } => Ok(Answer::Number(self.files[file.0].view.length)),
            Request::DropCache { file } => {
                self.files[file.0].drop_cache();
                Ok(Answer::Done)
            }
            Request::Open { name } => {
                self.names.find(&name).map(Answer::File).ok_or_else(|| not_found(&name))
            }
            Request::Create { name } => self.create(&name),
            Request::List { folder } => Ok(Answer::Names(self.names.in_folder(&folder))),
            Request::Remove { name } => {
                self.names.find(&name).ok_or_else(|| not_found(&name))?;
                self.names.set(&name, None);
                Ok(Answer::Done)
            }
            _ => Ok(Answer::Number(self.space_available())),
        }
    }

    fn change(&mut self, file: FileId, change: Change) -> io::Result<Answer> {
        if !self.has_room(file, &change) {
            self.counters.storage_full += 1;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(Answer::Changed(file, self.files[file.0].change(change)))
    }

    fn has_room(&self, file: FileId, change: &Change) -> bool {
        if self.capacity.is_none() {
            return true;
        }
        let range = match change {
            Change::Write { first, pages } => *first..first + pages.len() as u64,
            Change::Allocate(range) => range.clone(),
            Change::Length(_) | Change::Punch(_) => return true,
        };
        self.files[file.0].view.missing(range) * PAGE <= self.space_available()
    }

    fn space_available(&self) -> u64 {
        let Some(capacity) = self.capacity else { return 1 << 50 };
        let used: u64 = self.names.files().map(|id| self.files[id.0].view.count() * PAGE).sum();
        capacity.saturating_sub(used)
    }

    fn create(&mut self, name: &str) -> io::Result<Answer> {
        if self.names.find(name).is_some() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        if self.capacity.is_some() && self.space_available() < PAGE {
            self.counters.storage_full += 1;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let id = FileId(self.files.len());
        self.files.push(SimFile::new(name));
        self.names.set(name, Some(id));
        Ok(Answer::File(id))
    }

    fn sync_file(&mut self, file: FileId, sync_point: u64) -> io::Result<Answer> {
        let name = self.files[file.0].name.clone();
        if self.counts_sync(&name) {
            self.files[file.0].sync(sync_point, &mut self.rng);
        }
        Ok(Answer::Done)
    }

    fn sync_directory(&mut self, sync_point: usize) -> io::Result<Answer> {
        if self.counts_sync(".") {
            self.names.sync(sync_point);
        }
        Ok(Answer::Done)
    }

    /// False if syncs of this file are to do nothing.
    fn counts_sync(&mut self, name: &str) -> bool {
        if self.ignored_syncs.iter().any(|part| name.contains(part.as_str())) {
            self.counters.ignored_syncs += 1;
            return false;
        }
        *self.counters.syncs.entry(name.to_owned()).or_default() += 1;
        true
    }

    fn cut_power(&mut self) {
        self.mapped.fill(0);
        self.names.cut_power(&mut self.rng);
        for file in &mut self.files {
            let losses = file.cut_power(&mut self.rng);
            self.counters.torn_writes += losses.torn;
            self.counters.lost_writes += losses.lost;
        }
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

/// The change a request makes to a file's content, if it makes one.
fn change_of(request: &Request) -> Option<(FileId, Change)> {
    match request {
        Request::Write { file, offset, data } => Some((*file, write(*offset, data))),
        Request::SetLength { file, length } => Some((*file, Change::Length(*length))),
        Request::Allocate { file, offset, length } => {
            Some((*file, Change::Allocate(page_range(*offset, *length))))
        }
        Request::Punch { file, offset, length } => {
            Some((*file, Change::Punch(page_range(*offset, *length))))
        }
        _ => None,
    }
}

fn write(offset: u64, data: &Buffer) -> Change {
    let range = page_range(offset, data.len() as u64);
    let pages = data.chunks_exact(CLUSTER_SIZE).map(|bytes| {
        let mut page = [0; CLUSTER_SIZE];
        page.copy_from_slice(bytes);
        Arc::new(page)
    });
    Change::Write { first: range.start, pages: pages.collect() }
}

/// Panics on unaligned I/O, which O_DIRECT would refuse: a bug in the engine.
fn page_range(offset: u64, length: u64) -> Range<u64> {
    assert!(
        offset.is_multiple_of(PAGE) && length.is_multiple_of(PAGE),
        "unaligned I/O at {offset}, {length} bytes"
    );
    offset / PAGE..(offset + length) / PAGE
}

impl SimFile {
    fn read(&self, offset: u64, buffer: &mut BufferMut) -> io::Result<()> {
        page_range(offset, buffer.len() as u64);
        if offset + buffer.len() as u64 > self.view.length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.view.copy_to(offset, buffer);
        Ok(())
    }

    fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let start = offset - offset % PAGE;
        let skip = (offset - start) as usize;
        let mut bytes = vec![0; skip + length];
        self.view.copy_to(start, &mut bytes);
        bytes.split_off(skip)
    }
}

#[cfg(test)]
mod tests;
