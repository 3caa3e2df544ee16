//! Tells alarms from passing signs: pure, with the time as it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;

use super::alarms::{Alarm, Sign};

/// What has become of an alarm.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Raised(Alarm),
    /// Its level is another one now.
    Moved(Alarm),
    Over(Alarm),
}

#[derive(Default)]
pub(super) struct Ward {
    standing: BTreeMap<(&'static str, String), Standing>,
}

struct Standing {
    alarm: Alarm,
    is_raised: bool,
}

impl Ward {
    /// Takes note of what is seen now.
    pub(super) fn step(&mut self, now: Timestamp, signs: Vec<Sign>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.standing);
        for sign in signs {
            let Sign { alarm, subject, level, message, cure, patience } = sign;
            let key = (alarm, subject.clone());
            let known = before.remove(&key);
            let since = known.as_ref().map_or(now, |known| known.alarm.since);
            let was = known.filter(|known| known.is_raised).map(|known| known.alarm.level);
            let alarm = Alarm { alarm, subject, level, since, message, cure };
            let is_raised = was.is_some() || has_stood(now, since, patience);
            match was {
                None if is_raised => changes.push(Change::Raised(alarm.clone())),
                Some(was) if was != level => changes.push(Change::Moved(alarm.clone())),
                _ => {}
            }
            self.standing.insert(key, Standing { alarm, is_raised });
        }
        let over = before.into_values().filter(|gone| gone.is_raised).map(|gone| Change::Over(gone.alarm));
        changes.extend(over);
        changes
    }

    /// The alarms that are raised, gravest first.
    pub(super) fn open(&self) -> Vec<Alarm> {
        let raised = self.standing.values().filter(|standing| standing.is_raised);
        let mut open: Vec<Alarm> = raised.map(|standing| standing.alarm.clone()).collect();
        open.sort_by_key(|alarm| std::cmp::Reverse(alarm.level));
        open
    }
}

fn has_stood(now: Timestamp, since: Timestamp, patience: Duration) -> bool {
    now.seconds_since(since) >= patience.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::alarms::Level;
    use super::*;

    fn sign(subject: &str, level: Level, patience_seconds: u64) -> Sign {
        Sign {
            alarm: "a",
            subject: subject.into(),
            level,
            message: String::new(),
            cure: String::new(),
            patience: Duration::from_secs(patience_seconds),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_sign_that_passes_is_no_alarm() {
        let mut ward = Ward::default();
        let seen = |subject: &str| vec![sign(subject, Level::Warning, 10)];
        assert!(ward.step(at(0), seen("1")).is_empty());
        assert!(ward.step(at(9), seen("1")).is_empty());
        // The position has moved: another sign.
        assert!(ward.step(at(11), seen("2")).is_empty());
        assert!(ward.step(at(12), Vec::new()).is_empty());
        assert!(ward.open().is_empty());
    }

    #[test]
    fn one_that_stays_is_raised_once_and_over_once() {
        let mut ward = Ward::default();
        let seen = |level| vec![sign("1", level, 10)];
        assert!(ward.step(at(0), seen(Level::Warning)).is_empty());
        assert!(
            matches!(&ward.step(at(10), seen(Level::Warning))[..], [Change::Raised(a)] if a.since == at(0))
        );
        assert!(ward.step(at(11), seen(Level::Warning)).is_empty());
        assert!(matches!(&ward.step(at(12), seen(Level::Critical))[..], [Change::Moved(_)]));
        assert_eq!(ward.open().len(), 1);
        assert!(
            matches!(&ward.step(at(13), Vec::new())[..], [Change::Over(a)] if a.level == Level::Critical)
        );
        assert!(ward.step(at(14), Vec::new()).is_empty());
    }

    #[test]
    fn without_patience_it_is_raised_at_once_and_the_gravest_come_first() {
        let mut ward = Ward::default();
        ward.step(at(0), vec![sign("1", Level::Notice, 0), sign("2", Level::Critical, 0)]);
        let open: Vec<_> = ward.open().into_iter().map(|alarm| alarm.subject).collect();
        assert_eq!(open, ["2", "1"]);
    }
}
