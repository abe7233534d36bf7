//! The header of a qcow2 file, checked before `imago` may open the file.
//!
//! `imago` trusts some fields that a hostile or damaged file can hold: it takes a table of any
//! length into memory, reads what lies beyond the end of the file as zeros, and does not look at
//! the encryption method. This looks at exactly those, and at the features that only `qemu-img` can
//! read. It reads at most the tables, so at most the file once. The format is
//! docs/interop/qcow2.txt of QEMU.

use blockyard_block::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Who can read the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reader {
    /// `imago`, in this process.
    Native,
    /// `qemu-img` only; the text says which feature is the cause.
    QemuImg(&'static str),
}

/// QEMU's own limit: 32 MiB of table.
const L1_ENTRIES_MAX: u64 = (32 << 20) / 8;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Bits 9 to 55 of a table's entry are a place in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const L2_COMPRESSED: u64 = 1 << 62;
const L2_ZERO: u64 = 1;
const HEADER_BYTES: usize = 72;
const FEATURES_BYTES: usize = 8;

const FEATURE_DIRTY: u64 = 1 << 0;
const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_DATA_FILE: u64 = 1 << 2;
const FEATURE_COMPRESSION: u64 = 1 << 3;
const FEATURE_EXTENDED_L2: u64 = 1 << 4;

/// The fields that matter here.
struct Header {
    version: u32,
    cluster_bits: u32,
    size: u64,
    crypt_method: u32,
    l1_entries: u64,
    l1_offset: u64,
    incompatible_features: u64,
}

/// Checks `file`, `length` bytes long, whose first bytes are qcow2's mark.
///
/// `Corrupt` if the tables cannot be what a writer of qcow2 made, `Unsupported` if the image is
/// encrypted or marked corrupt, or uses a feature that nobody knows.
pub(crate) fn inspect(file: &File, length: u64, cancelled: &dyn Fn() -> bool) -> Result<Reader> {
    let header = Header::read(file)?;
    header.check_encryption()?;
    let reader = header.check_features()?;
    if reader == Reader::Native {
        for table in header.l2_tables(file, length)? {
            if cancelled() {
                return Err(cancelled_error());
            }
            header.check_l2(file, length, table)?;
        }
    }
    Ok(reader)
}

impl Header {
    fn read(file: &File) -> Result<Header> {
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(cut_short)?;
        let version = u32_at(&bytes, 4);
        let mut features = [0; FEATURES_BYTES];
        if version >= 3 {
            file.read_exact_at(&mut features, HEADER_BYTES as u64).map_err(cut_short)?;
        }
        let header = Header {
            version,
            cluster_bits: u32_at(&bytes, 20),
            size: u64_at(&bytes, 24),
            crypt_method: u32_at(&bytes, 32),
            l1_entries: u64::from(u32_at(&bytes, 36)),
            l1_offset: u64_at(&bytes, 40),
            incompatible_features: u64::from_be_bytes(features),
        };
        if !(2..=3).contains(&header.version) {
            return Err(corrupt(format!("version {} is neither 2 nor 3", header.version)));
        }
        if !CLUSTER_BITS.contains(&header.cluster_bits) {
            return Err(corrupt(format!("clusters of 2^{} bytes", header.cluster_bits)));
        }
        Ok(header)
    }

    fn check_encryption(&self) -> Result<()> {
        let method = match self.crypt_method {
            0 => return Ok(()),
            1 => "AES",
            2 => "LUKS",
            _ => "an unknown method",
        };
        let message = format!(
            "the qcow2 image is encrypted ({method}), which is not imported; \
             convert it first with qemu-img and its key"
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn check_features(&self) -> Result<Reader> {
        let features = self.incompatible_features;
        if features & FEATURE_CORRUPT != 0 {
            let message =
                "the qcow2 image is marked corrupt; repair it first: qemu-img check -r all";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let known = FEATURE_DIRTY | FEATURE_DATA_FILE | FEATURE_COMPRESSION | FEATURE_EXTENDED_L2;
        if features & !known != 0 {
            let message = format!("the qcow2 image needs features {:#x}", features & !known);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(if features & FEATURE_COMPRESSION != 0 {
            Reader::QemuImg("qcow2 compressed by zstd")
        } else if features & FEATURE_EXTENDED_L2 != 0 {
            Reader::QemuImg("qcow2 with extended L2 entries")
        } else if features & FEATURE_DIRTY != 0 {
            Reader::QemuImg("qcow2 that was not closed by its last writer")
        } else {
            Reader::Native
        })
    }

    /// The places of the L2 tables, each once. They lie within the file, and the L1 table covers
    /// the disk.
    fn l2_tables(&self, file: &File, length: u64) -> Result<Vec<u64>> {
        let cluster = self.cluster_bytes();
        let l2_covers = u128::from(cluster) * u128::from(cluster / 8);
        let needed = u128::from(self.size).div_ceil(l2_covers);
        if self.l1_entries > L1_ENTRIES_MAX || u128::from(self.l1_entries) < needed {
            return Err(corrupt(format!(
                "an L1 table of {} entries for a disk of {} bytes",
                self.l1_entries, self.size
            )));
        }
        let l1_bytes = self.l1_entries * 8;
        if self.l1_offset.checked_add(l1_bytes).is_none_or(|end| end > length) {
            return Err(corrupt("the L1 table reaches beyond the end of the file"));
        }
        let l1 = read_table(file, self.l1_offset, l1_bytes)?;
        let mut tables: Vec<u64> = entries(&l1).map(|entry| entry & OFFSET_MASK).collect();
        tables.sort_unstable();
        tables.dedup();
        tables.retain(|&offset| offset != 0);
        for &offset in &tables {
            if offset % cluster != 0 || offset + cluster > length {
                return Err(corrupt(format!("an L2 table at {offset} of {length} bytes")));
            }
        }
        Ok(tables)
    }

    /// Everything the L2 table at `offset` points to lies within the file. The last cluster of a
    /// file need not be whole.
    fn check_l2(&self, file: &File, length: u64, offset: u64) -> Result<()> {
        let table = read_table(file, offset, self.cluster_bytes())?;
        match entries(&table).map(|entry| self.end_of(entry)).find(|&end| end > length) {
            Some(end) => Err(corrupt(format!("data up to {end}, but the file ends at {length}"))),
            None => Ok(()),
        }
    }

    /// A place that the file must reach for the cluster of this entry to be read.
    fn end_of(&self, entry: u64) -> u64 {
        if entry & L2_COMPRESSED != 0 {
            let sector_shift = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << sector_shift) - 1);
            let more_sectors = (entry & (L2_COMPRESSED - 1)) >> sector_shift;
            return (offset & !511) + more_sectors * 512 + 1;
        }
        let in_data_file = self.incompatible_features & FEATURE_DATA_FILE != 0;
        let zero = self.version >= 3 && entry & L2_ZERO != 0;
        if in_data_file || zero || entry & OFFSET_MASK == 0 {
            return 0;
        }
        (entry & OFFSET_MASK) + 1
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Reads a table whose length was checked.
fn read_table(file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut table = vec![0; length as usize];
    file.read_exact_at(&mut table, offset).map_err(cut_short)?;
    Ok(table)
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.chunks_exact(8).map(|entry| u64_at(entry, 0))
}

fn corrupt(message: impl std::fmt::Display) -> Error {
    let message = format!("the qcow2 image is damaged or cut short: {message}");
    Error::new(ErrorKind::Corrupt, message)
}

fn cancelled_error() -> Error {
    Error::new(ErrorKind::ShutDown, "cancelled while looking at the qcow2 tables")
}

fn cut_short(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return corrupt("the file ends within a table");
    }
    Error::io("read of the qcow2 tables", error)
}

/// Big-endian, as everything in qcow2. Callers pass places within a buffer of fixed size.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u64_at_width(bytes, offset, 4) as u32
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64_at_width(bytes, offset, 8)
}

fn u64_at_width(bytes: &[u8], offset: usize, width: usize) -> u64 {
    bytes[offset..offset + width].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
