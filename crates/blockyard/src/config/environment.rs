//! What the environment says: settings, and where a user's files are.

use super::{Layer, ServeSettings};
use blockyard_block::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Looks a variable up; empty ones count as unset.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// `BLOCKYARD_POOL`, `BLOCKYARD_API`, and `BLOCKYARD_HASH` and so on for the daemon.
pub(super) fn layer(variable: Lookup<'_>) -> Result<Layer> {
    let api = variable("BLOCKYARD_API").map(|value| text("BLOCKYARD_API", value)).transpose()?;
    let mut serve = ServeSettings::default();
    for key in ServeSettings::KEYS {
        let name = format!("BLOCKYARD_{}", key.to_ascii_uppercase());
        if let Some(value) = variable(&name) {
            serve = serve.over(&setting(key, &name, text(&name, value)?)?);
        }
    }
    Ok(Layer { pool: variable("BLOCKYARD_POOL").map(PathBuf::from), api, serve })
}

/// One setting, read as the config file would read it.
fn setting(key: &str, name: &str, value: String) -> Result<ServeSettings> {
    let table = toml::Table::from_iter([(key.to_owned(), toml::Value::String(value))]);
    ServeSettings::deserialize(table)
        .map_err(|error| Error::new(ErrorKind::InvalidArgument, format!("{name}: {error}")))
}

fn text(name: &str, value: OsString) -> Result<String> {
    value.into_string().map_err(|_| {
        Error::new(ErrorKind::InvalidArgument, format!("{name} holds bytes that are not UTF-8"))
    })
}

/// The config files read unless one is named, the strongest first.
pub(super) fn usual_files(variable: Lookup<'_>) -> Vec<PathBuf> {
    let user = folder(variable, "XDG_CONFIG_HOME", ".config");
    let folders = user.into_iter().chain([PathBuf::from("/etc")]);
    folders.map(|folder| folder.join("blockyard/config.toml")).collect()
}

/// Where the pool is unless said otherwise.
pub(super) fn pool_default(variable: Lookup<'_>) -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/blockyard"));
    }
    folder(variable, "XDG_DATA_HOME", ".local/share").map(|folder| folder.join("blockyard"))
}

/// A folder of the XDG base directory specification, which has relative ones ignored.
fn folder(variable: Lookup<'_>, name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |path: PathBuf| Some(path).filter(|path| Path::is_absolute(path));
    variable(name).map(PathBuf::from).and_then(absolute).or_else(|| {
        variable("HOME").map(|home| Path::new(&home).join(below_home)).and_then(absolute)
    })
}
