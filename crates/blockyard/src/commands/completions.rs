//! `blockyard completions SHELL`: a completion script on standard output.

use crate::command_line::CommandLine;
use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Flags {
    shell: Shell,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut command = CommandLine::command();
    clap_complete::generate(flags.shell, &mut command, "blockyard", &mut io::stdout());
    Ok(())
}
