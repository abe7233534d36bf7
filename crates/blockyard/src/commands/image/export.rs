//! `blockyard image export NAME FILE`: the daemon writes the file; `-` is sent to standard output.

use crate::commands::Session;
use crate::output::job;
use crate::size::human;
use anyhow::{Context, Result};
use blockyard_api::{ExportFile, ExportReport, FileFormat, JobReport};
use blockyard_block::{Error, ErrorKind};
use clap::{Args, ValueEnum};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Write an image to a file
#[derive(Debug, Args)]
pub(crate) struct Flags {
    name: String,
    /// Where to; `-` writes raw bytes to standard output
    file: PathBuf,
    /// qcow2 if the file's name ends in .qcow2, else raw (sparse)
    #[arg(long)]
    format: Option<Format>,
    /// Replace the file if it exists
    #[arg(long)]
    overwrite: bool,
    /// Write zeros for what cannot be read and list where, instead of failing. What does not match
    /// its hash is written as it is: `blockyard scrub` lists that
    #[arg(long)]
    damaged: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
}

pub(crate) fn run(flags: &Flags, session: &Session) -> Result<()> {
    if flags.file.as_os_str() == "-" {
        return to_stdout(flags, session);
    }
    let path = std::path::absolute(&flags.file)?;
    let path = path.to_str().context("the daemon takes paths in UTF-8 only")?.to_owned();
    let format = match flags.format {
        Some(Format::Raw) => FileFormat::Raw,
        Some(Format::Qcow2) => FileFormat::Qcow2,
        None => format_of_name(&flags.file),
    };
    let mut client = session.client()?;
    let request = ExportFile { path, format, overwrite: flags.overwrite, damaged: flags.damaged };
    let started = client.export_file(&flags.name, &request)?;
    let Some(JobReport::Export(report)) = job::wait(&mut client, started, "export")? else {
        return Err(Error::new(ErrorKind::Unsupported, "the daemon sent no report").into());
    };
    session.output.print(&report, || exported(&flags.name, &report))
}

/// What is said of an image that was exported.
pub(crate) fn exported(image: &str, report: &ExportReport) -> String {
    let written = human(report.bytes_written);
    let mut said = format!("exported {image} to {}, {written} of data\n", report.path);
    for run in &report.unreadable {
        said += &format!("unreadable, zeros instead: {} at {}\n", run.length, run.offset);
    }
    if report.bytes_unreadable > 0 {
        said += &format!("{} bytes could not be read\n", report.bytes_unreadable);
    }
    said
}

fn to_stdout(flags: &Flags, session: &Session) -> Result<()> {
    if flags.damaged {
        let message = "--damaged writes a file, so that what is missing can be told";
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    if matches!(flags.format, Some(Format::Qcow2)) {
        let message = "only raw bytes can be written to standard output";
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    // The handle of the standard library looks for line ends in what it is given.
    let mut stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    Ok(session.client()?.download_image(&flags.name, &mut stdout)?)
}

fn format_of_name(file: &Path) -> FileFormat {
    match file.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("qcow2") => FileFormat::Qcow2,
        _ => FileFormat::Raw,
    }
}
