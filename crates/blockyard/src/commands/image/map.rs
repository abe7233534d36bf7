//! `blockyard image map NAME`: page by page, so that any image can be printed in little memory.

use crate::commands::Session;
use anyhow::Result;
use blockyard_api::{Client, MapRun, MapState};
use clap::Args;
use std::io::{self, BufWriter, Write};

/// Show what an image is made of, without reading its data
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// Show each cluster of data with its hash
    #[arg(long)]
    hashes: bool,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut client = session.client()?;
    if session.output.json() {
        as_json(flags, &mut client, &mut out)
    } else {
        as_lines(flags, &mut client, &mut out)
    }?;
    Ok(out.flush()?)
}

/// One array of `{offset, length, state, hash}`.
fn as_json(flags: &Flags, client: &mut Client, out: &mut impl Write) -> Result<()> {
    let mut separator = "[\n";
    each_run(flags, client, |run| {
        out.write_all(separator.as_bytes())?;
        separator = ",\n";
        Ok(serde_json::to_writer(&mut *out, run).map_err(io::Error::from)?)
    })?;
    let end = if separator == "[\n" { "[]\n" } else { "\n]\n" };
    Ok(out.write_all(end.as_bytes())?)
}

fn as_lines(flags: &Flags, client: &mut Client, out: &mut impl Write) -> Result<()> {
    each_run(flags, client, |run| {
        let state = match run.state {
            MapState::Zero => "zero",
            MapState::Reserved => "reserved",
            MapState::Data => "data",
            MapState::Untrusted => "untrusted",
        };
        let hash = run.hash.as_deref().unwrap_or("");
        let line = format!("{:>16} {:>16} {state:<9} {hash}", run.offset, run.length);
        Ok(writeln!(out, "{}", line.trim_end())?)
    })
}

fn each_run(
    flags: &Flags,
    client: &mut Client,
    mut print: impl FnMut(&MapRun) -> Result<()>,
) -> Result<()> {
    let mut offset = Some(0);
    while let Some(from) = offset {
        let page = client.image_map(&flags.name, from, flags.hashes)?;
        for run in &page.runs {
            print(run)?;
        }
        offset = page.next_offset;
    }
    Ok(())
}
