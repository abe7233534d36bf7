//! Which parts of a disk hold data, as our map and other programs tell it, in one form to compare.

use super::Place;
use serde_json::Value;

/// A run of bytes; the longest with these flags when it comes out of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Takes no space.
    pub(crate) hole: bool,
    /// Reads zero.
    pub(crate) zero: bool,
}

/// What `image map` says of an image.
pub(crate) fn of_image(place: &Place, name: &str) -> Vec<Run> {
    joined(&place.json(&["image", "map", name]), "offset", |run| {
        match run["state"].as_str().unwrap() {
            "zero" => (true, true),
            "reserved" => (false, true),
            "data" => (false, false),
            other => panic!("{other} in {run}"),
        }
    })
}

/// What `nbdinfo --map --json` says: the flags of base:allocation.
pub(crate) fn of_nbdinfo(map: &Value) -> Vec<Run> {
    joined(map, "offset", |run| {
        let flags = run["type"].as_u64().unwrap();
        (flags & 1 != 0, flags & 2 != 0)
    })
}

/// What `qemu-img map --output=json` says.
pub(crate) fn of_qemu_img(map: &Value) -> Vec<Run> {
    joined(map, "start", |run| (run["data"] == false, run["zero"] == true))
}

/// The runs without gaps, neighbours with the same `(hole, zero)` made one.
fn joined(map: &Value, offset: &str, flags: impl Fn(&Value) -> (bool, bool)) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for run in map.as_array().unwrap() {
        let (hole, zero) = flags(run);
        let (offset, length) = (run[offset].as_u64().unwrap(), run["length"].as_u64().unwrap());
        let end = runs.last().map_or(0, |last| last.offset + last.length);
        assert_eq!(offset, end, "a gap or an overlap in {map}");
        match runs.last_mut() {
            Some(last) if (last.hole, last.zero) == (hole, zero) => last.length += length,
            _ => runs.push(Run { offset, length, hole, zero }),
        }
    }
    runs
}
