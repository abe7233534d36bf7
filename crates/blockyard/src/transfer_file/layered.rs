//! Disks that `imago` reads: qcow2 with its backing chain and data file, vmdk of flat extents.
//!
//! Every file of a chain is a regular file or block device, is opened read-only, and if it is
//! qcow2, passed [`inspect`] before `imago` sees it. Chains end: after [`CHAIN_MAX`] files the
//! image is refused, so one that backs itself is too.

use super::qcow2_header::{Reader, inspect};
use super::source::{Run, Source, open_plain};
use blockyard_block::{Error, ErrorKind, Result};
use imago::file::File;
use imago::format::Format;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::vmdk::Vmdk;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Files in a backing chain. Deeper ones are slow everywhere; commit or convert them.
const CHAIN_MAX: usize = 64;
/// The largest cluster: a qcow2 file or its data file may end before its last cluster does.
const CLUSTER_MAX: u64 = 2 << 20;

/// What came of opening.
pub(crate) enum Outcome {
    Opened(Box<dyn Source>),
    /// A file of the chain is of a kind that only `qemu-img` reads; the text says what.
    NeedsQemuImg(String),
}

/// Opens a qcow2 image that passed [`inspect`], with its chain.
pub(crate) fn open_qcow2(path: &Path, cancelled: &dyn Fn() -> bool) -> Result<Outcome> {
    let findings = Findings::default();
    let gate = Gate { findings: &findings, depth: 1, cancelled };
    let opened = Qcow2::<File>::builder_path(path).open(gate);
    findings.judge(opened.map(FormatAccess::new), CLUSTER_MAX)
}

/// Opens the vmdk whose descriptor is at `path`, with its extents.
pub(crate) fn open_vmdk(path: &Path, cancelled: &dyn Fn() -> bool) -> Result<Outcome> {
    let findings = Findings::default();
    let gate = Gate { findings: &findings, depth: 1, cancelled };
    match Vmdk::<File>::builder_path(path).open(gate) {
        // Kinds of extents and keys of the descriptor that imago does not know.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidData) =>
        {
            Ok(Outcome::NeedsQemuImg(format!("vmdk: {error}")))
        }
        opened => findings.judge(opened.map(FormatAccess::new), 0),
    }
}

/// What the gate saw that an `io::Error` cannot carry through `imago`. First come, first kept.
#[derive(Default)]
struct Findings {
    error: Mutex<Option<Error>>,
    needs_qemu_img: Mutex<Option<String>>,
}

impl Findings {
    fn judge(self, opened: io::Result<FormatAccess<File>>, slack_bytes: u64) -> Result<Outcome> {
        let taken = |mutex: Mutex<_>| mutex.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) =
            self.needs_qemu_img.into_inner().unwrap_or_else(PoisonError::into_inner)
        {
            return Ok(Outcome::NeedsQemuImg(cause));
        }
        match opened {
            Ok(disk) => Ok(Outcome::Opened(Box::new(LayeredSource { disk, slack_bytes }))),
            Err(error) => Err(taken(self.error).unwrap_or_else(|| of_imago("open", error))),
        }
    }

    /// Keeps `error` for later and gives `imago` one of its own kind.
    fn keep(&self, error: Error) -> io::Error {
        let message = error.to_string();
        let mut kept = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert(error);
        io::Error::other(message)
    }
}

/// Lets `imago` open what an image refers to, after a look at it.
struct Gate<'a> {
    findings: &'a Findings,
    /// Files in the chain down to here.
    depth: usize,
    cancelled: &'a dyn Fn() -> bool,
}

impl ImplicitOpenGate<File> for Gate<'_> {
    fn open_format<B: FormatDriverBuilder<File>>(
        &mut self,
        builder: B,
    ) -> io::Result<FormatAccess<File>> {
        if self.depth >= CHAIN_MAX {
            let message = format!(
                "the backing chain is longer than {CHAIN_MAX} files or goes round in a circle"
            );
            return Err(self.findings.keep(Error::new(ErrorKind::Unsupported, message)));
        }
        if let (Format::Qcow2, Some(path)) = (B::FORMAT, builder.get_image_path()) {
            self.inspect(&path).map_err(|error| self.findings.keep(error))?;
        }
        let deeper = Gate { depth: self.depth + 1, ..*self };
        Ok(FormatAccess::new(builder.open(deeper)?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        if let Some(path) = options.get_filename() {
            open_plain(path).map_err(|error| self.findings.keep(error))?;
        }
        // imago asks to write to the data file of an image it only reads.
        File::open(options.write(false))
    }
}

impl Gate<'_> {
    fn inspect(&self, path: &Path) -> Result<()> {
        let place = format!("backing file {}", path.display());
        let (file, length) = open_plain(path)?;
        let reader = inspect(&file, length, self.cancelled).map_err(|error| error.at(&place))?;
        if let Reader::QemuImg(cause) = reader {
            let mut kept =
                self.findings.needs_qemu_img.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert_with(|| format!("{place}: {cause}"));
            return Err(Error::new(ErrorKind::Unsupported, cause));
        }
        Ok(())
    }
}

struct LayeredSource {
    disk: FormatAccess<File>,
    /// Data may be mapped so far beyond the end of its file, and reads zero there.
    slack_bytes: u64,
}

impl Source for LayeredSource {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn run_at(&self, offset: u64) -> Result<Run> {
        let (mapping, length) = self
            .disk
            .get_mapping(offset, self.size() - offset)
            .map_err(|error| of_imago(format_args!("map at {offset}"), error))?;
        if length == 0 {
            return Err(damaged(format!("no mapping at {offset}")));
        }
        if let Mapping::Raw { storage, offset: place, .. } = &mapping {
            self.check_bounds(storage, *place, length)?;
        }
        Ok(Run { length, zero: matches!(mapping, Mapping::Zero { .. }) })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk
            .read(buffer, offset)
            .map_err(|error| of_imago(format_args!("read at {offset}"), error))
    }
}

impl LayeredSource {
    /// `imago` reads zeros beyond the end of a file; a file cut short must be an error instead.
    fn check_bounds(&self, storage: &File, place: u64, length: u64) -> Result<()> {
        let file_length =
            storage.size().map_err(|error| of_imago(format_args!("length of {storage}"), error))?;
        let end = place.checked_add(length).ok_or_else(|| damaged("data beyond any file"))?;
        if end > file_length.saturating_add(self.slack_bytes) {
            return Err(damaged(format!(
                "{storage} ends at {file_length}, but data is mapped up to {end}"
            )));
        }
        Ok(())
    }
}

fn damaged(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the image is damaged or cut short: {message}"))
}

/// `imago` tells of damage by InvalidData and Other; what the system says keeps its own kind.
fn of_imago(place: impl std::fmt::Display, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::Other | io::ErrorKind::UnexpectedEof => {
            damaged(error).at(place)
        }
        io::ErrorKind::Unsupported => {
            Error::new(ErrorKind::Unsupported, error.to_string()).at(place)
        }
        _ => Error::io(place, error),
    }
}

#[cfg(test)]
mod tests;
