//! Images through the command line, from making to removing.

mod support;

use serde_json::{Value, json};
use support::{Finished, NbdClient, Place, eventually};

#[test]
fn an_image_lives_from_create_to_remove() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let made = place.json(&["image", "create", "web", "20G"]);
    assert_eq!((&made["name"], &made["size_bytes"]), (&json!("web"), &json!(20_u64 << 30)));
    assert_eq!((&made["kind"], &made["bytes_mapped"]), (&json!("writable"), &json!(0)));
    place.ok(&["image", "resize", "web", "21G"]);
    place.ok(&["image", "rename", "web", "shop"]);
    let info = place.json(&["image", "info", "shop"]);
    assert_eq!((&info["size_bytes"], &info["clients"]), (&json!(21_u64 << 30), &json!([])));
    assert_eq!(info["id"], made["id"], "renaming keeps the id");
    assert!(place.ok(&["image", "list"]).contains("shop"));
    place.ok(&["image", "remove", "shop"]);
    assert_eq!(place.json(&["image", "list"]), json!({"images": []}));
}

#[test]
fn images_outlive_the_daemon() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "first", "1G"]);
    daemon.stop();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "second", "2G"]);
    daemon.kill();
    let _daemon = place.serve(&[]);
    let list = place.json(&["image", "list"]);
    let names: Vec<_> = list["images"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["first", "second"]);
}

#[test]
fn each_kind_of_error_has_its_exit_code() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1M"]);
    assert!(place.fails(4, &["image", "create", "web", "1M"]).contains("web"));
    assert!(place.fails(3, &["image", "info", "nope"]).contains("nope"));
    for arguments in [
        ["image", "remove", "nope"].as_slice(),
        &["image", "resize", "nope", "1M"],
        &["image", "rename", "nope", "other"],
        &["image", "digest", "nope"],
        &["image", "map", "nope"],
        &["image", "snapshot", "nope", "other"],
    ] {
        place.fails(3, arguments);
    }
    place.ok(&["image", "create", "other", "1M"]);
    place.fails(4, &["image", "rename", "web", "other"]);
    for name in [".hidden", "a/b", "a b", "../web", "ä"] {
        assert!(place.fails(2, &["image", "create", name, "1M"]).contains("name"), "{name}");
        place.fails(2, &["image", "info", name]);
    }
    place.fails(2, &["image", "create", "odd", "1.5X"]);
}

#[test]
fn an_odd_size_is_rounded_up_saying_so() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let made = place.run(&["image", "create", "odd", "1000", "--json"]);
    assert!(made.err.contains("1024"), "{made:?}");
    let image: Value = serde_json::from_str(&made.out).unwrap();
    assert_eq!(image["size_bytes"], 1024);
}

#[test]
fn an_empty_image_maps_to_zeros_and_equal_ones_have_one_digest() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "create", "a", "64M"]);
    place.ok(&["image", "create", "b", "64M"]);
    place.ok(&["image", "create", "c", "65M"]);
    let map = place.json(&["image", "map", "a", "--hashes"]);
    let runs = map.as_array().unwrap();
    let covered: u64 = runs.iter().map(|run| run["length"].as_u64().unwrap()).sum();
    assert_eq!(covered, 64 << 20);
    assert!(runs.iter().all(|run| run["state"] == "zero" && run["hash"].is_null()), "{map}");
    let line = place.ok(&["image", "digest", "a"]);
    let digest = line.split_whitespace().next().unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert_eq!(place.json(&["image", "digest", "b"])["digest"], digest);
    assert_ne!(place.json(&["image", "digest", "c"])["digest"], digest);
}

#[test]
fn snapshots_and_clones_are_images() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "create", "base", "8M"]);
    place.ok(&["image", "snapshot", "base", "monday"]);
    place.ok(&["image", "clone", "monday", "work"]);
    assert_eq!(place.json(&["image", "info", "monday"])["kind"], "snapshot");
    assert_eq!(place.json(&["image", "info", "work"])["kind"], "writable");
    place.ok(&["image", "remove", "base"]);
    place.ok(&["image", "remove", "monday"]);
    assert_eq!(place.json(&["image", "info", "work"])["size_bytes"], 8 << 20);
}

#[test]
fn the_tree_shows_images_under_what_they_came_of_until_all_is_changed() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    assert_eq!(place.json(&["image", "tree"]), json!({ "images": [] }));
    place.ok(&["image", "create", "master", "8M"]);
    let mut client = NbdClient::open(&daemon, "master");
    assert!(client.write(0, &[1; 8192]) && client.write(4 << 20, &[2; 4096]));
    place.ok(&["image", "snapshot", "master", "monday"]);
    assert!(client.write(0, &[3; 4096]));
    place.ok(&["image", "clone", "monday", "work"]);
    place.ok(&["image", "create", "alone", "8M"]);
    let nodes = place.json(&["image", "tree"])["images"].as_array().unwrap().clone();
    let told: Vec<(&str, &Value)> =
        nodes.iter().map(|node| (node["name"].as_str().unwrap(), &node["parent"])).collect();
    let parents = [Value::Null, json!("master"), json!("monday"), Value::Null].map(|parent| parent);
    let names = ["master", "monday", "work", "alone"];
    assert_eq!(told, names.into_iter().zip(&parents).collect::<Vec<_>>());
    assert_eq!(
        (&nodes[2]["bytes_mapped"], &nodes[2]["bytes_exclusive"]),
        (&json!(12288), &json!(0))
    );
    assert_eq!(nodes[0]["bytes_exclusive"], json!(4096));
    let text = place.ok(&["image", "tree"]);
    assert!(text.contains("\n└─ monday ") && text.contains("\n   └─ work "), "{text}");
    let mut client = NbdClient::open(&daemon, "work");
    assert!(client.write(0, &[4; 4096]) && client.write(4 << 20, &[5; 4096]));
    let nodes = place.json(&["image", "tree"]);
    assert_eq!(nodes["images"][2]["parent"], Value::Null);
}

#[test]
fn pool_status_has_its_fields() {
    let place = Place::new();
    let daemon = place.serve(&["--hash", "sha256", "--capacity", "1G"]);
    place.ok(&["image", "create", "a", "64M"]);
    let status = place.json(&["pool", "status"]);
    for field in ["bytes_logical", "bytes_physical", "bytes_capacity", "bytes_on_disk"] {
        assert!(status[field].is_u64(), "{field} in {status}");
    }
    assert_eq!(status["bytes_unique"], 0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now.abs_diff(status["counted_unix_s"].as_u64().unwrap()) < 60, "{status}");
    assert!(status["bytes_on_disk"].as_u64().unwrap() > 1 << 20);
    assert_eq!((&status["hash"], &status["images"]), (&json!("sha256"), &json!(1)));
    assert_eq!((&status["clusters_untrusted"], &status["failed"]), (&json!(0), &Value::Null));
    assert!(status["bytes_capacity"].as_u64().unwrap() <= 1 << 30);
    assert!(status["activities"].is_array());
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    assert!(place.ok(&["pool", "status"]).contains("sha256"));
}

#[test]
fn reclaim_frees_what_two_images_have_and_the_commands_tell_of_it() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    for name in ["one", "two"] {
        place.ok(&["image", "create", name, "8M"]);
        let mut client = NbdClient::open(&daemon, name);
        for cluster in 0..16u8 {
            assert!(client.write(u64::from(cluster) * 4096, &[cluster + 1; 4096]));
        }
    }
    let mut client = NbdClient::open(&daemon, "two");
    assert!(client.write(4096, &[99; 4096]));
    for nothing in [["--runs-only", "0"], ["--target", "0"], ["--target", "0G"]] {
        let refused = place.fails(2, &["reclaim", nothing[0], nothing[1]]);
        assert!(refused.contains(nothing[0]), "{refused}");
    }
    let dry = place.json(&["reclaim", "--dry-run"]);
    assert_eq!((&dry["bytes_equal"], &dry["bytes_freed"]), (&json!(15 * 4096), &json!(0)));
    let digest = place.json(&["image", "digest", "two"]);
    assert_eq!(place.json(&["reclaim", "--runs-only", "8"])["bytes_freed"], json!(14 * 4096));
    assert_eq!(place.json(&["reclaim", "--target", "1M"])["bytes_freed"], json!(4096));
    assert!(
        place.ok(&["reclaim"]).contains("0 B freed") || place.ok(&["reclaim"]).contains("0 freed")
    );
    let status = place.json(&["pool", "status"]);
    assert_eq!(status["bytes_physical"], json!(17 * 4096));
    assert_eq!(status["bytes_unique"], status["bytes_physical"]);
    assert_eq!(
        (&status["bytes_reclaimable"], &status["reclaimable_is_exact"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(place.json(&["image", "digest", "two"]), digest);
    let info = place.json(&["image", "info", "two"]);
    assert_eq!(
        (&info["bytes_shared"], &info["bytes_exclusive"]),
        (&json!(15 * 4096), &json!(4096))
    );
    let diff = place.json(&["image", "diff", "one", "two"]);
    assert_eq!(diff["runs"], json!([{ "offset": 4096, "length": 4096, "state": "differs" }]));
    assert!(place.ok(&["image", "diff", "one", "two", "--count"]).contains("4.0 KiB differ"));
}

#[test]
fn above_the_high_water_mark_runs_of_equal_clusters_are_shared_by_themselves() {
    let place = Place::new();
    let daemon = place.serve(&["--reclaim-above", "64K"]);
    for name in ["one", "two"] {
        place.ok(&["image", "create", name, "8M"]);
        let mut client = NbdClient::open(&daemon, name);
        for cluster in 0..16u8 {
            assert!(client.write(u64::from(cluster) * 4096, &[cluster + 1; 4096]));
        }
    }
    while place.json(&["pool", "status"])["bytes_physical"] != json!(16 * 4096) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_scrub_of_a_sound_pool_finds_nothing() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    let report = place.json(&["scrub"]);
    assert_eq!(report["damage"], json!([]));
}

#[test]
fn an_image_in_use_shows_its_client_and_changes_only_by_force() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "8M"]);
    let mut client = NbdClient::open(&daemon, "web");
    assert!(client.write(4096, &[7; 4096]));
    let info = place.json(&["image", "info", "web"]);
    let shown = &info["clients"][0];
    assert_eq!((&shown["purpose"], &shown["access"]), (&json!("nbd"), &json!("write")));
    assert_eq!(shown["pid"], std::process::id(), "{info}");
    assert!(shown["user"].is_string() && shown["uid"].is_u64(), "{info}");
    let refused = place.fails(7, &["image", "remove", "web"]);
    assert!(refused.contains("web has 1 client and cannot be removed: disconnect it"), "{refused}");
    place.fails(7, &["image", "rename", "web", "other"]);
    place.fails(7, &["image", "resize", "web", "4M"]);
    place.ok(&["image", "resize", "web", "16M"]);
    place.ok(&["image", "remove", "web", "--force"]);
    assert!(!client.write(4096, &[8; 4096]), "a removed image takes no writes");
}

#[test]
fn a_client_that_leaves_is_forgotten_and_logged() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "8M"]);
    drop(NbdClient::open(&daemon, "web"));
    eventually("no clients", || place.json(&["image", "info", "web"])["clients"] == json!([]));
    place.ok(&["image", "remove", "web"]);
    eventually("a line in the log", || daemon.log().contains("NBD client disconnected"));
    assert!(daemon.log().contains("NBD client connected"));
}

#[test]
fn what_is_written_is_known_at_once_and_after_a_kill() {
    let place = Place::new();
    let daemon = place.serve(&["--hash", "sha256"]);
    place.ok(&["image", "create", "web", "8M"]);
    let mut client = NbdClient::open(&daemon, "web");
    for offset in [0, 4 << 20] {
        assert!(client.write(offset, &[7; 8192]));
    }
    let known = || {
        let map = place.json(&["image", "map", "web", "--hashes"]);
        let runs = map.as_array().unwrap().clone();
        let data: Vec<Value> = runs.into_iter().filter(|run| run["state"] == "data").collect();
        data.iter().map(|run| (run["offset"].as_u64(), run["hash"].to_string())).collect::<Vec<_>>()
    };
    // sha256 of 4096 bytes of 7.
    let hash = "\"c9ac7b0624824f844f6c7f3d50fab9741a8914e878467e8daaedca143a34d90b\"";
    let expected: Vec<_> =
        [0, 4096, 4 << 20, (4 << 20) + 4096].map(|at| (Some(at), hash.to_owned())).into();
    assert_eq!(known(), expected);
    let status = place.json(&["pool", "status"]);
    assert_eq!((&status["bytes_physical"], &status["bytes_unique"]), (&json!(16384), &json!(4096)));
    daemon.kill();
    let _daemon = place.serve(&[]);
    eventually("hashes after a kill", || {
        place.json(&["pool", "status"])["clusters_untrusted"] == json!(0)
    });
    assert_eq!(known(), expected);
}

#[test]
fn a_map_of_many_pages_has_every_cluster_once() {
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1T"]);
    let mut client = NbdClient::open(&daemon, "web");
    let clusters = 9000_u64;
    let data: Vec<u8> = (0..clusters).flat_map(|i| [(i % 251) as u8 + 1; 4096]).collect();
    for (part, bytes) in data.chunks(1 << 20).enumerate() {
        assert!(client.write((part as u64) << 20, bytes));
    }
    let map = place.json(&["image", "map", "web", "--hashes"]);
    let mut end = 0;
    for run in map.as_array().unwrap() {
        assert_eq!(run["offset"], end);
        end += run["length"].as_u64().unwrap();
    }
    assert_eq!(end, 1 << 40);
    let data = map.as_array().unwrap().iter().filter(|run| run["state"] == "data");
    assert_eq!(data.count() as u64, clusters);
}

#[test]
fn an_upload_that_is_refused_is_told_why() {
    let place = Place::new();
    let _daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "1M"]);
    for _ in 0..3 {
        let mut command = place.command();
        command.arg("--pool").arg(place.pool()).args(["image", "import", "-", "web"]);
        // More than the kernel and both ends keep.
        command.stdin(std::fs::File::open("/dev/zero").unwrap());
        let refused = Finished::of(command);
        assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    }
}
