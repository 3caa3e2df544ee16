//! Whether a hold is still wanted: only while its owner says so again and again, by this process's own clock, so that one that was
//! left behind comes to its end without clocks that agree.

use tokio::time::Instant;

use crate::model::Position;
use crate::sentinel::Hold;

/// The hold that was heard last, and when it was new.
#[derive(Debug, Default)]
pub(super) struct Lease {
    heard: Option<(Hold, Instant)>,
    told: Option<Hold>,
}

impl Lease {
    pub(super) fn hear(&mut self, hold: Option<Hold>, now: Instant) {
        if hold != self.heard.map(|(hold, _)| hold) {
            self.heard = hold.map(|hold| (hold, now));
        }
    }

    /// Where the applier is to stand now.
    pub(super) fn hold(&self, now: Instant) -> Option<Position> {
        self.heard.filter(|(_, since)| now.duration_since(*since) < Hold::LEASE).map(|(hold, _)| hold.lsn)
    }

    /// A hold that is there and not in force any more.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Hold> {
        let expired = match self.hold(now) {
            Some(_) => None,
            None => self.heard.map(|(hold, _)| hold),
        };
        if let Some(hold) = expired.filter(|_| self.told != expired) {
            tracing::warn!(lsn = %hold.lsn, "who asked to hold the applier is gone: it goes on");
        }
        self.told = expired;
        expired
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn holds_while_it_is_renewed() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let hold = |beat| Some(Hold { lsn: Position(5), owner: 1, beat });
        let mut lease = Lease::default();
        assert_eq!((lease.hold(start), lease.expired(start)), (None, None));
        lease.hear(hold(1), start);
        lease.hear(hold(1), after(20));
        assert_eq!(lease.hold(after(29)), Some(Position(5)));
        assert_eq!((lease.hold(after(30)), lease.expired(after(30))), (None, hold(1)));
        lease.hear(hold(2), after(40));
        assert_eq!((lease.hold(after(69)), lease.expired(after(69))), (Some(Position(5)), None));
        lease.hear(None, after(50));
        assert_eq!((lease.hold(after(50)), lease.expired(after(99))), (None, None));
    }
}
