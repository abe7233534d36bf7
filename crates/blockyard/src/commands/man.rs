//! `blockyard man DIR`: a man page for every command.

use crate::command_line::CommandLine;
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// Write man pages into a folder, which is made if need be
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The folder, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let place = || format!("cannot write man pages into {}", flags.folder.display());
    std::fs::create_dir_all(&flags.folder).with_context(place)?;
    clap_mangen::generate_to(CommandLine::command(), &flags.folder).with_context(place)
}
