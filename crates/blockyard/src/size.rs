//! Sizes as people write and read them. Units are binary: `20G` and `20GiB` are the same.

use blockyard_block::{Error, ErrorKind, SECTOR_SIZE};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use std::fmt;
use std::str::FromStr;

/// A number of bytes: `512M`, `20G`, `1.5TiB`, `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

const UNITS: [(&str, u32); 6] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50), ("E", 60)];

impl Size {
    /// The next multiple of 512, telling the user if that is another size.
    pub(crate) fn rounded_up_saying_so(self) -> Result<u64, Error> {
        let rounded = self.0.checked_next_multiple_of(SECTOR_SIZE).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, format!("{} bytes are too many", self.0))
        })?;
        if rounded != self.0 {
            eprintln!("note: {} bytes rounded up to {rounded}, a multiple of 512", self.0);
        }
        Ok(rounded)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        parse(text).map(Size).ok_or_else(|| {
            format!("{text:?} is not a size: write bytes, or a number with a unit as in 512M, 20G, 10GiB")
        })
    }
}

fn parse(text: &str) -> Option<u64> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let shift = shift_of(unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let bytes = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if !number.contains('.') {
        return Some(bytes);
    }
    bytes.checked_add(fraction_bytes(fraction, shift)?)
}

/// The part after the point, in bytes; `1.5` without a unit is no size.
fn fraction_bytes(digits: &str, shift: u32) -> Option<u64> {
    if shift == 0 || digits.is_empty() || digits.len() > 9 {
        return None;
    }
    let value = u128::from(digits.parse::<u64>().ok()?);
    let scale = 10_u128.pow(digits.len() as u32);
    u64::try_from((value << shift) / scale).ok()
}

fn shift_of(unit: &str) -> Option<u32> {
    if unit.is_empty() || unit == "B" {
        return Some(0);
    }
    UNITS.iter().find_map(|(letter, shift)| {
        let rest = unit.to_ascii_uppercase();
        let rest = rest.strip_prefix(letter)?;
        ["", "B", "IB"].contains(&rest).then_some(*shift)
    })
}

/// `20.0 GiB`, `512 B`
pub(crate) fn human(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes >= 1 << shift);
    match unit {
        None => format!("{bytes} B"),
        Some((letter, shift)) => {
            format!("{:.1} {letter}iB", bytes as f64 / (1_u64 << shift) as f64)
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"20G\" or a number of bytes")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
        }
        deserializer.deserialize_any(SizeVisitor).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
