//! What is a size and what is not.

use super::{Size, human};

#[test]
fn sizes_are_binary_with_or_without_the_full_unit() {
    let cases = [
        ("512", 512),
        ("0", 0),
        ("1K", 1 << 10),
        ("512M", 512 << 20),
        ("20G", 20 << 30),
        ("10GiB", 10 << 30),
        ("10gib", 10 << 30),
        ("3 TB", 3 << 40),
        ("1.5G", 3 << 29),
        ("7B", 7),
    ];
    for (text, bytes) in cases {
        assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
    }
}

#[test]
fn nonsense_is_no_size() {
    for text in ["", "G", "-1", "1.5", "1.", ".5G", "1..5G", "20X", "20GG", "99999999999G", "1e3"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}

#[test]
fn odd_sizes_round_up_to_a_sector() {
    assert_eq!(Size(513).rounded_up_saying_so().unwrap(), 1024);
    assert_eq!(Size(1024).rounded_up_saying_so().unwrap(), 1024);
    assert!(Size(u64::MAX).rounded_up_saying_so().is_err());
}

#[test]
fn sizes_read_well() {
    assert_eq!(human(0), "0 B");
    assert_eq!(human(512), "512 B");
    assert_eq!(human(20 << 30), "20.0 GiB");
    assert_eq!(human(1536 << 20), "1.5 GiB");
}
