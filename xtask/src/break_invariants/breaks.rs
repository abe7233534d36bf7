//! The deliberate breaks. Each name is asked about where the rule is kept by `broken("name")`.

/// One way to break one rule.
pub(super) struct Break {
    /// Whole words, as in the engine: `sync-data-skipped`.
    pub(super) name: &'static str,
    /// The invariant of docs/invariants.md that it breaks: `I2`.
    pub(super) rule: &'static str,
    /// What the engine then does wrong, in one line.
    pub(super) what: &'static str,
}

/// Every invariant the engine keeps, and every sync it issues, has at least one entry.
pub(super) const BREAKS: &[Break] = &[
    Break {
        name: "I1-intent-late",
        rule: "I1",
        what: "a trusted cluster is overwritten before its region has an intent",
    },
    Break {
        name: "I2-commit-without-data",
        rule: "I2",
        what: "changes are committed without a sync of the data they refer to",
    },
    Break {
        name: "I3-free-at-once",
        rule: "I3",
        what: "a freed cluster is reused before the commit that drops it is durable",
    },
    Break {
        name: "I3-ignore-readers",
        rule: "I3",
        what: "a freed cluster is reused while I/O planned before is in flight",
    },
    Break {
        name: "I4-clear-while-written",
        rule: "I4",
        what: "an intent is cleared though the region was written meanwhile",
    },
    Break {
        name: "I5-flush-without-data",
        rule: "I5",
        what: "a flush after in-place overwrites does not sync the data",
    },
    Break { name: "I5-flush-early", rule: "I5", what: "a flush does not wait for the commit" },
    Break { name: "I6-write-shared", rule: "I6", what: "a shared cluster is overwritten in place" },
    Break {
        name: "I6-no-watch",
        rule: "I6",
        what: "a cluster hashed again is published though it changed meanwhile",
    },
    Break {
        name: "I6-reclaim-no-hold",
        rule: "I6",
        what: "reclaim neither holds nor watches the survivor while it compares",
    },
    Break {
        name: "I6-reclaim-no-watch",
        rule: "I6",
        what: "reclaim repoints though the loser was written while it compared",
    },
    Break {
        name: "I6-receive-no-hold",
        rule: "I6",
        what: "a received image refers to a cluster that was neither held nor unchanged",
    },
    Break {
        name: "I6-receive-no-turn",
        rule: "I6",
        what: "a received image shares an extent while changes of it are planned",
    },
    Break {
        name: "I6-write-reference-no-hold",
        rule: "I6",
        what: "a write without space refers to a cluster that was neither held nor unchanged",
    },
    Break {
        name: "I7-no-order",
        rule: "I7",
        what: "overlapping changes do not wait for each other",
    },
    Break {
        name: "I8-trust-all",
        rule: "I8",
        what: "after a crash, hashes behind an intent are believed",
    },
    Break {
        name: "I9-hash-is-enough",
        rule: "I9",
        what: "reclaim takes clusters for equal that had equal hashes, and compares no bytes",
    },
    Break {
        name: "I9-write-reference-no-compare",
        rule: "I9",
        what: "a write without space refers to what the index names, and compares neither hash nor bytes",
    },
    Break {
        name: "I9-receive-unchecked",
        rule: "I9",
        what: "a cluster that came over the wire is stored without comparing its hash",
    },
    Break {
        name: "I10-no-reclaim",
        rule: "I10",
        what: "a write fails for lack of space while equal clusters are left",
    },
    Break {
        name: "I10-enospc-early",
        rule: "I10",
        what: "a write fails for lack of space while freed clusters only wait for a commit",
    },
    Break {
        name: "I11-keep-cut-bytes",
        rule: "I11",
        what: "a shrink leaves bytes behind the new end of the image",
    },
    Break { name: "I12-go-on", rule: "I12", what: "the pool goes on after a failed sync" },
    Break { name: "I13-no-fence", rule: "I13", what: "files that receive I/O are not locked" },
    Break {
        name: "I14-heal-in-place",
        rule: "I14",
        what: "a damaged cluster is overwritten with the bytes of an equal one",
    },
    Break { name: "I15-no-journal", rule: "I15", what: "acknowledged changes are not journaled" },
    Break {
        name: "I16-zero",
        rule: "I16",
        what: "zeros in a lazy image leave a slot that is absent again",
    },
    Break { name: "I16-overwrite", rule: "I16", what: "what was fetched overwrites what is there" },
    Break {
        name: "I16-no-turn",
        rule: "I16",
        what: "what was fetched is put without the image's turn",
    },
    Break { name: "I16-tell-absent", rule: "I16", what: "what is absent is told as zeros" },
    Break {
        name: "I16-keep-unchecked",
        rule: "I16",
        what: "what was fetched is kept without comparing its hash",
    },
    Break {
        name: "I16-release-early",
        rule: "I16",
        what: "an origin is released before the end of the fill is durable at the dependant",
    },
    Break {
        name: "I16-let-go-unasked",
        rule: "I16",
        what: "an origin lets go of what it keeps because a pull failed",
    },
    Break {
        name: "I16-hold-after-release",
        rule: "I16",
        what: "an order that comes after its release is held for, and nobody lets go",
    },
    Break { name: "sync-log", rule: "I2", what: "the log is not synced" },
    Break { name: "sync-hashes", rule: "I4", what: "the hash table is not synced" },
    Break { name: "sync-checkpoint", rule: "I2", what: "checkpoint parts are not synced" },
    Break {
        name: "sync-checkpoint-names",
        rule: "I2",
        what: "the names of checkpoint parts are not synced",
    },
];

/// The breaks that take several processes to show, of which the simulation has one: tests of
/// crates/io judge them.
pub(super) const SEEN_BY_PROCESSES: &[&str] = &["I13-no-fence"];

/// The breaks that take two pools and a bad line between them: the simulation of transfers judges them.
pub(super) const SEEN_BY_TRANSFERS: &[&str] = &[
    "I9-receive-unchecked",
    "I16-keep-unchecked",
    "I16-release-early",
    "I16-let-go-unasked",
    "I16-hold-after-release",
];

/// The breaks that power cuts under the real program on ext4 show, too (`--real`). The others need more
/// than a power cut, or ext4 makes up for them: see docs/testing.md.
pub(super) const SEEN_BY_REAL: &[&str] = &["I2-commit-without-data", "I5-flush-early", "sync-log"];
