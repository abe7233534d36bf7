//! From a file, or a stream of raw bytes, to an image.

use crate::daemon::jobs::JobHandle;
use blockyard_api::{FileFormat, ImportFile};
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::Pool;
use std::io::Read;
use std::sync::Arc;

/// What an import stored. The image is visible under its name.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) format: FileFormat,
    /// Bytes that were not zero and so were stored.
    pub(crate) bytes_stored: u64,
}

/// Imports `request.path` as `name`.
pub(crate) fn import_file<D: Directory>(
    _pool: &Arc<Pool<D>>,
    _name: &ImageName,
    _request: &ImportFile,
    _job: &JobHandle,
) -> Result<Imported> {
    Err(Error::new(ErrorKind::Unsupported, "import is not here yet"))
}

/// Imports raw bytes until `source` ends; the size is what came, rounded up to 512. An error from
/// `source` means that the sender went away: nothing remains.
pub(crate) fn import_stream<D: Directory>(
    _pool: &Arc<Pool<D>>,
    _name: &ImageName,
    _source: &mut dyn Read,
) -> Result<Imported> {
    Err(Error::new(ErrorKind::Unsupported, "import is not here yet"))
}
