//! How far a transfer is, and whether it is still wanted.

use crate::daemon::jobs::JobHandle;
use blockyard_block::Result;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes of the disk, holes included, so that what is done reaches the total at the end.
pub(crate) struct Progress<'a> {
    job: Option<&'a JobHandle>,
    done: AtomicU64,
    moved: AtomicU64,
}

impl<'a> Progress<'a> {
    /// Progress that a job shows.
    pub(crate) fn of(job: &'a JobHandle) -> Progress<'a> {
        Progress { job: Some(job), ..Progress::unseen() }
    }

    /// Progress that nobody asks for.
    pub(crate) fn unseen() -> Progress<'a> {
        Progress { job: None, done: AtomicU64::new(0), moved: AtomicU64::new(0) }
    }

    /// Bytes passed so far.
    #[cfg(test)]
    pub(super) fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes of data among them.
    pub(super) fn moved_bytes(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// The error to leave with if the job was cancelled.
    pub(super) fn check(&self) -> Result<()> {
        self.job.map_or(Ok(()), JobHandle::check)
    }

    pub(super) fn set_total(&self, bytes: u64) {
        if let Some(job) = self.job {
            job.set_total(bytes);
        }
    }

    /// Zeros were passed.
    pub(super) fn add_zeros(&self, bytes: u64) -> Result<()> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.job.map_or(Ok(()), |job| job.progress(done))
    }

    /// Data was written: `bytes` of it, which stand for `passed` bytes of progress.
    pub(super) fn add_data(&self, bytes: u64, passed: u64) -> Result<()> {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.add_zeros(passed)
    }
}
