//! Making, opening and closing a pool.
//!
//! Opening: the store recovers log and checkpoint and raises the epoch; the journal of a killed
//! predecessor is replayed on top; the headers of `data` and `hashes` are checked and raised; what is
//! new is synced and committed in one batch, which also records that the headers carry this epoch.
//! A crash at any point leaves a pool that the next open treats the same way.

use crate::commit::store_key;
use crate::headers::{self, Header, HeaderOf};
use crate::journal::{Journal, JournalIdentity, RecordChange};
use crate::load::Unverified;
use crate::maintenance::HASH_BLOCK_BYTES;
use crate::pool::Pool;
use crate::records::{PoolRecord, RecordKey, RegionRecord};
use crate::state::{State, Sweep};
use crate::store::{Change, Recovery, Store, StoreOptions};
use crate::types::{CreateOptions, OpenOptions};
use blockyard_block::{
    CLUSTERS_MAX, EXTENT_CLUSTERS, EXTENT_SIZE, Error, ErrorKind, RegionIndex, Result,
};
use blockyard_io::{Directory, Disk, Mapped};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl<D: Directory> Pool<D> {
    /// Bytes the journal memory must have.
    pub const JOURNAL_BYTES: usize = 16 << 20;

    /// Makes a pool in an empty directory. `data` is a new file of length 0 or a block device. The
    /// log is made last: if this is cut off before, there is no pool.
    pub async fn create(directory: &D, data: &D::Disk, options: &CreateOptions) -> Result<()> {
        let header = Header {
            pool: options.id,
            hash: options.hash,
            data_on_device: options.data_on_device,
            created_unix_s: options.now_unix_s,
            epoch: 0,
        };
        let failed = |error| Error::io("making of hashes", error);
        let hashes = match directory.create("hashes").await {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                directory.open("hashes").await
            }
            made => made,
        }
        .map_err(failed)?;
        hashes.allocate(0, HASH_BLOCK_BYTES).await.map_err(failed)?;
        header.write(HeaderOf::Hashes, &hashes).await?;
        if !options.data_on_device {
            let failed = |error| Error::io("making of data", error);
            data.allocate(0, EXTENT_SIZE).await.map_err(failed)?;
        }
        header.write(HeaderOf::Data, data).await?;
        directory.sync().await.map_err(failed)?;
        let store_options = StoreOptions {
            segment_bytes: options.log_segment_bytes,
            segments: options.log_segments,
            ..StoreOptions::default()
        };
        Store::create(directory, options.id, &store_options).await
    }

    /// Whether the directory holds a (completely made) pool.
    pub async fn exists(directory: &D) -> Result<bool> {
        Store::exists(directory).await
    }

    /// Opens: recovers log, checkpoint and journal, derives counts and free space.
    pub async fn open(
        directory: D,
        data: D::Disk,
        mut journal: Box<dyn Mapped>,
        options: OpenOptions,
    ) -> Result<Arc<Pool<D>>> {
        let directory = Arc::new(directory);
        let hashes =
            directory.open("hashes").await.map_err(|error| Error::io("opening hashes", error))?;
        let mut records = Unverified::default();
        let opened = Store::open(Arc::clone(&directory), &mut |key, value| {
            records.put(RecordKey::from_parts(key.kind, key.id)?, value)
        })
        .await;
        let (store, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(headers::explain(&*directory, &data, &hashes, error).await),
        };
        let pool = check_headers(&data, &hashes, &records, &recovery).await?;
        if !recovery.clean {
            drop_caches(&data, &hashes).await?;
        }
        let data_length =
            data.length().await.map_err(|error| Error::io("length of data", error))?;
        lengthen_hashes(&hashes, data_length).await?;
        let identity =
            JournalIdentity { pool: pool.id, boot: options.boot_id, epoch: store.epoch() };
        let replayed = Journal::recover(journal.as_mut(), identity, pool.headers_epoch)?;
        if let Err(error) = data.sync().await {
            // What is replayed refers to data that is lost now, whatever a later sync says (I12).
            Journal::discard(journal.as_mut());
            return Err(Error::io("sync of data", error));
        }
        let batch = replay(&mut records, replayed)?;
        check_data_reaches(data_length, &records)?;
        raise_headers(&data, &hashes, &pool, store.epoch()).await?;
        let pool = PoolRecord { headers_epoch: store.epoch(), ..pool };
        commit_recovered(&store, &pool, batch).await?;
        records.pool = Some(pool.clone());

        let asked = match options.data_elsewhere {
            true => data.space_available().await,
            false => directory.space_available().await,
        };
        let available = asked.map_err(|error| Error::io("asking for free space", error))?;
        let journal = Journal::start(journal, identity);
        let state = build_state(
            records,
            pool,
            options,
            journal,
            data_length,
            &store,
            &recovery,
            available,
        )?;
        let pool = Pool::assemble(state, directory, data, hashes, store);
        pool.load_lists().await;
        Ok(Arc::new(pool))
    }

    /// Waits for requests in flight, commits, writes hashes, clears intents as far as five seconds
    /// of ticks allow, and marks the pool clean. New requests are refused with `ShutDown`. The
    /// background tasks return.
    pub async fn shutdown(&self) -> Result<()> {
        let started_ms = {
            let mut state = self.lock();
            state.closing = true;
            state.note_progress();
            let now = state.now_ms;
            self.wake_wanted(state);
            now
        };
        self.wait_until(|state| {
            state.epochs.is_idle() && state.images.values().all(|image| image.line.is_empty())
        })
        .await;
        let committed = self.commit_now().await;
        if committed.is_ok() {
            // A step that began before may have found nothing to do that there is now.
            let begun = self.lock().maintenance_round;
            self.maintenance_event.notify(usize::MAX);
            self.wait_until(|state| {
                let time_is_up = state.now_ms.saturating_sub(started_ms) > CLEARING_MS;
                state.failed.is_some()
                    || (state.is_settled() && (state.idle_round > begun || time_is_up))
            })
            .await;
        }
        {
            let mut state = self.lock();
            state.stopped = true;
            state.note_progress();
            self.wake_wanted(state);
        }
        for event in [
            &self.stop_event,
            &self.sync_event,
            &self.log_event,
            &self.maintenance_event,
            &self.reclaim_event,
            &self.fetched_event,
            &self.demand_event,
        ] {
            event.notify(usize::MAX);
        }
        self.wait_until(|state| state.tasks == 0).await;
        committed?;
        self.lock().check_not_failed()?;
        self.store.vouch(true).await?;
        self.lock().journal.clear();
        Ok(())
    }

    async fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let seen = {
                let state = self.lock();
                if condition(&state) {
                    return;
                }
                state.progress
            };
            self.wait_for_progress(seen).await;
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    pub(crate) fn task_started(&self) {
        self.lock().tasks += 1;
    }

    pub(crate) fn task_ended(&self) {
        let mut state = self.lock();
        state.tasks -= 1;
        state.note_progress();
        self.wake_wanted(state);
    }
}

/// Time that a shutdown spends on clearing intents; the rest are left for the next open.
const CLEARING_MS: u64 = 5_000;

/// Refuses files of another pool, or of an older or newer copy of this one.
async fn check_headers(
    data: &impl Disk,
    hashes: &impl Disk,
    records: &Unverified,
    recovery: &Recovery,
) -> Result<PoolRecord> {
    let data_header = Header::read(HeaderOf::Data, data).await?;
    let hashes_header = Header::read(HeaderOf::Hashes, hashes).await?;
    let pool = records.pool.clone().unwrap_or(PoolRecord {
        id: data_header.pool,
        hash: data_header.hash,
        data_on_device: data_header.data_on_device,
        created_unix_s: data_header.created_unix_s,
        headers_epoch: 0,
    });
    for (header, of) in [(&data_header, HeaderOf::Data), (&hashes_header, HeaderOf::Hashes)] {
        let file = of.file();
        if header.pool != recovery.pool || header.hash != pool.hash {
            return Err(mismatch(
                file,
                format!("belongs to pool {}, the log to {}", header.pool, recovery.pool),
            ));
        }
        if header.epoch > recovery.epoch {
            return Err(mismatch(
                file,
                format!(
                    "was opened {} times, the metadata only {}: the log or checkpoint is an older copy",
                    header.epoch, recovery.epoch
                ),
            ));
        }
        if header.epoch < pool.headers_epoch {
            return Err(mismatch(
                file,
                format!(
                    "is an older copy: it was opened {} times, the metadata knows of {}",
                    header.epoch, pool.headers_epoch
                ),
            ));
        }
    }
    Ok(pool)
}

/// Refuses data that was cut short, before any file is marked as opened: whole again, it must be
/// found to be of the same moment as the rest.
fn check_data_reaches(data_length: u64, records: &Unverified) -> Result<()> {
    match records.highest_home() {
        Some(home) if data_length / EXTENT_SIZE <= u64::from(home.0) => Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "data ends at byte {data_length}, but what is stored goes beyond {}: was it cut short? \
                 Put it back whole; `blockyard check` tells which images are concerned",
                home.first_cluster().data_offset()
            ),
        )),
        _ => Ok(()),
    }
}

fn mismatch(file: &str, what: String) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{file} {what}; put the files of one pool, of one moment, together"),
    )
}

/// A power cut may leave the data longer than the hash table that grew before it: every region on disk
/// has room for its hashes before anything is served.
async fn lengthen_hashes(hashes: &impl Disk, data_length: u64) -> Result<()> {
    let needed = data_length / EXTENT_SIZE * HASH_BLOCK_BYTES;
    let failed = |error| Error::io("taking space for hashes", error);
    let length = hashes.length().await.map_err(failed)?;
    if length < needed {
        let start = length / HASH_BLOCK_BYTES * HASH_BLOCK_BYTES;
        hashes.allocate(start, needed - start).await.map_err(failed)?;
    }
    Ok(())
}

async fn drop_caches(data: &impl Disk, hashes: &impl Disk) -> Result<()> {
    let failed = |error| Error::io("dropping cached pages", error);
    data.drop_cache().await.map_err(failed)?;
    hashes.drop_cache().await.map_err(failed)
}

async fn raise_headers(
    data: &impl Disk,
    hashes: &impl Disk,
    pool: &PoolRecord,
    epoch: u64,
) -> Result<()> {
    let header = Header {
        pool: pool.id,
        hash: pool.hash,
        data_on_device: pool.data_on_device,
        created_unix_s: pool.created_unix_s,
        epoch,
    };
    header.write(HeaderOf::Data, data).await?;
    header.write(HeaderOf::Hashes, hashes).await
}

/// Applies the journal to the records and returns the batch that commits it: the intents of all regions
/// whose clusters it brought into use, and the last value of each record.
fn replay(
    records: &mut Unverified,
    entries: Vec<Vec<RecordChange>>,
) -> Result<BTreeMap<RecordKey, Option<Vec<u8>>>> {
    let mut batch = BTreeMap::new();
    let mut regions = BTreeSet::new();
    for (key, value) in entries.into_iter().flatten() {
        match &value {
            Some(bytes) => {
                if let RecordKey::Extent(id) = key {
                    let newer = crate::extent::Extent::decode(bytes)?;
                    regions.extend(records.regions_changed_by(id, &newer));
                }
                records.put(key, bytes)?;
            }
            None => records.remove(key),
        }
        batch.insert(key, value);
    }
    for region in regions {
        records.regions.push((region, Some(RegionRecord::Intent)));
        batch.insert(RecordKey::Region(region), Some(RegionRecord::Intent.encode()));
    }
    Ok(batch)
}

async fn commit_recovered<D: Directory>(
    store: &Store<D>,
    pool: &PoolRecord,
    mut batch: BTreeMap<RecordKey, Option<Vec<u8>>>,
) -> Result<()> {
    // Intents first: they are true on their own, and may be many.
    let intents: Vec<RecordKey> =
        batch.keys().filter(|key| matches!(key, RecordKey::Region(_))).copied().collect();
    for some in intents.chunks((store.batch_bytes_max() / 64).max(1)) {
        let changes = some.iter().map(|key| change(*key, batch.remove(key).flatten())).collect();
        store.commit(changes).await?;
    }
    batch.insert(RecordKey::Pool, Some(pool.encode()));
    store.commit(batch.into_iter().map(|(key, value)| change(key, value)).collect()).await?;
    Ok(())
}

fn change(key: RecordKey, value: Option<Vec<u8>>) -> Change {
    Change { key: store_key(key), value }
}

#[expect(clippy::too_many_arguments, reason = "called once, with everything open has gathered")]
fn build_state<D: Directory>(
    records: Unverified,
    pool: PoolRecord,
    options: OpenOptions,
    mut journal: Journal,
    data_length: u64,
    store: &Store<D>,
    recovery: &Recovery,
    available: u64,
) -> Result<State> {
    let regions_on_disk = u32::try_from(data_length / EXTENT_SIZE).unwrap_or(u32::MAX);
    let metadata_max = journal.capacity().min(store.batch_bytes_max() / 2);
    let next_id = records.next_id(store.epoch())?;
    let device_regions = pool.data_on_device.then(|| regions_on_disk.saturating_sub(1));
    let mut state = State::new(pool, options, journal);
    state.allocator = allocator_for(&state.options, device_regions);
    state.metadata_max = metadata_max;
    state.next_id = next_id;
    state.opened_clean = recovery.clean || recovery.epoch == 0;
    state.space_available = available.saturating_sub(state.options.space_reserve_bytes);
    let garbage = records.into_state(&mut state, regions_on_disk)?;
    state.discard_loaded_changes();
    for region in 1..state.allocator.region_count() {
        let region = RegionIndex(region);
        let in_use = state.allocator.used_in(region) > 0 || state.allocator.owner(region).is_some();
        if in_use {
            state.allocator.provision(region);
        }
    }
    let regions_end = state.allocator.regions_max().saturating_add(1);
    state.regions_kept = 1..regions_on_disk.min(regions_end);
    state.collect(garbage);
    state.wanted.space = true;
    Ok(state)
}

fn allocator_for(options: &OpenOptions, device_regions: Option<u32>) -> crate::alloc::Allocator {
    let region_bytes = EXTENT_SIZE;
    let clusters_max = options.capacity_bytes.map_or(u64::MAX, |bytes| bytes / 4096);
    let regions_max = options
        .capacity_bytes
        .map_or(CLUSTERS_MAX / EXTENT_CLUSTERS as u64 - 1, |bytes| bytes.div_ceil(region_bytes));
    let regions_max = u32::try_from(regions_max).unwrap_or(u32::MAX - 1);
    let regions_max = device_regions.map_or(regions_max, |device| regions_max.min(device));
    crate::alloc::Allocator::new(clusters_max, regions_max)
}

impl State {
    /// Removes what a crash left behind: records nobody holds, and imports that were not finished. What is kept of
    /// transfers is left as if its volume had been left.
    fn collect(&mut self, garbage: crate::load::Garbage) {
        let durable = self.durable;
        for extent in garbage.extents {
            self.extent_mut(extent).holders = 1;
            self.sweeps.push_back((durable, Sweep::Extent(extent)));
        }
        for page in garbage.pages {
            if let Some(page) = self.pages.get_mut(&page) {
                page.holders = 1;
            }
            self.sweeps.push_back((durable, Sweep::Page(page)));
        }
        for image in self.hidden_images() {
            match self.images.get_mut(&image) {
                Some(found) if found.record.kept => found.left_unix_s = Some(0),
                _ => self.remove_image(image),
            }
        }
        self.seal();
    }
}
