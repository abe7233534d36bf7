//! What the status tells beyond the engine's own counts: space on disk, and distinct contents.
//!
//! Counting distinct contents walks and sorts all hashes. Of a small pool that is done while who asked
//! waits; of another on a thread, and the answer is the last count there is. It is not done again
//! before ten times the time it took has passed.

use crate::daemon::engine::HostPool;
use crate::daemon::storage::now_unix_s;
use blockyard_block::{Error, Result};
use blockyard_pool::Contents;
use pollster::block_on;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// 65,536 hashes are counted in some milliseconds.
const SMALL_POOL_BYTES: u64 = 256 << 20;
/// A count is good for this many times as long as it took.
const REST: u32 = 10;

/// The last count of distinct contents.
#[derive(Default)]
pub(crate) struct Usage {
    last: Mutex<Option<Count>>,
    // Held while counting, so that it is done once however many ask.
    counting: Mutex<()>,
}

/// What is stored and what of it is distinct.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) contents: Contents,
    /// When that was so.
    pub(crate) unix_s: u64,
}

#[derive(Clone, Copy)]
struct Count {
    counted: Option<Counted>,
    made: Instant,
    took: Duration,
}

impl Usage {
    /// What was counted last; `None` while clusters are untrusted, and until a large
    /// pool has been counted once.
    pub(crate) fn contents(
        self: &Arc<Self>,
        pool: &Arc<HostPool>,
        physical: u64,
    ) -> Result<Option<Counted>> {
        if let Some(contents) = pool.counted_contents() {
            return Ok(Some(Counted { contents, unix_s: now_unix_s() }));
        }
        if let Some(count) = self.fresh() {
            return Ok(count.counted);
        }
        if physical <= SMALL_POOL_BYTES {
            return self.count(pool);
        }
        let (usage, counted) = (Arc::clone(self), Arc::clone(pool));
        let count = move || {
            if let Err(error) = usage.count(&counted) {
                tracing::warn!(%error, "distinct contents were not counted");
            }
        };
        if self.counting.try_lock().is_ok() {
            let started = thread::Builder::new().name("count".to_owned()).spawn(count);
            started.map_err(|error| Error::io("cannot start a thread to count", error))?;
        }
        Ok(lock(&self.last).and_then(|count| count.counted))
    }

    fn fresh(&self) -> Option<Count> {
        lock(&self.last).filter(|count| count.made.elapsed() < count.took * REST)
    }

    fn count(&self, pool: &HostPool) -> Result<Option<Counted>> {
        let _one_at_a_time = lock(&self.counting);
        if let Some(count) = self.fresh() {
            return Ok(count.counted);
        }
        let (started, unix_s) = (Instant::now(), now_unix_s());
        let contents = block_on(pool.count_contents())?;
        let counted = contents.map(|contents| Counted { contents, unix_s });
        let count = Count { counted, made: Instant::now(), took: started.elapsed() };
        *lock(&self.last) = Some(count);
        Ok(counted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
