//! What `reply` promises, one test for each promise.

use super::{Answer, Batch};
use crate::execute::Outcome;
use crate::transmission::Terms;
use blockyard_block::{Buffer, Segment};
use std::io::IoSlice;

fn terms(structured: bool) -> Terms {
    Terms { size: 1 << 30, read_only: false, structured, allocation_context: None }
}

fn read(length: u64) -> Answer {
    let segments = vec![
        Segment::Data(Buffer::copy_of(&vec![3; length as usize])),
        Segment::Zeroes(200_000),
        Segment::Data(Buffer::copy_of(b"end")),
    ];
    Answer { cookie: 5, outcome: Outcome::Read { offset: 10, segments, whole: false } }
}

/// All bytes of a batch, as a socket takes them that accepts `step` bytes at a time.
fn drain(batch: &mut Batch, step: usize, slices_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = batch.slices(&mut slices[..slices_max]);
        if count == 0 {
            return bytes;
        }
        let before = bytes.len();
        bytes.extend(slices[..count].iter().flat_map(|slice| slice.iter()).take(step));
        batch.advance(bytes.len() - before);
    }
}

fn batch(structured: bool) -> Batch {
    let mut batch = Batch::default();
    let mut later = Batch::default();
    let terms = terms(structured);
    batch.answer(&terms, Answer { cookie: 1, outcome: Outcome::Done }, 0);
    batch.answer(&terms, read(1000), 201_003);
    later.answer(&terms, Answer { cookie: 2, outcome: Outcome::Done }, 0);
    later.answer(&terms, read(1), 200_004);
    batch.append(later);
    batch
}

#[test]
fn what_a_socket_takes_at_a_time_does_not_matter() {
    for structured in [false, true] {
        let whole = drain(&mut batch(structured), usize::MAX, 16);
        assert_eq!(whole.len() as u64, batch(structured).length());
        for (step, slices_max) in [(7, 1), (15, 3), (16, 2), (17, 16), (4096, 1), (70_000, 2)] {
            assert!(drain(&mut batch(structured), step, slices_max) == whole);
        }
    }
}

#[test]
fn a_batch_knows_what_it_answers_until_cleared() {
    let mut batch = batch(true);
    assert_eq!((batch.requests(), batch.weight()), (4, 401_007));
    drain(&mut batch, 999, 16);
    assert_eq!((batch.requests(), batch.weight()), (4, 401_007));
    batch.clear();
    assert!(batch.is_empty());
    assert_eq!(batch.length(), 0);
}

#[test]
fn simple_replies_are_laid_out_as_the_protocol_says() {
    let mut batch = Batch::default();
    batch.answer(&terms(false), Answer { cookie: 0x0102, outcome: Outcome::Done }, 0);
    let bytes = drain(&mut batch, usize::MAX, 16);
    assert_eq!(bytes, b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\x01\x02");
}
