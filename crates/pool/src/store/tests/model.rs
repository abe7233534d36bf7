//! The obvious model that a store is compared with. Each writer owns the keys of one kind, so that
//! several may run at once and the expected content is known all the same.

use super::basics::Model;
use super::memory::{MemoryDirectory, Random};
use crate::store::{Change, Key, Store};

/// What a test found wrong.
pub(super) type Verdict<T = ()> = Result<T, String>;

pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

/// One writer's records: what was acknowledged, and the batch of which that is not known.
pub(super) struct Writer {
    kind: u8,
    ids: u64,
    acknowledged: Model,
    in_flight: Option<Vec<Change>>,
}

fn applied(model: &Model, changes: &[Change]) -> Model {
    let mut model = model.clone();
    for change in changes {
        match &change.value {
            Some(value) => model.insert(change.key, value.clone()),
            None => model.remove(&change.key),
        };
    }
    model
}

impl Writer {
    pub(super) fn new(kind: u8, ids: u64) -> Writer {
        Writer { kind, ids, acknowledged: Model::new(), in_flight: None }
    }

    fn random_key(&self, random: &mut Random) -> Key {
        Key { kind: self.kind, id: random.below(self.ids) }
    }

    fn random_changes(&self, random: &mut Random, bytes_max: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        for _ in 0..1 + random.below(12) {
            let length = match random.below(8) {
                0 => random.below(2_500),
                _ => random.below(200),
            };
            let value = (!random.one_in(4)).then(|| vec![random.next() as u8; length as usize]);
            let change = Change { key: self.random_key(random), value };
            bytes += change.encoded_bytes();
            if bytes <= bytes_max {
                changes.push(change);
            }
        }
        changes
    }

    /// Commits a random batch; `false` if the store is dead.
    pub(super) async fn commit(
        &mut self,
        store: &Store<MemoryDirectory>,
        random: &mut Random,
    ) -> Verdict<bool> {
        if store.failure().is_some() {
            return Ok(false);
        }
        let changes = self.random_changes(random, store.batch_bytes_max());
        self.in_flight = Some(changes.clone());
        match store.commit(changes.clone()).await {
            Ok(_) => {
                ensure(store.failure().is_none(), || "a commit to a dead store was Ok".into())?;
                self.acknowledged = applied(&self.acknowledged, &changes);
                self.in_flight = None;
                Ok(true)
            }
            Err(_) if store.failure().is_some() => Ok(false),
            Err(_) => {
                // The checkpoint that was to make room failed: nothing was written.
                self.in_flight = None;
                Ok(true)
            }
        }
    }

    /// Looks a record up.
    pub(super) async fn get(&self, store: &Store<MemoryDirectory>, random: &mut Random) -> Verdict {
        let key = self.random_key(random);
        match store.get(key).await {
            Ok(value) => ensure(value.as_ref() == self.acknowledged.get(&key), || {
                format!("get of {key:?} gave {value:?}")
            }),
            Err(_) => Ok(()),
        }
    }

    /// Compares with what a reopened store holds, and learns the fate of the batch in flight.
    pub(super) fn settle(&mut self, found: &Model) -> Verdict {
        let mine: Model = found
            .iter()
            .filter(|(key, _)| key.kind == self.kind)
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        let with = self.in_flight.take().map(|changes| applied(&self.acknowledged, &changes));
        ensure(mine == self.acknowledged || with.as_ref() == Some(&mine), || {
            let lost = self.acknowledged.iter().find(|(key, value)| mine.get(key) != Some(value));
            let extra = mine.iter().find(|(key, _)| !self.acknowledged.contains_key(key));
            format!(
                "kind {}: {} records instead of {}; {:?} lost or changed, {:?} too many",
                self.kind,
                mine.len(),
                self.acknowledged.len(),
                lost.map(|(key, _)| key),
                extra.map(|(key, _)| key),
            )
        })?;
        self.acknowledged = mine;
        Ok(())
    }
}
