//! Images that are used before they are there: two daemons on loopback, one of which fills from the other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::Random;
use blockyard_transfer::{Identity, PeerId, Wire};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::eventually;
use support::guest::{Guest, has_guest};
use support::host;
use support::peers::{Host, MIB, content, number, restart};
use support::pipelined::{Command, Plain, connect};

const EIO: u32 = 5;
const CLUSTER: u64 = 4096;

/// The first has the image "web", and the second may pull it.
fn origin_and_host(bytes: &[u8]) -> (Host, Host) {
    let (origin, host) = (Host::new(&[]), Host::new(&[]));
    origin.knows("host", &host, &["--allow", "pull"]);
    host.knows("origin", &origin, &[]);
    origin.import("web", bytes);
    (origin, host)
}

fn info(host: &Host, name: &str) -> Value {
    host.place.json(&["image", "info", name])
}

fn missing(host: &Host, name: &str) -> u64 {
    info(host, name)["lazy"]["bytes_missing"].as_u64().unwrap_or(0)
}

fn wait_until_filled(host: &Host, name: &str) {
    eventually("the image is filled", || info(host, name).get("lazy").is_none());
}

fn dependants(origin: &Host) -> usize {
    info(origin, "web")["dependants"].as_array().map_or(0, Vec::len)
}

fn plain(host: &Host, name: &str) -> Plain {
    Plain::open(host.daemon.as_ref().unwrap(), name)
}

#[test]
fn an_image_is_read_before_it_is_there_and_only_what_is_read_comes() {
    let bytes = content(1, 32);
    let (origin, host) = origin_and_host(&bytes);
    let report = host.place.json(&["pull", "origin/web", "--lazy", "--no-fill"]);
    let jobs = host.place.json(&["job", "list"])["jobs"].as_array().unwrap().clone();
    let pull = jobs.iter().find(|job| job["kind"] == "pull").unwrap();
    let waited = host.place.ok(&["job", "wait", &pull["id"].to_string()]);
    assert!(waited.contains("of data is still to come"), "{waited}");
    assert_eq!(number(&report, "bytes_missing"), 24 * MIB, "{report}");
    assert_eq!(missing(&host, "web"), 24 * MIB);
    let mut client = plain(&host, "web");
    for (offset, length) in [(5 * MIB + 512, 700), (17 * MIB - 8192, 65536), (3 * MIB, 8192)] {
        let expected = &bytes[offset as usize..(offset + length) as usize];
        assert!(client.read(offset..offset + length) == expected, "at {offset}");
    }
    let fetched = 24 * MIB - missing(&host, "web");
    assert!(fetched > 0 && fetched < MIB, "{fetched}");
    let listed = info(&host, "web");
    assert_eq!(
        (&listed["lazy"]["peer"], &listed["lazy"]["source"]),
        (&"origin".into(), &"web".into())
    );
    host.place.ok(&["image", "fill", "web"]);
    wait_until_filled(&host, "web");
    assert_eq!(origin.digest("web"), host.digest("web"));
    eventually("the origin hears of it", || dependants(&origin) == 0);
    drop(client);
    origin.end();
    host.end();
}

/// Writes, zeroes and discards at random while reads and the fill fetch, beside a model in memory.
fn disturb(client: &mut Plain, model: &mut [u8], random: &mut Random, steps: u64) {
    let size = model.len() as u64;
    for _ in 0..steps {
        let unit = if random.below(2) == 0 { CLUSTER } else { 512 };
        let start = random.below(size / unit) * unit;
        let large = if random.below(8) == 0 { 2048 } else { 24 };
        let end = (start + (1 + random.below(large)) * unit).min(size);
        let part = start as usize..end as usize;
        match random.below(5) {
            0 => assert!(client.read(start..end) == model[part], "at {start} to {end}"),
            1 => {
                assert_eq!(client.trim(start..end), 0);
                model[part].fill(0);
            }
            2 => {
                assert_eq!(client.ask(Command::WriteZeroes, start..end, &[]), 0);
                model[part].fill(0);
            }
            _ => {
                let fill = random.below(256) as u8;
                model[part.clone()].fill(fill);
                assert_eq!(client.write(start, &model[part]), 0);
            }
        }
    }
}

#[test]
fn what_is_written_meanwhile_survives_the_fill_and_the_end_of_either_daemon() {
    for seed in 0..3 {
        let mut model = content(20 + seed, 24);
        let (mut origin, mut host) = origin_and_host(&model);
        host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill"]);
        let mut random = Random::new(seed);
        for round in 0..4 {
            let mut client = plain(&host, "web");
            disturb(&mut client, &mut model, &mut random, 60);
            drop(client);
            match round {
                0 => {
                    host.daemon.take().unwrap().kill();
                    restart(&mut host);
                }
                1 => {
                    origin.daemon.take().unwrap().kill();
                    restart(&mut origin);
                }
                2 => drop(host.place.ok(&["image", "fill", "web"])),
                _ => {
                    host.daemon.take().unwrap().stop();
                    restart(&mut host);
                }
            }
        }
        wait_until_filled(&host, "web");
        let size = model.len() as u64;
        let mut client = plain(&host, "web");
        for start in (0..size).step_by(MIB as usize) {
            let part = start as usize..(start + MIB) as usize;
            assert!(client.read(start..start + MIB) == model[part], "seed {seed} at {start}");
        }
        drop(client);
        // The digest is that of the same content written at once.
        host.place.wait_until_trusted();
        host.import("same", &model);
        assert_eq!(host.digest("web"), host.digest("same"));
        eventually("the origin hears of it", || dependants(&origin) == 0);
        origin.end();
        host.end();
    }
}

#[test]
fn without_its_origin_only_what_is_missing_fails_and_it_goes_on_when_that_is_back() {
    let bytes = content(3, 8);
    let (mut origin, mut host) = origin_and_host(&bytes);
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill", "--wait", "2"]);
    let mut client = plain(&host, "web");
    assert!(client.read(0..65536) == bytes[..65536]);
    origin.daemon.take().unwrap().kill();
    // Beside a read that waits, on the same connection, others go on.
    let (mut requests, mut replies) = connect(host.daemon.as_ref().unwrap(), "web");
    requests.send(Command::Read, 0, 1, &(5 * MIB..5 * MIB + CLUSTER), &[]).unwrap();
    requests.send(Command::Read, 0, 2, &(CLUSTER..2 * CLUSTER), &[]).unwrap();
    requests.send(Command::Write, 0, 3, &(6 * MIB..6 * MIB + CLUSTER), &[7; 4096]).unwrap();
    let mut first: Vec<(u64, u32)> = Vec::new();
    for _ in 0..2 {
        let (cookie, code) = replies.take().unwrap();
        if cookie == 2 {
            assert!(replies.take_data(4096).unwrap() == bytes[4096..8192]);
        }
        first.push((cookie, code));
    }
    first.sort_unstable();
    assert_eq!(first, [(2, 0), (3, 0)], "what is present does not wait");
    assert_eq!(replies.take().unwrap(), (1, EIO));
    // A part of a cluster that is missing cannot be completed.
    assert_eq!(client.write(5 * MIB + 512, &[1; 512]), EIO);
    for command in [
        &["image", "digest", "web"][..],
        &["image", "snapshot", "web", "s"],
        &["image", "map", "web"],
    ] {
        let refused = host.refused(command);
        assert!(refused.contains("not all here yet"), "{command:?}: {refused}");
    }
    // Opened before its origin can be reached.
    drop((requests, replies, client));
    host.daemon.take().unwrap().kill();
    restart(&mut host);
    let mut client = plain(&host, "web");
    assert!(client.read(0..65536) == bytes[..65536]);
    assert!(client.read(6 * MIB..6 * MIB + CLUSTER) == [7; 4096]);
    restart(&mut origin);
    eventually("it is read again", || {
        let range = 5 * MIB..5 * MIB + CLUSTER;
        client.ask(Command::Read, range.clone(), &[]) == 0
            && client.take_data(4096) == bytes[range.start as usize..range.end as usize]
    });
    // It gives up the image, and gives it again: a read that fails makes it be asked.
    origin.place.ok(&["peer", "remove", "host"]);
    let mut range = 6 * MIB + MIB / 2..6 * MIB + MIB / 2 + CLUSTER;
    eventually("it may not be read any more", || {
        range = range.start + 40 * CLUSTER..range.end + 40 * CLUSTER;
        let code = client.ask(Command::Read, range.clone(), &[]);
        if code == 0 {
            client.take_data(4096);
        }
        code == EIO
    });
    origin.knows("host", &host, &["--allow", "pull"]);
    eventually("it may be read again", || {
        client.ask(Command::Read, range.clone(), &[]) == 0
            && client.take_data(4096) == bytes[range.start as usize..range.end as usize]
    });
    drop(client);
    origin.end();
    host.end();
}

#[test]
fn an_origin_keeps_what_is_needed_and_its_image_until_it_is_forced() {
    let bytes = content(4, 8);
    let (mut origin, mut host) = origin_and_host(&bytes);
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill", "--wait", "1"]);
    host.place.ok(&["pull", "origin/web", "second", "--lazy", "--no-fill"]);
    assert_eq!(dependants(&origin), 2);
    // The image may be written there: what is fetched is as it was.
    let mut writer = plain(&origin, "web");
    assert_eq!(writer.write(0, &vec![9; MIB as usize]), 0);
    drop(writer);
    for side in [&mut origin, &mut host] {
        side.daemon.take().unwrap().kill();
        restart(side);
    }
    let refused = origin.refused(&["image", "remove", "web"]);
    assert!(refused.contains("2 images of peers") && refused.contains("--force"), "{refused}");
    let mut client = plain(&host, "web");
    assert!(client.read(0..MIB) == bytes[..MIB as usize]);
    // One that is removed is told of, also when its origin hears of it late.
    origin.daemon.take().unwrap().kill();
    host.place.ok(&["image", "remove", "second"]);
    restart(&mut origin);
    eventually("the origin hears of it", || dependants(&origin) == 1);
    origin.place.ok(&["image", "remove", "web", "--force"]);
    let gone = 2 * MIB + 8192..2 * MIB + 12288;
    eventually("what is missing fails", || client.ask(Command::Read, gone.clone(), &[]) == EIO);
    assert!(client.read(0..MIB) == bytes[..MIB as usize], "what is present stays");
    drop(client);
    host.place.ok(&["image", "remove", "web"]);
    for side in [&origin, &host] {
        eventually("nothing is left", || {
            side.place.json(&["pool", "status"])["bytes_physical"] == 0
        });
    }
    origin.end();
    host.end();
}

#[test]
fn a_peer_that_may_do_nothing_any_more_still_lets_go() {
    let (origin, host) = origin_and_host(&content(9, 4));
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill"]);
    origin.place.ok(&["peer", "remove", "host"]);
    origin.knows("host", &host, &[]);
    let refused = host.refused(&["pull", "origin/web", "other"]);
    assert!(refused.contains("may not pull"), "{refused}");
    host.place.ok(&["image", "remove", "web"]);
    eventually("the origin hears of it", || dependants(&origin) == 0);
    origin.place.ok(&["image", "remove", "web"]);
    origin.end();
    host.end();
}

/// A peer of everybody that takes calls and says nothing.
#[derive(Default)]
struct Silent {
    wires: Mutex<Vec<Wire>>,
}

impl blockyard_transfer::Host for Silent {
    fn is_listed(&self, _peer: &PeerId) -> bool {
        true
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn answer(&self, _peer: PeerId, wire: Wire) {
        self.wires.lock().unwrap().push(wire);
    }

    fn refused(&self, _address: &str, _why: &str) {}
}

#[test]
fn an_origin_that_does_not_go_on_holds_up_what_others_are_to_be_told_only_for_a_moment() {
    let (origin, mut host) = origin_and_host(&content(11, 4));
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Identity::from_pem(&Identity::generate_pem().unwrap()).unwrap();
    let fingerprint = identity.fingerprint().to_string();
    let silent = Arc::new(Silent::default());
    let serving = Arc::clone(&silent);
    runtime.spawn(async move {
        let never = std::future::pending();
        let _ = blockyard_transfer::serve(listener, &identity, None, serving, never).await; // ends with the test
    });
    host.knows_at("silent", &address, &fingerprint, &[]);
    // As if three images had been pulled from it before.
    host.daemon.take().unwrap().stop();
    let list = host.place.pool().join("origins.json");
    let mut debts: Vec<Value> = serde_json::from_slice(&std::fs::read(&list).unwrap()).unwrap();
    for number in 0..3 {
        let dependant = format!("{number:032}");
        let debt = json!({
            "peer": "silent", "source": "web", "dependant": dependant, "fill": false
        });
        debts.insert(0, debt);
    }
    std::fs::write(&list, serde_json::to_vec(&debts).unwrap()).unwrap();
    restart(&mut host);
    eventually("the silent one is called", || !silent.wires.lock().unwrap().is_empty());
    let started = Instant::now();
    host.place.ok(&["image", "remove", "web"]);
    eventually("the origin hears of it", || dependants(&origin) == 0);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    host.end();
    origin.end();
}

#[test]
fn one_dependant_that_never_comes_back_can_be_removed() {
    let bytes = content(10, 4);
    let (origin, host) = origin_and_host(&bytes);
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill", "--wait", "1"]);
    let gone = info(&origin, "web")["dependants"][0]["id"].as_str().unwrap().to_owned();
    host.place.ok(&["pull", "origin/web", "second", "--lazy", "--no-fill"]);
    assert!(origin.place.ok(&["image", "info", "web"]).contains(&gone));
    origin.place.ok(&["image", "remove-dependant", "web", &gone]);
    let unknown = origin.refused(&["image", "remove-dependant", "web", &gone]);
    assert!(unknown.contains("image info"), "{unknown}");
    assert_eq!(dependants(&origin), 1);
    let mut client = plain(&host, "web");
    eventually("it is lost to that", || {
        client.ask(Command::Read, 2 * MIB..2 * MIB + CLUSTER, &[]) == EIO
    });
    drop(client);
    assert!(plain(&host, "second").read(0..MIB) == bytes[..MIB as usize]);
    host.place.ok(&["image", "remove", "web"]);
    host.place.ok(&["image", "remove", "second"]);
    eventually("the origin hears of it", || dependants(&origin) == 0);
    origin.end();
    host.end();
}

#[test]
fn wrong_data_of_an_origin_is_neither_kept_nor_returned() {
    let bytes = content(5, 4);
    let (mut origin, host) = origin_and_host(&bytes);
    host.place.ok(&["pull", "origin/web", "--lazy", "--no-fill", "--wait", "2"]);
    origin.daemon.take().unwrap().stop();
    // A bit of what is at a MiB rots below the origin.
    let data = origin.place.pool().join("data");
    let file = std::fs::File::options().read(true).write(true).open(&data).unwrap();
    let place = bytes[MIB as usize..][..4096].to_vec();
    let mut found = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut found, 0).unwrap();
    let at = found.chunks(4096).position(|cluster| cluster == place).unwrap() * 4096 + 100;
    file.write_all_at(&[found[at] ^ 1], at as u64).unwrap();
    restart(&mut origin);
    let mut client = plain(&host, "web");
    assert_eq!(client.ask(Command::Read, MIB..MIB + CLUSTER, &[]), EIO);
    let good = MIB + CLUSTER..2 * MIB;
    assert!(client.read(good.clone()) == bytes[good.start as usize..good.end as usize]);
    drop(client);
    host.place.ok(&["image", "fill", "web"]);
    eventually("all but that comes", || missing(&host, "web") == CLUSTER);
    let refused = || info(&host, "web")["lazy"]["bytes_refused"].as_u64() == Some(CLUSTER);
    eventually("it is told that it cannot be had", refused);
    // What nobody can give can be written.
    let mut client = plain(&host, "web");
    assert_eq!(client.write(MIB, &place), 0);
    wait_until_filled(&host, "web");
    host.import("same", &bytes);
    assert_eq!(host.digest("web"), host.digest("same"));
    drop(client);
    host.end();
}

#[test]
fn what_was_read_first_at_the_origin_is_fetched_first() {
    let bytes = content(6, 32);
    let (mut origin, host) = origin_and_host(&bytes);
    origin.place.ok(&["image", "profile", "web", "start"]);
    let mut reader = plain(&origin, "web");
    let places = [25 * MIB, 9 * MIB + 65536, 17 * MIB, 2 * MIB];
    for place in places {
        reader.read(place + 512..place + 4096);
    }
    drop(reader);
    let told = origin.place.json(&["image", "profile", "web", "stop"]);
    assert_eq!(told["offsets"], serde_json::json!(places));
    origin.daemon.take().unwrap().stop();
    restart(&mut origin);
    // Slowly, so that the order shows.
    host.place.ok(&["pull", "origin/web", "--lazy", "--rate", "128K", "--compress", "none"]);
    eventually("the first have come", || missing(&host, "web") <= 24 * MIB - 4 * 65536);
    origin.daemon.take().unwrap().kill();
    let fetched = 24 * MIB - missing(&host, "web");
    assert!(fetched < 2 * MIB, "{fetched} came before it was looked");
    let mut client = plain(&host, "web");
    for place in places {
        let range = place..place + 65536;
        assert!(client.read(range) == bytes[place as usize..place as usize + 65536], "{place}");
    }
    drop(client);
    host.place.ok(&["image", "remove", "web"]);
    host.end();
}

#[test]
fn twenty_images_of_one_origin_are_read_while_all_are_filled_and_others_are_served_too() {
    let bytes = content(7, 16);
    let (origin, host) = origin_and_host(&bytes);
    let names: Vec<String> = (0..20).map(|number| format!("web{number}")).collect();
    // So slowly that none is filled meanwhile; a message takes 2 s.
    let terms = ["--lazy", "--wait", "8", "--rate", "128K", "--compress", "none"];
    for name in &names {
        host.place.ok(&[&["pull", "origin/web", name][..], &terms].concat());
    }
    std::thread::scope(|scope| {
        for (number, name) in names.iter().enumerate() {
            let (host, bytes) = (&host, &bytes);
            scope.spawn(move || {
                let start = 14 * MIB + 8192 * number as u64;
                let expected = &bytes[start as usize..][..4096];
                assert!(plain(host, name).read(start..start + CLUSTER) == expected, "{name}");
            });
        }
    });
    origin.import("small", &content(8, 1));
    host.place.ok(&["pull", "origin/small"]);
    host.place.ok(&["image", "remove", "web0"]);
    eventually("the origin hears of it", || dependants(&origin) == 19);
    assert!(names[1..].iter().all(|name| missing(&host, name) > 0), "they are filled still");
    host.end();
    origin.end();
}

/// A root file system of busybox and a lot that a boot does not need, with what it needs scattered in it.
fn root_file_system(host: &Host) -> Vec<u8> {
    let root = host.place.path("root");
    for folder in ["bin", "data"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    for number in 0..40 {
        std::fs::write(root.join(format!("data/{number}")), content(100 + number, 3)).unwrap();
    }
    let disk = host.place.path("root.img");
    std::fs::File::create(&disk).unwrap().set_len(192 * MIB).unwrap();
    host::run("mkfs.ext4", &["-q", "-F", "-d", host::text(&root), host::text(&disk)]);
    std::fs::read(&disk).unwrap()
}

/// Boots a guest from the host's "web" until its root file system has said something, and does `work` there; how long the
/// first took.
fn boot(host: &Host, work: &str) -> Duration {
    let job = format!(
        "set -e
        mount -t ext4 /dev/vda /mnt
        chroot /mnt /bin/sh -c 'echo the root speaks; {work}'
        umount /mnt"
    );
    let started = Instant::now();
    let mut guest = Guest::boot(&host.place, host.daemon.as_ref().unwrap(), &job);
    guest.hears("the root speaks");
    let took = started.elapsed();
    guest.ends();
    took
}

/// As if the link between the hosts carried so much.
const RATE: &str = "16M";

/// With `BLOCKYARD_ROOT_IMAGE=FILE` from that of a Debian system: a bare ext4, as debootstrap and mkfs make it.
#[test]
fn a_guest_boots_from_an_image_that_is_not_there_yet() {
    if !has_guest() || !Path::new("/bin/busybox").exists() {
        return;
    }
    let (origin, host) = (Host::new(&[]), Host::new(&[]));
    origin.knows("host", &host, &["--allow", "pull"]);
    host.knows("origin", &origin, &[]);
    let (root, work) = match std::env::var_os("BLOCKYARD_ROOT_IMAGE") {
        Some(path) => {
            (std::fs::read(path).unwrap(), "dpkg -l | grep -c ^ii; dpkg --verify base-files")
        }
        None => (root_file_system(&origin), "busybox md5sum /data/7 /data/31"),
    };
    origin.import("web", &root);
    let started = Instant::now();
    let lazy = ["pull", "origin/web", "--lazy", "--no-fill", "--rate", RATE];
    host.place.ok(&[&lazy[..], &["--compress", "none"]].concat());
    let shown = started.elapsed();
    let listed = missing(&host, "web");
    let lazily = shown + boot(&host, work);
    let fetched = listed - missing(&host, "web");
    host.place.ok(&["image", "remove", "web"]);
    eventually("nothing is left", || host.place.json(&["pool", "status"])["bytes_physical"] == 0);
    let started = Instant::now();
    host.place.ok(&["pull", "origin/web", "--rate", RATE, "--compress", "none"]);
    let pulled = started.elapsed();
    let whole = pulled + boot(&host, work);
    println!(
        "of {} MiB {:.1} % were fetched; first line after {:.2} s (shown after {:.2} s), \
         after {:.2} s with a full pull (of {:.2} s), at {RATE} a second",
        listed / MIB,
        100.0 * fetched as f64 / listed as f64,
        lazily.as_secs_f64(),
        shown.as_secs_f64(),
        whole.as_secs_f64(),
        pulled.as_secs_f64(),
    );
    assert!(fetched > 0 && fetched < listed / 4, "{fetched} of {listed} were fetched");
    origin.end();
    host.end();
}
