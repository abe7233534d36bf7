//! Damage of what is stored, in the log: a warning for each cluster with the images that show it, and whether it was healed.
//!
//! What a scrub finds is in its report, and logged from there as it is found; what reads, writes and reclaim meet is taken
//! from the engine once a second. Both have a bound, after which the rest is counted.

use super::Daemon;
use crate::daemon::engine::HostPool;
use blockyard_block::ImageName;
use blockyard_pool::{Damage, Scrub};
use std::sync::Arc;
use std::time::Duration;

/// Its lines are bounded here, and so not left out as those that repeat.
pub(crate) const TARGET: &str = "blockyard::damage";

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Clusters of one scrub that are logged one by one.
const LINES_MAX: u64 = 32;
/// Places of one cluster that are named.
const PLACES_MAX: usize = 8;

/// Looks now and then; ends with the runtime.
pub(crate) async fn watch(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !daemon.pool.has_damage_news() {
            continue;
        }
        let looked = Arc::clone(&daemon);
        // One that panicked has said so.
        let _ = tokio::task::spawn_blocking(move || tell_news(&looked.pool)).await;
    }
}

/// Logs what the engine has met since the last time.
pub(crate) fn tell_news(pool: &HostPool) {
    let (news, omitted) = pool.take_damage_news();
    for one in news {
        tell(&one.places, &one.message, one.healed);
    }
    if omitted > 0 {
        tracing::warn!("{omitted} more clusters were found damaged: run `blockyard scrub`");
    }
}

/// What of a scrub was logged.
#[derive(Default)]
pub(crate) struct ScrubLog {
    healed: usize,
    damaged: usize,
}

impl ScrubLog {
    /// Logs what is new in it.
    pub(crate) fn tell(&mut self, scrub: &Scrub) {
        for damage in self.take(scrub, true) {
            let message = format!("{}: healed from an equal cluster", damage.message);
            tell(&damage.places, &message, true);
        }
        for damage in self.take(scrub, false) {
            tell(&damage.places, &format!("{}: not healed", damage.message), false);
        }
    }

    fn take<'a>(&mut self, scrub: &'a Scrub, healed: bool) -> &'a [Damage] {
        let left = LINES_MAX as usize - (self.healed + self.damaged).min(LINES_MAX as usize);
        let (list, told) = match healed {
            true => (&scrub.healed, &mut self.healed),
            false => (&scrub.damage, &mut self.damaged),
        };
        let from = (*told).min(list.len());
        let new = &list[from..list.len().min(from + left)];
        *told += new.len();
        new
    }

    /// Says how many more there were.
    pub(crate) fn end(mut self, scrub: &Scrub) {
        self.tell(scrub);
        let healed = scrub.clusters_healed - self.healed as u64;
        let damaged = scrub.clusters_damaged - self.damaged as u64;
        if healed + damaged > 0 {
            tracing::warn!(
                target: TARGET,
                "scrub: {healed} more clusters were healed, {damaged} more are damaged and were not"
            );
        }
    }
}

fn tell(places: &[(ImageName, u64)], message: &str, healed: bool) {
    let Some((image, offset)) = places.first() else {
        tracing::warn!(target: TARGET, healed, "{message}");
        return;
    };
    tracing::warn!(target: TARGET, %image, offset, healed, "{}: {message}", named(places));
}

/// `web at 8192, web-before at 8192`
fn named(places: &[(ImageName, u64)]) -> String {
    let named = places.iter().take(PLACES_MAX);
    let text = named.map(|(image, offset)| format!("{image} at {offset}")).collect::<Vec<_>>();
    match places.len().saturating_sub(PLACES_MAX) {
        0 => text.join(", "),
        more => format!("{} and {more} more", text.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, ScrubLog};
    use blockyard_pool::{Damage, Scrub};

    #[test]
    fn a_scrub_logs_each_cluster_once_and_no_more_than_its_bound() {
        let damage = |number: usize| Damage { places: Vec::new(), message: number.to_string() };
        let mut log = ScrubLog::default();
        let mut scrub = Scrub::default();
        let mut told = 0;
        for number in 0..100 {
            scrub.damage.push(damage(number));
            scrub.healed.push(damage(number));
            told += log.take(&scrub, true).len() + log.take(&scrub, false).len();
            assert_eq!(told as u64, (2 * number as u64 + 2).min(LINES_MAX));
        }
    }
}
