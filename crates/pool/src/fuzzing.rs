//! For fuzzers alone: every decoder of stored bytes, by one door. With this feature checksums are not
//! compared, so that mutated bytes get past them.

use crate::PoolId;
use crate::extent::Extent;
use crate::headers::{Header, HeaderOf};
use crate::journal::{Journal, JournalIdentity};
use crate::records::{ImageRecord, MapPage, PoolRecord, RegionRecord};
use blockyard_io::Mapped;

struct Memory(Vec<u8>);

impl Mapped for Memory {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Decodes `bytes` as everything that a pool stores. What decodes must encode to the same bytes.
pub fn decode(bytes: &[u8]) {
    if let Ok(record) = ImageRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
    if let Ok(record) = MapPage::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
    if let Ok(record) = RegionRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
    let _ = PoolRecord::decode(bytes);
    if let Ok(extent) = Extent::decode(bytes) {
        let mut again = Vec::new();
        extent.encode(&mut again);
        assert!(Extent::decode(&again).ok() == Some(extent), "an extent changed its meaning");
    }
    if bytes.len() >= 4096 {
        let _ = Header::decode(HeaderOf::Data, bytes);
        let _ = Header::decode(HeaderOf::Hashes, bytes);
    }
    let identity = JournalIdentity { pool: PoolId([1; 16]), boot: [2; 16], epoch: 5 };
    let mut memory = JournalIdentity { epoch: 4, ..identity }.encode().to_vec();
    memory.extend_from_slice(bytes);
    let _ = Journal::recover(&mut Memory(memory), identity, 1);
    crate::store::decode_any(bytes);
}
