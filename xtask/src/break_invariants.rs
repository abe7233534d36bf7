//! Breaks one rule after the other and sees whether the simulation notices.
//!
//! A break is a name in [`breaks::BREAKS`] and one or more `broken("name")` in the code. The two
//! must agree before anything is run: a name that no code asks about would break nothing, and one
//! that is missing here would never be tried. What a violation looks like is the simulation's
//! business; here its exit code counts: 1, or 101 for a tripped assertion.

mod breaks;
mod simulation;
mod source;

use crate::{Unclear, cargo, repository, target_directory};
use breaks::{BREAKS, Break, SEEN_BY_PROCESSES, SEEN_BY_REAL, SEEN_BY_TRANSFERS};
use simulation::{Simulation, Verdict};
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) const HELP: &str = "\
usage: cargo xtask break-invariants [--seeds N] [--real] [--list] [NAME...]

Builds the engine with the feature break-invariants, runs the simulation once
unbroken (it must pass) and then once for each deliberate break (it must fail).
What takes several processes to show is judged by tests of crates/io in its place.

  --seeds N   run seeds 0 to N-1 in each run (500)
  --real      let the real stack judge (as root): power cuts below the program on
              ext4, see crates/blockyard/tests/power_loss.rs; without a NAME, the
              breaks that show there
  --list      print the breaks and run nothing
  NAME...     try only these

Exit code: 0 if every break was caught, 1 if one was not, 2 if that could not be
told. What each run printed is kept under target/break-invariants/log.";

/// A break may make the simulation wait for ever; its runs end within seconds otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(600);

struct Request {
    seeds: u64,
    list: bool,
    real: bool,
    names: Vec<String>,
}

pub(crate) fn run(arguments: &[String]) -> Result<bool, Unclear> {
    let request = parse(arguments)?;
    let mut chosen = choose(BREAKS, &request.names)?;
    if request.real && request.names.is_empty() {
        chosen.retain(|entry| SEEN_BY_REAL.contains(&entry.name));
    }
    if request.list {
        print_list(&chosen);
        return Ok(true);
    }
    let asked = source::names_asked(&repository().join("crates"))?;
    agree(BREAKS, &asked)?;
    if request.real {
        return try_before(&real_stack()?, &chosen);
    }
    let (by_processes, by_simulation): (Vec<&Break>, Vec<&Break>) =
        chosen.into_iter().partition(|entry| SEEN_BY_PROCESSES.contains(&entry.name));
    let (by_transfers, by_simulation): (Vec<&Break>, Vec<&Break>) =
        by_simulation.into_iter().partition(|entry| SEEN_BY_TRANSFERS.contains(&entry.name));
    let mut caught = true;
    if !by_processes.is_empty() {
        caught &= try_before(&processes()?, &by_processes)?;
    }
    if !by_simulation.is_empty() {
        caught &= try_before(&build(request.seeds, &[])?, &by_simulation)?;
    }
    if !by_transfers.is_empty() {
        caught &= try_before(&build(request.seeds, &["--transfers"])?, &by_transfers)?;
    }
    Ok(caught)
}

/// Sees whether a judge that passes the unbroken engine catches these.
fn try_before(judge: &Simulation, breaks: &[&Break]) -> Result<bool, Unclear> {
    if judge.run(None)? != Verdict::Passed {
        return Err("the unbroken engine does not pass, so a failure would show nothing".into());
    }
    println!("{:<10} {:<32} the unbroken engine", "passed", "-");
    try_all(breaks, |name| judge.run(Some(name)))
}

fn parse(arguments: &[String]) -> Result<Request, Unclear> {
    let mut request = Request { seeds: 500, list: false, real: false, names: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => request.list = true,
            "--real" => request.real = true,
            "--seeds" => {
                let count = arguments.next().ok_or("--seeds needs a number")?;
                request.seeds = count.parse().map_err(|_| format!("--seeds {count}: no number"))?;
            }
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}\n\n{HELP}").into());
            }
            name => request.names.push(name.to_owned()),
        }
    }
    Ok(request)
}

/// The breaks of these names, or all.
fn choose<'a>(breaks: &'a [Break], names: &[String]) -> Result<Vec<&'a Break>, Unclear> {
    if names.is_empty() {
        return Ok(breaks.iter().collect());
    }
    let find = |name: &String| {
        let found = breaks.iter().find(|candidate| candidate.name == name);
        found.ok_or_else(|| format!("no break is called {name}; see --list").into())
    };
    names.iter().map(find).collect()
}

fn print_list(breaks: &[&Break]) {
    for Break { name, rule, what } in breaks {
        println!("{name:<32} {rule:<5} {what}");
    }
}

/// That the list and the engine speak of the same breaks, and that there are any.
fn agree(breaks: &[Break], asked: &BTreeSet<String>) -> Result<(), Unclear> {
    if breaks.is_empty() {
        return Err("there is no break to try: the list is empty".into());
    }
    let listed: BTreeSet<String> = breaks.iter().map(|entry| entry.name.to_owned()).collect();
    if listed.len() < breaks.len() {
        return Err("a name is listed twice".into());
    }
    if let Some(name) = listed.difference(asked).next() {
        return Err(format!("{name} is listed, but no code asks broken({name:?})").into());
    }
    if let Some(name) = asked.difference(&listed).next() {
        return Err(format!("code asks broken({name:?}), but it is not listed").into());
    }
    Ok(())
}

/// In a target directory of its own: no other build may ever pick up a breakable engine.
fn build(seeds: u64, played: &[&str]) -> Result<Simulation, Unclear> {
    let target = target_directory().join("break-invariants");
    let status = cargo()
        .args(["build", "--release", "--package", "blockyard-sim"])
        .args(["--features", "blockyard-pool/break-invariants"])
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !status.success() {
        return Err("the breakable simulation does not build".into());
    }
    let mut arguments: Vec<String> = played.iter().map(|word| (*word).to_owned()).collect();
    arguments.extend(["--seeds".to_owned(), format!("0..{seeds}")]);
    Simulation::new(target.join("release/blockyard-sim"), arguments, target.join("log"), TIME_LIMIT)
}

/// The test that cuts the power under the real program, built with its breakable engine.
fn real_stack() -> Result<Simulation, Unclear> {
    let features = "blockyard-pool/break-invariants";
    let program = ["--package", "blockyard", "--test", "power_loss", "--features", features];
    tests("break-real", &program, &[])
}

/// The tests of the fence, which start other processes.
fn processes() -> Result<Simulation, Unclear> {
    let library = ["--package", "blockyard-io", "--lib", "--features", "break-invariants"];
    tests("break-processes", &library, &["host::fence"])
}

/// `cargo test` as a judge, in a target directory of this name.
fn tests(folder: &str, build: &[&str], chosen: &[&str]) -> Result<Simulation, Unclear> {
    let target = target_directory().join(folder);
    let mut arguments = vec!["test".to_owned(), "--quiet".to_owned()];
    arguments.extend(build.iter().map(|word| (*word).to_owned()));
    arguments.extend(["--target-dir".to_owned(), target.display().to_string()]);
    let status = cargo().args(&arguments).arg("--no-run").status()?;
    if !status.success() {
        return Err("the breakable program does not build".into());
    }
    arguments.extend(["--", "--nocapture", "--test-threads", "1"].map(str::to_owned));
    arguments.extend(chosen.iter().map(|test| (*test).to_owned()));
    Simulation::new(cargo().get_program().into(), arguments, target.join("log"), TIME_LIMIT)
}

/// Prints a line for each break; true if all were caught.
fn try_all(
    breaks: &[&Break],
    mut simulate: impl FnMut(&str) -> Result<Verdict, Unclear>,
) -> Result<bool, Unclear> {
    let mut missed = 0;
    let mut unclear = 0;
    for Break { name, rule, what } in breaks {
        let outcome = match simulate(name)? {
            Verdict::Failed => "caught",
            Verdict::Passed => {
                missed += 1;
                "NOT CAUGHT"
            }
            Verdict::Unclear => {
                unclear += 1;
                "UNCLEAR"
            }
        };
        println!("{outcome:<10} {name:<32} {rule:<5} {what}");
    }
    println!("{} breaks, {missed} not caught, {unclear} unclear", breaks.len());
    if missed == 0 && unclear > 0 {
        return Err("some runs ended neither way; see their logs".into());
    }
    Ok(missed == 0)
}

#[cfg(test)]
mod tests;
