//! What libnbd's programs see of a daemon, and what they carry in and out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use support::allocation::{of_image, of_nbdinfo};
use support::content::disk_content;
use support::host::{self, text, uri};
use support::{Place, has_program};

fn digest(place: &Place, name: &str) -> Value {
    place.json(&["image", "digest", name])["digest"].clone()
}

/// Four connections with sixteen requests each.
fn copy(source: &str, target: &str) {
    host::run("nbdcopy", &["--connections=4", "--requests=16", source, target]);
}

#[test]
fn nbdinfo_lists_every_image_with_what_it_can_do() {
    if !has_program("nbdinfo") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "20G"]);
    place.ok(&["image", "create", "mail", "512"]);
    place.ok(&["image", "snapshot", "web", "monday"]);
    let list = host::json("nbdinfo", &["--json", "--list", &uri(&daemon, "")]);
    assert_eq!((&list["protocol"], &list["structured"]), (&json!("newstyle-fixed"), &json!(true)));
    let mut seen: Vec<(&str, u64, bool)> = Vec::new();
    for export in list["exports"].as_array().unwrap() {
        assert_eq!(export["contexts"], json!(["base:allocation"]), "{export}");
        assert_eq!((&export["can_multi_conn"], &export["can_flush"]), (&json!(true), &json!(true)));
        assert_eq!(export["block_size_minimum"], 1, "{export}");
        let read_only = export["is_read_only"].as_bool().unwrap();
        for change in ["can_trim", "can_zero", "can_fua", "can_fast_zero"] {
            assert!(read_only || export[change] == true, "{change} in {export}");
        }
        let name = export["export-name"].as_str().unwrap();
        seen.push((name, export["export-size"].as_u64().unwrap(), read_only));
    }
    seen.sort_unstable();
    assert_eq!(seen, [("mail", 512, false), ("monday", 20 << 30, true), ("web", 20 << 30, false)]);
}

#[test]
fn nbdinfo_maps_an_export_as_the_api_does() {
    if !has_program("nbdinfo") || !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    place.ok(&["image", "create", "web", "64M"]);
    let export = uri(&daemon, "web");
    let changes = [
        ("write -P 1 1M 2M", "across a boundary of extents"),
        ("write -P 2 5000 10", "bytes inside a cluster"),
        ("write -P 3 30M 6M", "several extents"),
        ("discard 31M 300k", "freed"),
        ("write -z 33M 1M", "zeros that keep their place"),
        ("write -z -u 35M 5000", "zeros that give it up, and an edge"),
        ("write -P 4 67108352 512", "the last sector"),
    ];
    let mut arguments = vec!["-f", "raw", export.as_str()];
    arguments.extend(changes.iter().flat_map(|(change, _)| ["-c", change]));
    host::run("qemu-io", &arguments);
    let runs = of_image(&place, "web");
    assert_eq!(of_nbdinfo(&host::json("nbdinfo", &["--json", "--map", &export])), runs);
    assert!(runs.iter().any(|run| run.zero && !run.hole), "nothing is reserved: {runs:?}");
    assert!(runs.len() > 8, "{runs:?}");
    let totals = host::run("nbdinfo", &["--map", "--totals", &export]);
    let data: u64 = runs.iter().filter(|run| !run.zero).map(|run| run.length).sum();
    assert!(totals.contains(&data.to_string()), "{data} in {totals}");
}

#[test]
fn nbdcopy_carries_a_disk_in_and_out_unchanged() {
    if !has_program("nbdcopy") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let (source, target) = (place.path("source"), place.path("target"));
    // Ends within an extent and within a cluster.
    let content = disk_content((50 << 20) + 512, 3);
    std::fs::write(&source, &content).unwrap();
    place.ok(&["image", "create", "copied", &content.len().to_string()]);
    copy(text(&source), &uri(&daemon, "copied"));
    place.ok(&["image", "import", text(&source), "imported"]);
    assert_eq!(digest(&place, "copied"), digest(&place, "imported"));
    copy(&uri(&daemon, "copied"), text(&target));
    assert!(std::fs::read(&target).unwrap() == content, "the copy differs");
    let allocated = std::fs::metadata(&target).unwrap().blocks() * 512;
    assert!(allocated < content.len() as u64 * 9 / 10, "holes became data: {allocated}");
}

#[test]
fn nbdcopy_carries_an_image_from_one_daemon_to_another() {
    if !has_program("nbdcopy") {
        return;
    }
    let place = Place::new();
    let (one, two) = (place.path("one"), place.path("two"));
    let (first, second) = (place.serve_pool(&one, &[]), place.serve_pool(&two, &[]));
    let source = place.path("source");
    std::fs::write(&source, disk_content(20 << 20, 4)).unwrap();
    let digest = |pool: &std::path::Path| {
        place.json(&["--pool", text(pool), "image", "digest", "web"])["digest"].clone()
    };
    place.ok(&["--pool", text(&one), "image", "import", text(&source), "web"]);
    place.ok(&["--pool", text(&two), "image", "create", "web", "20M"]);
    assert_ne!(digest(&one), digest(&two));
    copy(&uri(&first, "web"), &uri(&second, "web"));
    assert_eq!(digest(&one), digest(&two));
}

#[test]
fn nbdcopy_over_old_data_leaves_nothing_of_it() {
    if !has_program("nbdcopy") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&[]);
    let (old, new) = (place.path("old"), place.path("new"));
    std::fs::write(&old, disk_content(20 << 20, 5)).unwrap();
    std::fs::write(&new, disk_content(20 << 20, 6)).unwrap();
    place.ok(&["image", "import", text(&old), "web"]);
    place.ok(&["image", "snapshot", "web", "before"]);
    place.ok(&["image", "import", text(&new), "expected"]);
    let before = digest(&place, "before");
    copy(text(&new), &uri(&daemon, "web"));
    assert_eq!(digest(&place, "web"), digest(&place, "expected"));
    assert_eq!(digest(&place, "before"), before, "the snapshot changed");
}
