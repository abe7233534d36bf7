//! What cut transfers left in the pool is kept for a day, and not when space is short.

use super::now_unix_s;
use crate::daemon::Daemon;
use blockyard_pool::{ImageKind, LeftImage};
use std::sync::Arc;
use std::time::Duration;

/// A part of an image that nobody asked for again goes after this long.
const KEEP_S: u64 = 24 * 3600;
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// With less than this part of the pool's capacity free, parts go at once.
const FREE_SHARE: u64 = 10;

/// Looks now and then; ends with the runtime.
pub(crate) async fn watch_left(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = Arc::clone(&daemon);
        // A bug there is reported where it happens.
        let _ = tokio::task::spawn_blocking(move || look(&looked)).await;
    }
}

fn look(daemon: &Daemon) {
    let is_part = |left: &LeftImage| left.kind == ImageKind::Writable;
    if !daemon.pool.left_images().iter().any(is_part) {
        return;
    }
    let short = daemon.pool.status().is_ok_and(|status| {
        let free = status.bytes_capacity.saturating_sub(status.bytes_physical);
        free < status.bytes_capacity / FREE_SHARE
    });
    let now = now_unix_s();
    daemon.pool.remove_left(now, |left| {
        let age = now.saturating_sub(left.since_unix_s);
        is_part(left) && (short || (left.since_unix_s > 0 && age > KEEP_S))
    });
}
