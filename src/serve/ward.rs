//! Tells alarms from passing signs: pure, with the time as it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;

use super::alarms::{Alarm, Part, Sign};

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
    part: Part,
    is_raised: bool,
    /// It is not seen any more since then.
    gone: Option<Timestamp>,
}

/// How long the sign of an alarm must be gone before it is over, so that one at a threshold is not told again and again.
const SETTLE: Duration = Duration::from_secs(5);

impl Ward {
    /// Takes note of what is seen now. Of a part that can't be looked at all stays as it was.
    pub(super) fn step(&mut self, now: Timestamp, signs: Vec<Sign>, unseen: &[Part]) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.standing);
        for sign in signs {
            let Sign { alarm, subject, level, part, message, cure, patience } = sign;
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
            self.standing.insert(key, Standing { alarm, part, is_raised, gone: None });
        }
        for (key, mut standing) in before {
            let is_unseen = unseen.contains(&standing.part);
            let gone = *standing.gone.get_or_insert(now);
            if is_unseen {
                standing.gone = None;
                self.standing.insert(key, standing);
            } else if standing.is_raised && has_stood(now, gone, SETTLE) {
                changes.push(Change::Over(standing.alarm));
            } else if standing.is_raised {
                self.standing.insert(key, standing);
            }
        }
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
            part: Part::Source,
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
        assert!(ward.step(at(0), seen("1"), &[]).is_empty());
        assert!(ward.step(at(9), seen("1"), &[]).is_empty());
        // The position has moved: another sign.
        assert!(ward.step(at(11), seen("2"), &[]).is_empty());
        assert!(ward.step(at(12), Vec::new(), &[]).is_empty());
        assert!(ward.open().is_empty());
    }

    #[test]
    fn one_that_stays_is_raised_once_and_over_once() {
        let mut ward = Ward::default();
        let seen = |level| vec![sign("1", level, 10)];
        assert!(ward.step(at(0), seen(Level::Warning), &[]).is_empty());
        let raised = ward.step(at(10), seen(Level::Warning), &[]);
        assert!(matches!(&raised[..], [Change::Raised(alarm)] if alarm.since == at(0)));
        assert!(ward.step(at(11), seen(Level::Warning), &[]).is_empty());
        assert!(matches!(&ward.step(at(12), seen(Level::Critical), &[])[..], [Change::Moved(_)]));
        assert_eq!(ward.open().len(), 1);
        // At a threshold it comes and goes.
        assert!(ward.step(at(13), Vec::new(), &[]).is_empty());
        assert!(ward.step(at(17), seen(Level::Critical), &[]).is_empty());
        assert!(ward.step(at(18), Vec::new(), &[]).is_empty());
        assert_eq!(ward.open().len(), 1);
        let over = ward.step(at(23), Vec::new(), &[]);
        assert!(matches!(&over[..], [Change::Over(alarm)] if alarm.level == Level::Critical));
        assert!(ward.step(at(24), Vec::new(), &[]).is_empty());
    }

    #[test]
    fn what_cant_be_looked_at_is_not_over() {
        let mut ward = Ward::default();
        ward.step(at(0), vec![sign("1", Level::Warning, 0)], &[]);
        assert!(ward.step(at(60), Vec::new(), &[Part::Source]).is_empty());
        assert_eq!(ward.open().len(), 1);
        // Another part's being away keeps nothing.
        ward.step(at(61), Vec::new(), &[Part::Target]);
        assert_eq!(ward.step(at(66), Vec::new(), &[Part::Target]).len(), 1);
    }

    #[test]
    fn without_patience_it_is_raised_at_once_and_the_gravest_come_first() {
        let mut ward = Ward::default();
        ward.step(at(0), vec![sign("1", Level::Notice, 0), sign("2", Level::Critical, 0)], &[]);
        let open: Vec<_> = ward.open().into_iter().map(|alarm| alarm.subject).collect();
        assert_eq!(open, ["2", "1"]);
    }
}
