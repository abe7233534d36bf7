//! Changes that are in the log but not yet in parts. A deletion stays here as a tombstone, since
//! the record may be in a part.

use super::record::encoded_bytes;
use super::{Change, Key};
use blockyard_block::Result;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::RangeBounds;

/// The newest value of each changed key; `None` is a tombstone.
#[derive(Clone, Default, Debug)]
pub(super) struct Overlay {
    changes: BTreeMap<Key, Option<Vec<u8>>>,
    bytes: u64,
}

impl Overlay {
    pub(super) fn apply(&mut self, change: Change) {
        self.bytes += encoded_bytes(change.value.as_deref()) as u64;
        if let Some(old) = self.changes.insert(change.key, change.value) {
            self.bytes -= encoded_bytes(old.as_deref()) as u64;
        }
    }

    /// Puts newer changes on top of these.
    pub(super) fn apply_all(&mut self, newer: Overlay) {
        for (key, value) in newer.changes {
            self.apply(Change { key, value });
        }
    }

    /// `None`: nothing is known here; `Some(None)`: deleted.
    pub(super) fn get(&self, key: Key) -> Option<Option<&[u8]>> {
        self.changes.get(&key).map(Option::as_deref)
    }

    pub(super) fn range(&self, range: impl RangeBounds<Key>) -> Range<'_, Key, Option<Vec<u8>>> {
        self.changes.range(range)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Sorted records with sorted changes laid over them; deleted ones are left out.
pub(super) fn merged<'a>(
    records: impl Iterator<Item = Result<(Key, &'a [u8])>>,
    changes: Range<'a, Key, Option<Vec<u8>>>,
) -> impl Iterator<Item = Result<(Key, &'a [u8])>> {
    let mut records = records.peekable();
    let mut changes = changes.peekable();
    std::iter::from_fn(move || {
        loop {
            let changed = changes.peek().map(|(key, _)| **key);
            let recorded = match records.peek() {
                Some(Err(_)) => return records.next(),
                Some(Ok((key, _))) => Some(*key),
                None => None,
            };
            match (recorded, changed) {
                (None, None) => return None,
                (Some(_), None) => return records.next(),
                (Some(key), Some(changed)) if key < changed => return records.next(),
                (_, Some(_)) => {
                    if recorded == changed {
                        records.next();
                    }
                    if let (key, Some(value)) = changes.next()? {
                        return Some(Ok((*key, value.as_slice())));
                    }
                }
            }
        }
    })
}
