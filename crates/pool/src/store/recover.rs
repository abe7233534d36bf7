//! Reading the store back, without writing. The whole log is read once; the newest manifest says
//! where replay starts; only an unbroken chain of batches is taken.
//!
//! Where the chain ends, a batch was torn by a crash or damaged later. It was torn only if nothing
//! vouches for it: a batch says which number was durable when it was written, so any intact batch
//! that knew the missing one as durable, or a later manifest, proves damage, and the store is not
//! opened. What an earlier lap or an abandoned tail left behind is older and vouches for nothing
//! that is missing.

use super::batch::{BatchHeader, Kind};
use super::header::{LogHeader, log_bytes};
use super::manifest::{FOLDER, Manifest, part_id, range_of};
use super::overlay::{Overlay, merged};
use super::part::Part;
use super::record::{Flaw, Reader};
use super::ring::Position;
use super::{BLOCK_BYTES, Change, Key, Recovery};
use blockyard_block::{Buffer, BufferMut, Error, ErrorKind, Result};
use blockyard_io::{Directory, Disk};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const LOG: &str = "log";

/// Called with every live record in key order.
pub(super) type Visit<'a> = &'a mut dyn FnMut(Key, &[u8]) -> Result<()>;

/// What the log says. Nothing was written yet: the tail may be on no medium.
pub(super) struct Unrepaired<K> {
    pub(super) disk: K,
    pub(super) header: LogHeader,
    /// Number of the batch that holds `manifest`; 0 for none.
    pub(super) manifest_number: u64,
    pub(super) manifest: Manifest,
    pub(super) head: Position,
    pub(super) last_number: u64,
    pub(super) last_checksum: u32,
    pub(super) last_kind: Option<Kind>,
    /// Batches (or the header) that nothing vouches for, to be written again at their offsets.
    pub(super) unvouched: Vec<(u64, Buffer)>,
    pub(super) overlay: Overlay,
    pub(super) recovery: Recovery,
}

/// Whether a store was made here; `false` also for one whose making was cut off.
pub(super) async fn exists<D: Directory>(directory: &D) -> Result<bool> {
    match open_log(directory).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the log. `NotFound` if no store was made here.
pub(super) async fn read_log<D: Directory>(directory: &D) -> Result<Unrepaired<D::Disk>> {
    let (disk, header) = open_log(directory).await?;
    let log = ScannedLog::read(&disk, header).await?;
    let (manifest_number, manifest) = log.newest_manifest()?;
    let chain = log.follow(&manifest);
    let last = chain.last().map(|found| found.header);
    let last_number = last.map_or(manifest.covered, |last| last.number);
    let last_checksum = last.map_or(manifest.covered_checksum, |last| last.checksum);
    let last_epoch = last.map_or(0, |last| last.epoch);
    let head = chain.last().map_or(manifest.replay_from, |found| found.end());
    let torn_tail = log.judge_end(last_number, last_epoch, head, manifest_number)?;

    let mut overlay = Overlay::default();
    for found in &chain {
        log.replay(found, &mut overlay)?;
    }
    let vouched = chain.iter().map(|found| found.header.durable).max().unwrap_or(0);
    let unvouched = chain.iter().filter(|found| found.header.number > vouched);
    let mut unvouched: Vec<(u64, Buffer)> =
        unvouched.map(|found| (found.header.offset, log.bytes_of(found))).collect();
    if last_number == 0 {
        // Nothing was ever committed on top of the header.
        let (_, block) = LogHeader::encode(header.pool, header.options);
        unvouched.push((0, block.freeze()));
    }
    let last_kind = last.map(|last| last.kind);
    let recovery = Recovery {
        pool: header.pool,
        clean: last_kind == Some(Kind::Clean),
        epoch: last_epoch,
        batch: last_number,
        batches_replayed: chain.len() as u64,
        torn_tail,
        records: 0,
    };
    Ok(Unrepaired {
        disk,
        header,
        manifest_number,
        manifest,
        head,
        last_number,
        last_checksum,
        last_kind,
        unvouched,
        overlay,
        recovery,
    })
}

/// Visits every live record, parts merged with the overlay; returns the parts and the count.
pub(super) async fn visit_all<D: Directory>(
    directory: &D,
    log: &Unrepaired<D::Disk>,
    visit: Visit<'_>,
) -> Result<(Vec<Arc<Part<D::Disk>>>, u64)> {
    let mut records = 0;
    let mut visit_each = |merged: &mut dyn Iterator<Item = Result<(Key, &[u8])>>| -> Result<()> {
        for record in merged {
            let (key, value) = record?;
            records += 1;
            visit(key, value)?;
        }
        Ok(())
    };
    let mut parts = Vec::new();
    let entries = &log.manifest.parts;
    for (at, entry) in entries.iter().enumerate() {
        let (part, content) = Part::open(directory, log.header.pool, *entry).await?;
        let changes = log.overlay.range(range_of(entries, at..at + 1));
        visit_each(&mut merged(content.records(), changes))?;
        parts.push(Arc::new(part));
    }
    if entries.is_empty() {
        visit_each(&mut merged(std::iter::empty(), log.overlay.range(..)))?;
    }
    Ok((parts, records))
}

/// Opens the log and reads its header. Without a header the log must be all zeros, as a creation
/// that was cut off leaves it, and there can be no parts; anything else is damage.
async fn open_log<D: Directory>(directory: &D) -> Result<(D::Disk, LogHeader)> {
    let disk = match directory.open(LOG).await {
        Ok(disk) => disk,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(no_store(directory).await);
        }
        Err(error) => return Err(Error::io("open log", error)),
    };
    let length = disk.length().await.map_err(|error| Error::io("length of log", error))?;
    if length < BLOCK_BYTES as u64 {
        return Err(no_store(directory).await);
    }
    let block = read(&disk, 0, BLOCK_BYTES).await?;
    if block.iter().all(|byte| *byte == 0) {
        let is_unused = is_zero(&disk, length).await?;
        return Err(match is_unused {
            true => no_store(directory).await,
            false => Flaw::Damaged("the header is gone").at(LOG, 0),
        });
    }
    let header = LogHeader::decode(&block).map_err(|flaw| flaw.at(LOG, 0))?;
    let expected = log_bytes(&header.options);
    if length < expected {
        let message = format!(
            "log was cut short: it has {length} bytes instead of {expected}; nothing was changed: \
             restore this pool from a copy"
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok((disk, header))
}

/// The error for a log that is not there: a store whose log was lost is not an empty directory.
async fn no_store<D: Directory>(directory: &D) -> Error {
    match directory.list(FOLDER).await {
        Err(error) => Error::io("list of checkpoint", error),
        Ok(names) if names.iter().any(|name| part_id(name).is_some()) => {
            Flaw::Damaged("the log is gone or empty, but checkpoint holds parts").at(LOG, 0)
        }
        Ok(_) => Error::new(ErrorKind::NotFound, "there is no pool here: log is missing or empty"),
    }
}

async fn is_zero<K: Disk>(disk: &K, length: u64) -> Result<bool> {
    const STEP: u64 = 1 << 20;
    let length = length / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let mut offset = 0;
    while offset < length {
        let bytes = read(disk, offset, STEP.min(length - offset) as usize).await?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += bytes.len() as u64;
    }
    Ok(true)
}

async fn read<K: Disk>(disk: &K, offset: u64, bytes: usize) -> Result<BufferMut> {
    let (result, buffer) = disk.read(offset, BufferMut::zeroed(bytes)).await;
    result.map_err(|error| Error::io(format!("read of log at {offset}"), error))?;
    Ok(buffer)
}

/// An intact batch and where it lies.
#[derive(Clone, Copy)]
struct Found {
    header: BatchHeader,
    position: Position,
}

impl Found {
    fn end(&self) -> Position {
        self.position.after(self.header.batch_bytes() as u64)
    }
}

/// The whole log in memory, with every intact batch by its offset, in or out of the chain.
struct ScannedLog {
    header: LogHeader,
    segments: Vec<Buffer>,
    found: BTreeMap<u64, Found>,
}

impl ScannedLog {
    async fn read<K: Disk>(disk: &K, header: LogHeader) -> Result<ScannedLog> {
        let mut log = ScannedLog { header, segments: Vec::new(), found: BTreeMap::new() };
        for segment in 0..header.options.segments {
            let start = Position { segment, within: 0 };
            let offset = start.offset(&header.options);
            let bytes = read(disk, offset, header.options.segment_bytes as usize).await?;
            log.scan(start, &bytes)?;
            log.segments.push(bytes.freeze());
        }
        Ok(log)
    }

    /// Collects the intact batches of one segment.
    fn scan(&mut self, start: Position, segment: &[u8]) -> Result<()> {
        let mut within = 0;
        while within < segment.len() {
            let position = start.after(within as u64);
            let offset = position.offset(&self.header.options);
            let bytes = &segment[within..];
            let header = BatchHeader::decode(self.header.pool, offset, bytes);
            match header.and_then(|header| header.payload(bytes).map(|_| header)) {
                Ok(header) => {
                    self.found.insert(offset, Found { header, position });
                    within += header.batch_bytes();
                }
                Err(flaw @ Flaw::NewerVersion(_)) => return Err(flaw.at(LOG, offset)),
                Err(_) => within += BLOCK_BYTES,
            }
        }
        Ok(())
    }

    /// The newest manifest, or the empty one that a new log starts from.
    fn newest_manifest(&self) -> Result<(u64, Manifest)> {
        let known = self.found.values().map(|found| found.header.manifest).max().unwrap_or(0);
        let newest = self
            .found
            .values()
            .filter(|found| found.header.kind == Kind::Manifest)
            .max_by_key(|found| found.header.number);
        let (number, manifest) = match newest {
            Some(found) => {
                let manifest = Manifest::decode(&self.header.options, self.payload_of(found)?)
                    .map_err(|flaw| flaw.at(LOG, found.header.offset))?;
                (found.header.number, manifest)
            }
            None => (0, self.empty_manifest()),
        };
        if number < known {
            let flaw = Flaw::Damaged("the batch that names the checkpoint is damaged");
            return Err(flaw.at(LOG, manifest.replay_from.offset(&self.header.options)));
        }
        Ok((number, manifest))
    }

    fn empty_manifest(&self) -> Manifest {
        Manifest {
            covered: 0,
            covered_checksum: self.header.checksum,
            replay_from: Position::START,
            parts: Vec::new(),
        }
    }

    /// The unbroken chain of batches after the checkpoint. Each lies right after its predecessor
    /// or, if it did not fit there, at the start of the next segment.
    fn follow(&self, manifest: &Manifest) -> Vec<Found> {
        let mut chain: Vec<Found> = Vec::new();
        let mut at = manifest.replay_from;
        let mut number = manifest.covered;
        let mut checksum = manifest.covered_checksum;
        let mut epoch = 0;
        while let Some(next) = self.candidates(at).into_iter().find_map(|position| {
            let found = self.found.get(&position.offset(&self.header.options))?;
            let follows = number.checked_add(1) == Some(found.header.number)
                && found.header.previous == checksum
                && found.header.epoch >= epoch
                && found.position == position;
            follows.then_some(*found)
        }) {
            at = next.end();
            number = next.header.number;
            checksum = next.header.checksum;
            epoch = next.header.epoch;
            chain.push(next);
        }
        chain
    }

    fn candidates(&self, after: Position) -> [Position; 2] {
        [after, after.next_segment(&self.header.options)]
    }

    /// Tells a torn tail from damage, which is an error. Returns whether there is a torn batch.
    fn judge_end(&self, last: u64, epoch: u64, head: Position, manifest: u64) -> Result<bool> {
        let missing = last.saturating_add(1);
        let vouches = |header: &BatchHeader| header.durable >= missing && header.epoch >= epoch;
        let voucher = self.found.values().find(|found| vouches(&found.header));
        if voucher.is_some() || manifest > last {
            let flaw = Flaw::Damaged(
                "a batch that was durable is damaged or gone, as a later batch that is intact shows",
            );
            return Err(flaw.at(LOG, self.place_of(missing, head).offset(&self.header.options)));
        }
        Ok(self.has_header(missing, head))
    }

    /// Where the missing batch must have been: where its header still lies, else at the head.
    fn place_of(&self, missing: u64, head: Position) -> Position {
        let candidates = self.candidates(head);
        let has_header = |position: &Position| self.header_at(*position) == Some(missing);
        candidates.into_iter().find(has_header).unwrap_or(head)
    }

    fn has_header(&self, number: u64, head: Position) -> bool {
        self.candidates(head).into_iter().any(|position| self.header_at(position) == Some(number))
    }

    /// The number in the batch header at a position, whatever the state of its payload.
    fn header_at(&self, position: Position) -> Option<u64> {
        let offset = position.offset(&self.header.options);
        let bytes = self.segment_from(position)?;
        BatchHeader::decode(self.header.pool, offset, bytes).ok().map(|header| header.number)
    }

    fn segment_from(&self, position: Position) -> Option<&[u8]> {
        let within = usize::try_from(position.within).ok()?;
        self.segments.get(position.segment as usize)?.get(within..)
    }

    fn payload_of(&self, found: &Found) -> Result<&[u8]> {
        let bytes = self.segment_from(found.position).unwrap_or_default();
        found.header.payload(bytes).map_err(|flaw| flaw.at(LOG, found.header.offset))
    }

    /// The blocks of a found batch, as they are to be written again.
    fn bytes_of(&self, found: &Found) -> Buffer {
        let start = found.position.within as usize;
        self.segments[found.position.segment as usize]
            .slice(start..start + found.header.batch_bytes())
    }

    fn replay(&self, found: &Found, overlay: &mut Overlay) -> Result<()> {
        if found.header.kind != Kind::Changes {
            return Ok(());
        }
        let mut reader = Reader::new(self.payload_of(found)?);
        while !reader.is_empty() {
            let (key, value) = reader.record().map_err(|flaw| flaw.at(LOG, found.header.offset))?;
            overlay.apply(Change { key, value: value.map(<[u8]>::to_vec) });
        }
        Ok(())
    }
}
