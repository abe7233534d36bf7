//! What an open export answers to every kind of request, sound or not.

use crate::support::Fixture;
use crate::support::client::*;
use crate::support::memory::MemoryDisk;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;

fn fixture() -> Fixture {
    Fixture::with_disk(MemoryDisk::new(SIZE))
}

fn both(test: impl Fn(&mut Client)) {
    let fixture = fixture();
    for structured in [false, true] {
        test(&mut Client::open(&fixture.socket, "disk", structured));
    }
}

#[test]
fn what_is_written_is_read_at_any_alignment() {
    both(|client| {
        for (offset, length) in [(0, 1), (4095, 2), (511, 12_289), (MIB, 4096), (SIZE - 7, 7)] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + offset) as u8).collect();
            client.write_ok(offset, &bytes);
            assert_eq!(client.read(offset, length as u32), bytes);
        }
    });
}

#[test]
fn the_largest_request_is_served_and_a_larger_one_refused() {
    both(|client| {
        let bytes: Vec<u8> = (0..32 * MIB).map(|i| (i / 4096 % 250) as u8 + 1).collect();
        client.write_ok(MIB + 1, &bytes);
        assert!(client.read(MIB + 1, 32 << 20) == bytes);
        assert_eq!(client.refusal(0, READ, 0, (32 << 20) + 1), EINVAL);
        assert_eq!(client.refusal(0, READ, 0, SIZE as u32), EINVAL);
        let larger = vec![9; (32 << 20) + 1];
        let answer = client.write(0, 0, &larger);
        assert!(matches!(answer[..], [Chunk::Error { code: EINVAL, .. }]));
        assert_eq!(client.read(0, 1), [0], "nothing of it was written");
    });
}

#[test]
fn a_write_far_too_large_closes() {
    let fixture = fixture();
    let mut client = Client::open(&fixture.socket, "disk", false);
    client.request(0, WRITE, 1, 0, u32::MAX);
    assert!(client.is_closed());
    fixture.event(&["Disconnected", "Violation"]);
}

#[test]
fn ranges_beyond_the_end_are_refused_and_the_stream_stays_whole() {
    both(|client| {
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4096)] {
            assert_eq!(client.refusal(0, READ, offset, length), EINVAL);
            assert_eq!(client.refusal(0, TRIM, offset, length), EINVAL);
            assert_eq!(client.refusal(0, CACHE, offset, length), EINVAL);
            assert_eq!(client.refusal(0, WRITE_ZEROES, offset, length), ENOSPC);
            assert_eq!(client.refusal(FAST_ZERO, WRITE_ZEROES, offset, length), ENOSPC);
            let answer = client.write(0, offset, &vec![1; length as usize]);
            assert!(matches!(answer[..], [Chunk::Error { code: ENOSPC, .. }]));
        }
        assert_eq!(client.refusal(0, TRIM, 0, u32::MAX), EINVAL);
        assert_eq!(client.read(SIZE - 1, 1), [0]);
    });
}

#[test]
fn requests_of_nothing_succeed_and_do_nothing() {
    both(|client| {
        for offset in [0, 1, SIZE] {
            for command in [READ, TRIM, CACHE, WRITE_ZEROES] {
                assert_eq!(client.ask(0, command, offset, 0), [Chunk::None]);
            }
            assert_eq!(client.write(0, offset, b""), [Chunk::None]);
        }
        assert_eq!(client.refusal(0, READ, SIZE + 1, 0), EINVAL);
    });
}

#[test]
fn unknown_commands_and_flags_are_invalid() {
    both(|client| {
        for command in [8, 9, 255, u16::MAX] {
            assert_eq!(client.refusal(0, command, 0, 512), EINVAL);
        }
        let misplaced = [
            (NO_HOLE, READ),
            (REQ_ONE, READ),
            (32, READ),
            (DF, TRIM),
            (FAST_ZERO, TRIM),
            (DF, WRITE_ZEROES),
            (REQ_ONE, CACHE),
            (DF, BLOCK_STATUS),
            (0x8000, TRIM),
        ];
        for (flags, command) in misplaced {
            assert_eq!(client.refusal(flags, command, 0, 512), EINVAL);
        }
        for flags in [NO_HOLE, DF, FAST_ZERO, 32, 0xfffe] {
            let answer = client.write(flags, 0, &[1; 512]);
            assert!(matches!(answer[..], [Chunk::Error { code: EINVAL, .. }]));
        }
        assert_eq!(client.refusal(0, FLUSH, 1, 0), EINVAL);
        assert_eq!(client.refusal(0, FLUSH, 0, 1), EINVAL);
        assert_eq!(client.read(0, 512), [0; 512]);
    });
}

#[test]
fn fua_is_accepted_on_every_command_and_reaches_the_device() {
    let fixture = fixture();
    for structured in [false, true] {
        let mut client = Client::open(&fixture.socket, "disk", structured);
        for command in [FLUSH, READ, TRIM, CACHE, WRITE_ZEROES] {
            assert_eq!(client.ask(FUA, command, 0, 0), [Chunk::None]);
        }
        assert_eq!(client.ask(FUA, TRIM, 0, 8192), [Chunk::None]);
        assert_eq!(client.ask(FUA | NO_HOLE, WRITE_ZEROES, 0, 8192), [Chunk::None]);
        assert_eq!(client.write(FUA, 0, &[1; 512]), [Chunk::None]);
    }
}

#[test]
fn holes_are_told_and_unfragmented_reads_come_in_one_chunk() {
    let fixture = fixture();
    let mut client = Client::open(&fixture.socket, "disk", true);
    client.write_ok(8192, &[5; 4096]);
    let chunks = client.ask(0, READ, 4000, 12_000);
    assert_eq!(chunks[0], Chunk::Hole { offset: 4000, length: 4192 });
    assert_eq!(chunks[1], Chunk::Data { offset: 8192, bytes: vec![5; 4096] });
    assert_eq!(chunks[2], Chunk::Hole { offset: 12_288, length: 3712 });
    let whole = client.ask(DF, READ, 4000, 12_000);
    assert_eq!(whole.len(), 1);
    assert_eq!(assemble(4000, 12_000, whole), client.read(4000, 12_000));
    let hole = client.ask(DF, READ, MIB, 4096);
    assert_eq!(hole, [Chunk::Hole { offset: MIB, length: 4096 }]);
    let big = client.ask(DF, READ, 1, 32 << 20);
    assert!(matches!(&big[..], [Chunk::Data { offset: 1, bytes }] if bytes.len() == 32 << 20));
    let mut simple = Client::open(&fixture.socket, "disk", false);
    assert_eq!(simple.refusal(DF, READ, 0, 512), EINVAL);
    assert_eq!(simple.read(8190, 4), [0, 0, 5, 5]);
}

#[test]
fn block_status_tells_data_holes_and_kept_places() {
    let fixture = fixture();
    let mut client = Client::open(&fixture.socket, "disk", true);
    client.write_ok(8192, &[5; 8192]);
    assert_eq!(client.ask(NO_HOLE, WRITE_ZEROES, 16_384, 4096), [Chunk::None]);
    let status = |extents: &[(u32, u32)]| [Chunk::Status { context: 1, extents: extents.to_vec() }];
    let all = client.ask(0, BLOCK_STATUS, 0, 40_960);
    assert_eq!(all, status(&[(8192, 3), (8192, 0), (4096, 2), (20_480, 3)]));
    assert_eq!(client.ask(REQ_ONE, BLOCK_STATUS, 8192, 40_960), status(&[(8192, 0)]));
    assert_eq!(client.ask(0, BLOCK_STATUS, 8193, 1), status(&[(1, 0)]));
    assert_eq!(client.ask(0, BLOCK_STATUS, SIZE - 1, 1), status(&[(1, 3)]));
    assert_eq!(client.refusal(0, BLOCK_STATUS, 0, 0), EINVAL);
    assert_eq!(client.refusal(0, BLOCK_STATUS, SIZE, 1), EINVAL);
    let mut without = Client::connect(&fixture.socket);
    without.agree_on_structured();
    without.go("disk");
    assert_eq!(without.refusal(0, BLOCK_STATUS, 0, 4096), EINVAL);
}

#[test]
fn zeroing_frees_or_keeps_the_place_and_spares_the_edges() {
    both(|client| {
        for flags in [0, NO_HOLE, FAST_ZERO] {
            client.write_ok(0, &[9; 20_480]);
            assert_eq!(client.ask(flags, WRITE_ZEROES, 1000, 12_000), [Chunk::None]);
            let mut expected = vec![9; 20_480];
            expected[1000..13_000].fill(0);
            assert_eq!(client.read(0, 20_480), expected);
        }
        client.write_ok(0, &[9; 20_480]);
        assert_eq!(client.ask(0, TRIM, 4096, 8192), [Chunk::None]);
        assert_eq!(client.read(4095, 8194)[1..8193], [0; 8192]);
        assert_eq!(client.refusal(FAST_ZERO, WRITE_ZEROES, 1, 4096), ENOTSUP);
        assert_eq!(client.ask(FAST_ZERO, WRITE_ZEROES, 1, 8191), [Chunk::None]);
    });
}

#[test]
fn a_read_only_export_refuses_every_change_and_drains_the_payload() {
    let mut disk = MemoryDisk::new(MIB);
    disk.read_only = true;
    let fixture = Fixture::with_disk(disk);
    for structured in [false, true] {
        let mut client = Client::open(&fixture.socket, "disk", structured);
        let answer = client.write(0, 0, &[1; 100_000]);
        assert!(matches!(answer[..], [Chunk::Error { code: EPERM, .. }]));
        assert_eq!(client.refusal(0, TRIM, 0, 4096), EPERM);
        assert_eq!(client.refusal(0, WRITE_ZEROES, 0, 4096), EPERM);
        assert_eq!(client.ask(0, FLUSH, 0, 0), [Chunk::None]);
        assert_eq!(client.read(0, 100), [0; 100]);
    }
}

#[test]
fn a_failing_device_fails_the_request_only_and_keeps_its_words_to_the_log() {
    let mut disk = MemoryDisk::new(MIB);
    disk.bad_offset = Some(70_000);
    let fixture = Fixture::with_disk(disk);
    for structured in [false, true] {
        let mut client = Client::open(&fixture.socket, "disk", structured);
        let answer = client.ask(0, READ, 69_000, 4096);
        let message = if structured { "I/O error".to_owned() } else { String::new() };
        assert_eq!(answer, [Chunk::Error { code: EIO, message }]);
        let answer = client.write(0, 69_000, &[1; 4096]);
        assert!(matches!(answer[..], [Chunk::Error { code: EIO, .. }]));
        client.write_ok(0, &[1; 4096]);
    }
    fixture.event(&["RequestFailed", "bad sector at 70000"]);
    fixture.wait_until_alone();
    fixture.event(&["Disconnected", "failures: 2", "reads: 1", "writes: 2"]);
}

#[test]
fn a_pipeline_of_everything_is_answered_once_each() {
    both(|client| {
        let mut bytes = Vec::new();
        let mut cookies = Vec::new();
        for cookie in 0..1000_u64 {
            let offset = cookie * 3000;
            match cookie % 5 {
                0 => {
                    bytes.extend(request_bytes(0, WRITE, cookie, offset, 2000));
                    bytes.extend([cookie as u8; 2000]);
                }
                1 => bytes.extend(request_bytes(0, TRIM, cookie, offset, 100)),
                2 => bytes.extend(request_bytes(0, FLUSH, cookie, 0, 0)),
                3 => bytes.extend(request_bytes(0, 99, cookie, offset, 100)),
                _ => bytes.extend(request_bytes(FUA, WRITE_ZEROES, cookie, offset, 5000)),
            }
            cookies.push(cookie);
        }
        let mut sender = client.socket.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            sender.write_all(&bytes).unwrap();
        });
        let answers = client.answers(&cookies, 0);
        sending.join().unwrap();
        assert_eq!(answers.len(), 1000);
        for (cookie, chunks) in answers {
            assert_eq!(matches!(chunks[..], [Chunk::Error { .. }]), cookie % 5 == 3);
        }
    });
}
