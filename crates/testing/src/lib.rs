//! What every crate's tests share: saying that a test cannot run here. It then returns early and
//! passes; the reason goes to standard error and to the file that `BLOCKYARD_SKIP_LOG` names, because
//! test runners hide what a passing test prints. With `CI=true` a skip is a failure.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;

/// Says why the running test proves nothing here. The caller returns.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped in CI: {reason}");
    let line = format!("skipped: {test}: {}\n", reason.replace('\n', " "));
    eprint!("{line}");
    if let Some(log) = std::env::var_os("BLOCKYARD_SKIP_LOG") {
        append(Path::new(&log), &line);
    }
}

/// Whether all `programs` are installed; skips the test if one is not.
pub fn have_programs(programs: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |program: &str| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    match programs.iter().find(|program| !installed(program)) {
        Some(program) => {
            skip(&format!("{program} is not installed"));
            false
        }
        None => true,
    }
}

/// One write, so that lines of tests that run at the same time stay whole.
fn append(log: &Path, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(log);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        panic!("{}: {error}: a skip that is not counted is a lie", log.display());
    }
}

#[cfg(test)]
mod tests;
