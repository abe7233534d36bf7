//! The machine and the versions, for whoever reads the figures later.

use crate::Result;
use crate::run::Plan;
use crate::servers::must;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    /// Programs that wanted to run when it began, the mean of a minute.
    pub(crate) load: String,
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn here(plan: &Plan) -> Result<Machine> {
        let information = fs::read_to_string("/proc/cpuinfo")?;
        let processor = line_value(&information, "model name").unwrap_or("unknown").to_owned();
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kilobytes = line_value(&memory, "MemTotal").and_then(|v| v.split(' ').next());
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Machine {
            date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            processor,
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: kilobytes.map_or(Ok(0), str::parse)? * 1024,
            kernel: first_line("uname", &["-sr"]),
            file_system: file_system(&plan.folder),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            versions: versions(plan),
        })
    }
}

fn versions(plan: &Plan) -> Vec<String> {
    let commit = first_line("git", &["rev-parse", "--short", "HEAD"]);
    let changed = must(Command::new("git").args(["diff", "--quiet", "HEAD"])).is_err();
    let ours = first_line(&plan.programs.blockyard().display().to_string(), &["--version"]);
    let qemu = |name: &str| plan.programs.qemu(name).display().to_string();
    vec![
        format!("{ours}, commit {commit}{}", if changed { " and changes" } else { "" }),
        first_line(&qemu("qemu-nbd"), &["--version"]),
        first_line(&qemu("qemu-storage-daemon"), &["--version"]),
        first_line("nbdkit", &["--version"]),
        first_line("nbd-server", &["-V"]),
        first_line("fio", &["--version"]),
        first_line("nbdcopy", &["--version"]),
    ]
}

fn file_system(folder: &Path) -> String {
    let folder = folder.display().to_string();
    first_line("findmnt", &["-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", &folder])
}

/// What a program says first, on either output; that it is missing if it is.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return format!("{program}: not there");
    };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

fn line_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}
