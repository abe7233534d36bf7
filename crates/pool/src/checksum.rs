//! Comparing a stored checksum with that of the bytes.

/// Whether the bytes are not those that were stored. Fuzzers get past this.
pub(crate) fn differs(stored: u32, bytes: &[u8]) -> bool {
    crc32c::crc32c(bytes) != stored && !cfg!(feature = "fuzzing")
}
