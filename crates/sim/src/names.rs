//! The directory: which names lead to which files, now and after a power cut.

use fastrand::Rng;
use std::collections::BTreeMap;

/// Index of a file in the world; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(pub(crate) usize);

#[derive(Debug)]
struct NameChange {
    name: String,
    /// `None` is a removal.
    file: Option<FileId>,
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    view: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    changes: Vec<NameChange>,
    first_change: usize,
}

impl Names {
    pub(crate) fn find(&self, name: &str) -> Option<FileId> {
        self.view.get(name).copied()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        self.view.values().copied()
    }

    /// Names in a folder, without the folder.
    pub(crate) fn in_folder(&self, folder: &str) -> Vec<String> {
        let within = |name: &String| match name.rsplit_once('/') {
            Some((parent, last)) => (parent == folder).then(|| last.to_owned()),
            None => folder.is_empty().then(|| name.clone()),
        };
        self.view.keys().filter_map(within).collect()
    }

    pub(crate) fn set(&mut self, name: &str, file: Option<FileId>) {
        let change = NameChange { name: name.to_owned(), file };
        apply(&mut self.view, &change);
        self.changes.push(change);
    }

    /// What a sync submitted now must make durable.
    pub(crate) fn sync_point(&self) -> usize {
        self.first_change + self.changes.len()
    }

    pub(crate) fn sync(&mut self, sync_point: usize) {
        let covered = sync_point.saturating_sub(self.first_change);
        self.first_change += covered;
        for change in self.changes.drain(..covered) {
            apply(&mut self.durable, &change);
        }
    }

    /// A failed sync: what it covered is durable or never will be.
    pub(crate) fn fail_sync(&mut self, sync_point: usize, rng: &mut Rng) {
        let covered = sync_point.saturating_sub(self.first_change);
        self.first_change += covered;
        for change in self.changes.drain(..covered) {
            if rng.bool() {
                apply(&mut self.durable, &change);
            }
        }
    }

    pub(crate) fn cut_power(&mut self, rng: &mut Rng) {
        self.first_change += self.changes.len();
        let keep_all = rng.u8(0..4) == 0;
        for change in self.changes.drain(..) {
            if keep_all || rng.bool() {
                apply(&mut self.durable, &change);
            }
        }
        self.view = self.durable.clone();
    }
}

fn apply(names: &mut BTreeMap<String, FileId>, change: &NameChange) {
    match change.file {
        Some(file) => names.insert(change.name.clone(), file),
        None => names.remove(&change.name),
    };
}
