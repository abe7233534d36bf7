//! Judges a pool that nobody serves: walks all metadata, compares the hash table with its checksums
//! and, if asked, every cluster with its hash.
//!
//! Nothing is ever written. One inconsistency does not hide the next: everything that can still be
//! judged is judged. The walk is written apart from the engine's state, so that a mistake there is
//! not repeated here; the two share only the codecs. Locks are the caller's business.
//!
//! - [`records`]: what the metadata holds, with a killed daemon's journal on top
//! - [`headers`]: do data, hashes and metadata belong together
//! - [`maps`]: images, map pages and extents, and which image shows what is damaged
//! - [`clusters`]: what extents say of clusters
//! - [`content`]: the hash table, and the data

mod clusters;
mod content;
mod findings;
mod headers;
mod maps;
mod records;

use crate::journal::{Journal, JournalIdentity};
use crate::store::{Recovery, Store};
use blockyard_block::{EXTENT_SIZE, Error, ErrorKind, ImageName, Result};
use blockyard_io::{Directory, Disk, Mapped};
use clusters::Usage;
use findings::Findings;
use headers::Files;
use records::Records;

/// How thorough a check is.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Also reads every cluster and compares it with its hash.
    pub read_data: bool,
    /// Names this boot of the machine: the journal of another one is ignored (I15).
    pub boot_id: [u8; 16],
}

/// What a check found. A report is complete: what could not be judged is a finding, too.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    pub counts: CheckCounts,
    /// At most some thousand, in no promised order.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub findings_omitted: u64,
}

impl CheckReport {
    /// Whether nothing was found wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.findings_omitted == 0
    }
}

/// The pool in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// The last daemon closed the pool in order, or there was none yet.
    pub closed_clean: bool,
    /// Images and snapshots.
    pub images: u64,
    /// Imports that were not finished; the next open removes them.
    pub images_unfinished: u64,
    pub extents: u64,
    /// Records that no image reaches, left by a crash; the next open collects them.
    pub records_unheld: u64,
    /// Clusters that extents use, each counted once.
    pub clusters_used: u64,
    /// Of these: without content, kept for later writes.
    pub clusters_reserved: u64,
    /// Of these: used more than once, or by an extent held more than once.
    pub clusters_shared: u64,
    /// Of these: with a hash that nothing vouches for until the next open has hashed them again.
    pub clusters_untrusted: u64,
    /// Of these: read and equal to their hash.
    pub clusters_verified: u64,
    pub regions_with_intent: u64,
    /// Changes that a killed daemon acknowledged and left to its successor in the journal.
    pub journal_changes: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The image that shows it, if one does.
    pub image: Option<ImageName>,
    /// Bytes from the image's start.
    pub offset: Option<u64>,
    /// What is wrong, and where in the pool's files.
    pub message: String,
}

/// How far a check is, in bytes of the hash table and of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckProgress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

/// Checks the pool in `directory`, whose data is `data`. `journal` is a killed daemon's journal
/// memory, if there is one; it is only read. Dropped half-way, nothing was changed.
///
/// An error means that it cannot be told whether the pool is sound: `NotFound`, there is no pool;
/// `Unsupported`, its format is newer; `Io` and others, the metadata could not be read.
pub async fn check<D: Directory>(
    directory: &D,
    data: &D::Disk,
    journal: Option<&mut dyn Mapped>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<CheckReport> {
    let mut findings = Findings::default();
    let mut records = Records::default();
    let recovery = read_metadata(directory, data, &mut records, &mut findings).await?;
    let files = Files::open(directory, data, &records, recovery, &mut findings).await?;
    let mut counts = CheckCounts::default();
    let Some(recovery) = recovery else {
        return Ok(report(counts, findings));
    };
    counts.closed_clean = recovery.clean || recovery.epoch == 0;
    if let (Some(journal), true) = (journal, files.belong_together) {
        counts.journal_changes =
            replay(journal, &mut records, recovery, options.boot_id, &mut findings)?;
    }
    if let Some(newer) = records.newer.take() {
        return Err(newer);
    }
    let regions_on_disk = u32::try_from(files.data_bytes / EXTENT_SIZE).unwrap_or(u32::MAX);
    maps::hold(&mut records, &mut findings);
    let mut usage = Usage::derive(&records, regions_on_disk, &mut findings);
    records.count(&mut counts);
    usage.count(&records.regions, &mut counts);
    check_lists(directory, &records, &mut findings).await;
    let mut judge = content::Judge::new(&files, &records.regions, &usage, options, progress);
    judge.run().await;
    counts.clusters_verified = judge.verified;
    let damage = judge.into_damage(&mut findings);
    usage.forget();
    maps::show(&records, regions_on_disk, &damage, &mut findings);
    if options.read_data && files.belong_together {
        maps::check_tails(&records, regions_on_disk, data, &mut findings).await;
    }
    Ok(report(counts, findings))
}

/// The lists of what is missing of lazy images, and all hashes in them.
async fn check_lists<D: Directory>(directory: &D, records: &Records, findings: &mut Findings) {
    for (id, image) in records.images.iter().filter(|(_, image)| image.lazy) {
        if let Err(error) = crate::lazy::check_list(directory, *id).await {
            findings.in_image(&image.name, 0, error.to_string());
        }
    }
}

fn report(counts: CheckCounts, findings: Findings) -> CheckReport {
    let (findings, findings_omitted) = findings.finish();
    CheckReport { counts, findings, findings_omitted }
}

/// Reads log and checkpoint. `None` if they are too damaged to go on, which is a finding then.
async fn read_metadata<D: Directory>(
    directory: &D,
    data: &D::Disk,
    records: &mut Records,
    findings: &mut Findings,
) -> Result<Option<Recovery>> {
    let mut take = |key, value: &[u8]| {
        records.take(key, value, findings);
        Ok(())
    };
    match Store::inspect(directory, &mut take).await {
        Ok(recovery) => Ok(Some(recovery)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let error = match directory.open("hashes").await {
                Ok(hashes) => crate::headers::explain(directory, data, &hashes, error).await,
                Err(_) => error, // told where it is judged
            };
            findings.general(format!("{error} (the images were not checked)"));
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if !headers::any_is_there(directory, data).await {
                return Err(error);
            }
            findings.general(
                "log is missing or empty, although data or hashes of a pool are there: put back \
                 the log that belongs to them (the images were not checked)",
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Puts on top what a killed daemon of this boot acknowledged; returns how many changes that was.
fn replay(
    journal: &mut dyn Mapped,
    records: &mut Records,
    recovery: Recovery,
    boot: [u8; 16],
    findings: &mut Findings,
) -> Result<u64> {
    // The epoch is the one that the next open would have.
    let identity =
        JournalIdentity { pool: recovery.pool, boot, epoch: recovery.epoch.saturating_add(1) };
    let epoch_min = records.pool.as_ref().map_or(0, |pool| pool.headers_epoch);
    match Journal::recover(journal, identity, epoch_min) {
        Ok(entries) => Ok(records.replay(entries, findings)),
        Err(error) => {
            findings.general(error.at("journal").message());
            Ok(0)
        }
    }
}

/// The length of a file, or why it cannot be told.
async fn length_of(disk: &impl Disk, file: &str) -> Result<u64> {
    disk.length().await.map_err(|error| Error::io(format_args!("length of {file}"), error))
}

#[cfg(test)]
mod tests;
