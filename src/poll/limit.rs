//! Up to where rows are complete: that none will become visible any more that has a lower value in the control column. Pure.
//!
//! Two things can say so. The *boundary* trusts that a transaction is shorter than a length of time, or that numbers become visible no further out of
//! order than so many. *Exact* trusts nobody for how long he takes: a point is noted (the server's clock, or the highest number
//! that is visible), and after it which transactions run; when none of those runs any more, whatever was given up to the point is visible or gone.
//! It is as good as the values are the server's: its clock, or a sequence that gives one number at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A place in the control column: microseconds since 2000, or the number itself.
pub(super) type Point = i128;

/// Who may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// Transactions that have ended.
    Exact,
    Boundary,
    /// The lower of the two.
    Both,
}

/// What a limit came of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Exact,
    Boundary,
    /// The boundary, behind which no older transaction runs.
    Both,
    /// No higher number has come for a while.
    Stillness,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            By::Exact => "exact",
            By::Boundary => "boundary",
            By::Both => "boundary and running transactions",
            By::Stillness => "stillness",
        }
    }
}

/// Transactions of the source at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    /// Virtual ids of those that run.
    pub(super) virtual_xids: BTreeSet<String>,
    /// Ids of those that are prepared, looked up after the others.
    pub(super) prepared: BTreeSet<String>,
}

/// A point, and those that ran behind it and have not been seen to end.
#[derive(Debug)]
struct Candidate {
    point: Point,
    waits_for: Running,
    /// Prepared when the point was noted, or since.
    known: BTreeSet<String>,
}

/// Points that are waiting to be complete, rising.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    waiting: Vec<Candidate>,
    complete: Option<Point>,
}

/// So many points wait at most; then the newest gives way.
const WAITING_MAX: usize = 64;

impl Candidates {
    /// Takes note of who runs. To be told before the next point is noted.
    pub(super) fn look(&mut self, running: &Running) {
        for candidate in &mut self.waiting {
            let waited = !candidate.waits_for.virtual_xids.is_empty();
            candidate.waits_for.virtual_xids.retain(|id| running.virtual_xids.contains(id));
            candidate.waits_for.prepared.retain(|id| running.prepared.contains(id));
            // One that ran may have been prepared, before or when it was seen to end, and goes on under another name.
            if waited {
                for id in running.prepared.iter().filter(|id| !candidate.known.contains(*id)) {
                    candidate.waits_for.prepared.insert(id.clone());
                }
            }
            candidate.known.extend(running.prepared.iter().cloned());
        }
        let is_complete = |candidate: &Candidate| candidate.waits_for == Running::default();
        if let Some(newest) = self.waiting.iter().rposition(is_complete) {
            // What is complete up to a point is complete up to each before it.
            self.complete = self.waiting.drain(..=newest).next_back().map(|candidate| candidate.point);
        }
    }

    /// Takes note of a point, and of who ran at a moment behind it.
    pub(super) fn note(&mut self, point: Point, running: &Running) {
        let newest = self.waiting.last().map(|candidate| candidate.point).or(self.complete);
        if newest.is_some_and(|newest| point <= newest) {
            return;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop();
        }
        let known = running.prepared.clone();
        self.waiting.push(Candidate { point, waits_for: running.clone(), known });
        self.look(running);
    }

    pub(super) fn complete(&self) -> Option<Point> {
        self.complete
    }

    /// How many transactions the oldest point waits for.
    pub(super) fn waits_for(&self) -> usize {
        let first = self.waiting.first();
        first.map_or(0, |first| first.waits_for.virtual_xids.len() + first.waits_for.prepared.len())
    }
}

/// Rows below the point are complete, by the source's clock.
pub(super) fn of_time(
    mode: Mode,
    now: Point,
    boundary: Duration,
    complete: Option<Point>,
) -> (Option<Point>, By) {
    let bounded = now.saturating_sub(i128::try_from(boundary.as_micros()).unwrap_or(i128::MAX));
    match mode {
        Mode::Exact => (complete, By::Exact),
        Mode::Boundary => (Some(bounded), By::Boundary),
        Mode::Both => (complete.map(|complete| complete.min(bounded)), By::Both),
    }
}

/// The highest number that is visible, and for how long none higher was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Highest {
    pub(super) number: Point,
    pub(super) since: Duration,
}

/// For how long the highest number must have stood, for the newest rows to be taken on no other ground.
pub(super) fn stillness(mode: Mode, every: Duration) -> Duration {
    match mode {
        // By then those that ran are seen to have ended.
        Mode::Exact | Mode::Both => every,
        Mode::Boundary => every.max(super::Boundary::TIME),
    }
}

/// Rows up to the point are complete, itself included.
pub(super) fn of_numbers(
    mode: Mode,
    highest: Highest,
    boundary: u64,
    every: Duration,
    complete: Option<Point>,
) -> (Option<Point>, By) {
    let bounded = highest.number.saturating_sub(boundary.into());
    let is_still = highest.since >= stillness(mode, every);
    match mode {
        Mode::Exact => (complete, By::Exact),
        Mode::Boundary if is_still => (Some(highest.number), By::Stillness),
        Mode::Boundary => (Some(bounded), By::Boundary),
        Mode::Both => match complete {
            Some(complete) if is_still && complete >= highest.number => (Some(highest.number), By::Stillness),
            complete => (complete.map(|complete| complete.min(bounded)), By::Both),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(ids: &[&str], prepared: &[&str]) -> Running {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Running { virtual_xids: set(ids), prepared: set(prepared) }
    }

    #[test]
    fn one_that_is_seen_running_and_prepared_at_once_is_waited_for() {
        let mut candidates = Candidates::default();
        candidates.note(10, &running(&["a"], &[]));
        candidates.look(&running(&["a"], &["2"]));
        candidates.look(&running(&[], &["2"]));
        assert_eq!(candidates.complete(), None);
        candidates.look(&running(&[], &[]));
        assert_eq!(candidates.complete(), Some(10));
    }

    #[test]
    fn a_point_is_complete_when_all_have_ended_that_ran_behind_it() {
        let mut candidates = Candidates::default();
        candidates.note(10, &running(&["a", "b"], &[]));
        assert_eq!(candidates.complete(), None);
        candidates.look(&running(&["b", "c"], &[]));
        candidates.note(20, &running(&["b", "c"], &[]));
        assert_eq!((candidates.complete(), candidates.waits_for()), (None, 1));
        candidates.look(&running(&["c"], &[]));
        assert_eq!(candidates.complete(), Some(10));
        candidates.look(&running(&["d"], &[]));
        candidates.note(30, &running(&[], &[]));
        assert_eq!(candidates.complete(), Some(30));
    }

    #[test]
    fn one_that_is_prepared_goes_on() {
        let mut candidates = Candidates::default();
        candidates.note(10, &running(&["a"], &["1"]));
        candidates.look(&running(&[], &["1", "2"]));
        candidates.look(&running(&[], &["2"]));
        assert_eq!(candidates.complete(), None);
        // Prepared by one that came later.
        candidates.look(&running(&[], &["3"]));
        assert_eq!(candidates.complete(), Some(10));
    }

    #[test]
    fn many_points_wait_and_the_oldest_stays() {
        let mut candidates = Candidates::default();
        for point in 0..1000 {
            candidates.note(point, &running(&["a"], &[]));
        }
        assert_eq!(candidates.waiting.len(), WAITING_MAX);
        candidates.look(&running(&[], &[]));
        assert_eq!(candidates.complete(), Some(999));
    }

    #[test]
    fn a_time_is_bounded_by_clock_and_transactions() {
        let check = |mode, complete, expected| {
            let (point, _) = of_time(mode, 100_000_000, Duration::from_secs(60), complete);
            assert_eq!(point, expected, "{mode:?}");
        };
        check(Mode::Boundary, Some(1), Some(40_000_000));
        check(Mode::Exact, Some(99_000_000), Some(99_000_000));
        check(Mode::Exact, None, None);
        check(Mode::Both, Some(99_000_000), Some(40_000_000));
        check(Mode::Both, Some(30_000_000), Some(30_000_000));
        check(Mode::Both, None, None);
    }

    #[test]
    fn the_newest_numbers_do_not_wait_for_ever() {
        let every = Duration::from_secs(60);
        let check = |mode, since, complete, expected| {
            let highest = Highest { number: 1000, since: Duration::from_secs(since) };
            assert_eq!(of_numbers(mode, highest, 10, every, complete).0, expected, "{mode:?} {since}");
        };
        check(Mode::Boundary, 0, None, Some(990));
        check(Mode::Boundary, 599, None, Some(990));
        check(Mode::Boundary, 600, None, Some(1000));
        check(Mode::Both, 0, Some(1000), Some(990));
        check(Mode::Both, 0, Some(900), Some(900));
        check(Mode::Both, 60, Some(1000), Some(1000));
        check(Mode::Both, 60, Some(999), Some(990));
        check(Mode::Both, 60, None, None);
        check(Mode::Exact, 0, Some(1000), Some(1000));
        check(Mode::Exact, 9999, None, None);
    }
}
