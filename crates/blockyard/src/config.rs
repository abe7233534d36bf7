//! Settings: flags over environment (`BLOCKYARD_*`) over the user's file over the system's.
//!
//! Each source is a [`Layer`]; the first layer that says something about a setting decides it. A
//! layer that names a pool decides where the daemon is, whatever lower layers say of sockets.

mod environment;
mod serve;

pub(crate) use serve::{IoMode, IoThreads, LogFormat, ServeSettings, SocketMode, Switch};

use blockyard_block::{Error, ErrorKind, Result};
use clap::Args;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

/// Where help tells of flags that every command understands, behind its own.
pub(crate) const OF_EVERY_COMMAND: &str = "Options of every command";

/// Which pool, and which daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct Location {
    /// The pool's directory [env: BLOCKYARD_POOL; default: ~/.local/share/blockyard, for root
    /// /var/lib/blockyard]
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND, value_name = "DIR")]
    pub(crate) pool: Option<PathBuf>,

    /// The daemon's control socket, PATH or unix:PATH [env: BLOCKYARD_API; default: api.sock in the
    /// pool's directory]
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND, value_name = "ADDR")]
    pub(crate) api: Option<String>,
}

/// What one source says. The shape of the config file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Layer {
    pool: Option<PathBuf>,
    api: Option<String>,
    serve: ServeSettings,
}

/// All sources, the strongest first.
#[derive(Debug)]
pub(crate) struct Config {
    layers: Vec<Layer>,
    pool_default: Option<PathBuf>,
}

impl Config {
    /// Reads environment and files. `file` replaces the usual files and must exist.
    pub(crate) fn load(
        location: Location,
        serve: ServeSettings,
        file: Option<PathBuf>,
    ) -> Result<Config> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut layers = vec![
            Layer { pool: location.pool, api: location.api, serve },
            environment::layer(&variable)?,
        ];
        match file.or_else(|| variable("BLOCKYARD_CONFIG").map(PathBuf::from)) {
            Some(file) => layers.push(read_file(&file).and_then(|layer| {
                layer.ok_or_else(|| {
                    let message = format!("there is no config file {}", file.display());
                    Error::new(ErrorKind::NotFound, message)
                })
            })?),
            None => {
                for file in environment::usual_files(&variable) {
                    layers.extend(read_file(&file)?);
                }
            }
        }
        Ok(Config { layers, pool_default: environment::pool_default(&variable) })
    }

    /// The pool's directory.
    pub(crate) fn pool(&self) -> Result<PathBuf> {
        let named = self.layers.iter().find_map(|layer| layer.pool.clone());
        named.or_else(|| self.pool_default.clone()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "which pool? Name it with --pool DIR")
        })
    }

    /// The control socket of the daemon that is asked, or that is about to serve.
    pub(crate) fn api_socket(&self) -> Result<PathBuf> {
        for layer in &self.layers {
            if let Some(address) = &layer.api {
                return parse_address(address);
            }
            if let Some(socket) = &layer.serve.api_socket {
                return Ok(socket.clone());
            }
            if let Some(pool) = &layer.pool {
                return Ok(pool.join("api.sock"));
            }
        }
        Ok(self.pool()?.join("api.sock"))
    }

    /// What the daemon is told, merged from all layers.
    pub(crate) fn serve(&self) -> ServeSettings {
        self.layers.iter().fold(ServeSettings::default(), |upper, layer| upper.over(&layer.serve))
    }

    /// For the error when no daemon answers.
    pub(crate) fn how_to_start(&self) -> String {
        match self.pool() {
            Ok(pool) => format!("start one with: blockyard serve --pool {}", pool.display()),
            Err(_) => "start one with: blockyard serve --pool DIR".to_owned(),
        }
    }
}

/// `unix:PATH` or `PATH`.
fn parse_address(address: &str) -> Result<PathBuf> {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    if path.is_empty() || path.contains("://") {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{address:?} is not an address: use unix:PATH or PATH"),
        ));
    }
    Ok(PathBuf::from(path))
}

/// What a file says, or nothing if there is no such file.
fn read_file(file: &Path) -> Result<Option<Layer>> {
    let place = file.display();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(place, error)),
    };
    toml::from_str(&text)
        .map(Some)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, format!("{place}: {error}")))
}

#[cfg(test)]
mod tests;
