//! Data that changed below the daemon: what its log, its status and its clients are told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use support::pipelined::{Command, Plain};
use support::{NbdClient, Place, eventually};

const CLUSTER: usize = 4096;

fn cluster(tag: u8) -> Vec<u8> {
    (0..CLUSTER).map(|at| tag ^ (at % 251) as u8).collect()
}

/// A pool that nobody serves, with an image `web` that begins with these clusters.
fn made(tags: &[u8]) -> Place {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "8M"]);
    let bytes: Vec<u8> = tags.iter().flat_map(|tag| cluster(*tag)).collect();
    assert!(NbdClient::open(&daemon, "web").write(0, &bytes));
    daemon.stop();
    place
}

/// Changes a byte of a file of the pool where these bytes are found for the `which`th time.
fn rot(place: &Place, file: &str, wanted: &[u8], which: usize) {
    let path = place.pool().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let found = bytes.chunks(wanted.len()).enumerate().filter(|(_, chunk)| *chunk == wanted);
    let at = found.map(|(number, _)| number * wanted.len()).nth(which).unwrap();
    bytes[at + 17] ^= 4;
    fs::write(&path, bytes).unwrap();
}

fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("WARN") && line.contains("web at ")).collect()
}

#[test]
fn the_log_names_image_and_offset_of_what_a_scrub_healed_and_could_not_heal() {
    let mut tags: Vec<u8> = (1..50).collect();
    tags.push(200);
    tags.push(200);
    let place = made(&tags);
    rot(&place, "data", &cluster(200), 0);
    for tag in 1..40 {
        rot(&place, "data", &cluster(tag), 0);
    }
    let daemon = place.serve(&[]);
    let said = place.run(&["scrub"]);
    assert_eq!(said.status.code(), Some(8), "{said:?}");
    let log = daemon.log();
    let lines = warnings(&log);
    assert_eq!(lines.len(), 32, "{log}");
    let healed = format!("web at {}: data at ", 49 * CLUSTER);
    let healed = lines.iter().filter(|line| line.contains(&healed)).collect::<Vec<_>>();
    assert!(healed.len() == 1 && healed[0].contains("healed from an equal cluster"), "{log}");
    assert!(lines.iter().any(|line| line.contains("web at 4096: data at ")), "{log}");
    assert_eq!(lines.iter().filter(|line| line.contains("not healed")).count(), 31, "{log}");
    assert!(log.contains("0 more clusters were healed, 8 more are damaged"), "{log}");
}

#[test]
fn the_log_names_image_and_offset_of_what_a_write_found() {
    let place = made(&[1, 2, 2]);
    rot(&place, "data", &cluster(1), 0);
    rot(&place, "data", &cluster(2), 0);
    let daemon = place.serve(&[]);
    let mut client = NbdClient::open(&daemon, "web");
    assert!(!client.write(100, b"part"));
    assert!(!client.write(100, b"part"));
    assert!(client.write(CLUSTER as u64 + 100, b"part"));
    eventually("warnings", || warnings(&daemon.log()).len() >= 2);
    let log = daemon.log();
    let of = |place: &str| {
        let lines = warnings(&log).into_iter().filter(|line| line.contains(place));
        let damage = lines.filter(|line| line.contains("does not match its hash"));
        damage.collect::<Vec<_>>()
    };
    let (lost, healed) = (of("web at 0: data at "), of("web at 4096: data at "));
    assert!(lost.len() == 1 && lost[0].contains("no equal cluster"), "{log}");
    assert!(healed.len() == 1 && healed[0].contains("healed from an equal"), "{log}");
}

#[test]
fn reads_are_verified_if_the_daemon_is_asked_to() {
    let place = made(&[1, 2, 2, 3]);
    rot(&place, "data", &cluster(1), 0);
    rot(&place, "data", &cluster(2), 0);
    let daemon = place.serve(&[]);
    let mut client = Plain::open(&daemon, "web");
    assert_ne!(client.read(0..4096), cluster(1), "as it is");
    daemon.stop();
    let daemon = place.serve(&["--verify-reads"]);
    let mut client = Plain::open(&daemon, "web");
    assert_eq!(client.ask(Command::Read, 0..8192, &[]), 5, "EIO");
    assert_eq!(client.read(4096..12288), [cluster(2), cluster(2)].concat());
    assert_eq!(client.read(12288..16384), cluster(3));
    eventually("warnings", || warnings(&daemon.log()).len() >= 2);
    assert!(daemon.log().contains("web at 4096: data at "), "{}", daemon.log());
    let exported = place.path("web.raw");
    let refused = place.run(&["image", "export", "web", exported.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(8), "{refused:?}");
    assert!(refused.err.contains("at 0 "), "{refused:?}");
}

#[test]
fn a_damaged_page_of_hashes_is_called_that_and_a_scrub_restores_it() {
    let place = made(&[1, 2, 3, 4]);
    let path = place.pool().join("hashes");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let at = (32768..bytes.len()).find(|at| bytes[*at] != 0).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let daemon = place.serve(&[]);
    let said = place.fails(8, &["image", "digest", "web"]);
    assert!(said.contains("the hashes of 4 clusters are lost: run `blockyard scrub`"), "{said}");
    assert!(NbdClient::open(&daemon, "web").write(3 * CLUSTER as u64 + 100, &cluster(4)[100..200]));
    let status = place.ok(&["pool", "status"]);
    assert!(status.contains("not known while clusters are untrusted"), "{status}");
    assert!(status.contains("the hashes of 3 clusters are lost"), "{status}");
    let said = place.ok(&["scrub"]);
    assert!(said.contains("3 clusters had lost their hash and are proved"), "{said}");
    place.ok(&["image", "digest", "web"]);
    eventually("a warning", || daemon.log().contains("web at 0: the hash table at "));
    daemon.stop();
    // With data that rotted, nothing is proved.
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    rot(&place, "data", &cluster(4), 0);
    let _daemon = place.serve(&[]);
    let said = place.run(&["scrub"]);
    assert_eq!(said.status.code(), Some(8), "{said:?}");
    assert!(said.err.contains("the hashes of 4 clusters are lost"), "{said:?}");
    let said = place.ok(&["scrub", "--rehash"]);
    assert!(
        said.contains("4 clusters had lost their hash and got one of what they hold"),
        "{said}"
    );
    place.ok(&["image", "digest", "web"]);
}
