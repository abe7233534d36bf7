//! One file per command: what it takes, what it asks the daemon, what it prints.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod identity;
pub(crate) mod image;
pub(crate) mod job;
pub(crate) mod man;
pub(crate) mod peer;
pub(crate) mod pool;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod quote;
pub(crate) mod receive;
pub(crate) mod reclaim;
pub(crate) mod scrub;
pub(crate) mod serve;
mod transfer;
mod via;

use crate::command_line::{Command, CommandLine, SharedFlags};
use crate::config::{Config, ServeSettings};
use crate::output::Output;
use anyhow::Result;
use blockyard_api::Client;
use blockyard_block::{Error, ErrorKind};
use std::os::unix::net::UnixStream;

/// What commands share: where the daemon is and how to print.
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) output: Output,
}

impl Session {
    /// A client of the daemon that serves the pool. Connects when first used.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(self.config.api_socket()?)?)
    }

    /// Adds how to start a daemon when none answers.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let answers = || self.config.api_socket().is_ok_and(|it| UnixStream::connect(it).is_ok());
        match error.downcast_ref::<Error>() {
            Some(cause) if cause.kind() == ErrorKind::ShutDown && !answers() => {
                let hint = self.config.how_to_start();
                Error::new(ErrorKind::ShutDown, format!("{cause}; {hint}")).into()
            }
            _ => error,
        }
    }
}

/// Runs the command that was asked for.
pub(crate) fn run(command_line: CommandLine) -> Result<()> {
    let CommandLine { shared, command } = command_line;
    let output = Output::new(shared.json);
    match command {
        Command::Completions(flags) => completions::run(&flags),
        Command::Man(flags) => man::run(&flags),
        Command::Serve(flags) => {
            let config = Config::load(shared.location, flags.settings, shared.config)?;
            serve::run(&config)
        }
        Command::Check(flags) => check::run(&flags, &shared_config(shared)?, output),
        Command::Image(command) => {
            asking(shared_config(shared)?, output, |session| image::run(&command, session))
        }
        Command::Identity(_) => asking(shared_config(shared)?, output, identity::run),
        Command::Peer(command) => {
            asking(shared_config(shared)?, output, |session| peer::run(&command, session))
        }
        Command::Push(flags) => {
            asking(shared_config(shared)?, output, |session| push::run(&flags, session))
        }
        Command::Pull(flags) => {
            asking(shared_config(shared)?, output, |session| pull::run(&flags, session))
        }
        Command::Quote(flags) => {
            asking(shared_config(shared)?, output, |session| quote::run(&flags, session))
        }
        Command::Receive(flags) => {
            asking(shared_config(shared)?, output, |session| receive::run(&flags, session))
        }
        Command::Send(flags) => {
            asking(shared_config(shared)?, output, |session| receive::run_send(&flags, session))
        }
        Command::Pool(command) => {
            asking(shared_config(shared)?, output, |session| pool::run(&command, session))
        }
        Command::Job(command) => {
            asking(shared_config(shared)?, output, |session| job::run(&command, session))
        }
        Command::Reclaim(flags) => {
            asking(shared_config(shared)?, output, |session| reclaim::run(&flags, session))
        }
        Command::Scrub(flags) => {
            asking(shared_config(shared)?, output, |session| scrub::run(&flags, session))
        }
    }
}

fn shared_config(shared: SharedFlags) -> Result<Config> {
    Ok(Config::load(shared.location, ServeSettings::default(), shared.config)?)
}

/// Runs a command that asks a daemon.
fn asking(
    config: Config,
    output: Output,
    command: impl FnOnce(&Session) -> Result<()>,
) -> Result<()> {
    let session = Session { config, output };
    command(&session).map_err(|error| session.explain(error))
}
