//! From an image to a file.

use crate::daemon::jobs::JobHandle;
use blockyard_api::ExportFile;
use blockyard_block::{Error, ErrorKind, ImageName, Result};
use blockyard_io::Directory;
use blockyard_pool::Pool;
use std::sync::Arc;

/// What an export wrote. The file is durable.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) size_bytes: u64,
    /// Bytes that were not zero and so were written.
    pub(crate) bytes_written: u64,
}

/// Writes the image to `request.path`: whole, or not at all.
pub(crate) fn export_file<D: Directory>(
    _pool: &Arc<Pool<D>>,
    _name: &ImageName,
    _request: &ExportFile,
    _job: &JobHandle,
) -> Result<Exported> {
    Err(Error::new(ErrorKind::Unsupported, "export is not here yet"))
}
