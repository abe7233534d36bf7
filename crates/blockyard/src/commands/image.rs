//! `blockyard image ...`: one file per command.

mod clone;
mod create;
mod diff;
mod digest;
mod export;
mod fill;
mod import;
mod info;
mod list;
mod map;
mod profile;
mod remove;
mod remove_dependant;
mod rename;
mod resize;
mod snapshot;
mod tree;

use crate::commands::Session;
use anyhow::Result;
use clap::Subcommand;

/// Make, look at, change and move images
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Create(create::Flags),
    Import(import::Flags),
    Export(export::Flags),
    List(list::Flags),
    Tree(tree::Flags),
    Info(info::Flags),
    Fill(fill::Flags),
    Profile(profile::Flags),
    Rename(rename::Flags),
    Resize(resize::Flags),
    Remove(remove::Flags),
    RemoveDependant(remove_dependant::Flags),
    Diff(diff::Flags),
    Digest(digest::Flags),
    Map(map::Flags),
    Snapshot(snapshot::Flags),
    Clone(clone::Flags),
}

pub(crate) fn run(command: &Command, session: &Session) -> Result<()> {
    match command {
        Command::Create(flags) => create::run(flags, session),
        Command::Import(flags) => import::run(flags, session),
        Command::Export(flags) => export::run(flags, session),
        Command::List(flags) => list::run(flags, session),
        Command::Tree(flags) => tree::run(flags, session),
        Command::Info(flags) => info::run(flags, session),
        Command::Fill(flags) => fill::run(flags, session),
        Command::Profile(flags) => profile::run(flags, session),
        Command::Rename(flags) => rename::run(flags, session),
        Command::Resize(flags) => resize::run(flags, session),
        Command::Remove(flags) => remove::run(flags, session),
        Command::RemoveDependant(flags) => remove_dependant::run(flags, session),
        Command::Diff(flags) => diff::run(flags, session),
        Command::Digest(flags) => digest::run(flags, session),
        Command::Map(flags) => map::run(flags, session),
        Command::Snapshot(flags) => snapshot::run(flags, session),
        Command::Clone(flags) => clone::run(flags, session),
    }
}
