//! What an import reads: a virtual disk whose holes are known without reading them.
//!
//! Sources are opened by [`open`], which decides who reads the file. Backing files, external data
//! files and the extents of a vmdk are followed wherever they point, read-only: whoever may import
//! files may read every file that the daemon can.

use super::detect::{Detected, detect};
use super::qcow2_header::{Reader, inspect};
use super::{layered, qemu_img, raw};
use blockyard_api::FileFormat;
use blockyard_block::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A stretch of the disk from some offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// At least 1 unless the offset is at the end of the disk.
    pub(crate) length: u64,
    /// Reads zero, and is known to without reading it.
    pub(crate) zero: bool,
}

/// A virtual disk, read by several threads at once.
pub(crate) trait Source: Send + Sync {
    /// Bytes of the disk; any number.
    fn size(&self) -> u64;

    /// The run that starts at `offset`, which is below [`Source::size`].
    fn run_at(&self, offset: u64) -> Result<Run>;

    /// Fills `buffer` with the bytes from `offset` on. The range lies within the disk.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// How a file is opened.
#[derive(Debug, Clone)]
pub(crate) struct SourceOptions {
    /// Take the file for this and nothing else; detected from its content if absent.
    pub(crate) format: Option<FileFormat>,
    /// Where an unnamed temporary file may be put when `qemu-img` has to convert.
    pub(crate) temporary_folder: PathBuf,
    /// The program that reads what this one cannot; `None` is as if it were not installed.
    pub(crate) qemu_img: Option<PathBuf>,
}

impl SourceOptions {
    /// Detects the format, and asks the `qemu-img` found in PATH where needed.
    pub(crate) fn new(temporary_folder: impl Into<PathBuf>) -> SourceOptions {
        SourceOptions {
            format: None,
            temporary_folder: temporary_folder.into(),
            qemu_img: Some(PathBuf::from("qemu-img")),
        }
    }
}

/// An opened file and what it was taken for.
pub(crate) struct Opened {
    pub(crate) source: Box<dyn Source>,
    pub(crate) format: Detected,
}

/// Opens the disk in the file at `path`. May take as long as copying it, if `qemu-img` has to
/// convert; `cancelled` is asked meanwhile.
pub(crate) fn open(
    path: &Path,
    options: &SourceOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Opened> {
    let (file, length) = open_plain(path)?;
    let format = match options.format {
        None => detect(&file, length)?,
        Some(named) => forced(named, &file, length)?,
    };
    let convert = |cause| {
        qemu_img::Conversion { path, format: name_of(format.named()), cause }
            .run(options, cancelled)
    };
    let source = match format {
        Detected::Raw => Box::new(raw::RawSource::new(file, length)),
        Detected::VmdkSparse => convert("sparse vmdk")?,
        Detected::VmdkDescriptor => match layered::open_vmdk(path, cancelled)? {
            layered::Outcome::Opened(source) => source,
            layered::Outcome::NeedsQemuImg(cause) => convert(&cause)?,
        },
        Detected::Qcow2 => match inspect(&file, length, cancelled)? {
            Reader::QemuImg(cause) => convert(cause)?,
            Reader::Native => match layered::open_qcow2(path, cancelled)? {
                layered::Outcome::Opened(source) => source,
                layered::Outcome::NeedsQemuImg(cause) => convert(&cause)?,
            },
        },
    };
    Ok(Opened { source, format })
}

/// Opens a regular file or block device for reading; says its length. Anything else could block
/// for ever or have no end.
pub(crate) fn open_plain(path: &Path) -> Result<(File, u64)> {
    let place = path.display();
    let kind = std::fs::metadata(path).map_err(|error| Error::io(&place, error))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let message = format!("{place} is neither a file nor a block device");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let file = File::open(path).map_err(|error| Error::io(&place, error))?;
    let length = length_of(&file).map_err(|error| Error::io(&place, error))?;
    Ok((file, length))
}

/// The end of a file or block device; `stat` says 0 for the latter.
fn length_of(mut file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(0))
}

/// The format a user named. Only raw is taken on trust: of the others the file must have the mark,
/// and of vmdk there are two kinds.
fn forced(named: FileFormat, file: &File, length: u64) -> Result<Detected> {
    if named == FileFormat::Raw {
        return Ok(Detected::Raw);
    }
    let found = detect(file, length)?;
    if found.named() != named {
        let message = format!("the file is {}, not {}", name_of(found.named()), name_of(named));
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(found)
}

/// The name that users and QEMU have for it.
fn name_of(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Raw => "raw",
        FileFormat::Qcow2 => "qcow2",
        FileFormat::Vmdk => "vmdk",
    }
}
