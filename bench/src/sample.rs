//! One measurement, and what several of them say together.

use crate::client::Outcome;
use crate::histogram::Histogram;
use crate::process::Usage;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One round of one row on one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// Requests a second.
    pub(crate) rate: f64,
    /// 10^6 bytes a second.
    pub(crate) megabytes: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// The server's CPU time per request.
    pub(crate) cpu_us: Option<f64>,
    /// Bytes resident at most.
    pub(crate) peak_memory: Option<u64>,
    /// Bytes that the server sent to storage.
    pub(crate) written: Option<u64>,
}

impl Sample {
    pub(crate) fn of_requests(latencies: &Histogram, elapsed: Duration, block: usize) -> Sample {
        let rate = latencies.total() as f64 / elapsed.as_secs_f64();
        let us = |share| Some(latencies.percentile(share) as f64 / 1000.0);
        Sample {
            requests: latencies.total(),
            rate,
            megabytes: rate * block as f64 / 1e6,
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            ..Sample::default()
        }
    }

    pub(crate) fn of_outcome(outcome: &Outcome, block: usize) -> Sample {
        Sample::of_requests(&outcome.latencies, outcome.elapsed, block)
    }

    /// Adds what the server spent between two looks at it.
    pub(crate) fn costing(self, before: Usage, after: Usage, peak_memory: u64) -> Sample {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        Sample {
            cpu_us: (self.requests > 0).then(|| cpu * 1e6 / self.requests as f64),
            written: Some(after.written.saturating_sub(before.written)),
            peak_memory: Some(peak_memory),
            ..self
        }
    }
}

/// Median, least and most of the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// None if no round has the figure.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Spread { median, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::{Sample, Spread};
    use crate::process::Usage;
    use std::time::Duration;

    #[test]
    fn the_median_is_the_one_in_the_middle_or_between_two() {
        let spread =
            |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.median);
        assert_eq!(spread(&[3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn cpu_is_shared_out_over_the_requests() {
        let sample = Sample { requests: 1000, ..Sample::default() };
        let at = |ms, written| Usage { cpu: Duration::from_millis(ms), written };
        let costing = sample.costing(at(500, 10), at(750, 50), 7);
        assert_eq!(costing.cpu_us, Some(250.0));
        assert_eq!((costing.written, costing.peak_memory), (Some(40), Some(7)));
        assert_eq!(Sample::default().costing(at(0, 0), at(1, 0), 0).cpu_us, None);
    }
}
