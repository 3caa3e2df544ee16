//! How positions and lag have moved: the last minutes by the second, the last hours by ten.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::model::{Position, Timestamp};

/// What is known at one moment. Positions are `0/0` where they are not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub at: Timestamp,
    pub source: Position,
    pub received: Position,
    pub applied: Position,
    pub lag_bytes: u64,
    pub lag_seconds: f64,
    /// By the receiver of this process, of whatever kind.
    pub received_bytes: u64,
    /// Applied by this process.
    pub changes: u64,
    pub batches: u64,
    pub full_batches: u64,
}

/// How fast things move, as the last samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub source_bytes_per_second: f64,
    pub received_bytes_per_second: f64,
    pub applied_bytes_per_second: f64,
    pub changes_per_second: f64,
    /// Bytes a second by which the lag has grown over the last minutes; less than 0 where it shrinks.
    pub lag_growth: Option<f64>,
    /// Data comes in, be it only of a transaction that is under way.
    #[serde(skip)]
    pub is_receiving: bool,
    /// There were batches, and each was as large as it may be.
    #[serde(skip)]
    pub only_full_batches: bool,
}

const FINE: usize = 600;
const COARSE: usize = 2160;
const COARSE_EVERY: usize = 10;
/// Samples over which a rate is taken.
const RATE_SAMPLES: usize = 10;
/// What keepalives come to meanwhile, and more.
const TRICKLE_BYTES: u64 = 64 << 10;
/// Batches that tell something.
const BATCHES_MIN: u64 = 5;

pub(super) struct Trend {
    /// Samples over which it is judged whether the lag grows.
    growth_samples: usize,
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
    taken: usize,
}

/// Columns of equal length, oldest first.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct History {
    pub at: Vec<Timestamp>,
    pub source_bytes_per_second: Vec<u64>,
    pub received_bytes_per_second: Vec<u64>,
    pub applied_bytes_per_second: Vec<u64>,
    pub changes_per_second: Vec<u64>,
    pub lag_bytes: Vec<u64>,
    pub lag_seconds: Vec<f64>,
}

impl Trend {
    /// Growth is judged over twice as long as what may pass by itself is given.
    pub(super) fn new(patience: Duration) -> Trend {
        let seconds = usize::try_from(patience.as_secs()).unwrap_or(FINE);
        let growth_samples = seconds.saturating_mul(2).clamp(RATE_SAMPLES, FINE - 1);
        Trend { growth_samples, fine: VecDeque::new(), coarse: VecDeque::new(), taken: 0 }
    }

    /// Once a second.
    pub(super) fn push(&mut self, sample: Sample) {
        keep(&mut self.fine, sample, FINE);
        if self.taken.is_multiple_of(COARSE_EVERY) {
            keep(&mut self.coarse, sample, COARSE);
        }
        self.taken = self.taken.saturating_add(1);
    }

    pub(super) fn rates(&self) -> Rates {
        let Some((before, now)) = self.over(RATE_SAMPLES) else { return Rates::default() };
        let long = self.over(self.growth_samples);
        let growth = long
            .filter(|_| self.fine.len() > self.growth_samples)
            .map(|(before, now)| (now.lag_bytes as f64 - before.lag_bytes as f64) / seconds(before, now));
        let batches = long.map_or(0, |(before, now)| now.batches.saturating_sub(before.batches));
        let full = long.map_or(0, |(before, now)| now.full_batches.saturating_sub(before.full_batches));
        Rates {
            source_bytes_per_second: moved(before, now, |sample| sample.source),
            received_bytes_per_second: moved(before, now, |sample| sample.received),
            applied_bytes_per_second: moved(before, now, |sample| sample.applied),
            changes_per_second: now.changes.saturating_sub(before.changes) as f64 / seconds(before, now),
            lag_growth: growth,
            is_receiving: now.received_bytes.saturating_sub(before.received_bytes) > TRICKLE_BYTES,
            only_full_batches: batches >= BATCHES_MIN && full >= batches,
        }
    }

    /// The whole time, as finely as it is known.
    pub(super) fn history(&self) -> History {
        let samples = if self.taken <= FINE { &self.fine } else { &self.coarse };
        let mut history = History::default();
        for (before, now) in samples.iter().zip(samples.iter().skip(1)) {
            let rate = |position: fn(&Sample) -> Position| moved(before, now, position) as u64;
            history.at.push(now.at);
            history.source_bytes_per_second.push(rate(|sample| sample.source));
            history.received_bytes_per_second.push(rate(|sample| sample.received));
            history.applied_bytes_per_second.push(rate(|sample| sample.applied));
            let changes = now.changes.saturating_sub(before.changes) as f64 / seconds(before, now);
            history.changes_per_second.push(changes as u64);
            history.lag_bytes.push(now.lag_bytes);
            history.lag_seconds.push(now.lag_seconds);
        }
        history
    }

    /// The last sample, and the one so many before it, or the first.
    fn over(&self, samples: usize) -> Option<(&Sample, &Sample)> {
        let now = self.fine.back()?;
        let before = self.fine.get(self.fine.len().saturating_sub(samples.saturating_add(1)))?;
        (before.at < now.at).then_some((before, now))
    }
}

fn keep(samples: &mut VecDeque<Sample>, sample: Sample, most: usize) {
    if samples.len() >= most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn seconds(before: &Sample, now: &Sample) -> f64 {
    now.at.seconds_since(before.at).max(0.001)
}

/// Bytes a second; 0 where the position was not known before.
fn moved(before: &Sample, now: &Sample, position: fn(&Sample) -> Position) -> f64 {
    match position(before) {
        Position::ZERO => 0.0,
        earlier => position(now).bytes_since(earlier) as f64 / seconds(before, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64) -> Sample {
        Sample {
            at: Timestamp(second * 1_000_000),
            source: Position(1000 + 100 * second as u64),
            applied: Position(1000 + 40 * second as u64),
            lag_bytes: 60 * second as u64,
            changes: 7 * second as u64,
            batches: second as u64,
            full_batches: second as u64,
            ..Sample::default()
        }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut trend = Trend::new(Duration::from_secs(60));
        assert_eq!(trend.rates(), Rates::default());
        (0..=130).for_each(|second| trend.push(sample(second)));
        let rates = trend.rates();
        assert_eq!(rates.source_bytes_per_second, 100.0);
        assert_eq!(rates.applied_bytes_per_second, 40.0);
        assert_eq!((rates.received_bytes_per_second, rates.changes_per_second), (0.0, 7.0));
        assert_eq!(rates.lag_growth, Some(60.0));
        assert!(rates.only_full_batches);
        trend.push(Sample { batches: 200, ..sample(131) });
        assert!(!trend.rates().only_full_batches);
    }

    #[test]
    fn a_short_time_says_nothing_of_growth() {
        let mut trend = Trend::new(Duration::from_secs(60));
        (0..50).for_each(|second| trend.push(sample(second)));
        assert_eq!(trend.rates().lag_growth, None);
    }

    #[test]
    fn history_is_bounded_and_covers_the_whole_time() {
        let mut trend = Trend::new(Duration::from_secs(60));
        (0..100).for_each(|second| trend.push(sample(second)));
        assert_eq!(trend.history().at.len(), 99);
        (100..30_000).for_each(|second| trend.push(sample(second)));
        let history = trend.history();
        assert_eq!(history.at.len(), COARSE - 1);
        assert!(history.source_bytes_per_second.iter().all(|rate| *rate == 100));
        assert_eq!(history.lag_bytes.last(), Some(&(60 * 29_990)));
    }
}
