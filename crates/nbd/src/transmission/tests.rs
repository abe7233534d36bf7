//! What `transmission` promises, one test for each promise.

use super::{Decoded, Decoder, Operation, Terms, Violation};

fn terms() -> Terms {
    Terms { size: 1 << 20, read_only: false, structured: true, allocation_context: Some(1) }
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = b"\x25\x60\x95\x13\0\0".to_vec();
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

fn session() -> Vec<u8> {
    let mut bytes = request(0, 1, 0, 4096);
    bytes.extend(request(1, 2, 700, 5000));
    bytes.extend((0..5000).map(|i| i as u8));
    bytes.extend(request(1, 3, 1 << 20, 100));
    bytes.extend([9; 100]);
    bytes.extend(request(7, 4, 0, 1 << 20));
    bytes.extend(request(3, 5, 0, 0));
    bytes.extend(request(2, 6, 0, 0));
    bytes
}

/// Feeds pieces of `step` bytes; the text of everything that came out, and how it ended.
fn feed(session: &[u8], step: usize) -> (Vec<String>, Result<bool, Violation>) {
    let mut decoder = Decoder::new(terms());
    let mut seen = Vec::new();
    let mut input = Vec::new();
    for piece in session.chunks(step) {
        input.extend_from_slice(piece);
        let mut rest = &input[..];
        loop {
            match decoder.decode(&mut rest) {
                Err(violation) => return (seen, Err(violation)),
                Ok(Decoded::More) => break,
                Ok(Decoded::Payload(_)) => decoder.begin_payload(),
                Ok(Decoded::Disconnect) => return (seen, Ok(true)),
                Ok(Decoded::Request(request)) => {
                    if let Operation::Write { data, .. } = &request.operation {
                        seen.push(format!("{:?}", &data[..]));
                    }
                    seen.push(format!("{request:?}"));
                }
            }
        }
        input = rest.to_vec();
    }
    (seen, Ok(false))
}

#[test]
fn how_the_bytes_are_cut_does_not_matter() {
    let (whole, end) = feed(&session(), usize::MAX);
    assert_eq!(end, Ok(true));
    assert_eq!(whole.len(), 6);
    for step in 1..100 {
        assert_eq!(feed(&session(), step).0, whole);
    }
}

#[test]
fn any_changed_byte_of_a_header_is_survived() {
    for position in 0..session().len().min(200) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = session();
            bytes[position] = value;
            let _ = feed(&bytes, 64);
        }
    }
}

#[test]
fn a_payload_has_no_memory_before_it_is_let_in() {
    let mut decoder = Decoder::new(terms());
    let bytes = [request(1, 2, 700, 5000), vec![7; 5000]].concat();
    let mut rest = &bytes[..];
    for _ in 0..3 {
        assert!(matches!(decoder.decode(&mut rest), Ok(Decoded::Payload(5000))));
        assert!(decoder.payload_space().is_none());
    }
    decoder.begin_payload();
    assert_eq!(decoder.payload_space().map(|space| space.len()), Some(5000));
    let space = decoder.payload_space().expect("the payload was begun");
    space[..4000].fill(7);
    assert!(matches!(decoder.payload_received(4000), Decoded::More));
    let mut rest = &bytes[28..1028];
    let Ok(Decoded::Request(request)) = decoder.decode(&mut rest) else { panic!("a write") };
    let Operation::Write { data, offset: 700, .. } = request.operation else { panic!("a write") };
    assert!(data.iter().all(|byte| *byte == 7) && data.slice(3396..5000).is_aligned());
}

#[test]
fn a_wrong_magic_is_told_by_its_first_bytes() {
    let mut decoder = Decoder::new(terms());
    assert!(decoder.decode(&mut &b"\x25\x60\x95\x14"[..]).is_err());
}
