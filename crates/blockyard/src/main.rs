//! The one program: `blockyard serve` is the daemon, every other command asks a daemon over its
//! control socket. Exit codes come from the kind of the error (`ErrorKind::exit_code`).
#![forbid(unsafe_code)]

mod command_line;
mod commands;
mod config;
mod daemon;
mod output;
mod size;
mod transfer_file;

use clap::Parser;
use command_line::CommandLine;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match commands::run(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(output::exit_code(&error))
        }
    }
}
