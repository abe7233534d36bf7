//! What `records` promises, one test for each promise.

use super::*;

fn samples() -> Vec<Vec<u8>> {
    let mut page = MapPage::empty();
    page.set(0, Some(ExtentId(1)));
    page.set(511, Some(ExtentId(1 << 40)));
    vec![
        PoolRecord {
            id: PoolId([7; 16]),
            hash: HashAlgorithm::Sha1,
            data_on_device: true,
            created_unix_s: 5,
            headers_epoch: 9,
        }
        .encode(),
        ImageRecord {
            name: ImageName::parse("web").unwrap(),
            kind: ImageKind::Snapshot,
            hidden: false,
            kept: false,
            lazy: false,
            size: 3 << 30,
            created_unix_s: 1,
            pages: vec![Some(MapPageId(4)), None],
        }
        .encode(),
        page.encode(),
        RegionRecord::Intent.encode(),
        RegionRecord::Clear([1, 2, 3, 4, 5, 6, 7, 8]).encode(),
    ]
}

/// Decodes as every kind; what decodes must encode to the same bytes.
fn decode_all(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    let mut same = |encoded: Vec<u8>| {
        accepted += 1;
        assert_eq!(encoded, bytes);
    };
    if let Ok(record) = ImageRecord::decode(bytes) {
        same(record.encode());
    }
    if let Ok(record) = MapPage::decode(bytes) {
        same(record.encode());
    }
    if let Ok(record) = RegionRecord::decode(bytes) {
        same(record.encode());
    }
    accepted += usize::from(PoolRecord::decode(bytes).is_ok());
    accepted
}

#[test]
fn every_record_survives_encoding_and_no_bytes_make_decoding_panic() {
    for sample in samples() {
        assert_eq!(decode_all(&sample), 1);
        for length in 0..sample.len() {
            decode_all(&sample[..length]);
        }
        for at in 0..sample.len() {
            for flip in 0..8 {
                let mut mutated = sample.clone();
                mutated[at] ^= 1 << flip;
                decode_all(&mutated);
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let mut bytes = samples()[0].clone();
    bytes[0] = 9;
    let error = PoolRecord::decode(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("version 9"));
}
