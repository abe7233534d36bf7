//! What `transfer` promises, one test for each promise.

use super::{read_whole, write_whole};
use rustix::io::Errno;
use std::io;

#[test]
fn a_read_goes_on_after_short_answers_and_interruptions() {
    let file: Vec<u8> = (0..200).collect();
    let mut answers = [Ok(3), Err(Errno::INTR), Ok(1), Ok(96)].into_iter();
    let mut bytes = [0; 100];
    read_whole(50, &mut bytes, 1, |offset, bytes| {
        let count = answers.next().unwrap()?;
        let start = offset as usize;
        bytes[..count].copy_from_slice(&file[start..start + count]);
        Ok(count)
    })
    .unwrap();
    assert_eq!(bytes, file[50..150]);
}

#[test]
fn a_direct_transfer_starts_again_on_a_multiple_of_its_step() {
    let mut seen = Vec::new();
    let mut answers = [5000, 4096, 12288 - 8192].into_iter();
    write_whole(8192, &[1; 12288], 4096, |offset, bytes| {
        seen.push((offset, bytes.len()));
        Ok(answers.next().unwrap())
    })
    .unwrap();
    assert_eq!(seen, [(8192, 12288), (8192 + 4096, 8192), (8192 + 8192, 4096)]);
}

#[test]
fn a_ragged_end_is_an_unexpected_end_and_not_an_endless_loop() {
    let error = read_whole(0, &mut [0; 8192], 4096, |_, _| Ok(512)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let error = write_whole(0, &[0; 8192], 4096, |_, _| Ok(512)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

#[test]
fn an_error_of_the_system_ends_the_transfer() {
    let error = read_whole(0, &mut [0; 8], 1, |_, _| Err(Errno::IO)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
}
