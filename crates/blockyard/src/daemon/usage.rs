//! What the status tells beyond the engine's own counts: space on disk, and distinct contents.
//!
//! Counting distinct contents walks all hashes and remembers each: it is done only for pools small
//! enough, and not again before ten times the time it took has passed.

use crate::daemon::engine::HostPool;
use blockyard_block::{Error, Result};
use pollster::block_on;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Larger pools are not counted: 8 GiB are two million hashes, which take some 100 MB of memory.
const COUNTED_BYTES_MAX: u64 = 8 << 30;
/// A count is good for this many times as long as it took.
const REST: u32 = 10;

/// The last count of distinct contents.
#[derive(Default)]
pub(crate) struct Usage {
    // Held while counting, so that it is done once however many ask.
    last: Mutex<Option<Count>>,
}

struct Count {
    bytes_unique: Option<u64>,
    made: Instant,
    took: Duration,
}

impl Usage {
    /// Distinct contents x 4096; `None` while clusters are untrusted, and for large pools.
    pub(crate) fn bytes_unique(&self, pool: &HostPool, physical: u64) -> Result<Option<u64>> {
        if physical > COUNTED_BYTES_MAX {
            return Ok(None);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = &*last
            && count.made.elapsed() < count.took * REST
        {
            return Ok(count.bytes_unique);
        }
        let started = Instant::now();
        let bytes_unique = block_on(pool.bytes_unique())?;
        *last = Some(Count { bytes_unique, made: Instant::now(), took: started.elapsed() });
        Ok(bytes_unique)
    }
}

/// What the files of the pool take, the data included if it is a file.
pub(crate) fn bytes_on_disk(pool: &Path) -> Result<u64> {
    add_up(pool).map_err(|error| Error::io(pool.display(), error))
}

fn add_up(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // The data may be a link to a file elsewhere. Files come and go meanwhile.
        let Ok(found) = fs::metadata(entry.path()) else { continue };
        if found.is_dir() {
            bytes += add_up(&entry.path())?;
        } else if found.is_file() {
            bytes += found.blocks() * 512;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::bytes_on_disk;

    #[test]
    fn links_and_folders_count_and_holes_do_not() {
        let place = tempfile::tempdir().unwrap();
        let (pool, elsewhere) = (place.path().join("pool"), place.path().join("elsewhere"));
        std::fs::create_dir_all(pool.join("checkpoint")).unwrap();
        assert_eq!(bytes_on_disk(&pool).unwrap(), 0);
        std::fs::write(&elsewhere, vec![1; 8192]).unwrap();
        std::os::unix::fs::symlink(&elsewhere, pool.join("data")).unwrap();
        std::fs::write(pool.join("checkpoint/000001"), vec![1; 4096]).unwrap();
        std::fs::File::create(pool.join("hashes")).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(bytes_on_disk(&pool).unwrap(), 8192 + 4096);
    }
}
