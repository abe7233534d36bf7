//! Reclaim by policy: when more is allocated than the high-water mark, runs of equal clusters are shared as
//! a job, paced like any other, down to the mark.
//!
//! Not again before hashes of much new content have come: what is left is not equal, or in shorter runs, and a pass
//! reads all hashes and sorts them.

use super::Daemon;
use super::api::start_reclaim;
use blockyard_block::CLUSTER_SIZE;
use blockyard_pool::ReclaimOptions;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shorter runs cost sequential reads more than they free.
const RUNS_MIN: u64 = 8;

/// New content that is worth another pass: this part of all that is stored. A pass costs some 80 bytes of I/O for each stored
/// cluster, so at most as much as the writes that cause it.
const NEW_PART: u64 = 32;

/// Looks now and then; ends with the runtime.
pub(crate) async fn watch(daemon: Arc<Daemon>) {
    let Some(mark) = daemon.plan.reclaim_above_bytes else { return };
    let mut published = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = Arc::clone(&daemon);
        let look = move || look(&looked, mark, published);
        published = tokio::task::spawn_blocking(look).await.unwrap_or(published);
    }
}

/// Starts a job if one is due; the hashes there were when the last one began.
fn look(daemon: &Arc<Daemon>, mark: u64, published: Option<u64>) -> Option<u64> {
    let now = daemon.pool.counters().hashes_published;
    let Some(used) = daemon.pool.bytes_physical().filter(|used| *used > mark) else {
        return published;
    };
    let enough = (used / CLUSTER_SIZE as u64 / NEW_PART).max(1);
    if published.is_some_and(|last| now - last < enough) {
        return published;
    }
    let options =
        ReclaimOptions { target_bytes: Some(used - mark), runs_min: RUNS_MIN, dry_run: false };
    match start_reclaim(daemon, options) {
        Ok(_) => Some(now),
        Err(_) => published,
    }
}
