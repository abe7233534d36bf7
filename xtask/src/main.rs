//! Chores of this repository: `cargo xtask COMMAND`. One file per command; this one finds it.
//!
//! Exit codes are the same for all: 0 it holds, 1 it does not, 2 could not tell.
#![forbid(unsafe_code)]

mod break_invariants;
mod make_pool;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why nothing could be said, in words for the terminal.
type Unclear = Box<dyn std::error::Error>;

struct Command {
    name: &'static str,
    /// One line for the list of commands.
    about: &'static str,
    /// All of it, for `COMMAND --help`.
    help: &'static str,
    /// Gets the arguments after the name; false means that what was to be shown does not hold.
    run: fn(&[String]) -> Result<bool, Unclear>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "break-invariants",
        about: "break each rule of the engine and see the simulation catch it",
        help: break_invariants::HELP,
        run: break_invariants::run,
    },
    Command {
        name: "make-pool",
        about: "make a large pool without data, to measure",
        help: make_pool::HELP,
        run: make_pool::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(unclear) => {
            eprintln!("xtask: {unclear}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<bool, Unclear> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(format!("which command?\n\n{}", overview()).into());
    };
    if is_help(name) {
        println!("{}", overview());
        return Ok(true);
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        return Err(format!("no command is called {name:?}\n\n{}", overview()).into());
    };
    if rest.iter().any(|argument| is_help(argument)) {
        println!("{}", command.help);
        return Ok(true);
    }
    (command.run)(rest)
}

fn is_help(argument: &str) -> bool {
    ["--help", "-h", "help"].contains(&argument)
}

fn overview() -> String {
    let mut text = "usage: cargo xtask COMMAND [ARGUMENTS]\n\ncommands:\n".to_owned();
    for Command { name, about, .. } in COMMANDS {
        text += &format!("  {name:<18} {about}\n");
    }
    text + "\n`cargo xtask COMMAND --help` says more."
}

/// The top of the repository.
fn repository() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo builds, unless told otherwise by --target-dir.
fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => repository().join(directory),
        None => repository().join("target"),
    }
}

/// The cargo that runs us, so that the same toolchain builds everything.
fn cargo() -> std::process::Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(program);
    command.current_dir(repository());
    command
}

#[cfg(test)]
mod tests;
