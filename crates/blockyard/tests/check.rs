//! `blockyard check` on real files: its verdicts, its exit codes, and that it leaves no trace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_block::ErrorKind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::{Daemon, Finished, NbdClient, Place};

/// 40 clusters, no two alike.
fn content() -> Vec<u8> {
    (0..40 * 4096_u32).map(|at| (at / 4096 + 1) as u8 ^ (at % 251) as u8 | 0x80).collect()
}

/// A daemon with an image `web` that holds `content` from 1 MiB on.
fn serve(place: &Place) -> Daemon {
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "16M"]);
    let mut client = NbdClient::open(&daemon, "web");
    assert!(client.write(1 << 20, &content()));
    daemon
}

fn closed(place: &Place) {
    serve(place).stop();
}

/// `check DIR --data --json`: its exit code and what it printed.
fn check(place: &Place) -> (i32, Value) {
    let mut command = place.command();
    command.arg("check").arg(place.pool()).args(["--data", "--json"]);
    let finished = Finished::of(command);
    let code = finished.status.code().unwrap();
    (code, serde_json::from_str(&finished.out).unwrap_or(Value::String(finished.err)))
}

/// Where the cluster at `index` of the content is stored.
fn stored_at(pool: &Path, index: usize) -> u64 {
    let cluster = &content()[index * 4096..(index + 1) * 4096];
    let data = fs::read(pool.join("data")).unwrap();
    data.chunks(4096).position(|chunk| chunk == cluster).unwrap() as u64 * 4096
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

/// Every file below `folder` with its bytes and the time it was changed.
fn everything(folder: &Path, found: &mut BTreeMap<String, (Vec<u8>, std::time::SystemTime)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            everything(&entry.path(), found);
        } else if kind.is_file() {
            let changed = entry.metadata().unwrap().modified().unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            found.insert(entry.path().display().to_string(), (bytes, changed));
        }
    }
}

#[test]
fn a_pool_closed_in_order_is_sound_and_all_of_it_is_verified() {
    let place = Place::new();
    closed(&place);
    let (code, report) = check(&place);
    assert_eq!((code, &report["sound"]), (0, &json!(true)), "{report}");
    assert_eq!((&report["clusters_verified"], &report["images"]), (&json!(40), &json!(1)));
    assert!(place.ok(&["check"]).contains("is sound"), "--pool names it, too");
}

#[test]
fn a_killed_pool_is_sound_and_checking_leaves_every_file_as_it_is() {
    let place = Place::new();
    serve(&place).kill();
    let mut before = BTreeMap::new();
    everything(&place.path(""), &mut before);
    let (code, report) = check(&place);
    assert_eq!((code, &report["closed_clean"]), (0, &json!(false)), "{report}");
    assert_eq!(report["clusters_untrusted"], 40, "{report}");
    assert!(report["journal_changes"].as_u64().unwrap() > 0, "{report}");
    let mut after = BTreeMap::new();
    everything(&place.path(""), &mut after);
    assert!(before.keys().eq(after.keys()), "{:?} {:?}", before.keys(), after.keys());
    for (path, found) in before {
        assert!(after[&path] == found, "{path} was changed");
    }
}

#[test]
fn a_served_pool_gets_no_verdict_and_its_daemon_is_named() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    let message = place.fails(2, &["check"]);
    assert!(message.contains(&daemon.pid().to_string()), "{message}");
    let nothing = place.path("nothing");
    place.fails(2, &["check", nothing.to_str().unwrap()]);
    fs::create_dir(&nothing).unwrap();
    let message = place.fails(2, &["check", nothing.to_str().unwrap()]);
    assert!(message.contains("no pool"), "{message}");
    assert_eq!(fs::read_dir(&nothing).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_flipped_byte_in_data_or_hashes_is_found_with_image_and_offset() {
    let place = Place::new();
    closed(&place);
    let at = stored_at(&place.pool(), 3);
    let hash_at = at / 4096 * 32;
    for (file, offset) in [("data", at + 99), ("hashes", hash_at + 7)] {
        let path = place.pool().join(file);
        flip(&path, offset);
        let (code, report) = check(&place);
        assert_eq!(code, 1, "{file}: {report}");
        let findings = report["findings"].as_array().unwrap();
        let shown = findings.iter().find(|finding| finding["image"] == "web").unwrap();
        let expected = if file == "data" { (1 << 20) + 3 * 4096 } else { 1 << 20 };
        assert_eq!(shown["offset"], expected, "{file}: {report}");
        let finished = place.run(&["check", "--data"]);
        assert!(finished.out.contains(&format!("web at {expected}: ")), "{}", finished.out);
        assert!(finished.err.contains("not sound"), "{}", finished.err);
        flip(&path, offset);
        assert_eq!(check(&place).0, 0);
    }
}

#[test]
fn files_cut_short_missing_or_of_another_pool_are_named() {
    let place = Place::new();
    closed(&place);
    let pool = place.pool();
    let at = stored_at(&pool, 0);
    let saved: Vec<(&str, Vec<u8>)> =
        ["data", "hashes", "log"].map(|file| (file, fs::read(pool.join(file)).unwrap())).into();
    let other = Place::new();
    closed(&other);
    for (file, bytes) in saved {
        let path = pool.join(file);
        let unsound = |word: &str| {
            let (code, report) = check(&place);
            assert_eq!(code, 1, "{file}: {report}");
            assert!(report.to_string().contains(word), "{file}, {word}: {report}");
        };
        fs::remove_file(&path).unwrap();
        unsound(file);
        fs::copy(other.pool().join(file), &path).unwrap();
        unsound("belongs to");
        fs::write(&path, &bytes[..if file == "data" { at as usize } else { 4096 }]).unwrap();
        unsound(if file == "hashes" { "hash table" } else { "cut short" });
        fs::write(&path, &bytes).unwrap();
        assert_eq!(check(&place).0, 0, "{file} is back");
    }
}

#[test]
fn data_that_moved_is_asked_for_and_found_where_it_is_said_to_be() {
    let place = Place::new();
    let (here, there) = (place.path("here.img"), place.path("there.img"));
    place.serve(&["--data", here.to_str().unwrap()]).stop();
    fs::rename(&here, &there).unwrap();
    let message = place.fails(2, &["check"]);
    assert!(message.contains("--data-at") && message.contains("here.img"), "{message}");
    place.ok(&["check", "--data", "--data-at", there.to_str().unwrap()]);
}

#[test]
fn a_scrub_names_image_and_offset_of_what_rotted() {
    let place = Place::new();
    let daemon = serve(&place);
    for index in [3, 4, 39] {
        flip(&place.pool().join("data"), stored_at(&place.pool(), index) + 17);
    }
    let finished = place.run(&["scrub", "--json"]);
    assert_eq!(finished.status.code(), Some(i32::from(ErrorKind::Corrupt.exit_code())));
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(
        (&report["clusters_checked"], &report["clusters_damaged"]),
        (&json!(40), &json!(3)),
        "{report}"
    );
    let places =
        [3, 4, 39].map(|index| json!([{"image": "web", "offset": (1 << 20) + index * 4096}]));
    for (damage, expected) in report["damage"].as_array().unwrap().iter().zip(&places) {
        assert_eq!(damage["places"], *expected, "{report}");
    }
    drop(daemon);
}

#[test]
fn an_export_of_a_damaged_image_leaves_out_what_rotted_and_says_where() {
    let place = Place::new();
    let daemon = serve(&place);
    for index in [3, 4, 39] {
        flip(&place.pool().join("data"), stored_at(&place.pool(), index) + 17);
    }
    let file = place.path("web.img");
    let report =
        place.ok(&["image", "export", "--damaged", "--json", "web", file.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["bytes_unreadable"], 3 * 4096, "{report}");
    let place_of = |index: usize, clusters: usize| json!({"offset": (1 << 20) + index * 4096, "length": clusters * 4096});
    assert_eq!(report["unreadable"], json!([place_of(3, 2), place_of(39, 1)]), "{report}");
    let mut expected = content();
    for index in [3, 4, 39] {
        expected[index * 4096..(index + 1) * 4096].fill(0);
    }
    let exported = fs::read(&file).unwrap();
    assert_eq!(exported.len(), 16 << 20);
    assert!(exported[1 << 20..][..expected.len()] == expected);
    drop(daemon);
}
