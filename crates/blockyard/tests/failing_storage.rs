//! Storage that fails under the real program: errors, no space, slow and hung I/O on each file of a pool.
//! A flush that is acknowledged is durable, whatever failed before; the pool serves reads only and says
//! so after a failed sync (I12); the control socket answers while the disk hangs; a killed daemon is not
//! overtaken while it still writes (I13). What each scenario leaves is judged as after a power cut, with
//! all and with none of the writes that no flush covers.
//!
//! `BLOCKYARD_FAULT_RUNS` says how many runs with random errors (2), `BLOCKYARD_FAULT_SEED` where the
//! choices start.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::{Effect, Errno, Kind, Loss, Memory, Random, Replay, Rule};
use serde_json::Value;
use std::time::Duration;
use support::history::History;
use support::host::text;
use support::pipelined::{Command, Plain, connect};
use support::recorded::{DataOn, RecordedPool, Remains, ask, can_record, check_remains, compare};
use support::{Daemon, Place, eventually};

const IMAGE_BYTES: u64 = 4 << 20;

/// A served pool whose disks will fail, and what its images hold.
/// Dropped in this order: what uses the place goes before it.
struct Scenario {
    daemon: Option<Daemon>,
    pool: RecordedPool,
    bases: Vec<Memory>,
    images: Vec<(String, History)>,
    random: Random,
    place: Place,
}

impl Scenario {
    fn new(seed: u64) -> Option<Scenario> {
        if !can_record() || !support::has_program("filefrag") {
            return None;
        }
        let place = Place::new();
        let pool = RecordedPool::new(&place, DataOn::Device)?;
        let daemon = pool.serve(&place);
        let mut images = Vec::new();
        for (name, number) in ["one", "two"].into_iter().zip(1..) {
            ask(&place, &daemon, &["image", "create", name, &IMAGE_BYTES.to_string()]);
            images.push((name.to_owned(), History::new(number, IMAGE_BYTES)));
        }
        let bases = pool.record();
        let random = Random::new(seed);
        let mut scenario = Scenario { place, pool, bases, daemon: Some(daemon), images, random };
        assert_eq!(scenario.write_and_flush(20), 0, "nothing fails yet");
        Some(scenario)
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Some writes to each image, and flushes between; returns how many flushes failed.
    fn write_and_flush(&mut self, writes: u64) -> u64 {
        let mut failed = 0;
        for at in 0..self.images.len() {
            let mut client = Plain::open(self.daemon.as_ref().unwrap(), &self.images[at].0);
            for number in 1..=writes {
                self.write(&mut client, at);
                if number % 4 == 0 {
                    let code = client.flush();
                    if code == 0 {
                        self.images[at].1.flushed(self.pool.timeline.now());
                    }
                    failed += u64::from(code != 0);
                }
            }
        }
        failed
    }

    fn write(&mut self, client: &mut Plain, image: usize) {
        let length = 512 * (1 + self.random.below(24));
        let start = 512 * self.random.below((IMAGE_BYTES / 4 - length) / 512);
        let bytes = start..start + length;
        let history = &mut self.images[image].1;
        let (change, content) = history.begin(&bytes, false, self.pool.timeline.now());
        if client.write(start, &content) != 0 {
            history.has_failed(change);
        }
    }

    fn status(&self) -> Value {
        serde_json::from_str(&ask(&self.place, self.daemon(), &["pool", "status", "--json"]))
            .unwrap()
    }

    /// Every image can still be read, from its start to its end.
    fn reads_go_on(&self) {
        for (name, _) in &self.images {
            let mut client = Plain::open(self.daemon(), name);
            client.read(0..IMAGE_BYTES);
        }
    }

    /// Kills the daemon, and judges what lies on the disks.
    fn judge(mut self, words: &str) {
        let daemon = self.daemon.take().unwrap();
        self.pool.disks.iter().for_each(|disk| disk.disk.heal());
        daemon.kill();
        let cut = self.pool.timeline.now();
        let events = self.pool.timeline.events();
        let mut replay = Replay::new(events, self.bases);
        drop(self.pool);
        for loss in [Loss::All, Loss::None] {
            let disks = replay.disks_at(cut, loss, &mut self.random);
            let words = format!("{words}, {loss:?} lost");
            let remains = Remains::after_errors(&disks, &self.place);
            check_remains(&self.place, &remains, &words);
            let daemon = remains.serve(&self.place);
            for (name, history) in &self.images {
                compare(&daemon, name, &history.at(cut), history.size, &words);
            }
            daemon.kill();
            remains.mount.unmount();
        }
    }
}

#[test]
fn after_a_failed_flush_of_a_disk_none_is_acknowledged_and_the_pool_says_that_it_reads_only() {
    for disk in [0, 1] {
        let Some(mut scenario) = Scenario::new(1) else { return };
        scenario.pool.disks[disk]
            .disk
            .fail(Rule::all(&[Kind::Flush], Effect::Fail(Errno::Io)).once_after(0));
        let failed = scenario.write_and_flush(20);
        assert!(failed > 0, "the flush of disk {disk} failed, and no client was told");
        assert_eq!(scenario.write_and_flush(20), 10, "nothing is acknowledged after it");
        let status = scenario.status();
        assert!(status["failed"].is_string(), "{status}");
        scenario.reads_go_on();
        scenario.judge(&format!("flush of disk {disk} failed"));
    }
}

#[test]
fn errors_of_one_file_lose_nothing_that_was_flushed() {
    for (file, errno) in [
        ("log", Errno::Io),
        ("log", Errno::NoSpace),
        ("hashes", Errno::Io),
        ("data", Errno::Io),
        ("data", Errno::NoSpace),
    ] {
        let Some(mut scenario) = Scenario::new(2) else { return };
        let rule = Rule::all(&[Kind::Write], Effect::Fail(errno));
        match file {
            "data" => scenario.pool.disks[1].disk.fail(rule.once_after(3)),
            _ => {
                let places = scenario.pool.places_of(file);
                scenario.pool.disks[0].disk.fail(rule.within(&places));
            }
        }
        let failed = scenario.write_and_flush(40);
        if file == "hashes" {
            // They are written when the region has cooled.
            let disk = std::sync::Arc::clone(&scenario.pool.disks[0].disk);
            eventually("a write of hashes", || disk.faults_met() > 0);
        }
        let met: u64 = scenario.pool.disks.iter().map(|disk| disk.disk.faults_met()).sum();
        assert!(met > 0, "{file}: no request met the fault");
        if file == "log" {
            assert!(failed > 0, "the log failed, and no client was told");
            assert!(scenario.status()["failed"].is_string(), "{}", scenario.status());
        }
        scenario.reads_go_on();
        scenario.judge(&format!("{errno:?} of {file}"));
    }
}

/// The checkpoint lies anywhere in the file system, and so do its names: all of the disk but the log.
#[test]
fn a_file_system_that_fails_beneath_the_checkpoint_loses_nothing_that_was_flushed() {
    for errno in [Errno::Io, Errno::NoSpace] {
        let Some(mut scenario) = Scenario::new(3) else { return };
        let log = scenario.pool.places_of("log");
        let disk = &scenario.pool.disks[0].disk;
        let mut others = Vec::new();
        let mut at = 0;
        for range in log {
            others.push(at..range.start);
            at = range.end;
        }
        others.push(at..disk.size());
        disk.fail(Rule::all(&[Kind::Write], Effect::Fail(errno)).within(&others));
        let mut rounds = 0;
        while scenario.pool.disks[0].disk.faults_met() == 0 {
            scenario.write_and_flush(100);
            rounds += 1;
            assert!(rounds < 50, "no checkpoint was ever written");
        }
        scenario.reads_go_on();
        scenario.judge(&format!("{errno:?} beneath the checkpoint"));
    }
}

#[test]
fn random_errors_lose_nothing_that_was_flushed() {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let runs = setting("BLOCKYARD_FAULT_RUNS").unwrap_or(2);
    let first = setting("BLOCKYARD_FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    for seed in first..first + runs {
        println!("BLOCKYARD_FAULT_SEED={seed}");
        let Some(mut scenario) = Scenario::new(seed) else { return };
        for (disk, one_in) in [(0, 30 + seed % 90), (1, 20 + seed % 70)] {
            let errno = if seed % 3 == 0 { Errno::NoSpace } else { Errno::Io };
            let mut rule = Rule::all(&[Kind::Write, Kind::Flush], Effect::Fail(errno));
            rule.one_in = one_in;
            scenario.pool.disks[disk].disk.fail(rule);
        }
        scenario.write_and_flush(60);
        scenario.pool.disks.iter().for_each(|disk| disk.disk.heal());
        scenario.reads_go_on();
        scenario.judge(&format!("seed {seed}"));
    }
}

#[test]
fn a_slow_disk_is_slow_and_nothing_else() {
    let Some(mut scenario) = Scenario::new(4) else { return };
    for disk in &scenario.pool.disks {
        let slow = Effect::Delay(Duration::from_millis(30));
        let kinds = [Kind::Read, Kind::Write, Kind::Flush];
        disk.disk.fail(Rule::all(&kinds, slow));
    }
    assert_eq!(scenario.write_and_flush(8), 0);
    assert!(scenario.status()["failed"].is_null());
    scenario.judge("slow");
}

#[test]
fn a_hung_disk_does_not_hang_the_control_socket_and_all_goes_on_when_it_is_back() {
    for kind in [Kind::Write, Kind::Flush] {
        let Some(mut scenario) = Scenario::new(5) else { return };
        let disk = std::sync::Arc::clone(&scenario.pool.disks[1].disk);
        disk.fail(Rule::all(&[kind], Effect::Hang));
        let (mut requests, mut replies) = connect(scenario.daemon(), "one");
        let bytes = 3 << 20..(3 << 20) + 4096;
        let now = scenario.pool.timeline.now();
        let (_, content) = scenario.images[0].1.begin(&bytes, false, now);
        requests.send(Command::Write, 0, 1, &bytes, &content).unwrap();
        requests.send(Command::Flush, 0, 2, &(0..0), &[]).unwrap();
        eventually("a hung request", || disk.hung() > 0);
        assert!(scenario.status()["failed"].is_null());
        let listed = ask(&scenario.place, scenario.daemon(), &["image", "list"]);
        assert!(listed.contains("two"), "{listed}");
        // What is not stored is read without the disk. (The loop device hangs with its disk.)
        Plain::open(scenario.daemon(), "two").read(3 << 20..IMAGE_BYTES);
        disk.heal();
        assert_eq!(replies.take().unwrap().1, 0);
        assert_eq!(replies.take().unwrap().1, 0);
        scenario.images[0].1.flushed(scenario.pool.timeline.now());
        assert_eq!(scenario.write_and_flush(8), 0);
        scenario.judge(&format!("{kind:?} hung"));
    }
}

#[test]
fn a_killed_daemon_whose_writes_are_in_flight_is_not_overtaken() {
    let Some(mut scenario) = Scenario::new(6) else { return };
    let disk = std::sync::Arc::clone(&scenario.pool.disks[1].disk);
    disk.fail(Rule::all(&[Kind::Write], Effect::Hang));
    let (mut requests, _replies) = connect(scenario.daemon(), "one");
    for at in 0..4 {
        let bytes = (2 << 20) + at * 65536..(2 << 20) + (at + 1) * 65536;
        let now = scenario.pool.timeline.now();
        let (change, content) = scenario.images[0].1.begin(&bytes, false, now);
        // Never acknowledged: it may be there or not.
        scenario.images[0].1.has_failed(change);
        requests.send(Command::Write, 0, at, &bytes, &content).unwrap();
    }
    eventually("a hung write", || disk.hung() > 0);
    let killed = scenario.daemon.take().unwrap();
    killed.signal(rustix::process::Signal::KILL);
    let pool = scenario.pool.path();
    let mut command = scenario.place.command();
    command.args(["serve", "--pool", text(&pool)]);
    let early = support::Finished::of(command);
    assert!(!early.status.success(), "a daemon served while its predecessor wrote: {early:?}");
    assert!(disk.hung() > 0, "the writes were in flight all the time");
    disk.heal();
    drop(killed);
    scenario.daemon = Some(scenario.pool.serve(&scenario.place));
    assert_eq!(scenario.write_and_flush(8), 0);
    scenario.judge("killed with writes in flight");
}

#[test]
fn an_export_reads_around_what_cannot_be_read_when_told_to_and_says_where() {
    let Some(scenario) = Scenario::new(7) else { return };
    let bad = (3 << 20) + 8192;
    let content: Vec<u8> = (0..64 * 1024_u32).map(|at| (at / 4096 + 1) as u8).collect();
    let mut client = Plain::open(scenario.daemon(), "one");
    assert_eq!(client.write(3 << 20, &content), 0);
    assert_eq!(client.flush(), 0);
    let whole = client.read(0..IMAGE_BYTES);
    let disk = &scenario.pool.disks[1].disk;
    let place = disk.find(&content[8192..12288]).unwrap();
    let rule = Rule::all(&[Kind::Read], Effect::Fail(Errno::Io));
    scenario.pool.disks[1].drop_cache();
    let cluster = place..place + 4096;
    disk.fail(rule.within(std::slice::from_ref(&cluster)));
    let file = scenario.place.path("exported");
    let socket = scenario.daemon().api_socket();
    let export = ["image", "export", "one", text(&file), "--api", text(&socket)];
    let refused = scenario.place.run(&export);
    assert!(!refused.status.success() && !file.exists(), "{refused:?}");
    let told = scenario.place.run(&[&export[..], &["--damaged"]].concat()).ok();
    assert!(told.contains(&format!("4096 at {bad}")), "{told}");
    let mut expected = whole;
    expected[bad as usize..bad as usize + 4096].fill(0);
    assert!(std::fs::read(&file).unwrap() == expected, "the rest is not what was stored");
    disk.heal();
}
