//! Damage to each file of a pool: bits, blocks, cut short, missing, of another pool, an older copy. What
//! must hold for each: `check` and `serve` end in order and name the file or the image; what is wrong is
//! never called sound; `check` changes nothing; and no image ever shows another's data.
//!
//! `BLOCKYARD_DAMAGE_FLIPS` says how many bits and blocks of each file are damaged, one at a time (3),
//! `BLOCKYARD_DAMAGE_SEED` where the choices start.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use blockyard_faulty::Random;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use support::Place;
use support::history::{Expected, History};
use support::host::text;
use support::pipelined::{Command, Plain};
use support::recorded::make_small_pool;

const IMAGE_BYTES: u64 = 2 << 20;
const BLOCK: usize = 4096;
/// What a Rust program ends with after a panic.
const PANICKED: i32 = 101;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A pool closed in order, file by file, and what its images hold.
struct Sample {
    place: Place,
    files: Files,
    /// As they were before the last changes.
    older: Files,
    images: Vec<(String, Expected)>,
}

impl Sample {
    fn new() -> Sample {
        let place = Place::new();
        make_small_pool(&place.pool(), None);
        let mut histories: Vec<(String, History)> = ["one", "two"]
            .into_iter()
            .zip(1..)
            .map(|(name, number)| (name.to_owned(), History::new(number, IMAGE_BYTES)))
            .collect();
        let daemon = place.serve(&[]);
        for (name, _) in &histories {
            place.ok(&["image", "create", name, &IMAGE_BYTES.to_string()]);
        }
        write(&daemon, &mut histories, 1);
        daemon.stop();
        let older = read_all(&place.pool());
        let daemon = place.serve(&[]);
        write(&daemon, &mut histories, 2);
        daemon.stop();
        let files = read_all(&place.pool());
        let parts = files.keys().filter(|name| name.starts_with("checkpoint")).count();
        assert!(parts > 0, "no checkpoint to damage: {:?}", files.keys());
        let images = histories
            .iter()
            .map(|(name, history)| (name.clone(), history.at(usize::MAX)))
            .collect();
        Sample { place, files, older, images }
    }

    /// The pool with these files instead of its own; `None` for a missing one.
    fn lay_out(&self, changed: &Path, bytes: Option<&[u8]>) {
        let pool = self.place.pool();
        fs::remove_dir_all(&pool).unwrap();
        fs::create_dir_all(pool.join("checkpoint")).unwrap();
        for (name, whole) in &self.files {
            let bytes = if name == changed { bytes } else { Some(whole.as_slice()) };
            if let Some(bytes) = bytes {
                fs::write(pool.join(name), bytes).unwrap();
            }
        }
    }

    /// Lays the pool out with one file damaged, and judges what the program makes of it.
    fn judge(&self, file: &Path, bytes: Option<&[u8]>, words: &str) -> Outcome {
        self.lay_out(file, bytes);
        let before = read_all(&self.place.pool());
        let checked = self.place.run(&["check", "--data", text(&self.place.pool())]);
        assert!(read_all(&self.place.pool()) == before, "{words}: check changed a file");
        let code = checked.status.code().unwrap_or(PANICKED);
        let said = format!("{}{}", checked.out, checked.err);
        assert!(code <= 2, "{words}: check ended with {code}: {said}");
        // Damage shows in the file or in an image.
        let images = self.images.iter().map(|(image, _)| format!("{image} at "));
        let places: Vec<String> = images.chain([word_for(file).to_owned()]).collect();
        let named = |said: &str| {
            let said = said.replace(text(&self.place.pool()), "").replace("metadata", "");
            places.iter().any(|place| said.contains(place.as_str()))
        };
        if code != 0 {
            assert!(named(&said), "{words}: check names nothing: {said}");
        }
        match self.serve() {
            Err((code, said)) => {
                assert!(code != 0 && code != PANICKED, "{words}: serve ended with {code}: {said}");
                assert!(named(&said), "{words}: serve names nothing: {said}");
                assert!(checked.status.code() != Some(0), "{words}: sound for check, but {said}");
                Outcome::Refused
            }
            Ok(mut daemon) => {
                let wrong = self.compare(words);
                daemon.kill().unwrap();
                daemon.wait().unwrap();
                assert!(wrong.is_none() || code != 0, "{words}: sound, but {wrong:?}");
                if code == 0 { Outcome::Harmless } else { Outcome::Served }
            }
        }
    }

    /// A daemon that is ready, or how it ended.
    fn serve(&self) -> Result<Child, (i32, String)> {
        let mut command = self.place.command();
        command.arg("serve").arg("--pool").arg(self.place.pool());
        let errors = self.place.path("errors");
        let file = fs::File::create(&errors).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if line.starts_with("ready") {
            std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
            return Ok(child);
        }
        let status = child.wait().unwrap();
        Err((status.code().unwrap_or(PANICKED), fs::read_to_string(errors).unwrap()))
    }

    /// The first piece of an image that can be read and is wrong. That of another image is never
    /// right to show.
    fn compare(&self, words: &str) -> Option<String> {
        let socket = self.place.pool().join("nbd.sock");
        let listed = self.place.ok(&["image", "list"]);
        let mut wrong = None;
        for (name, expected) in &self.images {
            if !listed.lines().any(|line| line.split(' ').next() == Some(name)) {
                wrong = Some(format!("{name} is not there"));
                continue;
            }
            let mut client = Plain::open_at(&socket, name);
            for start in (0..IMAGE_BYTES).step_by(BLOCK) {
                let bytes = start..start + BLOCK as u64;
                if client.ask(Command::Read, bytes.clone(), &[]) != 0 {
                    continue; // an error is told
                }
                let found = client.take_data(BLOCK);
                if let Err(complaint) = expected.compare(&bytes, &found) {
                    let other = expected.is_of_another_image(&found);
                    assert!(!other, "{words}: {name} shows another image's data: {complaint}");
                    wrong = Some(format!("{name}: {complaint}"));
                }
            }
        }
        wrong
    }
}

/// What messages call a file of a pool.
fn word_for(file: &Path) -> &str {
    match file.iter().next().and_then(|first| first.to_str()) {
        Some("hashes") => "hash",
        Some(first) => first,
        None => "",
    }
}

/// What the program makes of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Found to be sound, and all that is stored is there: the damage met nothing in use.
    Harmless,
    /// Found to be unsound, and served: what can be read is.
    Served,
    Refused,
}

/// Many small commits, so that a checkpoint is made.
fn write(daemon: &support::Daemon, histories: &mut [(String, History)], seed: u64) {
    let mut random = Random::new(seed);
    for (name, history) in histories {
        let mut client = Plain::open(daemon, name);
        for _ in 0..60 {
            let start = 4096 * random.below(IMAGE_BYTES / 4096 - 2);
            let bytes = start..start + 8192;
            let (_, content) = history.begin(&bytes, false, 0);
            assert_eq!(client.write(start, &content), 0);
            assert_eq!(client.flush(), 0);
            history.flushed(0);
        }
    }
}

/// All files of the pool that matter to it, by name.
fn read_all(pool: &Path) -> Files {
    let mut files = Files::new();
    for folder in ["", "checkpoint"] {
        let Ok(entries) = fs::read_dir(pool.join(folder)) else { continue };
        for entry in entries.map(Result::unwrap) {
            let name = Path::new(folder).join(entry.file_name());
            let known = ["log", "data", "hashes"].iter().any(|known| name == Path::new(known));
            if known || folder == "checkpoint" {
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn damaged_bits_and_blocks_of_each_file_are_told_or_harmless() {
    let flips = setting("BLOCKYARD_DAMAGE_FLIPS").unwrap_or(3);
    let seed = setting("BLOCKYARD_DAMAGE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("BLOCKYARD_DAMAGE_SEED={seed} BLOCKYARD_DAMAGE_FLIPS={flips}");
    let sample = Sample::new();
    let mut random = Random::new(seed);
    let mut outcomes: BTreeMap<(String, Outcome), u64> = BTreeMap::new();
    for (file, whole) in &sample.files {
        // Most of the files is not in use yet.
        let in_use: Vec<usize> = (0..whole.len() / BLOCK)
            .filter(|block| whole[block * BLOCK..(block + 1) * BLOCK].iter().any(|byte| *byte != 0))
            .collect();
        for number in 0..flips * 2 {
            // The header first.
            let block =
                if number < 2 { 0 } else { in_use[random.below(in_use.len() as u64) as usize] };
            let mut bytes = whole.clone();
            let end = bytes.len().min((block + 1) * BLOCK);
            let words = if number % 2 == 0 {
                let at = block * BLOCK + random.below((end - block * BLOCK) as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
                format!("seed {seed}: a bit of {} at {at}", file.display())
            } else {
                bytes[block * BLOCK..end].fill(0);
                format!("seed {seed}: block {block} of {} is zero", file.display())
            };
            let outcome = sample.judge(file, Some(&bytes), &words);
            *outcomes.entry((file.display().to_string(), outcome)).or_default() += 1;
        }
    }
    println!("{outcomes:#?}");
    assert!(outcomes.keys().any(|(_, outcome)| *outcome != Outcome::Harmless));
}

#[test]
fn files_cut_short_missing_or_of_another_pool_or_time_are_told() {
    let (sample, other) = (Sample::new(), Sample::new());
    for (file, whole) in &sample.files {
        let words = |what: &str| format!("{} {what}", file.display());
        for length in [0, 100, BLOCK, whole.len() / 2 / BLOCK * BLOCK] {
            if length < whole.len() {
                sample.judge(file, Some(&whole[..length]), &words(&format!("cut to {length}")));
            }
        }
        let missing = sample.judge(file, None, &words("missing"));
        assert_eq!(missing, Outcome::Refused, "{}", words("missing"));
        if let Some(foreign) = other.files.get(file) {
            let foreign = sample.judge(file, Some(foreign), &words("of another pool"));
            assert_eq!(foreign, Outcome::Refused, "{}", words("of another pool"));
            sample.lay_out(file, other.files.get(file).map(Vec::as_slice));
            let (_, said) = sample.serve().unwrap_err();
            assert!(said.contains("pool"), "{}: {said}", words("of another pool"));
        }
        if let Some(older) = sample.older.get(file) {
            sample.judge(file, Some(older), &words("as it was before"));
        }
    }
}
