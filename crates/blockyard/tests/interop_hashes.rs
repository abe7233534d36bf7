//! The content of an image is known without reading it, and what is known is true: judged by hashes that
//! are not ours, and by the kernel's count of what was read.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use support::content::Random;
use support::host::{self, text, uri};
use support::loop_device::LoopDevice;
use support::{Daemon, Finished, NbdClient, Place, has_program};

const SIZE: u64 = 24 << 20;

/// Changes the image "web" at random through an NBD client and returns what it must hold then. Nothing
/// is flushed.
fn write_at_random(client: &mut NbdClient, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut model = vec![0; SIZE as usize];
    for _ in 0..300 {
        let length = match random.below(4) {
            0 => random.below(700) + 1,
            1 => 4096,
            2 => random.below(20_000) + 1,
            _ => 64 << 10,
        };
        let mut offset = random.below(SIZE - length);
        if random.below(2) == 0 {
            offset -= offset % 4096;
        }
        let data = match random.below(5) {
            0 => vec![0; length as usize],
            _ => random.bytes(length as usize),
        };
        assert!(client.write(offset, &data));
        model[offset as usize..][..data.len()].copy_from_slice(&data);
    }
    model
}

/// Trims, zeros and patterns by another client, with edges inside clusters.
fn change_with_qemu_io(daemon: &Daemon, model: &mut [u8]) {
    let changes: [(&str, u8, usize, usize); 4] = [
        ("write -z -u", 0, 1_000_000, 300_000),
        ("write -z", 0, 5_000_001, 70_000),
        ("discard", 0, 8 << 20, 1 << 20),
        ("write -P 171", 171, 12_345_678, 100_001),
    ];
    let export = uri(daemon, "web");
    for (change, value, offset, length) in changes {
        let command = format!("{change} {offset} {length}");
        host::run("qemu-io", &["-f", "raw", &export, "-c", &command]);
        model[offset..][..length].fill(value);
    }
}

/// Writes at random to a pool of this algorithm, and at once has the map judged by Python.
fn python_agrees(algorithm: &str) {
    if !has_program("python3") || !has_program("qemu-io") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve(&["--hash", algorithm]);
    place.ok(&["image", "create", "web", &SIZE.to_string()]);
    let mut client = NbdClient::open(&daemon, "web");
    let mut model = write_at_random(&mut client, 1);
    let judged = judge(&place, algorithm, &model).ok();
    assert!(judged.trim().parse::<u64>().unwrap() > 500, "{judged}");
    change_with_qemu_io(&daemon, &mut model);
    judge(&place, algorithm, &model).ok();
    // The control: one bit, and the script finds it.
    model[12_345_678] ^= 1;
    let refuted = judge(&place, algorithm, &model);
    assert!(refuted.err.contains("the hash is"), "{refuted:?}");
}

/// What the script says of the map of "web" when the image should hold `model`.
fn judge(place: &Place, algorithm: &str, model: &[u8]) -> Finished {
    let (map, disk) = (place.path("map.json"), place.path("disk"));
    std::fs::write(&map, place.ok(&["image", "map", "web", "--hashes", "--json"])).unwrap();
    std::fs::write(&disk, model).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/check_hashes.py");
    host::finish("python3", &[script, algorithm, text(&map), text(&disk)])
}

#[test]
fn right_after_random_writes_python_agrees_with_every_sha256() {
    python_agrees("sha256");
}

#[test]
fn right_after_random_writes_python_agrees_with_every_sha1() {
    python_agrees("sha1");
}

/// Python has no BLAKE3; the crate that defines it has.
#[test]
fn right_after_random_writes_every_blake3_hash_is_that_of_the_bytes() {
    let place = Place::new();
    let daemon = place.serve(&["--hash", "blake3"]);
    place.ok(&["image", "create", "web", &SIZE.to_string()]);
    let mut client = NbdClient::open(&daemon, "web");
    let model = write_at_random(&mut client, 3);
    let map = place.json(&["image", "map", "web", "--hashes"]);
    let runs = map.as_array().unwrap();
    let mut judged = 0;
    for run in runs {
        let [offset, length] = ["offset", "length"].map(|field| run[field].as_u64().unwrap());
        let bytes = &model[offset as usize..(offset + length) as usize];
        if run["state"] == "data" {
            assert_eq!(bytes.len(), 4096);
            assert_eq!(run["hash"], Value::from(blake3::hash(bytes).to_hex().as_str()), "{run}");
            judged += 1;
        } else {
            assert!(bytes.iter().all(|byte| *byte == 0), "{run}");
        }
    }
    assert_eq!(runs.iter().map(|run| run["length"].as_u64().unwrap()).sum::<u64>(), SIZE);
    assert!(judged > 500, "{judged}");
}

#[test]
fn neither_map_nor_digest_reads_a_sector_of_the_data_device() {
    let place = Place::new();
    let backing = place.path("backing");
    std::fs::File::create(&backing).unwrap().set_len(256 << 20).unwrap();
    let Some(device) = LoopDevice::attach(&backing, &[]) else { return };
    let daemon = place.serve(&["--data", &device.path]);
    place.ok(&["image", "create", "web", &SIZE.to_string()]);
    let mut client = NbdClient::open(&daemon, "web");
    let model = write_at_random(&mut client, 4);
    // Where udev runs, it looks at new devices itself.
    host::finish("sh", &["-c", "command -v udevadm && udevadm settle"]);
    let before = device.sectors_read();
    let map = place.json(&["image", "map", "web", "--hashes"]);
    let digest = place.json(&["image", "digest", "web"]);
    assert_eq!(device.sectors_read(), before, "sectors were read");
    let runs = map.as_array().unwrap().iter();
    let clusters = runs.filter(|run| run["hash"].is_string()).count() as u64;
    assert!(clusters > 500, "{clusters}");
    // The control: reading the image does read the device, and finds what was written.
    let exported = place.path("exported");
    place.ok(&["image", "export", "web", text(&exported)]);
    assert!(device.sectors_read() >= before + clusters * 8, "reads are not counted here");
    assert!(std::fs::read(&exported).unwrap() == model, "the image holds something else");
    place.ok(&["image", "import", text(&exported), "again"]);
    assert_eq!(place.json(&["image", "digest", "again"])["digest"], digest["digest"]);
    drop(client);
    daemon.stop();
}
