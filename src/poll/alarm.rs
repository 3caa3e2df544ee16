//! What a person should do something about. Who is told is not this room's to know.

use std::sync::Mutex;

/// Something about a table that does not pass by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Of which kind, such as `poll_limit`.
    pub kind: &'static str,
    pub table: String,
    /// Nothing of the table moves; else it will be so some day.
    pub is_critical: bool,
    pub message: String,
    pub cure: String,
}

/// Is told of what is raised (true) and of what is over.
pub type Tell<'a> = dyn Fn(&Alarm, bool) + Send + Sync + 'a;

/// The alarms that stand.
pub(super) struct Alarms<'a> {
    tell: &'a Tell<'a>,
    standing: Mutex<Vec<Alarm>>,
}

impl<'a> Alarms<'a> {
    pub(super) fn new(tell: &'a Tell<'a>) -> Alarms<'a> {
        Alarms { tell, standing: Mutex::default() }
    }

    /// What stands of a table from now on. Each is told once, until it is over.
    pub(super) fn stand(&self, table: &str, now: Vec<Alarm>) {
        let mut standing = self.standing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_same = |one: &Alarm, other: &Alarm| one.kind == other.kind && one.table == other.table;
        standing.retain(|alarm| {
            let stays = alarm.table != table || now.iter().any(|other| is_same(alarm, other));
            if !stays {
                (self.tell)(alarm, false);
            }
            stays
        });
        for alarm in now {
            match standing.iter_mut().find(|other| is_same(&alarm, other)) {
                Some(known) if known.is_critical == alarm.is_critical => *known = alarm,
                Some(known) => {
                    (self.tell)(&alarm, true);
                    *known = alarm;
                }
                None => {
                    (self.tell)(&alarm, true);
                    standing.push(alarm);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_told_once_and_when_it_is_over() {
        let told = Mutex::new(Vec::new());
        let tell = |alarm: &Alarm, is_raised: bool| told.lock().unwrap().push((alarm.is_critical, is_raised));
        let alarms = Alarms::new(&tell);
        let alarm = |is_critical| Alarm {
            kind: "k",
            table: "t".into(),
            is_critical,
            message: String::new(),
            cure: String::new(),
        };
        for now in [vec![alarm(false)], vec![alarm(false)], vec![alarm(true)], vec![]] {
            alarms.stand("t", now);
            alarms.stand("other", vec![]);
        }
        assert_eq!(*told.lock().unwrap(), [(false, true), (true, true), (true, false)]);
    }
}
