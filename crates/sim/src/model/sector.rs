//! The values one sector may have, and the rule by which old values stop being possible.

use crate::content::{SECTOR, Tag, describe};
use std::rc::Rc;

/// What a sector holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Written as a whole.
    Whole(Tag),
    /// Written in part, over a value that was certain.
    Mixed(Rc<[u8; SECTOR]>),
}

impl Value {
    pub(crate) const ZEROS: Value = Value::Whole(Tag::ZEROS);

    /// The bytes, of sector `sector` of an image.
    pub(crate) fn bytes(&self, sector: u64) -> [u8; SECTOR] {
        match self {
            Value::Whole(tag) => tag.sector(sector),
            Value::Mixed(bytes) => **bytes,
        }
    }

    fn describe(&self, sector: u64) -> String {
        match self {
            Value::Whole(tag) => tag.to_string(),
            Value::Mixed(_) => describe(&self.bytes(sector)),
        }
    }
}

/// One value a sector may have, with the life of the request that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) value: Value,
    pub(crate) start: u64,
    /// `None` while in flight.
    pub(crate) end: Option<u64>,
    /// The request was answered with success; otherwise it happened or not.
    pub(crate) certain: bool,
    /// The answer promised durability (FUA).
    pub(crate) durable: bool,
}

impl Version {
    /// A value from before everything else.
    pub(crate) fn old(value: Value) -> Version {
        Version { value, start: 0, end: Some(0), certain: true, durable: true }
    }

    fn written_by(&self, moment: u64) -> bool {
        self.certain && self.end.is_some_and(|end| end <= moment)
    }
}

/// Which values count as replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// As seen by a running pool, or after a kill: writes answered by `since` stand.
    Cache { since: u64 },
    /// After a power cut: writes answered by the start of a successful flush, at `flushed`, stand.
    Medium { flushed: u64 },
}

/// The versions of a sector that are possible under the rule: those that no certain later one
/// replaced.
pub(crate) fn possible(versions: &[Version], rule: Rule) -> impl Iterator<Item = &Version> {
    let stands = move |version: &Version| match rule {
        Rule::Cache { since } => version.written_by(since),
        Rule::Medium { flushed } => {
            version.written_by(flushed) || (version.certain && version.durable)
        }
    };
    let latest_start =
        versions.iter().filter(|version| stands(version)).map(|version| version.start).max();
    versions.iter().filter(move |version| {
        version.end.is_none_or(|end| latest_start.is_none_or(|start| end >= start))
    })
}

/// Forgets versions that neither a crash nor a read in flight can show any more.
pub(crate) fn prune(versions: &mut Vec<Version>, flushed: u64, oldest_active: u64) {
    if versions.len() < 2 {
        return;
    }
    let seen: Vec<u64> = possible(versions, Rule::Cache { since: oldest_active })
        .chain(possible(versions, Rule::Medium { flushed }))
        .map(|version| version.start)
        .collect();
    versions.retain(|version| seen.contains(&version.start));
}

/// Checks what was read; the error names what was there and what would have been right.
pub(crate) fn check(
    versions: &[Version],
    rule: Rule,
    sector: u64,
    bytes: &[u8],
) -> Result<Value, String> {
    if let Some((tag, place)) = Tag::parse(bytes)
        && (tag == Tag::ZEROS || place == sector)
    {
        let value = Value::Whole(tag);
        if possible(versions, rule).any(|version| version.value == value) {
            return Ok(value);
        }
    }
    let same = possible(versions, rule).find(|version| version.value.bytes(sector) == *bytes);
    same.map(|version| version.value.clone()).ok_or_else(|| {
        let right: Vec<String> =
            possible(versions, rule).map(|version| version.value.describe(sector)).collect();
        format!("sector {sector} holds {}, possible were: {}", describe(bytes), right.join("; "))
    })
}
