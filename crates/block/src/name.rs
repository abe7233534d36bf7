//! Image names: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, checked once at the door.

use crate::{Error, ErrorKind};
use std::fmt;

/// A valid image name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Checks `name` against the pattern; the error says what is allowed.
    pub fn parse(name: &str) -> Result<ImageName, Error> {
        let bytes = name.as_bytes();
        let first_fits = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let rest_fits =
            bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
        if first_fits && rest_fits && bytes.len() <= 128 {
            return Ok(ImageName(name.to_owned()));
        }
        let shown: String = name.chars().take(140).collect();
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{shown:?} is not an image name: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit"
            ),
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ImageName;

    #[test]
    fn only_names_of_the_pattern_pass() {
        let long = "a".repeat(128);
        for good in ["a", "0", "debian-12.qcow2_x", long.as_str()] {
            assert!(ImageName::parse(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(129);
        for bad in ["", ".a", "-a", "a/b", "a b", "ä", "a\0", too_long.as_str()] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }
}
