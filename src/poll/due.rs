//! Which table is pulled next. Pure, with the time as it is told.

use std::time::Duration;

use crate::model::Timestamp;

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Pulls the table of this number.
    Pull(usize),
    /// Asks again after so long, or when a pull has ended.
    Wait(Duration),
    /// Nothing more, in this run.
    Over,
}

/// The tables by their numbers.
#[derive(Debug)]
pub(super) struct Plan {
    tables: Vec<Entry>,
    is_once: bool,
}

#[derive(Debug)]
struct Entry {
    last: Option<Timestamp>,
    next: Timestamp,
    is_running: bool,
    is_done: bool,
}

/// Nobody sleeps longer, so that a clock that was set is noticed.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn after(time: Timestamp, length: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(i64::try_from(length.as_micros()).unwrap_or(i64::MAX)))
}

impl Plan {
    /// Of each table: when it was pulled last, and its period. `is_once`: each at most once, those that are due; with `all`, each.
    pub(super) fn new(
        tables: impl Iterator<Item = (Option<Timestamp>, Duration)>,
        is_once: bool,
        all: bool,
    ) -> Plan {
        let entry = |(last, every): (Option<Timestamp>, Duration)| {
            let next = last.filter(|_| !all).map_or(Timestamp(i64::MIN), |last| after(last, every));
            Entry { last, next, is_running: false, is_done: false }
        };
        Plan { tables: tables.map(entry).collect(), is_once }
    }

    /// The table that is due and was pulled longest ago; it counts as running from now on.
    pub(super) fn next(&mut self, now: Timestamp) -> Next {
        let free = |entry: &&mut Entry| !entry.is_running && !entry.is_done;
        let due = self.tables.iter_mut().enumerate().filter(|(_, entry)| free(entry) && entry.next <= now);
        if let Some((number, entry)) = due.min_by_key(|(number, entry)| (entry.last, *number)) {
            entry.is_running = true;
            return Next::Pull(number);
        }
        if self.is_once {
            return Next::Over;
        }
        let next = self.tables.iter().filter(|entry| !entry.is_running).map(|entry| entry.next).min();
        let wait = next.map_or(WAIT_MAX, |next| {
            Duration::from_micros(u64::try_from(next.0.saturating_sub(now.0)).unwrap_or(0))
        });
        Next::Wait(wait.min(WAIT_MAX))
    }

    /// A pull that began at `began` has ended, and the next is due after `pause` from there.
    pub(super) fn ended(&mut self, number: usize, began: Timestamp, pause: Duration) {
        if let Some(entry) = self.tables.get_mut(number) {
            *entry = Entry {
                last: Some(began),
                next: after(began, pause),
                is_running: false,
                is_done: self.is_once,
            };
        }
    }

    /// What is running is not, and is due as it was.
    pub(super) fn put_back(&mut self) {
        self.tables.iter_mut().for_each(|entry| entry.is_running = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    fn plan(lasts: &[Option<i64>], is_once: bool, all: bool) -> Plan {
        let tables = lasts.iter().map(|last| (last.map(at), Duration::from_secs(60)));
        Plan::new(tables, is_once, all)
    }

    #[test]
    fn the_table_that_was_pulled_longest_ago_comes_first() {
        let mut plan = plan(&[Some(20), Some(10), None, Some(95)], false, false);
        for expected in [Next::Pull(2), Next::Pull(1), Next::Pull(0), Next::Wait(Duration::from_secs(55))] {
            assert_eq!(plan.next(at(100)), expected);
        }
        plan.ended(1, at(100), Duration::from_secs(60));
        plan.ended(0, at(100), Duration::ZERO);
        assert_eq!(plan.next(at(101)), Next::Pull(0));
        assert_eq!(plan.next(at(101)), Next::Wait(Duration::from_secs(54)));
        assert_eq!(plan.next(at(155)), Next::Pull(3));
        assert_eq!(plan.next(at(160)), Next::Pull(1));
    }

    #[test]
    fn once_is_what_is_due_or_all() {
        let mut due = plan(&[Some(20), Some(95)], true, false);
        assert_eq!(due.next(at(100)), Next::Pull(0));
        due.ended(0, at(100), Duration::ZERO);
        assert_eq!(due.next(at(100)), Next::Over);
        let mut all = plan(&[Some(20), Some(95)], true, true);
        assert_eq!((all.next(at(100)), all.next(at(100))), (Next::Pull(0), Next::Pull(1)));
        assert_eq!(all.next(at(100)), Next::Over);
    }
}
