//! How a pipeline stands, put together from what was seen of its parts.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::archive::{ArchiveTotals, Registered};
use crate::follow::Mode;
use crate::model::{Position, Timestamp};
use crate::pg::progress::Progress;

use super::alarms::Alarm;
use super::look::{ArchiveLook, Found, Look, SourceLook, TargetLook, replay};
use super::pending::Pending;

#[derive(Clone, Debug, Serialize)]
pub struct Source {
    pub slot: String,
    /// The server's process that sends from it; none where nobody receives.
    pub active_pid: Option<i32>,
    pub confirmed_flush_lsn: Option<Position>,
    pub current_lsn: Position,
    pub retained_wal_bytes: Option<u64>,
    /// How much WAL may yet be written before the slot is lost; none where nothing limits it.
    pub safe_wal_bytes: Option<i64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Applier {
    pub replay_lsn: Position,
    pub replay_time: Option<Timestamp>,
    pub lag_bytes: Option<u64>,
    pub lag_seconds: Option<f64>,
    pub transactions: Option<i64>,
    pub changes: Option<i64>,
}

#[derive(Serialize)]
pub struct TableStatus<'a> {
    pub name: &'a str,
    pub received_events: u64,
    pub applied_events: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Status {
    /// None where the archive can't be read, which has the sentinel and a receiver's lock.
    pub mode: Option<Mode>,
    /// A comparison has the applier stand for a while.
    pub held: bool,
    pub source: Found<Source>,
    pub archive: Found<ArchiveTotals>,
    /// How far the receiver has got; none where none has told.
    pub write_lsn: Option<Position>,
    pub stored: Option<Position>,
    pub pending: Option<Pending>,
    pub applier: Found<Applier>,
    /// Transactions that were set aside; none where the target is not seen.
    pub dead: Option<i64>,
    /// All targets that are fed from the archive.
    pub appliers: Vec<Registered>,
    pub alarms: Vec<Alarm>,
}

/// Less than this behind is near: what a busy source writes while a batch is on its way.
const LIVE_BYTES_MAX: u64 = 4 << 20;

impl Status {
    /// `slot` is what the source's was meant to be called.
    pub fn of(look: &Look, slot: &str, now: Timestamp) -> Status {
        let Look { source, target, archive } = look;
        let control = archive.as_ref().ok().and_then(|look| look.control);
        let end = match (archive, source) {
            (Ok(look), _) => Some(look.totals.last_lsn),
            (_, Ok(source)) => Some(source.current_lsn),
            _ => None,
        };
        let pending = archive.as_ref().ok().and_then(|look| look.pending.clone());
        let progress = target.as_ref().map_err(Clone::clone).and_then(|look| {
            look.progress.as_ref().ok_or_else(|| "the target has no progress of this stream".to_owned())
        });
        let applier = progress.map(|progress: &Progress| {
            let lsn = replay(progress.lsn, control.as_ref());
            let idle = pending.as_ref().is_some_and(|pending| pending.transactions == 0);
            Applier {
                replay_lsn: lsn,
                replay_time: progress.commit_time,
                lag_bytes: end.map(|end| if idle { 0 } else { end.bytes_since(lsn) }),
                lag_seconds: match progress.commit_time {
                    _ if idle => Some(0.0),
                    Some(time) => Some(now.seconds_since(time).max(0.0)),
                    None => None,
                },
                transactions: Some(progress.transactions),
                changes: Some(progress.changes),
            }
        });
        Status {
            mode: (archive.as_ref().ok()).map(|look| mode(look, target.as_ref().ok(), applier.as_ref().ok())),
            held: control.is_some_and(|control| control.hold.is_some()),
            source: source.as_ref().map(|look| source_status(slot, look)).map_err(Clone::clone),
            write_lsn: control.map(|control| control.write_lsn).filter(|lsn| *lsn != Position::ZERO),
            stored: archive.as_ref().ok().and_then(|look| look.stored),
            appliers: archive.as_ref().map(|look| look.appliers.clone()).unwrap_or_default(),
            archive: archive.as_ref().map(|look| look.totals.clone()).map_err(Clone::clone),
            pending,
            applier,
            dead: target.as_ref().ok().map(|look| look.dead.map_or(0, |dead| dead.count)),
            alarms: Vec::new(),
        }
    }

    pub fn mode_name(&self) -> &'static str {
        self.mode.map_or("unknown", Mode::name)
    }

    pub fn json(&self) -> Value {
        let part = |value: Option<Value>| value.unwrap_or(Value::Null);
        let mut unreachable = Map::new();
        let mut reason = |name: &str, why: Option<&String>| {
            if let Some(why) = why {
                unreachable.insert(name.into(), json!(why));
            }
        };
        reason("source", self.source.as_ref().err());
        reason("archive", self.archive.as_ref().err());
        reason("applier", self.applier.as_ref().err());
        let archive = self.archive.as_ref().ok();
        json!({
            "mode": self.mode_name(),
            "held": self.held,
            "source": part(self.source.as_ref().ok().map(|source| json!(source))),
            "archive": part(archive.map(|contents| json!({
                "first_lsn": contents.first_lsn,
                "last_lsn": contents.last_lsn,
                "write_lsn": self.write_lsn,
                "stored_lsn": self.stored,
                "segments": contents.segments,
                "levels": contents.levels,
                "bytes": contents.bytes,
                "raw_bytes": contents.raw_bytes,
                "transactions": contents.transactions,
                "changes": contents.changes,
                "first_time": contents.first_time,
                "last_time": contents.last_time,
            }))),
            "applier": part(self.applier.as_ref().ok().map(|applier| json!(applier))),
            "appliers": self.appliers,
            "dead": self.dead,
            "tables": self.tables(),
            "alarms": self.alarms,
            "unreachable": unreachable,
        })
    }

    pub fn tables(&self) -> Vec<TableStatus<'_>> {
        let tables = self.archive.as_ref().map(|archive| archive.tables.as_slice()).unwrap_or_default();
        let applied = |name: &str, received: u64| match &self.pending {
            Some(pending) => received.saturating_sub(pending.tables.get(name).copied().unwrap_or(0)),
            None => 0,
        };
        let rows = tables.iter().map(|table| TableStatus {
            name: &table.name,
            received_events: table.events.total(),
            applied_events: applied(&table.name, table.events.total()),
            bytes: table.events.bytes,
        });
        rows.collect()
    }
}

fn source_status(slot: &str, look: &SourceLook) -> Source {
    Source {
        slot: slot.to_owned(),
        active_pid: look.slot.as_ref().and_then(|slot| slot.active_pid),
        confirmed_flush_lsn: look.slot.as_ref().and_then(|slot| slot.confirmed_flush),
        current_lsn: look.current_lsn,
        retained_wal_bytes: look.slot.as_ref().map(|slot| slot.retained_bytes),
        safe_wal_bytes: look.slot.as_ref().and_then(|slot| slot.safe_wal_bytes),
    }
}

fn mode(look: &ArchiveLook, target: Option<&TargetLook>, applier: Option<&Applier>) -> Mode {
    let control = look.control.unwrap_or_default();
    let reached = |position: Position| control.endpos().is_some_and(|endpos| position >= endpos);
    let replay = applier.map_or(control.replay_lsn, |applier| applier.replay_lsn);
    match (look.receiving, control.apply) {
        (false, true) if reached(replay) => Mode::Done,
        (false, false) if reached(look.totals.last_lsn) => Mode::Done,
        (false, _) => Mode::Stopped,
        (true, _) if target.is_some_and(|target| target.is_copying) => Mode::Prefetch,
        (true, false) => Mode::Prefetch,
        (true, true) if look.totals.last_lsn.bytes_since(replay) <= LIVE_BYTES_MAX => Mode::Live,
        (true, true) => Mode::Catchup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentinel::Control;

    fn look(receiving: bool, apply: bool, endpos: u64, last: u64) -> ArchiveLook {
        ArchiveLook {
            totals: ArchiveTotals {
                first_lsn: Position(1),
                last_lsn: Position(last),
                segments: 1,
                bytes: 1,
                raw_bytes: 1,
                transactions: 1,
                changes: 1,
                first_time: None,
                last_time: None,
                tables: Vec::new(),
                levels: Vec::new(),
            },
            sealed: Position(1),
            stored: None,
            pending: Some(Pending { transactions: 1, ..Pending::default() }),
            control: Some(Control { apply, endpos: Position(endpos), ..Control::default() }),
            receiving,
            appliers: Vec::new(),
            disk: None,
        }
    }

    fn target(lsn: u64) -> Found<TargetLook> {
        let progress = Some(Progress {
            lsn: Position(lsn),
            commit_time: Some(Timestamp(0)),
            system_identifier: "1".into(),
            archive_id: "a".into(),
            transactions: 1,
            changes: 1,
        });
        Ok(TargetLook {
            progress,
            dead: None,
            is_copying: false,
            in_the_way: Vec::new(),
            clock_ahead_seconds: 0.0,
        })
    }

    #[test]
    fn mode_follows_from_lock_sentinel_and_lag() {
        let far = LIVE_BYTES_MAX + 1000;
        let check = |look: ArchiveLook, replay: u64, mode: Mode| {
            let look = Look { source: Err("-".into()), target: target(replay), archive: Ok(look) };
            let status = Status::of(&look, "s", Timestamp(0));
            assert_eq!(status.mode, Some(mode));
        };
        check(look(false, true, 0, 100), 100, Mode::Stopped);
        check(look(false, true, 100, 100), 99, Mode::Stopped);
        check(look(false, true, 100, 100), 100, Mode::Done);
        check(look(false, false, 100, 100), 1, Mode::Done);
        check(look(true, false, 0, 100), 1, Mode::Prefetch);
        check(look(true, true, 0, far), 100, Mode::Catchup);
        check(look(true, true, 0, far), far - 100, Mode::Live);
    }

    #[test]
    fn what_is_out_of_reach_is_null_with_a_reason() {
        let look = Look { source: Err("a".into()), target: Err("c".into()), archive: Err("b".into()) };
        let status = Status::of(&look, "s", Timestamp(0)).json();
        for (part, reason) in [("source", "a"), ("archive", "b"), ("applier", "c")] {
            assert_eq!(status[part], Value::Null);
            assert_eq!(status["unreachable"][part], reason);
        }
        assert_eq!(status["mode"], "unknown");
        assert_eq!(status["tables"], json!([]));
    }

    #[test]
    fn lag_is_that_of_pending_transactions() {
        let lag = |pending: u64| {
            let mut look = look(true, true, 0, 150);
            look.pending = Some(Pending { transactions: pending, ..Pending::default() });
            let look = Look { source: Err("-".into()), target: target(100), archive: Ok(look) };
            let status = Status::of(&look, "s", Timestamp(2_000_000));
            let applier = status.applier.unwrap();
            (applier.lag_bytes, applier.lag_seconds)
        };
        assert_eq!(lag(1), (Some(50), Some(2.0)));
        assert_eq!(lag(0), (Some(0), Some(0.0)));
    }
}
