//! Files that transfers write beside the data: sorts and lists. Unlike those of reclaim, which brings space, they leave
//! alone what is set aside for the next checkpoint and for growth (I10).

use crate::index::page::Record;
use crate::index::sorter::{Sorted, Sorter};
use crate::pool::Pool;
use blockyard_block::{Error, ErrorKind, Result};
use blockyard_io::Directory;
use std::sync::Arc;

/// A sort that looks for room before it writes a file.
pub(super) struct Sort<D: Directory> {
    pool: Arc<Pool<D>>,
    sorter: Sorter<D>,
}

impl<D: Directory> Sort<D> {
    pub(super) fn new(pool: &Arc<Pool<D>>) -> Sort<D> {
        Sort { pool: Arc::clone(pool), sorter: pool.new_sorter() }
    }

    /// What the names of its files begin with.
    pub(super) fn prefix(&self) -> &str {
        self.sorter.prefix()
    }

    pub(super) async fn push(&mut self, record: Record) -> Result<()> {
        if let Some(bytes) = self.sorter.spills_next() {
            check_room(&self.pool, bytes).await?;
        }
        self.sorter.push(record).await
    }

    pub(super) fn finish(self) -> Sorted<D> {
        self.sorter.finish()
    }

    pub(super) async fn discard(self) {
        self.sorter.discard().await;
    }
}

/// `NoSpace` if a file of so many bytes would take what is set aside.
pub(super) async fn check_room<D: Directory>(pool: &Pool<D>, bytes: u64) -> Result<()> {
    match pool.has_room_beside_reserves(bytes).await? {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::NoSpace,
            "there is no space for a file of the index that a transfer needs, beside what is set aside: give the pool's file system more",
        )),
    }
}
