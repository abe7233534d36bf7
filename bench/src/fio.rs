//! fio: the ceiling on the raw file, and its NBD engine.

use crate::Result;
use crate::client::{Load, Operation, Pattern};
use crate::sample::Sample;
use crate::servers::Mode;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The load on the file itself, with as many jobs as there are connections.
pub(crate) fn on_file(load: &Load, mode: Mode, file: &Path, size: u64) -> Result<Sample> {
    let mut command = command(load);
    command.arg(format!("--filename={}", file.display())).arg(format!("--size={size}"));
    command.arg(format!("--direct={}", u8::from(mode == Mode::Direct)));
    command.args(["--ioengine=io_uring", "--overwrite=1", "--fallocate=none", "--invalidate=0"]);
    let mut sample = parse(&run(&mut command)?, load)?;
    if load.connections > 1 {
        // fio tells the mean of its jobs, in a form that differs by version.
        sample.cpu_us = None;
    }
    Ok(sample)
}

/// The load through NBD. What fio says of CPU is its own, so none is told.
pub(crate) fn on_nbd(load: &Load, uri: &str) -> Result<Sample> {
    let mut command = command(load);
    command.args(["--ioengine=nbd", &format!("--uri={uri}")]);
    Ok(Sample { cpu_us: None, ..parse(&run(&mut command)?, load)? })
}

fn command(load: &Load) -> Command {
    let random = load.pattern != Pattern::Sequential;
    let rw = match (load.operation, random) {
        _ if load.reads_percent > 0 => "randrw",
        (Operation::Read, true) => "randread",
        (Operation::Read, false) => "read",
        (_, true) => "randwrite",
        (_, false) => "write",
    };
    let mut command = Command::new("fio");
    command.args(["--name=row", "--output-format=json", "--time_based", "--group_reporting"]);
    command.args(["--norandommap", "--randrepeat=0", "--thread", "--percentile_list=50:99:99.9"]);
    command.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
    command.args([format!("--rw={rw}"), format!("--bs={}", load.block)]);
    command.args([format!("--iodepth={}", load.depth), format!("--numjobs={}", load.connections)]);
    command.arg(format!("--runtime={}ms", load.time.as_millis()));
    if load.reads_percent > 0 {
        command.arg(format!("--rwmixread={}", load.reads_percent));
    }
    command
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("fio: {error}"))?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What fio printed, which may start with lines that are no JSON.
fn parse(text: &str, load: &Load) -> Result<Sample> {
    let json = text.find('{').map(|start| &text[start..]).ok_or("fio printed no JSON")?;
    let report: Value = serde_json::from_str(json)?;
    let job = &report["jobs"][0];
    if job["error"] != 0 {
        return Err(format!("fio: error {}", job["error"]).into());
    }
    let number = |value: &Value| value.as_f64().ok_or("fio's report lacks a number");
    let (reads, writes) = (number(&job["read"]["total_ios"])?, number(&job["write"]["total_ios"])?);
    let rate = number(&job["read"]["iops"])? + number(&job["write"]["iops"])?;
    // Of a mix, the latencies of the more frequent kind.
    let side = if reads > writes { &job["read"] } else { &job["write"] };
    let latency =
        |share: &str| -> Result<f64> { Ok(number(&side["lat_ns"]["percentile"][share])? / 1000.0) };
    let busy = (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0;
    Ok(Sample {
        requests: (reads + writes) as u64,
        rate,
        megabytes: rate * load.block as f64 / 1e6,
        p50_us: Some(latency("50.000000")?),
        p99_us: Some(latency("99.000000")?),
        p999_us: Some(latency("99.900000")?),
        cpu_us: Some(busy * 1e6 / rate),
        peak_memory: None,
        written: None,
    })
}

#[cfg(test)]
mod tests {
    use super::{command, parse};
    use crate::client::{Load, Operation, Pattern};

    const REPORT: &str = r#"note: a line before
{ "jobs": [ { "error": 0, "usr_cpu": 10.0, "sys_cpu": 30.0,
  "read": { "total_ios": 700, "iops": 7000.0, "lat_ns": { "percentile":
    { "50.000000": 4000, "99.000000": 9000, "99.900000": 20000 } } },
  "write": { "total_ios": 300, "iops": 3000.0, "lat_ns": { "percentile": {} } } } ] }"#;

    fn load() -> Load {
        Load::new(Operation::Write, Pattern::Random, 4096, 32).mixed(70)
    }

    #[test]
    fn both_sides_of_a_mix_are_added() {
        let sample = parse(REPORT, &load()).unwrap();
        assert_eq!((sample.requests, sample.rate), (1000, 10_000.0));
        assert_eq!((sample.p50_us, sample.p999_us), (Some(4.0), Some(20.0)));
        assert_eq!(sample.cpu_us, Some(40.0), "0.4 of a second for 10,000 requests");
        assert_eq!(sample.megabytes, 40.96);
    }

    #[test]
    fn an_error_or_a_missing_number_is_no_result() {
        assert!(parse(&REPORT.replace("\"error\": 0", "\"error\": 5"), &load()).is_err());
        assert!(parse(&REPORT.replace("\"iops\": 7000.0,", ""), &load()).is_err());
        assert!(parse("", &load()).is_err());
    }

    #[test]
    fn a_mix_is_told_to_fio() {
        let command = command(&load());
        let arguments: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        assert!(arguments.contains(&"--rw=randrw") && arguments.contains(&"--rwmixread=70"));
    }
}
