//! Measures rows: all servers of a row in each round, one after the other, so that what disturbs the
//! machine disturbs all of them.

use crate::client::{self, Load, Operation};
use crate::report::{Machine, Measured, RowReport, ServerReport};
use crate::rows::{Content, Row, Work};
use crate::sample::Sample;
use crate::servers::{Kind, Mode, Place, Programs, Server, must};
use crate::{Result, fio, raw};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// How long each measurement takes.
    pub(crate) time: Duration,
    /// Bytes of an image.
    pub(crate) size: u64,
    pub(crate) folder: PathBuf,
    pub(crate) programs: Programs,
    /// A command that is told `begin ROW` and `end ROW`, to keep others off a shared machine.
    pub(crate) hook: Option<String>,
}

/// Measures all `rows`, telling `seen` of each.
pub(crate) fn run(
    plan: &Plan,
    rows: &[Row],
    mut seen: impl FnMut(&RowReport) -> Result<()>,
) -> Result<()> {
    let written = plan.place("written")?;
    for mode in [Mode::Direct, Mode::Cached] {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.mode == mode).collect();
        let on_written = rows.iter().filter(|row| row.content == Content::Written);
        let mut kinds: Vec<Kind> = on_written.flat_map(|row| row.kinds.iter().copied()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let fleet = start_fleet(plan, &written, &kinds, mode)?;
        for row in rows {
            plan.tell_hook("begin", &row.name)?;
            let measured = measure_row(plan, &written, &fleet, row);
            plan.tell_hook("end", &row.name)?;
            seen(&measured?)?;
        }
    }
    Ok(())
}

impl Plan {
    fn place(&self, name: &str) -> Result<Place> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Place { folder, programs: self.programs.clone(), size: self.size })
    }

    pub(crate) fn tell_hook(&self, word: &str, name: &str) -> Result<()> {
        match &self.hook {
            Some(hook) => must(Command::new(hook).args([word, name])),
            None => Ok(()),
        }
    }
}

/// Starts a server of each kind over a written image, which stays up over all rows of the mode.
fn start_fleet(plan: &Plan, place: &Place, kinds: &[Kind], mode: Mode) -> Result<Vec<Server>> {
    let mut fleet = Vec::new();
    let mut ready = Vec::new();
    for kind in kinds {
        let path = place.path_of(*kind);
        if *kind == Kind::Raw {
            if !path.exists() {
                raw::fill(&path, plan.size)?;
            }
            continue;
        }
        let server = place.start(*kind, mode)?;
        // Some share a file. It is written anew for each mode, since fio's writes bear no stamps.
        if !ready.contains(&path) {
            server.fill(mode as u64, None)?;
            if mode == Mode::Cached {
                server.warm()?;
            }
            ready.push(path);
        }
        fleet.push(server);
    }
    Ok(fleet)
}

fn measure_row(plan: &Plan, written: &Place, fleet: &[Server], row: &Row) -> Result<RowReport> {
    let mut servers: Vec<ServerReport> =
        row.kinds.iter().map(|kind| ServerReport::new(*kind)).collect();
    for round in 0..plan.rounds {
        for report in &mut servers {
            let kind = report.kind;
            let sample = match row.content {
                Content::Written if kind == Kind::Raw => measure_raw(plan, written, row),
                Content::Written => {
                    let server = fleet.iter().find(|server| server.kind == kind);
                    measure(plan, server.ok_or("a server was not started")?, row, round)
                }
                Content::Empty | Content::Scratch => measure_own(plan, kind, row, round),
            };
            match sample {
                Ok(sample) => report.samples.push(sample),
                Err(error) => report.failure = Some(error.to_string()),
            }
        }
    }
    Ok(RowReport {
        name: row.name.clone(),
        title: row.title.clone(),
        mode: row.mode,
        by_bytes: row.by_bytes,
        servers,
    })
}

/// On a server and an image of its own.
fn measure_own(plan: &Plan, kind: Kind, row: &Row, round: usize) -> Result<Sample> {
    let folder = tempfile::tempdir_in(&plan.folder)?;
    let mut place = plan.place("own")?;
    place.folder = folder.path().to_owned();
    if row.content == Content::Scratch {
        place.size = plan.size / 4;
    }
    let server = place.start(kind, row.mode)?;
    if row.content == Content::Scratch {
        server.fill(1, None)?;
    }
    measure(plan, &server, row, round)
}

fn measure(plan: &Plan, server: &Server, row: &Row, round: usize) -> Result<Sample> {
    match row.work {
        Work::Batches(load) => {
            let load = load.seeded(round as u64 + 2).lasting(plan.time);
            if row.content == Content::Written {
                server.load(&load.lasting(plan.time / 10))?;
            }
            measure_load(server, &load.seeded(round as u64 + 100))
        }
        Work::FioNbd(load) => {
            server.process.forget_peak()?;
            let before = server.process.usage()?;
            let sample = fio::on_nbd(&load.lasting(plan.time), &server.address.uri())?;
            let after = server.process.usage()?;
            Ok(sample.costing(before, after, server.process.memory()?.0))
        }
        Work::NbdCopy => measure_copy(plan, server),
    }
}

/// Our client on a server.
pub(crate) fn measure_load(server: &Server, load: &Load) -> Result<Sample> {
    server.process.forget_peak()?;
    let mut peak = 0;
    let (outcome, before, after) = client::run(&server.address, load, || {
        peak = server.process.memory()?.0;
        server.process.usage()
    })?;
    Ok(Sample::of_outcome(&outcome, load.block).costing(before, after, peak))
}

/// What nbdcopy asks for with one request.
const COPY_BYTES: usize = 256 << 10;

fn measure_copy(plan: &Plan, server: &Server) -> Result<Sample> {
    server.process.forget_peak()?;
    let before = server.process.usage()?;
    let begun = Instant::now();
    must(Command::new("nbdcopy").args(["--connections=4", &server.address.uri(), "null:"]))?;
    let elapsed = begun.elapsed().as_secs_f64();
    let after = server.process.usage()?;
    let requests = plan.size / COPY_BYTES as u64;
    let rate = requests as f64 / elapsed;
    let sample =
        Sample { requests, rate, megabytes: rate * COPY_BYTES as f64 / 1e6, ..Sample::default() };
    Ok(sample.costing(before, after, server.process.memory()?.0))
}

fn measure_raw(plan: &Plan, place: &Place, row: &Row) -> Result<Sample> {
    let Work::Batches(load) = row.work else { return Err("no such load on a file".into()) };
    let path = place.path_of(Kind::Raw);
    if load.operation == Operation::DurableWrite {
        let (latencies, elapsed) = raw::durable_writes(&path, row.mode, plan.size, plan.time)?;
        return Ok(Sample::of_requests(&latencies, elapsed, load.block));
    }
    fio::on_file(&load.lasting(plan.time), row.mode, &path, plan.size)
}

/// Everything about a run but its rows.
pub(crate) fn describe(plan: &Plan, command: String) -> Result<Measured> {
    Ok(Measured {
        machine: Machine::here(plan)?,
        command,
        rounds: plan.rounds,
        seconds: plan.time.as_secs_f64(),
        image_bytes: plan.size,
        rows: Vec::new(),
        figures: Vec::new(),
    })
}
