//! Whether the log may be continued from this source: the pure decision made at every connect.
//!
//! The server would not refuse: it silently forwards a start below the slot's position, takes one beyond the end of WAL,
//! and knows nothing of what a client holds (logical.c, `CreateDecodingContext`). So a gap must be found here.

use std::cmp::Ordering;

use crate::archive::Successor;
use crate::model::{Fault, Position};

/// What the log says of its source and how far it holds it.
#[derive(Clone, Debug)]
pub(super) struct LogState {
    pub(super) system_identifier: u64,
    pub(super) timeline: u32,
    pub(super) durable: Position,
}

impl LogState {
    /// The log of a source that `pg_upgrade` has made another system of: until something comes from there, its end counts as the
    /// new slot's beginning. Refused where this log lacks something of the old one, which is gone.
    pub(super) fn on(self, successor: &Successor) -> Result<LogState, Fault> {
        let (system_identifier, after) = (successor.system_identifier, successor.after);
        match self.durable.cmp(&after) {
            Ordering::Greater => Ok(LogState { system_identifier, ..self }),
            Ordering::Equal => {
                Ok(LogState { system_identifier, timeline: successor.timeline, durable: successor.from })
            }
            Ordering::Less => Err(Fault::person(format!(
                "gap of {} bytes: the log ends at {}, and had all of the source before its pg_upgrade up to {after}",
                after.bytes_since(self.durable),
                self.durable
            ))
            .hint("go on with the spool, or the folder, that received then: it has the rest; without it, start a new archive")),
        }
    }
}

/// What the source says at connect.
#[derive(Clone, Debug)]
pub(super) struct SourceState {
    pub(super) system_identifier: u64,
    pub(super) timeline: u32,
    /// End of WAL.
    pub(super) flushed: Position,
    /// Where the server left the log's timeline, if it is on a later one.
    pub(super) switched_at: Option<Position>,
    pub(super) slot: SlotState,
}

#[derive(Clone, Debug)]
pub(super) struct SlotState {
    pub(super) name: String,
    pub(super) confirmed: Position,
    /// Why the server can't serve the slot any more (`wal_status` lost).
    pub(super) lost: bool,
    /// Somebody reads from it.
    pub(super) active: bool,
}

/// Ok, or [`Fault::person`] with the size of what is missing.
pub(super) fn admit(log: &LogState, source: &SourceState) -> Result<(), Fault> {
    let slot = &source.slot.name;
    if source.system_identifier != log.system_identifier {
        return Err(Fault::person(format!(
            "the archive belongs to the system {}, but the source is {}",
            log.system_identifier, source.system_identifier
        ))
        .hint("check --source and --archive; after a pg_upgrade that has kept the slot: pgsluice setup --source-upgraded; any other new system needs a new archive"));
    }
    if source.slot.lost {
        return Err(Fault::person(format!(
            "slot \"{slot}\" is lost: the source has removed WAL after {} that the archive lacks ({} bytes up to its end)",
            log.durable,
            source.flushed.bytes_since(log.durable)
        ))
        .hint("what is archived can still be applied; to go on, start a new archive and copy the tables anew"));
    }
    if source.timeline < log.timeline {
        return Err(Fault::person(format!(
            "the source is on timeline {}, but the archive holds timeline {}",
            source.timeline, log.timeline
        ))
        .hint("the source is an old primary or was restored to an earlier point; connect to the current primary"));
    }
    if source.timeline > log.timeline && source.switched_at.is_none() {
        return Err(Fault::person(format!(
            "the source's timeline {} does not descend from timeline {}, which the archive holds",
            source.timeline, log.timeline
        ))
        .hint("another server was promoted than the one that the archive followed; start a new archive from this one"));
    }
    if let Some(switch) = source.switched_at
        && source.timeline > log.timeline
        && log.durable > switch
    {
        return Err(Fault::person(format!(
            "the archive is ahead of the new timeline {} by {} bytes: it holds {} and the switch was at {switch}",
            source.timeline,
            log.durable.bytes_since(switch),
            log.durable
        ))
        .hint("the old primary had committed what the new one never received; start a new archive from the new primary"));
    }
    if source.slot.confirmed > log.durable {
        return Err(Fault::person(format!(
            "gap of {} bytes: slot \"{slot}\" is confirmed up to {}, but the archive ends at {}",
            source.slot.confirmed.bytes_since(log.durable),
            source.slot.confirmed,
            log.durable
        ))
        .hint("the slot was made anew or somebody else has read from it, or the archive has lost its end; start a new archive"));
    }
    if log.durable > source.flushed {
        return Err(Fault::person(format!(
            "the archive ends at {}, {} bytes beyond the end of the source's WAL at {}",
            log.durable,
            log.durable.bytes_since(source.flushed),
            source.flushed
        ))
        .hint(
            "the source was restored to an earlier point, or this is another archive; start a new archive",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LogState {
        LogState { system_identifier: 7, timeline: 1, durable: Position(100) }
    }

    fn source() -> SourceState {
        SourceState {
            system_identifier: 7,
            timeline: 1,
            flushed: Position(150),
            switched_at: None,
            slot: SlotState { name: "s".into(), confirmed: Position(90), lost: false, active: false },
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut SourceState), expected: &str) {
        let mut source = source();
        change(&mut source);
        match admit(&log(), &source) {
            Ok(()) => assert_eq!(expected, "admitted"),
            Err(fault) => {
                assert_eq!(fault.exit_code(), 4);
                assert!(fault.message.contains(expected), "{}", fault.message);
            }
        }
    }

    #[test]
    fn continues_only_without_a_gap() {
        check(|_| {}, "admitted");
        check(|s| s.slot.confirmed = Position(100), "admitted");
        check(|s| s.slot.confirmed = Position(101), "gap of 1 bytes");
        check(|s| s.flushed = Position(100), "admitted");
        check(|s| s.flushed = Position(99), "1 bytes beyond the end");
        check(|s| s.system_identifier = 8, "system 7");
        check(|s| s.slot.lost = true, "is lost");
    }

    #[test]
    fn a_successor_goes_on_where_its_slot_begins() {
        let successor = Successor {
            after: Position(100),
            from: Position(200),
            system_identifier: 8,
            timeline: 1,
            server_version_num: 180_000,
        };
        let on = |durable| LogState { timeline: 3, durable: Position(durable), ..log() }.on(&successor);
        let log = |durable| on(durable).unwrap();
        let upgraded = |confirmed: u64| {
            let slot = SlotState { confirmed: Position(confirmed), ..source().slot };
            SourceState { system_identifier: 8, flushed: Position(300), slot, ..source() }
        };
        assert!(admit(&log(100), &upgraded(200)).is_ok());
        // Another spool has the rest.
        assert!(on(99).unwrap_err().message.contains("gap of 1 bytes"));
        // Somebody else has read from the slot since.
        assert!(admit(&log(100), &upgraded(201)).unwrap_err().message.contains("gap of 1 bytes"));
        assert!(admit(&log(100), &source()).unwrap_err().message.contains("system 8"));
        // What came from there counts as ever.
        let after = LogState { timeline: 1, ..log(250) };
        assert!(admit(&after, &upgraded(250)).is_ok());
        assert!(admit(&after, &upgraded(251)).unwrap_err().message.contains("gap of 1 bytes"));
    }

    #[test]
    fn follows_a_promotion_only_behind_the_switch() {
        let promoted = |switch| {
            move |s: &mut SourceState| {
                s.timeline = 2;
                s.switched_at = Some(Position(switch));
            }
        };
        check(promoted(100), "admitted");
        check(promoted(97), "ahead of the new timeline 2 by 3 bytes");
        check(|s| s.timeline = 3, "does not descend from timeline 1");
        check(|s| s.timeline = 0, "holds timeline 1");
    }
}
