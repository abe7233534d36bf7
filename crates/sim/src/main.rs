//! Plays seeds and says which one breaks a promise, and how to see it happen again.
//!
//! Exit code: 0 if every seed held, 1 if one did not, 2 for wrong arguments, 3 if the run was so
//! uneventful that it proves little.
#![forbid(unsafe_code)]

use blockyard_sim::{Outcome, Play, Totals, run_seed, run_transfers};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

const HELP: &str = "\
usage: blockyard-sim [--transfers] [--seeds FROM..TO] [--seed N] [--verbose]
                     [--keep-going]

Plays the seeds from FROM to TO - 1 (0..500), or seed N alone, and prints what
happened in them: of one pool and its clients, or with --transfers of images that
move between two pools. --verbose prints each request; --keep-going plays on after a
violation.";

/// Fewer seeds than this may miss a kind of event.
const EVENTFUL_SEEDS: u64 = 200;

struct Arguments {
    play: Play,
    seeds: std::ops::Range<u64>,
    verbose: bool,
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(arguments) = parse(&arguments) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let (totals, failures) = play(&arguments);
    println!(
        "seeds {}..{} in {} s",
        arguments.seeds.start,
        arguments.seeds.end,
        start.elapsed().as_secs()
    );
    print!("{totals}");
    let missing = totals.missing();
    if failures > 0 {
        println!("{failures} of the seeds FAILED");
        ExitCode::from(1)
    } else if arguments.seeds.end - arguments.seeds.start >= EVENTFUL_SEEDS && !missing.is_empty() {
        println!("too little happened, none of these: {}", missing.join(", "));
        ExitCode::from(3)
    } else {
        println!("every seed held");
        ExitCode::SUCCESS
    }
}

fn parse(arguments: &[String]) -> Option<Arguments> {
    let mut parsed =
        Arguments { play: Play::Engine, seeds: 0..500, verbose: false, keep_going: false };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seeds" => {
                let (from, to) = arguments.next()?.split_once("..")?;
                parsed.seeds = from.parse().ok()?..to.parse().ok()?;
            }
            "--seed" => {
                let seed: u64 = arguments.next()?.parse().ok()?;
                parsed.seeds = seed..seed.checked_add(1)?;
            }
            "--transfers" => parsed.play = Play::Transfers,
            "--verbose" => parsed.verbose = true,
            "--keep-going" => parsed.keep_going = true,
            _ => return None,
        }
    }
    (!parsed.seeds.is_empty()).then_some(parsed)
}

/// Plays all seeds on all cores, each on one thread; the sum of what happened, and how many failed.
fn play(arguments: &Arguments) -> (Totals, u64) {
    let next = AtomicU64::new(arguments.seeds.start);
    let sum = Mutex::new((Totals::of(arguments.play), 0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !arguments.seeds.contains(&seed) {
                return;
            }
            let outcome = play_one(arguments.play, seed, arguments.verbose);
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.0.add(&outcome.totals);
            if let Some(violation) = outcome.violation {
                sum.1 += 1;
                let play = match arguments.play {
                    Play::Engine => "",
                    Play::Transfers => " --transfers",
                };
                println!("seed {seed} FAILED: {violation}");
                println!(
                    "  see it again: cargo run --release -p blockyard-sim --{play} --seed {seed} --verbose"
                );
                if !arguments.keep_going {
                    next.store(arguments.seeds.end, Ordering::Relaxed);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A tripped assertion of the engine is a violation like any other.
fn play_one(play: Play, seed: u64, verbose: bool) -> Outcome {
    let run = match play {
        Play::Engine => run_seed,
        Play::Transfers => run_transfers,
    };
    catch_unwind(|| run(seed, verbose)).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied());
        let violation = Some(format!("panicked: {}", text.unwrap_or("for no told reason")));
        Outcome { totals: Totals::default(), violation, digest: 0 }
    })
}
