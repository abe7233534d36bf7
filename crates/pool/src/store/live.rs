//! An open store: committing to the log. One batch is written at a time, so at most one is not
//! known durable. After a failed or abandoned write or sync of the log its state is unknown:
//! nothing is written any more (I12), by anyone, until the store is opened again.

use super::batch::{BatchHeader, Kind};
use super::header::{LogHeader, validate};
use super::manifest::{self, Manifest};
use super::overlay::Overlay;
use super::part::Part;
use super::record::put_record;
use super::recover::{self, LOG, Unrepaired, Visit};
use super::ring::{Class, Position, Ring, changes_bytes_max};
use super::{Change, Key, Recovery, StoreOptions, StoreStats, batch};
use crate::PoolId;
use blockyard_block::{BufferMut, Error, ErrorKind, Result};
use blockyard_io::{Directory, Disk};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A durable, sorted set of keys and values. All methods may be called at the same time.
pub struct Store<D: Directory> {
    pub(super) directory: Arc<D>,
    pub(super) header: LogHeader,
    epoch: u64,
    pub(super) log: tokio::sync::Mutex<Log<D::Disk>>,
    /// Held for a whole checkpoint, so that there is one at a time. Taken before `log`.
    pub(super) folding: tokio::sync::Mutex<Folding>,
    shared: Mutex<Shared<D::Disk>>,
}

/// The log and where it stands; held while a batch is written.
pub(super) struct Log<K> {
    disk: K,
    pub(super) ring: Ring,
    pub(super) last_number: u64,
    pub(super) last_checksum: u32,
    last_kind: Option<Kind>,
    manifest: u64,
}

/// What only checkpoints change.
pub(super) struct Folding {
    pub(super) next_part: u64,
}

/// What is read and changed at once, without waiting.
pub(super) struct Shared<K> {
    /// Committed changes that no checkpoint has begun to fold.
    pub(super) overlay: Overlay,
    /// Older ones, which the running checkpoint folds.
    pub(super) frozen: Option<Arc<Overlay>>,
    pub(super) parts: Vec<Arc<Part<K>>>,
    pub(super) stats: StoreStats,
    live_log_bytes: u64,
    /// Set for good when the log fails.
    failure: Option<(ErrorKind, String)>,
}

impl<D: Directory> Store<D> {
    /// Whether a store was made here. `false` also for one whose making was cut off half-way,
    /// which [`Store::create`] then replaces.
    pub async fn exists(directory: &D) -> Result<bool> {
        recover::exists(directory).await
    }

    /// The pool that the log was made for, and how often it was opened by what the log says, whatever
    /// else is wrong.
    pub async fn origin(directory: &D) -> Result<(PoolId, u64)> {
        let recovery = recover::read_log(directory).await?.recovery;
        Ok((recovery.pool, recovery.epoch))
    }

    /// Makes an empty store: `log`, allocated and written with zeros. The header comes last, in
    /// one sector: dropped or failed before that, no store exists. `Exists` if there is one.
    pub async fn create(directory: &D, pool: PoolId, options: &StoreOptions) -> Result<()> {
        validate(options)?;
        let failed = |error| Error::io("making of log", error);
        if recover::exists(directory).await? {
            return Err(Error::new(ErrorKind::Exists, "there is a pool here already"));
        }
        match directory.remove(LOG).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let (header, block) = LogHeader::encode(pool, *options);
        let disk = directory.create(LOG).await.map_err(failed)?;
        write_zeros(&disk, header.log_bytes()).await.map_err(failed)?;
        disk.sync().await.map_err(failed)?;
        directory.sync().await.map_err(failed)?;
        disk.write(0, block.freeze()).await.map_err(failed)?;
        disk.sync().await.map_err(failed)
    }

    /// Reads the store back, calls `visit` with every live record in key order, makes the log's
    /// tail durable, and begins a new epoch. Nothing is written unless all that is needed was read
    /// and found whole. Dropped or failed half-way, it may be tried again.
    ///
    /// `NotFound`: no store was made here. `Corrupt`: names file and offset.
    pub async fn open(directory: Arc<D>, visit: Visit<'_>) -> Result<(Store<D>, Recovery)> {
        let log = recover::read_log(&*directory).await?;
        let (parts, records) = recover::visit_all(&*directory, &log, visit).await?;
        rewrite_unvouched(&log).await?;
        let next_part = remove_orphans(&*directory, &log.manifest).await?;
        let recovery = Recovery { records, ..log.recovery };
        let store = Store::assemble(directory, log, parts, next_part);
        let mut log = store.log_with_room(Class::Mark, 0).await?;
        store.append(&mut log, Kind::Epoch, &[]).await?;
        drop(log);
        Ok((store, recovery))
    }

    /// Reads and visits as [`Store::open`] does, and writes nothing: for checking a killed pool.
    pub async fn inspect(directory: &D, visit: Visit<'_>) -> Result<Recovery> {
        let log = recover::read_log(directory).await?;
        let (_, records) = recover::visit_all(directory, &log, visit).await?;
        Ok(Recovery { records, ..log.recovery })
    }

    /// Appends the changes as one batch, whole or not at all, and makes it durable; returns its
    /// number. Later changes of a key win. No changes, no batch: the last number is returned.
    ///
    /// `InvalidArgument`: larger than [`Store::batch_bytes_max`], nothing was done. An error of
    /// the log: whether the batch is there shows at the next open; this store writes no more and
    /// every later call fails with the same kind. If the log is full, a checkpoint is made first;
    /// should that fail, its error is returned, nothing was written and the store stays usable
    /// ([`Store::failure`] tells the two apart). Dropped before it is ready: as after an error.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<u64> {
        let payload = self.encode(&changes)?;
        if changes.is_empty() {
            let log = self.log.lock().await;
            self.check_alive()?;
            return Ok(log.last_number);
        }
        let mut log = self.log_with_room(Class::Changes, payload.len()).await?;
        self.append(&mut log, Kind::Changes, &payload).await?;
        let mut shared = self.shared();
        changes.into_iter().for_each(|change| shared.overlay.apply(change));
        Ok(log.last_number)
    }

    /// Writes an empty batch that vouches for the last one, so that damage to that one can be
    /// told from a torn write. Nothing is written if the last batch is empty already. With
    /// `clean`, the next open finds [`Recovery::clean`] unless something is written after.
    /// Errors as for [`Store::commit`].
    pub async fn vouch(&self, clean: bool) -> Result<()> {
        let kind = if clean { Kind::Clean } else { Kind::Vouch };
        let is_vouched = |last: Option<Kind>| match last {
            Some(Kind::Clean) => true,
            Some(Kind::Vouch) => !clean,
            _ => false,
        };
        let log = self.log.lock().await;
        self.check_alive()?;
        if is_vouched(log.last_kind) {
            return Ok(());
        }
        drop(log);
        let mut log = self.log_with_room(Class::Mark, 0).await?;
        match is_vouched(log.last_kind) {
            true => Ok(()),
            false => self.append(&mut log, kind, &[]).await,
        }
    }

    /// The value of a record, committed and durable. At most one read.
    pub async fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        let part = {
            let shared = self.shared();
            let frozen = shared.frozen.as_deref();
            let newest = shared.overlay.get(key).or_else(|| frozen?.get(key));
            if let Some(value) = newest {
                return Ok(value.map(<[u8]>::to_vec));
            }
            let after = shared.parts.partition_point(|part| part.entry.first <= key);
            match after.checked_sub(1).and_then(|at| shared.parts.get(at)) {
                None => return Ok(None),
                Some(part) => Arc::clone(part),
            }
        };
        part.get(key).await
    }

    /// Bytes that the changes of one batch may take, as [`Change::encoded_bytes`] counts them.
    pub fn batch_bytes_max(&self) -> usize {
        changes_bytes_max(&self.header.options) - batch::HEADER_BYTES
    }

    /// Half of the log is in use: time for [`Store::checkpoint`].
    pub fn needs_checkpoint(&self) -> bool {
        let options = self.header.options;
        self.shared().live_log_bytes >= options.segment_bytes * u64::from(options.segments) / 2
    }

    /// The epoch of this open: one more than the last's.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn pool(&self) -> PoolId {
        self.header.pool
    }

    /// How the store was made.
    pub fn options(&self) -> StoreOptions {
        self.header.options
    }

    /// Set once the log has failed: nothing is written any more.
    pub fn failure(&self) -> Option<Error> {
        let shared = self.shared();
        shared.failure.as_ref().map(|(kind, message)| Error::new(*kind, message.clone()))
    }

    pub fn stats(&self) -> StoreStats {
        let shared = self.shared();
        let frozen_bytes = shared.frozen.as_ref().map_or(0, |frozen| frozen.bytes());
        StoreStats {
            overlay_bytes: shared.overlay.bytes() + frozen_bytes,
            parts: shared.parts.len() as u64,
            part_bytes: shared.parts.iter().map(|part| part.entry.bytes).sum(),
            ..shared.stats
        }
    }

    fn assemble(
        directory: Arc<D>,
        log: Unrepaired<D::Disk>,
        parts: Vec<Arc<Part<D::Disk>>>,
        next_part: u64,
    ) -> Store<D> {
        let ring = Ring {
            options: log.header.options,
            head: log.head,
            tail: log.manifest.replay_from.segment,
        };
        let shared = Shared {
            overlay: log.overlay,
            frozen: None,
            parts,
            stats: StoreStats::default(),
            live_log_bytes: ring.live_bytes(),
            failure: None,
        };
        Store {
            directory,
            header: log.header,
            epoch: log.recovery.epoch.saturating_add(1),
            log: tokio::sync::Mutex::new(Log {
                disk: log.disk,
                ring,
                last_number: log.last_number,
                last_checksum: log.last_checksum,
                last_kind: log.last_kind,
                manifest: log.manifest_number,
            }),
            folding: tokio::sync::Mutex::new(Folding { next_part }),
            shared: Mutex::new(shared),
        }
    }

    fn encode(&self, changes: &[Change]) -> Result<Vec<u8>> {
        let bytes: usize = changes.iter().map(Change::encoded_bytes).sum();
        if bytes > self.batch_bytes_max() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("a batch of {bytes} bytes; at most {} fit", self.batch_bytes_max()),
            ));
        }
        let mut payload = Vec::with_capacity(bytes);
        for change in changes {
            put_record(&mut payload, change.key, change.value.as_deref());
        }
        Ok(payload)
    }

    /// The lock on the log, with room for a batch; makes checkpoints until there is.
    pub(super) async fn log_with_room(
        &self,
        class: Class,
        payload_bytes: usize,
    ) -> Result<tokio::sync::MutexGuard<'_, Log<D::Disk>>> {
        let bytes = batch::batch_bytes(payload_bytes) as u64;
        loop {
            let log = self.log.lock().await;
            self.check_alive()?;
            if log.ring.place(class, bytes).is_some() {
                return Ok(log);
            }
            drop(log);
            let mut folding = self.folding.lock().await;
            // Another checkpoint may have made room meanwhile.
            if self.log.lock().await.ring.place(class, bytes).is_none() {
                self.fold(&mut folding).await?;
            }
        }
    }

    /// Writes one batch where there is room for it, and syncs. Failed or dropped, the store is
    /// dead.
    pub(super) async fn append(
        &self,
        log: &mut Log<D::Disk>,
        kind: Kind,
        payload: &[u8],
    ) -> Result<()> {
        self.check_alive()?;
        let class = match kind {
            Kind::Changes => Class::Changes,
            Kind::Manifest => Class::Manifest,
            Kind::Epoch | Kind::Vouch | Kind::Clean => Class::Mark,
        };
        let position = log
            .ring
            .place(class, batch::batch_bytes(payload.len()) as u64)
            .ok_or_else(|| Error::new(ErrorKind::NoSpace, "no room in the log"))?;
        let mut header = self.next_header(log, kind, position);
        let bytes = header.seal(payload);
        let fuse = Fuse { store: self, offset: header.offset };
        let length = bytes.len() as u64;
        let written = match log.disk.write(header.offset, bytes).await {
            Ok(()) if blockyard_io::broken("sync-log") => Ok(()),
            Ok(()) => log.disk.sync().await,
            failed => failed,
        };
        if let Err(error) = written {
            return Err(self.fail(Error::io(format!("write to log at {}", header.offset), error)));
        }
        std::mem::forget(fuse);
        self.appended(log, header, position, length);
        Ok(())
    }

    fn next_header(&self, log: &Log<D::Disk>, kind: Kind, position: Position) -> BatchHeader {
        BatchHeader {
            kind,
            pool: self.header.pool,
            offset: position.offset(&self.header.options),
            epoch: self.epoch,
            number: log.last_number.saturating_add(1),
            durable: log.last_number,
            manifest: log.manifest,
            previous: log.last_checksum,
            payload_bytes: 0,
            payload_checksum: 0,
            checksum: 0,
        }
    }

    fn appended(&self, log: &mut Log<D::Disk>, header: BatchHeader, at: Position, bytes: u64) {
        let wrapped = at.segment < log.ring.head.segment;
        log.ring.head = at.after(bytes);
        log.last_number = header.number;
        log.last_checksum = header.checksum;
        log.last_kind = Some(header.kind);
        if header.kind == Kind::Manifest {
            log.manifest = header.number;
        }
        let mut shared = self.shared();
        shared.live_log_bytes = log.ring.live_bytes();
        shared.stats.batches += 1;
        shared.stats.log_bytes_written += bytes;
        shared.stats.log_wraps += u64::from(wrapped);
    }

    /// Gives the segments before a durable manifest's replay back.
    pub(super) fn release(&self, log: &mut Log<D::Disk>, manifest: &Manifest) {
        log.ring.tail = manifest.replay_from.segment;
        self.shared().live_log_bytes = log.ring.live_bytes();
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared<D::Disk>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_alive(&self) -> Result<()> {
        self.failure().map_or(Ok(()), Err)
    }

    /// Latches the store shut and returns the error.
    fn fail(&self, error: Error) -> Error {
        let message = format!(
            "{}; the metadata log takes no more changes until the pool is opened again",
            error.message()
        );
        self.shared().failure.get_or_insert((error.kind(), message));
        error
    }
}

/// Blows when a batch is dropped half-way: what is on disk is then unknown.
struct Fuse<'a, D: Directory> {
    store: &'a Store<D>,
    offset: u64,
}

impl<D: Directory> Drop for Fuse<'_, D> {
    fn drop(&mut self) {
        let message = format!("write to log at {} was abandoned", self.offset);
        self.store.fail(Error::new(ErrorKind::Io, message));
    }
}

async fn write_zeros<K: Disk>(disk: &K, length: u64) -> std::io::Result<()> {
    const STEP: u64 = 1 << 20;
    disk.allocate(0, length).await?;
    let zeros = BufferMut::zeroed(STEP as usize).freeze();
    let mut offset = 0;
    while offset < length {
        let bytes = STEP.min(length - offset);
        disk.write(offset, zeros.slice(0..bytes as usize)).await?;
        offset += bytes;
    }
    Ok(())
}

/// The tail may have been read from a cache that the medium never saw. Writing the same bytes
/// again harms nothing that is durable already.
async fn rewrite_unvouched<K: Disk>(log: &Unrepaired<K>) -> Result<()> {
    for (offset, bytes) in &log.unvouched {
        let written = log.disk.write(*offset, bytes.clone()).await;
        written.map_err(|error| Error::io(format!("write to log at {offset}"), error))?;
    }
    log.disk.sync().await.map_err(|error| Error::io("sync of log", error))
}

/// Removes parts that no manifest names, and returns an id that no file has. One that cannot be
/// removed only takes space until the next open.
async fn remove_orphans<D: Directory>(directory: &D, manifest: &Manifest) -> Result<u64> {
    let names = directory.list(manifest::FOLDER).await;
    let names = names.map_err(|error| Error::io("list of checkpoint", error))?;
    let mut highest = manifest.parts.iter().map(|part| part.id).max().unwrap_or(0);
    for id in names.iter().filter_map(|name| manifest::part_id(name)) {
        highest = highest.max(id);
        if manifest.parts.iter().all(|part| part.id != id) {
            let _ = directory.remove(&manifest::part_name(id)).await;
        }
    }
    Ok(highest.saturating_add(1))
}
