//! Power cuts under the real program on the real ext4: a client with a model writes, flushes and takes
//! snapshots while the disks below record. Then the power is cut at every flush boundary, with all, none
//! or some of the later writes kept (also torn at 512 bytes), and each time the remains are mounted,
//! judged by `check --data`, opened by the next daemon, and compared with the model.
//!
//! `BLOCKYARD_POWER_RUNS` says how many recordings (1), `BLOCKYARD_POWER_IMAGES` how many power cuts of
//! each (25), `BLOCKYARD_POWER_SEED` where the choices start. `cargo xtask break-real` runs it with a sync
//! missing in the program, and it must fail.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::{Loss, Memory, Random, Replay, Timeline};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::history::History;
use support::model::UNIT;
use support::pipelined::{Command, FUA, NO_HOLE, Replies, Requests, connect};
use support::recorded::{DataOn, RecordedPool, Remains, ask, can_record, check_remains, compare};
use support::{Daemon, Place};

const IMAGE_BYTES: u64 = 3 << 20;
const BATCH_MAX: u64 = 8;
/// What is overwritten in place at the start of each image.
const OVERWRITTEN: u64 = 256 << 10;

#[test]
fn a_power_cut_loses_nothing_flushed_with_the_data_in_the_file_system() {
    cut_power(DataOn::FileSystem);
}

#[test]
fn a_power_cut_loses_nothing_flushed_with_the_data_on_a_device() {
    cut_power(DataOn::Device);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn cut_power(data_on: DataOn) {
    if !can_record() {
        return;
    }
    let runs = setting("BLOCKYARD_POWER_RUNS").unwrap_or(1);
    let images = setting("BLOCKYARD_POWER_IMAGES").unwrap_or(25);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let first = setting("BLOCKYARD_POWER_SEED").unwrap_or(now >> 16);
    let mut replayed = 0;
    for seed in first..first + runs {
        println!("{data_on:?}: BLOCKYARD_POWER_SEED={seed} BLOCKYARD_POWER_IMAGES={images}");
        let Some(recording) = record(data_on, seed) else { return };
        replayed += recording.replay(images, seed);
    }
    println!("{data_on:?}: {replayed} images replayed from {runs} runs, none unsound");
}

/// What is known of a snapshot.
struct Snapshot {
    name: String,
    content: History,
    begun: usize,
    made: usize,
    /// When its removal began, and when it was told.
    removed: Option<(usize, usize)>,
}

/// All that a run leaves.
struct Recording {
    place: Place,
    replay: Replay,
    images: Vec<(String, History)>,
    snapshots: Vec<Snapshot>,
    events: usize,
}

fn record(data_on: DataOn, seed: u64) -> Option<Recording> {
    let place = Place::new();
    let pool = RecordedPool::new(&place, data_on)?;
    let mut random = Random::new(seed);
    let mut daemon = pool.serve(&place);
    for name in ["one", "two"] {
        ask(&place, &daemon, &["image", "create", name, &IMAGE_BYTES.to_string()]);
    }
    let bases: Vec<Memory> = pool.record();
    let mut images: Vec<(String, History)> = ["one", "two"]
        .into_iter()
        .zip(1..)
        .map(|(name, number)| (name.to_owned(), History::new(number, IMAGE_BYTES)))
        .collect();
    let mut snapshots = Vec::new();
    for phase in 0..6 {
        write_all(&daemon, &mut images, &pool.timeline, &mut random, phase % 3 == 2);
        change_snapshots(&place, &daemon, &images, &mut snapshots, &pool.timeline, phase);
        if phase == 1 {
            // Long enough for hashes to be written and intents to be cleared.
            thread::sleep(Duration::from_millis(2600));
        }
        // Between phases, the next daemon: after a kill or an orderly end.
        if phase % 2 == 1 {
            if random.one_in(2) {
                daemon.kill()
            } else {
                daemon.stop()
            }
            daemon = pool.serve(&place);
        }
    }
    daemon.stop();
    assert!(pool.disks.iter().all(|disk| disk.disk.flushes() > 20), "no flush comes through");
    let replay = Replay::new(pool.timeline.events(), bases);
    let events = replay.len();
    drop(pool);
    Some(Recording { place, replay, images, snapshots, events })
}

/// One client for each image, at the same time.
fn write_all(
    daemon: &Daemon,
    images: &mut [(String, History)],
    timeline: &Arc<Timeline>,
    random: &mut Random,
    overwrite: bool,
) {
    thread::scope(|scope| {
        for (name, history) in images {
            let random = Random::new(random.below(u64::MAX));
            let (requests, replies) = connect(daemon, name);
            scope.spawn(move || {
                Writer { history, timeline, random, requests, replies, overwrite }.write(14);
            });
        }
    });
}

struct Writer<'a> {
    history: &'a mut History,
    timeline: &'a Timeline,
    random: Random,
    requests: Requests,
    replies: Replies,
    /// Only whole clusters that are stored already: a flush then has only data to sync.
    overwrite: bool,
}

impl Writer<'_> {
    fn write(&mut self, batches: u64) {
        if self.overwrite {
            self.send_all(vec![(Command::Write, 0, 0..OVERWRITTEN)]);
            self.flush();
        }
        for _ in 0..batches {
            self.batch();
            if self.random.below(5) < 3 {
                self.flush();
            }
        }
        self.flush();
    }

    /// Some requests in flight at the same time.
    fn batch(&mut self) {
        let mut chosen: Vec<(Command, u16, Range<u64>)> = Vec::new();
        for _ in 0..1 + self.random.below(BATCH_MAX) {
            let next = self.choose();
            let meets = |other: &Range<u64>| other.start < next.2.end && next.2.start < other.end;
            if !chosen.iter().any(|(_, _, other)| meets(other)) {
                chosen.push(next);
            }
        }
        self.send_all(chosen);
    }

    /// Sends requests that do not overlap, and waits for the replies.
    fn send_all(&mut self, chosen: Vec<(Command, u16, Range<u64>)>) {
        let mut sent = Vec::new();
        for (cookie, (command, flags, bytes)) in (0..).zip(chosen) {
            let zeros = command != Command::Write;
            let (change, content) = self.history.begin(&bytes, zeros, self.timeline.now());
            sent.push((cookie, change, flags & FUA != 0));
            self.requests.send(command, flags, cookie, &bytes, &content).unwrap();
        }
        for _ in 0..sent.len() {
            let (cookie, code) = self.replies.take().unwrap();
            assert_eq!(code, 0);
            let (_, change, fua) = sent.iter().find(|(of, ..)| *of == cookie).unwrap();
            if *fua {
                self.history.is_durable(*change, self.timeline.now());
            }
        }
    }

    /// The first half of the image is written again and again, so that clusters are overwritten in
    /// place.
    fn choose(&mut self) -> (Command, u16, Range<u64>) {
        if self.overwrite {
            let start = 4096 * self.random.below(OVERWRITTEN / 4096 - 4);
            return (Command::Write, 0, start..start + 4096 * (1 + self.random.below(4)));
        }
        let (command, unit, most) = match self.random.below(20) {
            0..10 => (Command::Write, 4096, 4),
            10..14 => (Command::Write, UNIT, 80),
            14 | 15 => (Command::Write, 65536, 3),
            16 | 17 => (Command::Trim, 4096, 16),
            _ => (Command::WriteZeroes, UNIT, 100),
        };
        let length = unit * (1 + self.random.below(most));
        let half = if self.random.one_in(3) { self.history.size } else { 1 << 20 };
        let start = unit * self.random.below((half - length) / unit + 1);
        let fua = if self.random.one_in(8) { FUA } else { 0 };
        let keep = command == Command::WriteZeroes && self.random.one_in(2);
        (command, fua | if keep { NO_HOLE } else { 0 }, start..start + length)
    }

    fn flush(&mut self) {
        self.requests.send(Command::Flush, 0, 99, &(0..0), &[]).unwrap();
        assert_eq!(self.replies.take().unwrap(), (99, 0));
        self.history.flushed(self.timeline.now());
    }
}

/// While no client writes, and after all have flushed.
fn change_snapshots(
    place: &Place,
    daemon: &Daemon,
    images: &[(String, History)],
    snapshots: &mut Vec<Snapshot>,
    timeline: &Timeline,
    phase: usize,
) {
    let (of, history) = &images[phase % images.len()];
    let name = format!("snapshot-{phase}");
    let begun = timeline.now();
    ask(place, daemon, &["image", "snapshot", of, &name]);
    let (content, made) = (history.clone(), timeline.now());
    snapshots.push(Snapshot { name, content, begun, made, removed: None });
    if phase % 2 == 1 {
        let oldest = snapshots.iter_mut().find(|snapshot| snapshot.removed.is_none()).unwrap();
        let begun = timeline.now();
        ask(place, daemon, &["image", "remove", &oldest.name]);
        oldest.removed = Some((begun, timeline.now()));
    }
}

impl Recording {
    /// Returns how many power cuts were tried.
    fn replay(mut self, images: u64, seed: u64) -> u64 {
        let mut random = Random::new(seed ^ 0x5eed);
        let boundaries = self.replay.flush_boundaries();
        let changes: usize = self.images.iter().map(|(_, history)| history.changes()).sum();
        println!("{} events, {} flushes, {changes} changes", self.events, boundaries.len());
        let mut cuts: Vec<(usize, Loss)> = Vec::new();
        for at in 0..images {
            // All boundaries are met, in order, if there are images enough.
            let boundary = (at * boundaries.len() as u64 / images) as usize;
            let next = boundaries.get(boundary + 1).copied().unwrap_or(self.events);
            let between = (next - boundaries[boundary]) as u64 + 1;
            cuts.push(match at % 3 {
                0 => (boundaries[boundary], Loss::All),
                _ => (boundaries[boundary] + random.below(between) as usize, any_loss(&mut random)),
            });
        }
        cuts.sort_by_key(|(cut, _)| *cut);
        let started = Instant::now();
        for (number, (cut, loss)) in cuts.iter().enumerate() {
            let disks = self.replay.disks_at(*cut, *loss, &mut random);
            let words = format!("seed {seed}, power cut before event {cut} with loss {loss:?}");
            self.judge(&disks, *cut, &words, number % 4 == 0);
        }
        println!("{} power cuts judged in {:?}", cuts.len(), started.elapsed());
        cuts.len() as u64
    }

    fn judge(&self, disks: &[Memory], cut: usize, words: &str, again: bool) {
        let remains = Remains::of(disks, &self.place);
        check_remains(&self.place, &remains, words);
        let daemon = remains.serve(&self.place);
        for (name, history) in &self.images {
            compare(&daemon, name, &history.at(cut), history.size, words);
        }
        self.judge_snapshots(&daemon, cut, words);
        daemon.kill();
        if again {
            check_remains(&self.place, &remains, words);
        }
        remains.mount.unmount();
    }

    fn judge_snapshots(&self, daemon: &Daemon, cut: usize, words: &str) {
        let listed = ask(&self.place, daemon, &["image", "list"]);
        let is_there = |name: &str| listed.lines().any(|line| line.split(' ').next() == Some(name));
        for snapshot in &self.snapshots {
            let may_be_gone = snapshot.removed.is_some_and(|(begun, _)| begun <= cut);
            let must_be_gone = snapshot.removed.is_some_and(|(_, told)| told <= cut);
            let name = &snapshot.name;
            if is_there(name) {
                assert!(snapshot.begun <= cut && !must_be_gone, "{words}: {name} is there");
                let whole = snapshot.content.at(usize::MAX);
                compare(daemon, name, &whole, snapshot.content.size, words);
            } else {
                assert!(snapshot.made > cut || may_be_gone, "{words}: {name} is lost");
            }
        }
    }
}

fn any_loss(random: &mut Random) -> Loss {
    let kept_percent = 10 + random.below(85);
    match random.below(5) {
        0 => Loss::None,
        1 => Loss::Writes { kept_percent },
        2 => Loss::Pieces { bytes: 4096, kept_percent },
        _ => Loss::Pieces { bytes: 512, kept_percent },
    }
}
