//! Any bytes as any record of a pool. What is asked: no panic, and what decodes encodes the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| blockyard_pool::fuzzing::decode(bytes));
