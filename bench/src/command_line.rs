//! What can be asked for.

use crate::client::{self, Address, Load, Operation, Pattern};
use crate::report::{Measured, RowReport};
use crate::rows::rows;
use crate::run::{self, Plan};
use crate::sample::Sample;
use crate::servers::Programs;
use crate::{Result, growth};
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
usage: script/bench [--quick | --full] [--list] [--rounds N] [--seconds S] [--gib N] [--dir DIR]
                    [--output DIR] [ROW...]
       script/bench growth [--seconds S] [--gib N] [--pool-gib N] [--dirty N] [--references N]
                    [--amplification-seconds S] [--amplification-gib N] [--dir DIR] [--output DIR] [PART...]
       script/bench load --socket PATH [--export NAME] [--operation read|write|durable-write|trim]
                    [--pattern random|sequential|once] [--block BYTES] [--depth N]
                    [--connections N] [--seconds S] [--pid PID]

Measures Blockyard beside other NBD servers and prints a table, the targets, and whether each holds.
--quick (the default) takes some minutes and measures the rows that targets name; --full measures
all, and its report belongs in docs/performance/. Rows are named by how their names start; `--list`
prints them. A report that is there keeps the rows that are not measured again.

  --rounds N     of each row; all servers take their turn in each (3)
  --seconds S    of one measurement (1 or 3)
  --gib N        of the image (1 or 2)
  --dir DIR      where servers keep their files; needs four images of space and O_DIRECT (target/bench)
  --output DIR   where the report goes (target/bench/report or docs/performance)

`growth` measures how Blockyard's cost grows and writes growth.md: images, pools (up to 1024 GiB), dirty (up
to 1,000,000 clusters), references (up to 100,000), recovery, flush, fragments, amplification (10 GiB for
600 s). Parts that are there and not measured again stay.

BENCH_HOOK names a command that is run as `COMMAND begin ROW` and `COMMAND end ROW`.
`load` puts one load on a server that runs already; it does not look at what it reads.";

/// Words with a value, and the rest.
struct Flags<'a> {
    values: Vec<(&'a str, &'a str)>,
    rest: Vec<&'a str>,
}

const WITH_VALUE: &[&str] = &[
    "--rounds",
    "--seconds",
    "--gib",
    "--dir",
    "--output",
    "--programs",
    "--qemu",
    "--socket",
    "--export",
    "--operation",
    "--pattern",
    "--block",
    "--depth",
    "--connections",
    "--pid",
    "--pool-gib",
    "--dirty",
    "--references",
    "--amplification-seconds",
    "--amplification-gib",
];
const ALONE: &[&str] = &["--quick", "--full", "--list", "--help"];

impl<'a> Flags<'a> {
    fn parse(arguments: &'a [String]) -> Result<Flags<'a>> {
        let mut flags = Flags { values: Vec::new(), rest: Vec::new() };
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            if WITH_VALUE.contains(&argument) {
                let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
                flags.values.push((argument, value));
            } else if argument.starts_with('-') && !ALONE.contains(&argument) {
                return Err(format!("unknown flag {argument}\n\n{HELP}").into());
            } else {
                flags.rest.push(argument);
            }
        }
        Ok(flags)
    }

    fn has(&self, flag: &str) -> bool {
        self.rest.contains(&flag)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        Some(self.values.iter().find(|(known, _)| *known == name)?.1)
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("{name} {text}: not a number").into())
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let flags = Flags::parse(arguments)?;
    if flags.has("--help") {
        println!("{HELP}");
        return Ok(());
    }
    match flags.rest.first() {
        Some(&"load") => load(&flags),
        Some(&"growth") => growth(&flags, arguments),
        _ => bench(&flags, arguments),
    }
}

fn bench(flags: &Flags<'_>, arguments: &[String]) -> Result<()> {
    let full = flags.has("--full");
    let wanted: Vec<&str> = flags.rest.iter().copied().filter(|w| !w.starts_with('-')).collect();
    let chosen = |name: &str| wanted.iter().any(|wanted| name.starts_with(wanted));
    // Rows that are named are measured with all servers.
    let mut rows = rows(!full && wanted.is_empty());
    rows.retain(|row| wanted.is_empty() || chosen(&row.name));
    if rows.is_empty() {
        return Err("no such row; see --list".into());
    }
    if flags.has("--list") {
        rows.iter().for_each(|row| println!("{:<28} {}", row.name, row.title));
        return Ok(());
    }
    let name = if full { "full" } else { "quick" };
    let plan = plan(flags, full)?;
    let default = if full { "docs/performance" } else { "target/bench/report" };
    let output = PathBuf::from(flags.text("--output").unwrap_or(default));
    let mut measured = run::describe(&plan, spoken(arguments))?;
    if !wanted.is_empty() {
        keep_known_rows(&mut measured, &output.join(format!("{name}.json")));
    }
    measured.machine.versions.iter().for_each(|version| println!("{version}"));
    let outcome = run::run(&plan, &rows, |row| {
        print!("{}", lines(row));
        measured.put(row.clone());
        measured.write(&output, name)
    });
    if outcome.is_ok() && wanted.is_empty() {
        plan.tell_hook("begin", "figures")?;
        let figures = growth::figures(&plan, &growth_options(flags, full)?);
        plan.tell_hook("end", "figures")?;
        figures?.into_iter().for_each(|figure| measured.put_figure(figure));
        measured.write(&output, name)?;
    }
    std::fs::remove_dir_all(&plan.folder)?;
    outcome?;
    println!("\n{}", measured.targets());
    println!("report: {}/{name}.md", output.display());
    match measured.failures() {
        0 => Ok(()),
        failures => Err(format!("{failures} servers failed in a row").into()),
    }
}

fn growth(flags: &Flags<'_>, arguments: &[String]) -> Result<()> {
    let plan = plan(flags, false)?;
    let output = PathBuf::from(flags.text("--output").unwrap_or("docs/performance"));
    let options = growth_options(flags, true)?;
    let outcome = growth::run(&plan, &options, &flags.rest[1..], &spoken(arguments), &output);
    std::fs::remove_dir_all(&plan.folder)?;
    outcome
}

fn growth_options(flags: &Flags<'_>, full: bool) -> Result<growth::Options> {
    let of = |full_value, quick| if full { full_value } else { quick };
    Ok(growth::Options {
        amplification_seconds: flags.number("--amplification-seconds", of(600.0, 10.0))?,
        amplification_gib: flags.number("--amplification-gib", of(10.0, 1.0))?,
        pool_gib: flags.number("--pool-gib", 1024)?,
        dirty: flags.number("--dirty", 1_000_000)?,
        references: flags.number("--references", 100_000)?,
    })
}

/// The command as a user would give it: without what the script adds, and where the report went.
fn spoken(arguments: &[String]) -> String {
    let mut words = vec!["script/bench"];
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--programs" | "--qemu" | "--output" => drop(arguments.next()),
            other => words.push(other),
        }
    }
    words.join(" ")
}

fn keep_known_rows(measured: &mut Measured, path: &std::path::Path) {
    let known = std::fs::read_to_string(path).unwrap_or_default();
    if let Ok(known) = serde_json::from_str::<Measured>(&known) {
        measured.rows = known.rows;
        measured.figures = known.figures;
    }
}

fn plan(flags: &Flags<'_>, full: bool) -> Result<Plan> {
    let folder = PathBuf::from(flags.text("--dir").unwrap_or("target/bench"));
    std::fs::create_dir_all(&folder)?;
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(folder.canonicalize()?)?;
    let ours = PathBuf::from(flags.text("--programs").unwrap_or("target/release"));
    let programs = Programs {
        examples: ours.join("examples"),
        ours,
        qemu: flags.text("--qemu").map(PathBuf::from),
    };
    let gib: f64 = flags.number("--gib", if full { 2.0 } else { 1.0 })?;
    Ok(Plan {
        rounds: flags.number("--rounds", 3)?,
        time: Duration::from_secs_f64(flags.number("--seconds", if full { 3.0 } else { 1.0 })?),
        size: (gib * 1024.0) as u64 * (1 << 20),
        folder: folder.keep(),
        programs,
        hook: std::env::var("BENCH_HOOK").ok().filter(|hook| !hook.is_empty()),
    })
}

/// A row for the terminal.
fn lines(row: &RowReport) -> String {
    let mut text = format!("\n{}, {} ({})\n", row.title, row.mode.name(), row.name);
    for server in &row.servers {
        let name = server.kind.name();
        if let Some(failure) = &server.failure {
            text += &format!("  {name:<26} failed: {failure}\n");
            continue;
        }
        let median = |figure: fn(&Sample) -> Option<f64>| {
            server
                .spread(figure)
                .map_or_else(|| "-".to_owned(), |spread| format!("{:.1}", spread.median))
        };
        text += &format!(
            "  {name:<26} {:>10} IOPS {:>8} MB/s  p50 {:>8} p99 {:>8} us  CPU {:>7} us\n",
            median(|sample| Some(sample.rate.round())),
            median(|sample| Some(sample.megabytes)),
            median(|sample| sample.p50_us),
            median(|sample| sample.p99_us),
            median(|sample| sample.cpu_us),
        );
    }
    text
}

fn load(flags: &Flags<'_>) -> Result<()> {
    let operation = match flags.text("--operation").unwrap_or("read") {
        "read" => Operation::Read,
        "write" => Operation::Write,
        "durable-write" => Operation::DurableWrite,
        "trim" => Operation::Trim,
        other => return Err(format!("no operation is called {other}").into()),
    };
    let pattern = match flags.text("--pattern").unwrap_or("random") {
        "random" => Pattern::Random,
        "sequential" => Pattern::Sequential,
        "once" => Pattern::Once,
        other => return Err(format!("no pattern is called {other}").into()),
    };
    let (block, depth) = (flags.number("--block", 4096)?, flags.number("--depth", 32)?);
    let mut load = Load::new(operation, pattern, block, depth)
        .over(flags.number("--connections", 1)?)
        .lasting(Duration::from_secs_f64(flags.number("--seconds", 5.0)?));
    load.stamped = false;
    let address = Address {
        socket: flags.text("--socket").ok_or("--socket PATH is missing")?.into(),
        export: flags.text("--export").unwrap_or_default().to_owned(),
    };
    let usage = || match flags.text("--pid") {
        Some(pid) => crate::process::usage_of(pid.parse()?),
        None => Ok(crate::process::Usage::default()),
    };
    let (outcome, before, after) = client::run(&address, &load, usage)?;
    let sample = Sample::of_outcome(&outcome, load.block).costing(before, after, 0);
    println!(
        "{:.0} IOPS, {:.1} MB/s, p50 {:.1} p99 {:.1} us, {:.2} us server CPU per request",
        sample.rate,
        sample.megabytes,
        sample.p50_us.unwrap_or_default(),
        sample.p99_us.unwrap_or_default(),
        sample.cpu_us.unwrap_or_default(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Flags, spoken};

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_misspelt_flag_is_refused() {
        assert!(Flags::parse(&words("--fulll")).is_err());
        assert!(Flags::parse(&words("--seconds")).is_err());
        let line = words("--seconds x read-4k");
        let flags = Flags::parse(&line).unwrap();
        assert!(flags.number("--seconds", 1.0).is_err());
        assert_eq!(flags.rest, ["read-4k"]);
    }

    #[test]
    fn the_command_is_told_as_it_was_given() {
        let line = words("--programs target/release --full --qemu x --output /tmp/y read-4k");
        assert_eq!(spoken(&line), "script/bench --full read-4k");
    }
}
