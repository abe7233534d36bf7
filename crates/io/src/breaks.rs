//! Deliberate breaks of the rules, so that the simulation or a test can be seen to catch them.
//!
//! Where a rule is kept, the code asks `broken("its-name")` and does the wrong thing if so. Only
//! a build with the feature `break-invariants` can answer yes, and only to the one name in
//! `BLOCKYARD_BREAK`; in every other build the question costs nothing. The names are listed in
//! `xtask/src/break_invariants/breaks.rs`, and `cargo xtask break-invariants` runs them all.

/// Whether the rule of this name is to be broken in this run.
#[cfg(feature = "break-invariants")]
pub fn broken(name: &str) -> bool {
    use std::sync::LazyLock;
    static BROKEN: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("BLOCKYARD_BREAK").ok());
    BROKEN.as_deref() == Some(name)
}

/// No rule is ever broken in this build.
#[cfg(not(feature = "break-invariants"))]
pub const fn broken(_name: &str) -> bool {
    false
}
