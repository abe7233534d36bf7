//! Logs on standard error, as text or JSON. A warning or error that repeats is let through a few
//! times each ten seconds; how many more there were is told afterwards.

use crate::config::LogFormat;
use crate::daemon::damage_log;
use crate::daemon::plan::Plan;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

const WINDOW: Duration = Duration::from_secs(10);
const SHOWN_PER_WINDOW: u64 = 5;
/// Of the lines that tell of other lines.
const TARGET: &str = "blockyard::log";

/// Starts logging.
pub(crate) fn start(plan: &Plan) -> Result<Repeats> {
    let filter = EnvFilter::try_new(&plan.log_filter)
        .with_context(|| format!("{:?} is no log filter", plan.log_filter))?;
    let repeats = Repeats::default();
    let base = tracing_subscriber::registry().with(filter).with(repeats.clone());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    match plan.log_format {
        LogFormat::Text => base.with(lines).try_init(),
        LogFormat::Json => base.with(lines.json()).try_init(),
    }
    .context("cannot start logging")?;
    Ok(repeats)
}

/// A place in the code: file and line.
type Place = (&'static str, u32);

/// Counts what repeats.
#[derive(Clone, Default)]
pub(crate) struct Repeats {
    windows: Arc<Mutex<HashMap<Place, Window>>>,
}

/// What one place logged lately.
struct Window {
    started: Instant,
    events: u64,
}

impl Repeats {
    /// Whether to show one more event of this place.
    fn admit(&self, place: Place, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.entry(place).or_insert(Window { started: now, events: 0 });
        window.events += 1;
        window.events <= SHOWN_PER_WINDOW
    }

    /// Tells of what was left out in windows that are over. Called by the clock.
    pub(crate) fn tell(&self) {
        for ((file, line), count) in self.take_finished(Instant::now()) {
            tracing::warn!(target: TARGET, "{count} more like those from {file}:{line}");
        }
    }

    fn take_finished(&self, now: Instant) -> Vec<(Place, u64)> {
        let mut left_out = Vec::new();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|place, window| {
            let over = now.duration_since(window.started) >= WINDOW;
            if over && window.events > SHOWN_PER_WINDOW {
                left_out.push((*place, window.events - SHOWN_PER_WINDOW));
            }
            !over
        });
        left_out
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _context: LayerContext<'_, S>) -> bool {
        let metadata = event.metadata();
        // The more verbose a level, the greater it is.
        let bounded = [TARGET, damage_log::TARGET].contains(&metadata.target());
        if *metadata.level() > Level::WARN || bounded {
            return true;
        }
        let place = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0));
        self.admit(place, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::{Repeats, SHOWN_PER_WINDOW, WINDOW};
    use std::time::Instant;

    #[test]
    fn what_repeats_is_shown_a_few_times_and_then_counted() {
        let repeats = Repeats::default();
        let (start, place, other) = (Instant::now(), ("a.rs", 1), ("b.rs", 2));
        let shown = (0..100).filter(|_| repeats.admit(place, start)).count();
        assert_eq!(shown as u64, SHOWN_PER_WINDOW);
        assert!(repeats.admit(other, start));
        assert!(repeats.take_finished(start).is_empty());
        let left_out = repeats.take_finished(start + WINDOW);
        assert_eq!(left_out, [(place, 100 - SHOWN_PER_WINDOW)]);
        assert!(repeats.admit(place, start + WINDOW));
    }
}
