//! Two daemons that stream images to each other on loopback: what crosses, who may ask, and what is left of a
//! transfer that was cut off.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::peers::{Host, MIB, content, number, restart};

/// What is known of an extent besides its clusters.
const PER_EXTENT: u64 = 128;

fn two() -> (Host, Host) {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    a.knows("b", &b, &[]);
    b.knows("a", &a, &["--allow", "push"]);
    (a, b)
}

#[test]
fn an_image_crosses_once_and_a_sibling_only_where_it_differs() {
    let (a, b) = two();
    let mut bytes = content(1, 32);
    a.import("web", &bytes);
    let whole = a.place.json(&["push", "web", "b"]);
    assert_eq!(number(&whole, "bytes_missing"), 24 * MIB, "{whole}");
    assert_eq!(a.digest("web"), b.digest("web"));

    let (read_a, read_b) = (a.read_bytes(), b.read_bytes());
    let again = a.place.json(&["push", "web", "b/again", "--no-verify"]);
    assert_eq!(
        (number(&again, "bytes_missing"), number(&again, "extents_whole")),
        (0, 8),
        "{again}"
    );
    assert!(number(&again, "bytes_sent") <= 65536 + 8 * PER_EXTENT, "{again}");
    let read = (a.read_bytes() - read_a, b.read_bytes() - read_b);
    assert!(read.0 < MIB && read.1 < MIB, "data was read: {read:?}");
    assert_eq!(a.digest("web"), b.digest("again"));

    // A MiB that is new, and one from elsewhere in the image, at a place of another extent.
    bytes[(5 * MIB) as usize..][..MIB as usize].copy_from_slice(&content(2, 1));
    bytes.copy_within(0..MIB as usize, (9 * MIB) as usize);
    a.import("sibling", &bytes);
    let quote = a.place.json(&["quote", "sibling", "b"]);
    assert_eq!(number(&quote, "bytes_missing"), MIB, "{quote}");
    let mapped = a.place.json(&["image", "info", "sibling"])["bytes_mapped"].as_u64();
    assert_eq!(quote["bytes_data"].as_u64(), mapped, "{quote}");
    let at_rate = ["quote", "sibling", "b", "--rate", "128K"];
    assert_eq!(number(&a.place.json(&at_rate), "seconds_at_rate"), 8);
    assert!(a.place.ok(&at_rate).contains("% of its"), "share");
    let sibling = a.place.json(&["push", "sibling", "b"]);
    assert_eq!(number(&sibling, "bytes_missing"), MIB, "{sibling}");
    assert_eq!(number(&sibling, "extents_whole"), 6, "{sibling}");
    assert_eq!(a.digest("sibling"), b.digest("sibling"));
    a.end();
    b.end();
}

#[test]
fn what_is_large_crosses_over_several_connections() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    a.knows("b", &b, &["--allow", "pull"]);
    b.knows("a", &a, &["--allow", "push"]);
    let bytes = content(3, 96);
    a.import("web", &bytes);
    // So slowly that all can join.
    let slowly = ["--compress", "none", "--rate", "48M"];
    let push = a.place.json(&[&["push", "web", "b", "--streams", "4"][..], &slowly].concat());
    assert_eq!((number(&push, "streams"), number(&push, "bytes_missing")), (4, 72 * MIB), "{push}");
    assert_eq!(a.digest("web"), b.digest("web"));
    b.place.ok(&["image", "remove", "web"]);
    let pull = b.place.json(&[&["pull", "a/web", "--streams", "2"][..], &slowly].concat());
    assert_eq!((number(&pull, "streams"), number(&pull, "bytes_missing")), (2, 72 * MIB), "{pull}");
    assert_eq!(a.digest("web"), b.digest("web"));
    // Both sides have heard that it is there.
    let jobs = a.place.json(&["job", "list"]);
    let states: Vec<&Value> =
        jobs["jobs"].as_array().unwrap().iter().map(|job| &job["state"]).collect();
    assert!(states.iter().all(|state| *state == "done"), "{jobs}");
    let small = b.place.json(&["pull", "a/web", "again"]);
    assert_eq!(number(&small, "streams"), 1, "nothing was missing: {small}");
    for streams in ["0", "7"] {
        a.place.fails(2, &["push", "web", "b", "--streams", streams]);
    }
    a.end();
    b.end();
}

#[test]
fn an_image_that_is_being_used_can_be_pulled_and_each_side_goes_its_own_way() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    a.knows("b", &b, &["--allow", "pull"]);
    b.knows("a", &a, &[]);
    a.import("web", &content(3, 8));
    let client = support::NbdClient::open(a.daemon.as_ref().unwrap(), "web");
    let before = a.digest("web");
    b.place.ok(&["pull", "a/web", "mine"]);
    assert_eq!(b.digest("mine"), before);
    let mut mine = support::NbdClient::open(b.daemon.as_ref().unwrap(), "mine");
    assert!(mine.write(0, &[9; 8192]));
    assert_eq!(a.digest("web"), before);
    assert_ne!(b.digest("mine"), before);
    drop((client, mine));
    assert_eq!(a.images(), 1, "the snapshot that was sent is gone");
    let taken = b.refused(&["pull", "a/web", "mine"]);
    assert!(taken.contains("mine already"), "{taken}");
    a.end();
    b.end();
}

#[test]
fn who_is_not_listed_or_not_allowed_gets_nothing() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    a.import("web", &content(4, 4));
    b.import("theirs", &content(5, 4));
    a.knows("b", &b, &[]);
    let stranger = a.refused(&["push", "web", "b"]);
    assert!(stranger.contains("b"), "{stranger}");
    b.knows("a", &a, &["--allow", "push"]);
    let denied = a.refused(&["pull", "b/theirs"]);
    assert!(denied.contains("may not pull"), "{denied}");
    let missing = a.refused(&["push", "nothing", "b"]);
    assert!(missing.contains("nothing"), "{missing}");
    a.knows_at("liar", &b.address, &a.fingerprint, &[]);
    let liar = a.refused(&["push", "web", "liar"]);
    assert!(liar.contains("another certificate"), "{liar}");
    a.place.ok(&["push", "web", "b"]);
    b.place.ok(&["peer", "remove", "a"]);
    let removed = a.refused(&["push", "web", "b/again"]);
    assert!(removed.contains("peer"), "{removed}");
    assert_eq!((a.images(), b.images()), (1, 2));
    a.end();
    b.end();
}

#[test]
fn pools_that_hash_differently_say_what_to_do() {
    let (a, b) = (Host::new(&[]), Host::new(&["--hash", "sha256"]));
    a.knows("b", &b, &[]);
    b.knows("a", &a, &["--allow", "both"]);
    a.import("web", &content(6, 4));
    for command in [["quote", "web", "b"], ["push", "web", "b"]] {
        let refused = a.refused(&command);
        assert!(refused.contains("sha256") && refused.contains("export"), "{refused}");
    }
    assert_eq!(b.images(), 0);
    a.end();
    b.end();
}

#[test]
fn an_image_for_which_there_is_no_space_leaves_nothing() {
    let (a, b) = (Host::new(&[]), Host::new(&["--capacity", "8M"]));
    a.knows("b", &b, &["--allow", "pull"]);
    b.knows("a", &a, &["--allow", "push"]);
    a.import("web", &content(7, 32));
    let full = a.refused(&["push", "web", "b"]);
    assert!(full.contains("space"), "{full}");
    assert_eq!(b.images(), 0);
    a.import("small", &content(8, 4));
    a.place.ok(&["push", "small", "b"]);
    // What is free is not taken from images that are used there.
    a.import("rest", &content(9, 8));
    let full = a.refused(&["push", "rest", "b"]);
    assert!(full.contains("of its 8388608 are free"), "{full}");
    let full = b.refused(&["pull", "a/rest", "--lazy"]);
    assert!(full.contains("are free"), "{full}");
    assert_eq!(b.images(), 1);
    a.end();
    b.end();
}

/// Passes bytes on between who calls it and `to`; cuts each connection off after so many, or flips a bit there. Counts
/// what callers sent.
fn relay(to: &str, limit: u64, flips: bool) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, passed) = (to.to_owned(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&passed);
    thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let Ok(callee) = TcpStream::connect(&to) else { return };
            let back = (callee.try_clone().unwrap(), caller.try_clone().unwrap());
            let counted = Arc::clone(&counted);
            thread::spawn(move || pass(back.0, back.1, u64::MAX, false, &AtomicU64::new(0)));
            thread::spawn(move || pass(caller, callee, limit, flips, &counted));
        }
    });
    (address, passed)
}

fn pass(mut from: TcpStream, mut to: TcpStream, limit: u64, flips: bool, passed: &AtomicU64) {
    let mut buffer = vec![0; 16384];
    let (mut flipped, mut total) = (false, 0);
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
    {
        passed.fetch_add(count as u64, Ordering::Relaxed);
        total += count as u64;
        if total > limit {
            if !flips {
                break;
            }
            if !flipped {
                flipped = true;
                buffer[count / 2] ^= 1;
            }
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// Starts a command that goes on by itself.
fn spawn(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.place.command();
    command.arg("--pool").arg(host.place.pool()).args(arguments).arg("--json");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it reported at its end.
fn report_of(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_transfer_that_is_cut_off_or_tampered_with_goes_on_without_sending_again_what_came() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    b.knows("a", &a, &["--allow", "push"]);
    a.import("web", &content(9, 32));
    // What is on its way when a connection ends is lost: windows and sockets' buffers. With another, what came there later is, too.
    let lost_max = |streams: u64| if streams == 1 { 4 * MIB } else { 12 * MIB };
    for (which, (flips, streams)) in
        [(false, 1), (true, 1), (false, 2), (true, 2)].into_iter().enumerate()
    {
        // Its connections end after 10 MiB each.
        let (address, passed) = relay(&b.address, 10 * MIB, flips);
        let name = format!("relay{which}");
        a.knows_at(&name, &address, &b.fingerprint, &[]);
        let terms = ["--compress", "none", "--streams", &streams.to_string()];
        let report = report_of(spawn(&a, &[&["push", "web", &name][..], &terms].concat()));
        let cuts = number(&report, "cuts");
        assert!(cuts >= 3 - streams, "{report}");
        assert_eq!(a.digest("web"), b.digest("web"));
        let outside = passed.load(Ordering::Relaxed);
        let most = 24 * MIB * 21 / 20 + cuts * lost_max(streams);
        assert!(outside < most, "{outside} bytes crossed: {report}");
        b.place.ok(&["image", "remove", "web"]);
        a.place.ok(&["peer", "remove", &name]);
        support::eventually("nothing left", || {
            b.place.json(&["pool", "status"])["bytes_physical"] == 0
        });
    }
    let (address, passed) = relay(&b.address, u64::MAX, false);
    a.knows_at("relay", &address, &b.fingerprint, &[]);
    let report = a.place.json(&["push", "web", "relay"]);
    let (outside, told) = (passed.load(Ordering::Relaxed), number(&report, "bytes_sent"));
    assert!(outside > told && outside < told + told / 50 + 65536, "{outside} passed, {told} told");
    a.end();
    b.end();
}

#[test]
fn a_transfer_goes_on_when_either_daemon_was_killed() {
    let (mut a, mut b) = (Host::new(&[]), Host::new(&[]));
    a.knows("b", &b, &[]);
    b.knows("a", &a, &["--allow", "both"]);
    a.import("web", &content(10, 64));
    let pull_here = ["pull", "b/other", "--rate", "24M"];
    b.import("other", &content(11, 32));
    for (which, (arguments, kills_a)) in [
        (&["push", "web", "b", "--rate", "24M"][..], false),
        (&["push", "web", "b/again", "--rate", "24M"], true),
        (&pull_here, true),
        (&["pull", "b/other", "more", "--rate", "24M"], false),
    ]
    .into_iter()
    .enumerate()
    {
        if which == 1 {
            b.place.ok(&["image", "remove", "web"]);
        } else if which == 3 {
            a.place.ok(&["image", "remove", "other"]);
        }
        let child = spawn(&a, &[arguments, &["--compress", "none"]].concat());
        thread::sleep(Duration::from_millis(500));
        let killed = if kills_a { &mut a } else { &mut b };
        let daemon = killed.daemon.take().unwrap();
        // The command waits for a daemon that stops in order, too.
        if which == 2 {
            daemon.stop()
        } else {
            daemon.kill()
        }
        restart(killed);
        let report = report_of(child);
        let again = if kills_a { 0 } else { 1 };
        assert!(number(&report, "cuts") >= again, "{which}: {report}");
        // What was on its way, or not stored yet, comes again: more on a busy machine.
        assert!(number(&report, "bytes_missing") < 54 * MIB, "{which}: {report}");
    }
    assert_eq!(a.digest("web"), b.digest("again"));
    assert_eq!(a.digest("more"), b.digest("other"));
    assert_eq!((a.images(), b.images()), (2, 2));
    a.end();
    b.end();
}

#[test]
fn a_transfer_that_is_cancelled_leaves_nothing_even_if_it_was_cut_off_before() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    b.knows("a", &a, &["--allow", "push"]);
    a.import("web", &content(12, 32));
    let (address, _) = relay(&b.address, 8 * MIB, false);
    a.knows_at("relay", &address, &b.fingerprint, &[]);
    let child = spawn(&a, &["push", "web", "relay", "--rate", "16M", "--compress", "none"]);
    let has_note = |job: &Value| job["notes"].as_array().is_some_and(|notes| !notes.is_empty());
    support::eventually("a cut", || {
        let jobs = a.daemon.as_ref().unwrap().http(b"GET /v1/jobs HTTP/1.0\r\n\r\n");
        let body = jobs.split("\r\n\r\n").nth(1).unwrap_or_default();
        let jobs: Value = serde_json::from_str(body).unwrap_or_default();
        jobs["jobs"].as_array().is_some_and(|jobs| jobs.iter().any(has_note))
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    support::eventually("nothing left", || {
        b.place.json(&["pool", "status"])["bytes_physical"] == 0
    });
    assert_eq!(b.images(), 0);
    a.end();
    b.end();
}

#[test]
fn ctrl_c_is_heard_while_the_daemon_is_away() {
    let (mut a, b) = two();
    a.import("web", &content(23, 32));
    let mut child = spawn(&a, &["push", "web", "b", "--rate", "4M", "--compress", "none"]);
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    support::eventually("clusters", || b.place.json(&["pool", "status"])["bytes_physical"] != 0);
    a.daemon.take().unwrap().kill();
    errors.read_line(&mut said).unwrap();
    assert!(said.contains("does not answer"), "{said}");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    errors.read_line(&mut said).unwrap();
    assert!(said.contains("cancelled as soon as"), "{said}");
    restart(&mut a);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    support::eventually("nothing left", || {
        b.place.json(&["pool", "status"])["bytes_physical"] == 0
    });
    assert_eq!((a.images(), b.images()), (1, 0));
    a.end();
    b.end();
}

#[test]
fn a_damaged_hash_table_keeps_no_sound_data_from_being_taken() {
    let (a, mut b) = two();
    a.import("web", &content(24, 8));
    a.place.ok(&["push", "web", "b"]);
    // Its hashes are on disk then, and the summaries in memory.
    b.daemon.take().unwrap().stop();
    restart(&mut b);
    b.digest("web");
    let table = b.place.pool().join("hashes");
    let length = fs::metadata(&table).unwrap().len();
    let file = fs::File::options().write(true).open(&table).unwrap();
    for page in (8..length / 4096).take(64) {
        file.write_all_at(&[0x55; 8], page * 4096 + 64).unwrap();
    }
    file.sync_all().unwrap();
    let report = a.place.json(&["push", "web", "b/again"]);
    assert_eq!(number(&report, "bytes_missing"), 0, "{report}");
    assert_eq!(a.digest("web"), b.digest("again"));
    let mut bytes = vec![0; 8 * MIB as usize];
    let exported = b.place.path("again.raw");
    b.place.ok(&["image", "export", "again", exported.to_str().unwrap(), "--format", "raw"]);
    fs::File::open(&exported).unwrap().read_exact(&mut bytes).unwrap();
    assert!(bytes == content(24, 8));
}

#[test]
fn a_part_gets_older_while_its_daemon_is_away_and_a_removed_peer_is_told() {
    let (a, mut b) = two();
    a.import("web", &content(25, 32));
    let child = spawn(&a, &["push", "web", "b", "--rate", "8M", "--compress", "none"]);
    let physical = |b: &Host| b.place.json(&["pool", "status"])["bytes_physical"].clone();
    support::eventually("clusters", || physical(&b).as_u64().unwrap() > 2 * MIB);
    // The called side goes away, the calling one gives up: a part is left.
    b.daemon.take().unwrap().stop();
    a.place.ok(&["peer", "remove", "b"]);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("no peer is called b") || said.contains("was removed"), "{said}");
    let times = b.place.pool().join("parts.json");
    restart(&mut b);
    let noted = || {
        let text = fs::read_to_string(&times).unwrap_or_default();
        let times: std::collections::BTreeMap<String, u64> =
            serde_json::from_str(&text).unwrap_or_default();
        times.into_iter().next()
    };
    support::eventually("a part", || noted().is_some());
    let (id, since) = noted().unwrap();
    b.daemon.take().unwrap().stop();
    restart(&mut b);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(noted(), Some((id.clone(), since)), "its age began anew");
    assert_ne!(physical(&b), 0);
    b.daemon.take().unwrap().stop();
    fs::write(&times, format!("{{\"{id}\": {}}}", since - 25 * 3600)).unwrap();
    restart(&mut b);
    support::eventually("nothing left", || physical(&b) == 0);

    // In the midst of a transfer each side says why it ends.
    a.knows("b", &b, &[]);
    let child = spawn(&a, &["push", "web", "b", "--rate", "8M", "--compress", "none"]);
    support::eventually("clusters", || physical(&b).as_u64().unwrap() > 2 * MIB);
    b.place.ok(&["peer", "remove", "a"]);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the peer says: the peer was removed"), "{said}");
    assert_eq!(output.status.code(), Some(5), "{said}");
    support::eventually("nothing left", || physical(&b) == 0);
    a.end();
    b.end();
}

#[test]
fn what_compresses_crosses_smaller_and_a_rate_is_kept() {
    let (a, b) = two();
    let mut text = content(13, 8);
    for (at, byte) in text.iter_mut().enumerate() {
        *byte = (*byte & 3).wrapping_add((at / 4096) as u8);
    }
    a.import("text", &text);
    let quote = a.place.json(&["quote", "text", "b", "--sample"]);
    let estimate = number(&quote, "bytes_compressed_estimate");
    let started = Instant::now();
    let report = a.place.json(&["push", "text", "b", "--rate", "1M"]);
    let (sent, seconds) = (number(&report, "bytes_sent"), started.elapsed().as_secs_f64());
    assert_eq!(number(&report, "bytes_missing"), number(&quote, "bytes_missing"));
    assert!(sent < number(&report, "bytes_missing") / 2, "{report}");
    assert!(estimate.abs_diff(sent) < sent / 4, "{quote} {report}");
    assert!(seconds > 0.8 * sent as f64 / MIB as f64, "{sent} bytes in {seconds} s");
    assert_eq!(a.digest("text"), b.digest("text"));
    let whole = a.place.json(&["push", "text", "b/plain", "--compress", "none"]);
    assert_eq!(number(&whole, "bytes_missing"), 0);
    let slow = a.refused(&["push", "text", "b/slow", "--rate", "1K"]);
    assert!(slow.contains("at least 65536"), "{slow}");
    a.end();
    b.end();
}

#[test]
fn a_content_that_occurs_often_crosses_once() {
    let (a, b) = two();
    let mut bytes = content(14, 16);
    let cluster = bytes[..4096].to_vec();
    for place in (0..3000).map(|number| 4096 * number) {
        if place % 8192 == 0 {
            bytes[place..place + 4096].copy_from_slice(&cluster);
        }
    }
    a.import("often", &bytes);
    let quote = a.place.json(&["quote", "often", "b"]);
    let report = a.place.json(&["push", "often", "b", "--compress", "none"]);
    assert_eq!(number(&report, "bytes_missing"), number(&quote, "bytes_missing"), "{report}");
    assert_eq!(number(&report, "bytes_repeated"), 1499 * 4096, "{report}");
    assert_eq!(a.digest("often"), b.digest("often"));
    a.end();
    b.end();
}

#[test]
fn a_sha1_pool_believes_what_was_proved_and_asks_for_nothing_again() {
    let (a, b) = (Host::new(&["--hash", "sha1"]), Host::new(&["--hash", "sha1"]));
    a.knows("b", &b, &[]);
    b.knows("a", &a, &["--allow", "push"]);
    a.import("web", &content(15, 8));
    a.place.ok(&["push", "web", "b"]);
    let report = a.place.json(&["push", "web", "b/again"]);
    assert_eq!(number(&report, "bytes_missing"), 0, "{report}");
    assert_eq!(number(&report, "bytes_found"), 6 * MIB, "{report}");
    assert_eq!(a.digest("web"), b.digest("again"));
    a.end();
    b.end();
}

#[test]
fn what_is_there_but_damaged_is_found_out_and_sent() {
    let (a, b) = two();
    let bytes = content(18, 8);
    a.import("web", &bytes);
    a.place.ok(&["push", "web", "b"]);
    let data = b.place.pool().join("data");
    let stored = fs::read(&data).unwrap();
    let wanted = &bytes[4096 * 100..4096 * 101];
    let at = stored.chunks(4096).position(|cluster| cluster == wanted).unwrap() * 4096;
    let file = fs::File::options().write(true).open(&data).unwrap();
    file.write_all_at(&[0x55; 512], at as u64).unwrap();
    file.sync_all().unwrap();
    let blind = a.place.json(&["push", "web", "b/blind", "--no-verify"]);
    assert_eq!(number(&blind, "bytes_missing"), 0, "{blind}");
    let report = a.place.json(&["push", "web", "b/again"]);
    assert_eq!(number(&report, "bytes_damaged"), 4096, "{report}");
    assert_eq!(number(&report, "bytes_missing"), 4096, "{report}");
    let export = b.place.path("again.img");
    b.place.ok(&["image", "export", "again", export.to_str().unwrap()]);
    assert!(fs::read(&export).unwrap() == bytes);
    a.end();
}

#[test]
fn a_peer_has_to_do_with_those_images_only_that_it_was_allowed() {
    let (a, b) = (Host::new(&[]), Host::new(&[]));
    a.knows("b", &b, &[]);
    b.knows("a", &a, &["--allow", "both", "--images", "web-*", "--images", "db"]);
    a.import("web", &content(16, 4));
    b.import("secret", &content(17, 4));
    a.place.ok(&["push", "web", "b/web-1"]);
    for refused in [["push", "web", "b"], ["quote", "web", "b"], ["pull", "b/secret", "mine"]] {
        let refused = a.refused(&refused);
        assert!(refused.contains("--images"), "{refused}");
    }
    let list = b.place.ok(&["peer", "list"]);
    assert!(list.contains("web-* db"), "{list}");
    a.end();
    b.end();
}
