//! `blockyard image import FILE NAME`: the daemon reads the file; `-` is sent from standard input.

use crate::commands::Session;
use crate::output::job;
use crate::output::progress::Progress;
use crate::size::human;
use anyhow::{Context, Result};
use blockyard_api::{Client, FileFormat, Image, ImportFile, JobReport, ProgressUnit};
use blockyard_block::{Error, ErrorKind};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::{Read, Seek, StdinLock};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes of standard input sent at a time.
const PART_BYTES: usize = 1 << 20;

/// Bring an image file into the pool
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A raw, qcow2 or vmdk file; `-` reads raw bytes from standard input
    file: String,
    name: String,
    /// Do not detect the format
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
    Vmdk,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    let mut client = session.client()?;
    let image = match flags.file.as_str() {
        "-" => from_stdin(flags, &client)?,
        _ => from_file(flags, &mut client)?,
    };
    session.output.print(&image, || imported(&image))
}

/// What is said of an image that was imported.
pub(crate) fn imported(image: &Image) -> String {
    format!("imported {} of {}\n", image.name, human(image.size_bytes))
}

fn from_file(flags: &Flags, client: &mut Client) -> Result<Image> {
    let path = Path::new(&flags.file)
        .canonicalize()
        .map_err(|error| Error::io(format_args!("cannot import {}", flags.file), error))?;
    let path = path.to_str().context("the daemon takes paths in UTF-8 only")?.to_owned();
    let format = flags.format.map(|format| match format {
        Format::Raw => FileFormat::Raw,
        Format::Qcow2 => FileFormat::Qcow2,
        Format::Vmdk => FileFormat::Vmdk,
    });
    let started = client.import_file(&flags.name, &ImportFile { path, format })?;
    match job::wait(client, started, "import")? {
        Some(JobReport::Import(report)) => Ok(report.image),
        _ => Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into()),
    }
}

fn from_stdin(flags: &Flags, client: &Client) -> Result<Image> {
    if matches!(flags.format, Some(Format::Qcow2 | Format::Vmdk)) {
        let message = "only raw bytes can be read from standard input";
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    let mut upload = client.upload_image(&flags.name)?;
    let mut stdin = std::io::stdin().lock();
    let total = bytes_left(&stdin);
    let mut progress = Progress::new("import", ProgressUnit::Bytes);
    let mut sent = 0;
    loop {
        let mut part = Vec::with_capacity(PART_BYTES);
        stdin.by_ref().take(PART_BYTES as u64).read_to_end(&mut part).context("standard input")?;
        let length = part.len() as u64;
        if part.is_empty() || !upload.send(part) {
            break;
        }
        sent += length;
        progress.show(sent, total);
    }
    progress.end();
    let image = upload.finish()?;
    if image.size_bytes != sent {
        eprintln!("note: its {sent} bytes were rounded up to {}", image.size_bytes);
    }
    Ok(image)
}

/// How much is to come, if standard input is a file.
fn bytes_left(stdin: &StdinLock<'_>) -> Option<u64> {
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let length = file.metadata().ok().filter(|found| found.is_file())?.len();
    Some(length.saturating_sub(file.stream_position().ok()?))
}
