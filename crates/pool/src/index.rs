//! Content hash -> clusters, derived from the hash table: records sorted by hash in files of `index/`.
//!
//! A pass sorts all hashes for itself, and leaves a run behind in which single ones can be looked up.
//! Nothing here is believed: what is found is a hint that its user checks. Any of the files may vanish or
//! rot at any time; that costs a pass over the hash table.

pub(crate) mod delta;
pub(crate) mod kept;
pub(crate) mod page;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod sorter;
