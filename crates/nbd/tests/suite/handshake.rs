//! What clients may say before they open an export, and what the server says to nonsense.

use crate::support::Fixture;
use crate::support::client::*;
use crate::support::memory::MemoryDisk;
use blockyard_nbd::Limits;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn fixture() -> Fixture {
    let mut sealed = MemoryDisk::new(MIB);
    sealed.read_only = true;
    let disk = Arc::new(MemoryDisk::new(64 * MIB));
    Fixture::new([("disk", disk), ("sealed", Arc::new(sealed))], crate::limits())
}

fn kind(replies: &[(u32, Vec<u8>)]) -> u32 {
    replies.last().unwrap().0
}

#[test]
fn the_list_names_every_export() {
    let fixture = fixture();
    let replies = Client::connect(&fixture.socket).option(3, b"");
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[0], (2, b"\0\0\0\x04diskthe disk disk".to_vec()));
    assert_eq!(replies[1], (2, b"\0\0\0\x06sealedthe disk sealed".to_vec()));
}

#[test]
fn info_tells_size_flags_and_block_sizes_and_leaves_the_choice_open() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    let replies = client.option(6, &info_query("sealed", &[1, 2, 3, 999]));
    let bodies: Vec<_> = replies.iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(number(&bodies[0][2..10]), MIB);
    assert_eq!(bodies[1], b"\0\x01sealed");
    assert_eq!(bodies[2], b"\0\x02the disk sealed");
    assert_eq!(bodies[3], [&b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0"[..]].concat());
    assert_eq!(kind(&replies), ACK);
    client.go("disk");
    assert_eq!(client.size, 64 * MIB);
}

#[test]
fn flags_say_what_the_export_can_do() {
    let fixture = fixture();
    let writable = Client::open(&fixture.socket, "disk", false).flags;
    assert_eq!(writable, 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048);
    let structured = Client::open(&fixture.socket, "disk", true).flags;
    assert_eq!(structured, writable | 128);
    let read_only = Client::open(&fixture.socket, "sealed", true).flags;
    assert_eq!(read_only, 1 | 2 | 4 | 8 | 128 | 256 | 1024);
}

#[test]
fn export_name_is_answered_with_and_without_zeroes() {
    let fixture = fixture();
    for (flags, tail) in [(3, 10), (1, 134), (0, 134), (2, 10)] {
        let mut client = Client::connect_with_flags(&fixture.socket, flags);
        client.send_option(1, b"disk");
        let answer = client.take(tail);
        assert_eq!(number(&answer[..8]), 64 * MIB);
        assert!(answer[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.read(0, 512), vec![0; 512]);
    }
}

#[test]
fn export_name_of_nothing_closes() {
    let fixture = fixture();
    for name in [&b"nothing"[..], b"", b"denied", b"\xff\xfe", &[b'x'; 5000]] {
        let mut client = Client::connect(&fixture.socket);
        client.send_option(1, name);
        assert!(client.is_closed());
    }
    fixture.event(&["Disconnected", "NoExport"]);
}

#[test]
fn names_that_cannot_be_opened_are_refused_by_kind_and_the_talk_goes_on() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    for code in [6, 7] {
        assert_eq!(kind(&client.option(code, &info_query("nothing", &[]))), ERR_UNKNOWN);
        assert_eq!(kind(&client.option(code, &info_query("", &[]))), ERR_UNKNOWN);
        let long = "x".repeat(4096);
        assert_eq!(kind(&client.option(code, &info_query(&long, &[]))), ERR_UNKNOWN);
        let longer = "x".repeat(4097);
        assert_eq!(kind(&client.option(code, &info_query(&longer, &[]))), ERR_TOO_BIG);
        let denied = client.option(code, &info_query("denied", &[]));
        assert_eq!(kind(&denied), ERR_POLICY);
        assert!(!String::from_utf8_lossy(&denied[0].1).contains("secret"));
        assert_eq!(kind(&client.option(code, b"\0\0\0\x02\xff\xfe\0\0")), ERR_INVALID);
    }
    client.go("disk");
    assert_eq!(client.read(0, 1), [0]);
}

#[test]
fn options_whose_lengths_lie_are_invalid() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    client.agree_on_structured();
    let full = info_query("disk", &[1, 2]);
    for code in [6, 7] {
        for cut in 0..full.len() {
            assert_eq!(kind(&client.option(code, &full[..cut])), ERR_INVALID);
        }
        assert_eq!(kind(&client.option(code, &[&full[..], b"x"].concat())), ERR_INVALID);
        assert_eq!(kind(&client.option(code, b"\xff\xff\xff\xffdisk")), ERR_INVALID);
    }
    let full = context_query("disk", &["base:allocation", "x"]);
    for code in [9, 10] {
        for cut in 0..full.len() {
            assert_eq!(kind(&client.option(code, &full[..cut])), ERR_INVALID);
        }
        assert_eq!(kind(&client.option(code, &[&full[..], b"x"].concat())), ERR_INVALID);
        let many = [&context_query("disk", &[])[..8], b"\xff\xff\xff\xff"].concat();
        assert_eq!(kind(&client.option(code, &many)), ERR_INVALID);
    }
    assert_eq!(kind(&client.option(3, b"x")), ERR_INVALID);
    assert_eq!(kind(&client.option(8, b"x")), ERR_INVALID);
    client.go("disk");
}

#[test]
fn unknown_options_are_unsupported_whatever_their_size() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    for code in [0, 4, 5, 11, 12, 4242, u32::MAX] {
        assert_eq!(kind(&client.option(code, b"")), ERR_UNSUP);
        assert_eq!(kind(&client.option(code, &[7; 60_000])), ERR_UNSUP);
    }
    for size in [70_000, 3 << 20] {
        client.send_option(7, &vec![1; size]);
        assert_eq!(kind(&client.option_replies(7)), ERR_TOO_BIG);
    }
    client.go("disk");
    assert_eq!(client.read(0, 1), [0]);
}

#[test]
fn an_option_of_gigabytes_closes() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    client.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    assert!(client.is_closed());
    fixture.event(&["Disconnected", "Violation"]);
}

#[test]
fn wrong_magics_and_flags_close_at_once() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    client.send(b"IHAVEOPX");
    assert!(client.is_closed());
    for flags in [4, 0x8000_0000, 0xffff] {
        assert!(Client::connect_with_flags(&fixture.socket, flags).is_closed());
    }
    let mut client = Client::connect_with_flags(&fixture.socket, 0);
    client.send_option(3, b"");
    assert!(client.is_closed(), "LIST needs the fixed handshake");
    let mut client = Client::open(&fixture.socket, "disk", false);
    client.send(b"abcd");
    assert!(client.is_closed());
}

#[test]
fn abort_is_acknowledged() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    assert_eq!(client.option(2, b""), [(ACK, vec![])]);
    assert!(client.is_closed());
    fixture.event(&["Disconnected", "Goodbye"]);
}

#[test]
fn contexts_are_listed_by_prefix_and_selected_by_name() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    let query = |queries: &[&str]| context_query("disk", queries);
    assert_eq!(kind(&client.option(10, &query(&["base:allocation"]))), ERR_INVALID);
    client.agree_on_structured();
    assert_eq!(kind(&client.option(8, b"")), ERR_INVALID);
    let listed = vec![(4, b"\0\0\0\0base:allocation".to_vec()), (ACK, vec![])];
    for queries in [&[][..], &["base:"], &["base:allocation"], &["x:", "base:allocation"]] {
        assert_eq!(client.option(9, &query(queries)), listed);
    }
    assert_eq!(client.option(9, &query(&["qemu:", "base:alloc"])), [(ACK, vec![])]);
    assert_eq!(client.option(10, &query(&["base:"])), [(ACK, vec![])]);
    let selected = client.option(10, &query(&["x:y", "base:allocation"]));
    assert_eq!(selected, [(4, b"\0\0\0\x01base:allocation".to_vec()), (ACK, vec![])]);
    let unknown = context_query("nothing", &["base:allocation"]);
    assert_eq!(kind(&client.option(10, &unknown)), ERR_UNKNOWN);
    client.go("disk");
    assert_eq!(client.refusal(0, BLOCK_STATUS, 0, 4096), EINVAL, "the last selection failed");
}

#[test]
fn a_selection_for_another_export_does_not_count() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    client.agree_on_structured();
    client.option(10, &context_query("sealed", &["base:allocation"]));
    client.go("disk");
    assert_eq!(client.refusal(0, BLOCK_STATUS, 0, 4096), EINVAL);
}

#[test]
fn a_client_that_dawdles_is_dropped() {
    let limits = Limits { handshake_time: Duration::from_millis(300), ..crate::limits() };
    let fixture = Fixture::new([("disk", Arc::new(MemoryDisk::new(MIB)))], limits);
    let begun = Instant::now();
    let mut silent = Client::connect_silently(&fixture.socket);
    silent.take(18);
    assert!(silent.is_closed());
    let mut slow = Client::connect(&fixture.socket);
    slow.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut bytes = option_bytes(7, &vec![0; 60_000]).into_iter();
    while begun.elapsed() < Duration::from_secs(5) {
        use std::io::Write;
        if slow.socket.write_all(&[bytes.next().unwrap()]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    fixture.event(&["Disconnected", "TooSlow"]);
    fixture.wait_until_alone();
}

#[test]
fn requests_sent_along_with_the_last_option_are_served() {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket);
    let mut bytes = option_bytes(7, &info_query("disk", &[]));
    bytes.extend(request_bytes(0, WRITE, 1, 10, 3));
    bytes.extend(b"abc");
    client.send(&bytes);
    assert_eq!(kind(&client.option_replies(7)), ACK);
    assert_eq!(client.answer(1, 0), [Chunk::None]);
    assert_eq!(client.read(10, 3), b"abc");
}

#[test]
fn connections_beyond_the_limit_are_closed_and_places_come_free() {
    let limits = Limits { connections: 2, ..crate::limits() };
    let fixture = Fixture::new([("disk", Arc::new(MemoryDisk::new(MIB)))], limits);
    let first = Client::open(&fixture.socket, "disk", false);
    let _second = Client::open(&fixture.socket, "disk", false);
    assert!(Client::connect_silently(&fixture.socket).is_closed());
    fixture.event(&["Rejected", "too many"]);
    drop(first);
    fixture.event(&["Disconnected", "Closed"]);
    while fixture.server.as_ref().unwrap().connections() > 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    Client::open(&fixture.socket, "disk", false);
}

#[test]
fn the_kernel_says_who_the_client_is() {
    let fixture = fixture();
    let _client = Client::open(&fixture.socket, "disk", false);
    fixture.event(&["Opened", &format!("pid: Some({})", std::process::id()), "name: \"disk\""]);
}
