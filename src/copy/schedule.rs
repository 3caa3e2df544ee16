//! Which unit of several is made next, while others are being made. Pure.
//!
//! What alters a table locks all others out of it, and would only wait for them; so it is put off until nobody is at the table, and another
//! unit goes first. That alone also keeps two of ours from waiting for each other.

use std::collections::HashMap;

/// A thing to be made.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) table: Option<(String, String)>,
    /// Nobody else may be at the table.
    pub(super) alone: bool,
    /// Tasks that must be done before, by their places.
    pub(super) needs: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Take(usize),
    /// Nothing can be begun until something is done.
    Wait,
    /// Nothing is left to begin.
    End,
}

/// Tasks in the order in which they are best begun.
pub(super) struct Schedule {
    tasks: Vec<(Task, State)>,
    /// Who is at a table: whether alone, and how many.
    busy: HashMap<(String, String), (bool, usize)>,
    stopped: bool,
}

impl Schedule {
    pub(super) fn new(tasks: Vec<Task>) -> Schedule {
        let tasks = tasks.into_iter().map(|task| (task, State::Waiting)).collect();
        Schedule { tasks, busy: HashMap::new(), stopped: false }
    }

    /// The first task that can be begun; it counts as running from now on.
    pub(super) fn next(&mut self) -> Next {
        if self.stopped || self.tasks.iter().all(|(_, state)| *state != State::Waiting) {
            return Next::End;
        }
        let place =
            self.tasks.iter().position(|(task, state)| *state == State::Waiting && self.is_free(task));
        let Some((place, (task, state))) = place.and_then(|place| Some((place, self.tasks.get_mut(place)?)))
        else {
            return Next::Wait;
        };
        *state = State::Running;
        if let Some(table) = &task.table {
            let busy = self.busy.entry(table.clone()).or_default();
            *busy = (task.alone, busy.1 + 1);
        }
        Next::Take(place)
    }

    pub(super) fn done(&mut self, place: usize) {
        let Some((task, state)) = self.tasks.get_mut(place) else { return };
        *state = State::Done;
        if let Some(busy) = task.table.as_ref().and_then(|table| self.busy.get_mut(table)) {
            *busy = (false, busy.1.saturating_sub(1));
        }
    }

    /// Nothing more is begun.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    fn is_free(&self, task: &Task) -> bool {
        let is_done = |place: &usize| self.tasks.get(*place).is_none_or(|(_, state)| *state == State::Done);
        let busy = task.table.as_ref().and_then(|table| self.busy.get(table)).copied().unwrap_or_default();
        let table_is_free = match busy {
            (_, 0) => true,
            (alone, _) => !alone && !task.alone,
        };
        table_is_free && task.needs.iter().all(is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(table: &str, alone: bool, needs: &[usize]) -> Task {
        Task { table: Some(("s".into(), table.into())), alone, needs: needs.to_vec() }
    }

    #[test]
    fn others_go_first_where_a_table_is_locked() {
        let mut schedule = Schedule::new(vec![
            task("a", true, &[]),
            task("a", false, &[]),
            task("a", false, &[]),
            task("b", false, &[]),
            task("a", true, &[]),
            task("c", false, &[3]),
        ]);
        assert_eq!(schedule.next(), Next::Take(0));
        assert_eq!(schedule.next(), Next::Take(3));
        assert_eq!(schedule.next(), Next::Wait);
        schedule.done(3);
        assert_eq!(schedule.next(), Next::Take(5));
        schedule.done(0);
        assert_eq!(schedule.next(), Next::Take(1));
        assert_eq!(schedule.next(), Next::Take(2));
        assert_eq!(schedule.next(), Next::Wait);
        schedule.done(1);
        assert_eq!(schedule.next(), Next::Wait);
        schedule.done(2);
        assert_eq!(schedule.next(), Next::Take(4));
        assert_eq!(schedule.next(), Next::End);
    }

    #[test]
    fn nothing_is_begun_after_a_failure() {
        let mut schedule = Schedule::new(vec![task("a", false, &[]), task("b", false, &[])]);
        assert_eq!(schedule.next(), Next::Take(0));
        schedule.stop();
        assert_eq!(schedule.next(), Next::End);
        assert_eq!(Schedule::new(Vec::new()).next(), Next::End);
    }
}
