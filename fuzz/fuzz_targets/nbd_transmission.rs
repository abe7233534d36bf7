//! Requests of a client, in pieces of any size, and the replies to them. What is asked: no panic, ranges
//! inside the export, memory only for payloads that were announced, and replies of the length they say.
#![no_main]

use blockyard_nbd::PAYLOAD_MAX;
use blockyard_nbd::transmission::{Decoded, Decoder, Operation, Terms};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 40 << 20;

fn check(operation: &Operation) {
    let inside = |offset: u64, length: u64| {
        assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE), "{offset} + {length}");
    };
    match operation {
        Operation::Read { offset, length, .. } => {
            inside(*offset, u64::from(*length));
            assert!(*length <= PAYLOAD_MAX);
        }
        Operation::Write { offset, data, .. } => inside(*offset, data.len() as u64),
        Operation::Trim { offset, length, .. }
        | Operation::WriteZeroes { offset, length, .. }
        | Operation::BlockStatus { offset, length, .. } => inside(*offset, u64::from(*length)),
        Operation::Flush | Operation::Nothing | Operation::Refused(_) => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some(([flags, step], mut rest)) = bytes.split_first_chunk::<2>() else { return };
    let terms = Terms {
        size: SIZE,
        read_only: flags & 1 != 0,
        structured: flags & 2 != 0,
        allocation_context: (flags & 4 != 0).then_some(1),
    };
    let mut decoder = Decoder::new(terms);
    let step = usize::from(*step) + 1;
    let mut buffered: Vec<u8> = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(step.min(rest.len()));
        rest = after;
        buffered.extend_from_slice(piece);
        let mut input = buffered.as_slice();
        loop {
            match decoder.decode(&mut input) {
                Err(_) | Ok(Decoded::Disconnect) => return,
                Ok(Decoded::More) => break,
                Ok(Decoded::Request(request)) => check(&request.operation),
                Ok(Decoded::Payload(length)) => {
                    assert!(length <= PAYLOAD_MAX);
                    if length > 1 << 20 {
                        return; // sound, and too slow to fill
                    }
                    decoder.begin_payload();
                }
            }
        }
        buffered = input.to_vec();
        assert!(buffered.len() < 64, "{} bytes are not taken", buffered.len());
    }
});
