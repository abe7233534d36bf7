//! The client against a server that lies: what it must notice, or the benchmark could.

use super::wire::{READ, WRITE, request};
use super::{Address, Load, Operation, Outcome, Pattern, run, stamp};
use crate::Result;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    None,
    Error,
    OtherPlace,
    LastClusterZero,
    UnknownCookie,
    Twice,
    NoMagic,
    HangUp,
}

/// One NBD server, for one connection after the other, that has every cluster stamped.
fn serve(lie: Lie, block: usize) -> (tempfile::TempDir, Address) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = answer(stream, lie, block);
            });
        }
    });
    (folder, Address { socket, export: "disk".to_owned() })
}

fn answer(mut stream: UnixStream, lie: Lie, block: usize) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut hello = [0; 4 + 16 + 4];
    stream.read_exact(&mut hello)?;
    stream.write_all(&SIZE.to_be_bytes())?;
    stream.write_all(&0b10_0101_u16.to_be_bytes())?;
    let mut payload = vec![0; block];
    loop {
        let mut head = [0; 28];
        stream.read_exact(&mut head)?;
        let command = u16::from_be_bytes([head[6], head[7]]);
        let offset = u64::from_be_bytes(head[16..24].try_into().unwrap());
        let mut reply = [0; 16];
        reply[..4].copy_from_slice(&0x6744_6698_u32.to_be_bytes());
        reply[8..].copy_from_slice(&head[8..16]);
        match lie {
            Lie::Error => reply[7] = 5,
            Lie::UnknownCookie => reply[15] = 77,
            Lie::NoMagic => reply[0] = 0,
            Lie::HangUp => return Ok(()),
            _ => {}
        }
        if command == WRITE {
            stream.read_exact(&mut payload)?;
            assert!(stamp::holds(&payload, offset));
        }
        stream.write_all(&reply)?;
        if command == READ {
            stamp::put(&mut payload, offset + if lie == Lie::OtherPlace { 4096 } else { 0 }, 0);
            if lie == Lie::LastClusterZero {
                let last = payload.len() - stamp::CLUSTER;
                payload[last..].fill(0);
            }
            stream.write_all(&payload)?;
        } else if lie == Lie::Twice {
            stream.write_all(&reply)?;
        }
    }
}

fn load(lie: Lie, load: &Load) -> Result<Outcome> {
    let (_folder, address) = serve(lie, load.block);
    run(&address, load, || Ok(())).map(|(outcome, (), ())| outcome)
}

fn reads(block: usize) -> Load {
    Load::new(Operation::Read, Pattern::Through, block, 4)
}

fn refusal(lie: Lie, shape: &Load) -> String {
    load(lie, shape).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn every_block_is_read_once_and_counted_once() {
    for connections in [1, 3] {
        let outcome = load(Lie::None, &reads(64 << 10).over(connections)).unwrap();
        assert_eq!(outcome.latencies.total(), 16);
    }
}

#[test]
fn all_kinds_of_requests_get_through() {
    for operation in [Operation::Write, Operation::DurableWrite, Operation::Trim] {
        let shape = Load::new(operation, Pattern::Once, 4096, 8).over(2);
        assert_eq!(load(Lie::None, &shape).unwrap().latencies.total(), 256, "{operation:?}");
    }
    let mixed = Load::new(Operation::Write, Pattern::Through, 4096, 8).mixed(70);
    assert_eq!(load(Lie::None, &mixed).unwrap().latencies.total(), 256);
}

#[test]
fn megabytes_in_flight_both_ways_do_not_stop_it() {
    let shape = Load::new(Operation::Write, Pattern::Sequential, 256 << 10, 16).mixed(50);
    let outcome = load(Lie::None, &shape.lasting(Duration::from_millis(100))).unwrap();
    assert!(outcome.latencies.total() >= 16);
}

#[test]
fn an_error_of_the_server_ends_the_measurement() {
    assert!(refusal(Lie::Error, &reads(4096)).contains("NBD error 5"));
}

#[test]
fn content_of_another_place_is_noticed() {
    assert!(refusal(Lie::OtherPlace, &reads(4096)).contains("never written there"));
    assert!(refusal(Lie::LastClusterZero, &reads(64 << 10)).contains("never written there"));
}

#[test]
fn replies_that_answer_nothing_are_noticed() {
    assert!(refusal(Lie::UnknownCookie, &reads(4096)).contains("reply to no request"));
    assert!(refusal(Lie::NoMagic, &reads(4096)).contains("a reply starts with"));
    assert!(!refusal(Lie::HangUp, &reads(4096)).is_empty());
    let writes = Load::new(Operation::Write, Pattern::Through, 4096, 1);
    assert!(!refusal(Lie::Twice, &writes).is_empty());
}

#[test]
fn a_request_has_its_fields_where_the_protocol_wants_them() {
    let bytes = request(WRITE, 7, 0x1000, 4096);
    let expected = [
        0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x10, 0, 0,
        0, 0x10, 0,
    ];
    assert_eq!(bytes, expected);
}
