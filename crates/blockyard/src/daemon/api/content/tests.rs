//! Half an upload is never taken for a whole one.

use super::{Part, Received};
use axum::body::Bytes;
use std::io::Read;

#[test]
fn an_upload_ends_only_where_its_sender_said_so() {
    let (sender, mut received) = Received::channel();
    for part in ["ab", "", "cde"] {
        sender.blocking_send(Part::Bytes(Bytes::from_static(part.as_bytes()))).unwrap();
    }
    sender.blocking_send(Part::End).unwrap();
    let mut text = String::new();
    received.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcde");
}

#[test]
fn a_sender_that_vanishes_is_an_error() {
    let (sender, mut received) = Received::channel();
    sender.blocking_send(Part::Bytes(Bytes::from_static(b"ab"))).unwrap();
    drop(sender);
    assert!(received.read_to_end(&mut Vec::new()).is_err());
    let (sender, mut received) = Received::channel();
    sender.blocking_send(Part::Broken("reset".to_owned())).unwrap();
    assert!(received.read_to_end(&mut Vec::new()).is_err());
}
