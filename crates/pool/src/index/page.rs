//! One page of sorted records on disk: 170 records and a checksum. See docs/format-metadata.md.

use blockyard_block::{CLUSTER_SIZE, Error, ErrorKind, Result};

/// A key of 128 bits and a value, ordered by key first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) key: [u64; 2],
    pub(crate) value: u64,
}

const RECORD_BYTES: usize = 24;
pub(crate) const PAGE_RECORDS: usize = 170;
const MAGIC: u32 = 0x7864_6e69;

const _: () = assert!(size_of::<Record>() == RECORD_BYTES);
const _: () = assert!(PAGE_RECORDS * RECORD_BYTES + 16 == CLUSTER_SIZE);

/// Fills `page`, which is all zero, with at most [`PAGE_RECORDS`] records.
pub(crate) fn encode(records: &[Record], page: &mut [u8]) {
    for (record, bytes) in records.iter().zip(page.chunks_exact_mut(RECORD_BYTES)) {
        bytes[..8].copy_from_slice(&record.key[0].to_be_bytes());
        bytes[8..16].copy_from_slice(&record.key[1].to_be_bytes());
        bytes[16..].copy_from_slice(&record.value.to_le_bytes());
    }
    let trailer = PAGE_RECORDS * RECORD_BYTES;
    page[trailer..trailer + 4].copy_from_slice(&MAGIC.to_le_bytes());
    page[trailer + 4..trailer + 8].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&page[..CLUSTER_SIZE - 8]);
    page[trailer + 8..trailer + 12].copy_from_slice(&checksum.to_le_bytes());
}

/// The inverse of [`encode`]; anything else is `Corrupt`.
pub(crate) fn decode(page: &[u8], records: &mut Vec<Record>) -> Result<()> {
    let trailer = PAGE_RECORDS * RECORD_BYTES;
    let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let count = word(trailer + 4) as usize;
    let sound = word(trailer) == MAGIC
        && count <= PAGE_RECORDS
        && word(trailer + 8) == crc32c::crc32c(&page[..CLUSTER_SIZE - 8]);
    if !sound {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "a page of the index does not match its checksum",
        ));
    }
    for bytes in page.chunks_exact(RECORD_BYTES).take(count) {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[..8]);
        let first = u64::from_be_bytes(eight);
        eight.copy_from_slice(&bytes[8..16]);
        let second = u64::from_be_bytes(eight);
        eight.copy_from_slice(&bytes[16..]);
        records.push(Record { key: [first, second], value: u64::from_le_bytes(eight) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{PAGE_RECORDS, Record, decode, encode};

    #[test]
    fn a_page_gives_its_records_back_and_no_flipped_bit_passes() {
        let records: Vec<Record> = (0..PAGE_RECORDS as u64)
            .map(|number| Record { key: [number << 50, !number], value: number * 3 })
            .collect();
        for count in [0, 1, 169, PAGE_RECORDS] {
            let mut page = vec![0; 4096];
            encode(&records[..count], &mut page);
            let mut decoded = Vec::new();
            decode(&page, &mut decoded).unwrap();
            assert_eq!(decoded, records[..count]);
            for bit in (0..4092 * 8).step_by(61) {
                page[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&page, &mut Vec::new()).is_err(), "bit {bit}");
                page[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
