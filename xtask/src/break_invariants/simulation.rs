//! One run of a judge, the simulation or the real stack: which rule is broken, for how long at most,
//! and how it ended.

use crate::Unclear;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every seed held.
    Passed,
    /// A violation was found, or an assertion of the engine tripped.
    Failed,
    /// It was stopped by the time limit or a signal, or it refused its arguments.
    Unclear,
}

pub(super) struct Simulation {
    program: PathBuf,
    arguments: Vec<String>,
    log_folder: PathBuf,
    time_limit: Duration,
}

impl Simulation {
    pub(super) fn new(
        program: PathBuf,
        arguments: Vec<String>,
        log_folder: PathBuf,
        time_limit: Duration,
    ) -> Result<Simulation, Unclear> {
        fs::create_dir_all(&log_folder)?;
        Ok(Simulation { program, arguments, log_folder, time_limit })
    }

    /// Runs all seeds with the rule of this name broken. What it prints goes to a file of the
    /// same name.
    pub(super) fn run(&self, broken: Option<&str>) -> Result<Verdict, Unclear> {
        let log = File::create(self.log_folder.join(broken.unwrap_or("unbroken")))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_remove("BLOCKYARD_BREAK");
        // What a judge cannot try here must not count as tried.
        command.env("CI", "true");
        if let Some(name) = broken {
            command.env("BLOCKYARD_BREAK", name);
        }
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        self.wait(command)
    }

    fn wait(&self, mut command: Command) -> Result<Verdict, Unclear> {
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let start = Instant::now();
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(judge(status));
            }
            if start.elapsed() >= self.time_limit {
                child.kill()?;
                child.wait()?;
                return Ok(Verdict::Unclear);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

fn judge(status: ExitStatus) -> Verdict {
    /// What a Rust program ends with after a panic.
    const PANICKED: i32 = 101;
    match status.code() {
        Some(0) => Verdict::Passed,
        Some(1 | PANICKED) => Verdict::Failed,
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::{Simulation, Verdict};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    /// A child being started elsewhere could hold a script open for writing: ETXTBSY.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn verdict(script: &str, broken: Option<&str>) -> (Verdict, String) {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("simulation");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let log = folder.path().join("log");
        let limit = Duration::from_millis(500);
        let arguments = ["--seeds", "0..7"].map(str::to_owned).to_vec();
        let simulation = Simulation::new(program, arguments, log.clone(), limit).unwrap();
        let verdict = simulation.run(broken).unwrap();
        let printed = std::fs::read_to_string(log.join(broken.unwrap_or("unbroken"))).unwrap();
        (verdict, printed)
    }

    #[test]
    fn the_exit_code_decides() {
        assert_eq!(verdict("exit 0", None).0, Verdict::Passed);
        assert_eq!(verdict("exit 1", None).0, Verdict::Failed);
        assert_eq!(verdict("exit 101", None).0, Verdict::Failed);
        assert_eq!(verdict("exit 2", None).0, Verdict::Unclear);
        assert_eq!(verdict("kill -9 $$", None).0, Verdict::Unclear);
    }

    #[test]
    fn a_run_without_end_is_ended_and_proves_nothing() {
        assert_eq!(verdict("exec sleep 60", None).0, Verdict::Unclear);
    }

    #[test]
    fn the_simulation_gets_its_seeds_and_the_name_of_the_break() {
        let script = "echo $@ broken=$BLOCKYARD_BREAK >&2";
        assert_eq!(verdict(script, Some("x")).1, "--seeds 0..7 broken=x\n");
        assert_eq!(verdict(script, None).1, "--seeds 0..7 broken=\n");
    }
}
