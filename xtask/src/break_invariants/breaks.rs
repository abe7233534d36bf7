//! The deliberate breaks. Each name is asked about in the engine by `broken("name")`.

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
pub(super) const BREAKS: &[Break] = &[];
