//! What cut transfers left in the pool is kept for a day, and not when space is short. Since when is in a file of the pool's
//! directory, so that starting the daemon anew does not begin the day again.

use super::now_unix_s;
use crate::daemon::Daemon;
use crate::daemon::peers::replace;
use blockyard_pool::{ImageKind, LeftImage};
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FILE: &str = "parts.json";
/// A part of an image that nobody asked for again goes after this long.
const KEEP_S: u64 = 24 * 3600;
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// With less than this part of the pool's capacity free, parts go that are older than whoever was cut off tries again.
const FREE_SHARE: u64 = 10;
const YOUNG_S: u64 = 600;
/// With less than this, all go at once.
const FREE_SHARE_LEAST: u64 = 50;

/// Since when parts are left, in seconds since 1970, by the ids of their images.
type Times = BTreeMap<u64, u64>;

/// Looks now and then while there is a part, and when there may be one; ends with the runtime.
pub(crate) async fn watch_left(daemon: Arc<Daemon>) {
    let times = Arc::new(Mutex::new(read_times(&daemon)));
    loop {
        let (looked, times) = (Arc::clone(&daemon), Arc::clone(&times));
        let look = tokio::task::spawn_blocking(move || {
            look(&looked, &mut times.lock().unwrap_or_else(PoisonError::into_inner))
        });
        // A bug there is reported where it happens.
        match look.await {
            Ok(0) => daemon.parts_left.notified().await,
            Ok(_) | Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Without the file, parts are left since now.
fn read_times(daemon: &Daemon) -> Times {
    let text = fs::read(daemon.plan.pool.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Removes what is too old or in the way; returns how many parts there are.
fn look(daemon: &Daemon, times: &mut Times) -> usize {
    let is_part = |left: &LeftImage| left.kind == ImageKind::Writable;
    let now = now_unix_s();
    let parts: Vec<LeftImage> = daemon.pool.left_images().into_iter().filter(is_part).collect();
    let since = |part: &LeftImage| {
        let told = Some(part.since_unix_s).filter(|since| *since > 0);
        times.get(&part.id.0).copied().or(told).unwrap_or(now)
    };
    let found: Times = parts.iter().map(|part| (part.id.0, since(part))).collect();
    if found != *times {
        *times = found;
        // Only how long they stay is lost.
        let text = serde_json::to_vec(&*times).unwrap_or_default();
        if let Err(error) = replace(&daemon.plan.pool, FILE, &text) {
            tracing::warn!(%error, "since when parts of images are left cannot be noted");
        }
    }
    if parts.is_empty() {
        return 0;
    }
    let free_below = |share: u64| {
        daemon.pool.status().is_ok_and(|status| {
            let free = status.bytes_capacity.saturating_sub(status.bytes_physical);
            free < status.bytes_capacity / share
        })
    };
    let keep_s = match (free_below(FREE_SHARE), free_below(FREE_SHARE_LEAST)) {
        (_, true) => None,
        (true, false) => Some(YOUNG_S),
        (false, false) => Some(KEEP_S),
    };
    let goes = |left: &LeftImage| {
        let age_s = times.get(&left.id.0).map_or(0, |since| now.saturating_sub(*since));
        keep_s.is_none_or(|keep_s| age_s > keep_s)
    };
    daemon.pool.remove_left(now, |left| is_part(left) && goes(left));
    parts.len()
}
