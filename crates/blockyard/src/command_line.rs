//! The whole command line as types. What a command takes is defined beside the command; parser,
//! help, completions and man pages all come from here.

use crate::commands::{
    check, completions, identity, image, job, man, peer, pool, pull, push, quote, receive, reclaim,
    scrub, serve,
};
use crate::config::{Location, OF_EVERY_COMMAND};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Serves virtual-machine disks from a pool that knows the content of every cluster.
#[derive(Debug, Parser)]
#[command(name = "blockyard", version, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) shared: SharedFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command understands.
#[derive(Debug, Args)]
pub(crate) struct SharedFlags {
    #[command(flatten)]
    pub(crate) location: Location,

    /// Read this config file only [env: BLOCKYARD_CONFIG; otherwise /etc/blockyard/config.toml and,
    /// over it, ~/.config/blockyard/config.toml]
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print data as JSON with stable field names
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(serve::Flags),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Pool(pool::Command),
    Push(push::Flags),
    Pull(pull::Flags),
    Quote(quote::Flags),
    Receive(receive::Flags),
    Send(receive::SendFlags),
    #[command(subcommand)]
    Peer(peer::Command),
    Identity(identity::Flags),
    #[command(subcommand)]
    Job(job::Command),
    Reclaim(reclaim::Flags),
    Scrub(scrub::Flags),
    Check(check::Flags),
    Completions(completions::Flags),
    Man(man::Flags),
}

#[cfg(test)]
mod tests {
    use super::CommandLine;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        CommandLine::command().debug_assert();
    }
}
