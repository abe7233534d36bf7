//! The checkpoint: folding committed changes into new parts. Order is everything: new parts are
//! synced, then their names, then the manifest that names them is committed to the log; only then
//! are the old parts removed and the log's segments free. Commits go on meanwhile; what they change
//! stays in the log and in the overlay for the next checkpoint.

use super::Key;
use super::batch::Kind;
use super::live::{Folding, Store};
use super::manifest::{Manifest, PartEntry, part_name, parts_max, range_of};
use super::overlay::{Overlay, merged};
use super::part::{Part, PartBuilder};
use super::ring::Position;
use blockyard_block::{Error, ErrorKind, Result};
use blockyard_io::Directory;
use std::ops::Range;
use std::sync::Arc;

impl<D: Directory> Store<D> {
    /// Folds what is committed into new parts, so that the log's segments can be used again.
    /// Nothing to fold, nothing done.
    ///
    /// Failed, for lack of space or otherwise, or dropped: the old checkpoint stays, the new files
    /// are removed (if dropped: at the next open), and it may be tried again, unless the log
    /// failed.
    pub async fn checkpoint(&self) -> Result<()> {
        let mut folding = self.folding.lock().await;
        self.check_alive()?;
        let log = self.log.lock().await;
        let idle = self.shared().overlay.is_empty() && log.ring.head.segment == log.ring.tail;
        drop(log);
        if idle { Ok(()) } else { self.fold(&mut folding).await }
    }

    pub(super) async fn fold(&self, folding: &mut Folding) -> Result<()> {
        let (cut, frozen) = self.freeze().await?;
        let thaw = Thaw { store: self };
        let old = self.shared().parts.clone();
        let first_new = folding.next_part;
        let result = match self.write_parts(folding, &old, &frozen).await {
            Ok(parts) => self.name_parts(cut, parts, thaw).await,
            Err(error) => Err(error),
        };
        let (kept, made) = (self.shared().parts.clone(), first_new..folding.next_part);
        match &result {
            Ok(()) => self.remove(unused(&old, &kept)).await,
            // Whether the manifest reached the log is unknown: both sets of parts must stay.
            Err(_) if self.failure().is_some() => {}
            Err(_) => self.remove(made).await,
        }
        if result.is_err() {
            self.shared().stats.checkpoints_failed += 1;
        }
        result
    }

    /// Takes the overlay as it stands between two batches.
    async fn freeze(&self) -> Result<(Cut, Arc<Overlay>)> {
        let log = self.log.lock().await;
        self.check_alive()?;
        let cut = Cut {
            covered: log.last_number,
            covered_checksum: log.last_checksum,
            replay_from: log.ring.head,
        };
        let mut shared = self.shared();
        let frozen = Arc::new(std::mem::take(&mut shared.overlay));
        shared.frozen = Some(Arc::clone(&frozen));
        Ok((cut, frozen))
    }

    /// Writes and syncs the new parts and their names; returns all parts of the new checkpoint.
    async fn write_parts(
        &self,
        folding: &mut Folding,
        old: &[Arc<Part<D::Disk>>],
        frozen: &Overlay,
    ) -> Result<Vec<Arc<Part<D::Disk>>>> {
        let target = self.header.options.part_bytes_target;
        let most = parts_max(&self.header.options);
        let entries: Vec<PartEntry> = old.iter().map(|part| part.entry).collect();
        let plan = plan(&entries, frozen, target, most);
        let mut parts = Vec::new();
        let mut wrote = false;
        for step in plan {
            match step {
                Step::Keep(at) => parts.push(Arc::clone(&old[at])),
                Step::Rewrite { group, cut_bytes } => {
                    wrote = true;
                    let parts = &mut parts;
                    let store = self;
                    let mut writer = PartWriter { store, folding, cut_bytes, builder: None, parts };
                    writer.rewrite(old, group, frozen).await?;
                }
            }
        }
        if wrote && !blockyard_io::broken("sync-checkpoint-names") {
            let synced = self.directory.sync().await;
            synced.map_err(|error| Error::io("sync of checkpoint", error))?;
        }
        if parts.len() > most {
            let message = format!("{} parts, but a manifest names at most {most}", parts.len());
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        Ok(parts)
    }

    /// Commits the manifest; from then on the new parts count.
    async fn name_parts(
        &self,
        cut: Cut,
        parts: Vec<Arc<Part<D::Disk>>>,
        thaw: Thaw<'_, D>,
    ) -> Result<()> {
        let manifest = Manifest {
            covered: cut.covered,
            covered_checksum: cut.covered_checksum,
            replay_from: cut.replay_from,
            parts: parts.iter().map(|part| part.entry).collect(),
        };
        let mut log = self.log.lock().await;
        self.append(&mut log, Kind::Manifest, &manifest.encode()).await?;
        self.release(&mut log, &manifest);
        std::mem::forget(thaw);
        let mut shared = self.shared();
        shared.parts = parts;
        shared.frozen = None;
        shared.stats.checkpoints += 1;
        Ok(())
    }

    /// Removes part files. One that cannot be removed takes space until the next open.
    async fn remove(&self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            let _ = self.directory.remove(&part_name(id)).await;
        }
    }
}

/// Where the log stood when the overlay was frozen.
struct Cut {
    covered: u64,
    covered_checksum: u32,
    replay_from: Position,
}

/// Gives the frozen changes back to the overlay when a checkpoint fails or is dropped.
struct Thaw<'a, D: Directory> {
    store: &'a Store<D>,
}

impl<D: Directory> Drop for Thaw<'_, D> {
    fn drop(&mut self) {
        let mut shared = self.store.shared();
        if let Some(frozen) = shared.frozen.take() {
            let newer = std::mem::replace(&mut shared.overlay, Arc::unwrap_or_clone(frozen));
            shared.overlay.apply_all(newer);
        }
    }
}

fn unused<K>(old: &[Arc<Part<K>>], kept: &[Arc<Part<K>>]) -> Vec<u64> {
    let is_kept = |id: u64| kept.iter().any(|part| part.entry.id == id);
    old.iter().map(|part| part.entry.id).filter(|id| !is_kept(*id)).collect()
}

/// What a checkpoint does with the old parts, in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Keep(usize),
    /// Merges a run of parts (none, if there are none yet) with the changes in its range into new
    /// parts of about `cut_bytes`.
    Rewrite {
        group: Range<usize>,
        cut_bytes: usize,
    },
}

/// Parts whose range has changes are rewritten, and with them their small neighbours, so that
/// parts do not crumble. If there would be too many parts, all are written anew, as large as it
/// takes.
pub(super) fn plan(parts: &[PartEntry], changes: &Overlay, target: u64, most: usize) -> Vec<Step> {
    let touched: Vec<bool> = (0..parts.len())
        .map(|at| changes.range(range_of(parts, at..at + 1)).next().is_some())
        .collect();
    let touches = |at: Option<usize>| at.and_then(|at| touched.get(at)).is_some_and(|hit| *hit);
    let rewritten = |at: usize| {
        let is_small = parts[at].bytes < target / 4;
        touched[at] || is_small && (touches(at.checked_sub(1)) || touches(Some(at + 1)))
    };
    let mut steps = Vec::new();
    let mut at = 0;
    while at < parts.len() {
        let end = (at..parts.len()).find(|at| !rewritten(*at)).unwrap_or(parts.len());
        if end == at {
            steps.push(Step::Keep(at));
            at += 1;
        } else {
            steps.push(rewrite(parts, at..end, changes, target));
            at = end;
        }
    }
    if parts.is_empty() && !changes.is_empty() {
        steps.push(rewrite(parts, 0..0, changes, target));
    }
    if steps.iter().map(|step| parts_made(parts, step, changes)).sum::<u64>() > most as u64 {
        let all = 0..parts.len();
        let larger = bytes_of(parts, &all, changes) / (most as u64 / 4).max(1) + 1;
        steps = vec![rewrite(parts, all, changes, target.max(larger))];
    }
    steps
}

/// Cuts evenly, so that no part is left tiny.
fn rewrite(parts: &[PartEntry], group: Range<usize>, changes: &Overlay, target: u64) -> Step {
    let bytes = bytes_of(parts, &group, changes);
    let count = ((bytes + target / 2) / target).max(1);
    let cut_bytes = usize::try_from(bytes / count + 1).unwrap_or(usize::MAX);
    Step::Rewrite { group, cut_bytes }
}

/// At least what the group's records and changes take together.
fn bytes_of(parts: &[PartEntry], group: &Range<usize>, changes: &Overlay) -> u64 {
    let old: u64 = parts[group.clone()].iter().map(|part| part.bytes).sum();
    let new: u64 = changes
        .range(range_of(parts, group.clone()))
        .map(|(_, value)| super::record::encoded_bytes(value.as_deref()) as u64)
        .sum();
    old + new
}

/// An upper bound of the parts that a step leaves.
fn parts_made(parts: &[PartEntry], step: &Step, changes: &Overlay) -> u64 {
    match step {
        Step::Keep(_) => 1,
        Step::Rewrite { group, cut_bytes } => {
            bytes_of(parts, group, changes) / *cut_bytes as u64 + 1
        }
    }
}

/// Writes the new parts of one group.
struct PartWriter<'a, D: Directory> {
    store: &'a Store<D>,
    folding: &'a mut Folding,
    cut_bytes: usize,
    builder: Option<PartBuilder>,
    parts: &'a mut Vec<Arc<Part<D::Disk>>>,
}

impl<D: Directory> PartWriter<'_, D> {
    async fn rewrite(
        &mut self,
        old: &[Arc<Part<D::Disk>>],
        group: Range<usize>,
        frozen: &Overlay,
    ) -> Result<()> {
        if group.is_empty() {
            self.take(merged(std::iter::empty(), frozen.range(..))).await?;
        }
        let entries: Vec<PartEntry> = old.iter().map(|part| part.entry).collect();
        for at in group {
            let content = old[at].read(self.store.header.pool).await?;
            let changes = frozen.range(range_of(&entries, at..at + 1));
            self.take(merged(content.records(), changes)).await?;
        }
        self.close().await
    }

    async fn take<'a>(
        &mut self,
        records: impl Iterator<Item = Result<(Key, &'a [u8])>>,
    ) -> Result<()> {
        for record in records {
            let (key, value) = record?;
            let folding = &mut *self.folding;
            let builder = self.builder.get_or_insert_with(|| {
                let id = folding.next_part;
                folding.next_part += 1;
                PartBuilder::new(self.store.header.pool, id)
            });
            builder.push(key, value);
            if builder.bytes() >= self.cut_bytes {
                self.close().await?;
            }
        }
        Ok(())
    }

    /// Writes the part being built, if there is one.
    async fn close(&mut self) -> Result<()> {
        let Some(built) = self.builder.take().and_then(PartBuilder::finish) else {
            return Ok(());
        };
        let name = part_name(built.entry.id);
        let created = self.store.directory.create(&name).await;
        let disk = created.map_err(|error| Error::io(format!("create {name}"), error))?;
        let part = built.write(disk).await?;
        self.store.shared().stats.checkpoint_bytes_written += part.entry.bytes;
        self.parts.push(Arc::new(part));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
