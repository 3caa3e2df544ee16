//! `status`: slot, archive, applier and lag. Looks only, takes no lock, and says what it could not reach.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::{Everywhere, Names, RoadArguments};
use super::config::File;
use super::pending::Pending;
use super::place::{self, Place};
use super::print;
use crate::archive::{ArchiveTotals, Registered, totals};
use crate::model::{Fault, Position, Timestamp};
use crate::pg::progress::Progress;
use crate::pg::{Conninfo, control, inspect, progress, slot};
use crate::sentinel::{Control, Sentinel};

/// Show slot, archive, applier and lag
///
/// Works without the archive's lock, beside running processes, and also when source, target or archive can't be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pgsluice status --name shop --source postgresql://app@db1/shop --target postgresql://app@db2/shop --json")]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    road: RoadArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// A receiver runs, nothing is applied.
    Prefetch,
    /// A receiver runs, and the target is behind.
    Catchup,
    /// A receiver runs, and the target is near.
    Live,
    Stopped,
    /// Stopped, with endpos reached.
    Done,
}

/// What was found of one part, or why nothing was.
type Found<T> = Result<T, String>;

#[derive(Serialize)]
struct Source {
    slot: String,
    confirmed_flush_lsn: Option<Position>,
    current_lsn: Position,
    retained_wal_bytes: Option<u64>,
}

/// The archive's part, with its sentinel and whether a receiver holds its lock.
struct Log {
    totals: ArchiveTotals,
    /// How far it is in its store; none without one.
    stored: Option<Position>,
    /// None without a target to be behind.
    pending: Option<Pending>,
    control: Option<Control>,
    receiving: bool,
    appliers: Vec<Registered>,
}

#[derive(Serialize)]
struct Applier {
    replay_lsn: Position,
    replay_time: Option<Timestamp>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    transactions: Option<i64>,
    changes: Option<i64>,
}

#[derive(Serialize)]
struct TableStatus<'a> {
    name: &'a str,
    received_events: u64,
    applied_events: u64,
    bytes: u64,
}

struct Status {
    mode: Mode,
    /// A comparison has the applier stand for a while.
    held: bool,
    source: Found<Source>,
    archive: Found<ArchiveTotals>,
    stored: Option<Position>,
    pending: Option<Pending>,
    applier: Found<Applier>,
    /// All targets that are fed from the archive.
    appliers: Vec<Registered>,
}

impl StatusCommand {
    pub(crate) async fn run(&self, everywhere: &Everywhere, file: &File) -> Result<(), Fault> {
        let place = self.road.archive.place(file)?;
        let names = self.road.stream.names(&place, file)?;
        let (source, target) = (self.road.source.optional(file)?, self.road.target.conninfo(file)?);
        let (source, progress) =
            tokio::join!(source_part(source.as_ref(), &names), target_part(target.as_ref(), &names));
        let applied = progress.as_ref().ok().map(|progress| progress.lsn);
        let log = tokio::task::block_in_place(|| archive_part(&place, applied));
        let status = assemble(source, log, progress, now());
        print::report(everywhere.json, &status.json(), || status.table())
    }
}

async fn source_part(conninfo: Option<&Conninfo>, names: &Names) -> Found<Source> {
    let Some(conninfo) = conninfo else { return Err("no --source was given".into()) };
    let look = async {
        let client = control::connect(conninfo, "pgsluice status").await?;
        let slot = slot::read(&client, &names.slot).await?;
        Ok::<_, Fault>(Source {
            slot: names.slot.clone(),
            confirmed_flush_lsn: slot.as_ref().and_then(|slot| slot.confirmed_flush),
            current_lsn: inspect::current_position(&client).await?,
            retained_wal_bytes: slot.map(|slot| slot.retained_bytes),
        })
    };
    look.await.map_err(|fault| fault.message)
}

async fn target_part(conninfo: Option<&Conninfo>, names: &Names) -> Found<Progress> {
    let Some(conninfo) = conninfo else { return Err("no --target was given".into()) };
    let look = async {
        let client = control::connect(conninfo, "pgsluice status").await?;
        progress::read(&client, &names.origin).await
    };
    let found = look.await.map_err(|fault| fault.message)?;
    found.ok_or_else(|| format!("the target has no progress of stream {}", names.origin))
}

fn archive_part(place: &Place, applied: Option<Position>) -> Found<Log> {
    let look = || {
        let archive = place.archive.open()?;
        let control = place::sentinel(&place.archive).and_then(|home| Sentinel::open(&home)?.read());
        if let Err(fault) = &control {
            tracing::warn!("{fault}");
        }
        let control = control.ok();
        let replay = applied.map(|lsn| replay(lsn, control.as_ref()));
        Ok::<_, Fault>(Log {
            totals: totals(&archive)?,
            stored: match place.archive.store {
                Some(_) => Some(archive.stored_through()?.unwrap_or(archive.manifest().start)),
                None => None,
            },
            pending: replay.map(|replay| Pending::read(&archive, replay)).transpose()?,
            control,
            receiving: archive.has_receiver()?,
            appliers: archive.appliers().unwrap_or_else(|fault| {
                tracing::warn!("{fault}");
                Vec::new()
            }),
        })
    };
    look().map_err(|fault| fault.message)
}

/// The row is the truth, but while nothing is written it stands still; then the applier's own word is further.
fn replay(row: Position, control: Option<&Control>) -> Position {
    row.max(control.map_or(Position::ZERO, |control| control.replay_lsn))
}

fn now() -> Timestamp {
    Timestamp::from_unix_microseconds(jiff::Timestamp::now().as_microsecond())
}

/// Less than this behind is near: what a busy source writes while a batch is on its way.
const LIVE_BYTES_MAX: u64 = 4 << 20;

fn assemble(source: Found<Source>, log: Found<Log>, progress: Found<Progress>, now: Timestamp) -> Status {
    let control = log.as_ref().ok().and_then(|log| log.control);
    let end = match (&log, &source) {
        (Ok(log), _) => Some(log.totals.last_lsn),
        (_, Ok(source)) => Some(source.current_lsn),
        _ => None,
    };
    let pending = log.as_ref().ok().and_then(|log| log.pending.clone());
    let stored = log.as_ref().ok().and_then(|log| log.stored);
    let applier = progress.map(|progress| {
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
    let mode = mode(log.as_ref().ok(), applier.as_ref().ok());
    let held = control.is_some_and(|control| control.hold.is_some());
    let appliers = log.as_ref().map(|log| log.appliers.clone()).unwrap_or_default();
    Status { mode, held, source, archive: log.map(|log| log.totals), stored, pending, applier, appliers }
}

fn mode(log: Option<&Log>, applier: Option<&Applier>) -> Mode {
    let Some(log) = log else { return Mode::Stopped };
    let control = log.control.unwrap_or_default();
    let reached = |position: Position| control.endpos().is_some_and(|endpos| position >= endpos);
    let replay = applier.map_or(control.replay_lsn, |applier| applier.replay_lsn);
    match (log.receiving, control.apply) {
        (false, true) if reached(replay) => Mode::Done,
        (false, false) if reached(log.totals.last_lsn) => Mode::Done,
        (false, _) => Mode::Stopped,
        (true, false) => Mode::Prefetch,
        (true, true) if log.totals.last_lsn.bytes_since(replay) <= LIVE_BYTES_MAX => Mode::Live,
        (true, true) => Mode::Catchup,
    }
}

impl TableStatus<'_> {
    fn row(&self) -> Vec<String> {
        let counts = [self.received_events, self.applied_events].map(|count| count.to_string());
        let [received, applied] = counts;
        vec![self.name.to_owned(), received, applied, print::size(self.bytes)]
    }
}

impl Status {
    fn json(&self) -> Value {
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
            "mode": self.mode,
            "held": self.held,
            "source": part(self.source.as_ref().ok().map(|source| json!(source))),
            "archive": part(archive.map(|contents| json!({
                "first_lsn": contents.first_lsn,
                "last_lsn": contents.last_lsn,
                "stored_lsn": self.stored,
                "segments": contents.segments,
                "bytes": contents.bytes,
                "raw_bytes": contents.raw_bytes,
                "transactions": contents.transactions,
                "changes": contents.changes,
            }))),
            "applier": part(self.applier.as_ref().ok().map(|applier| json!(applier))),
            "appliers": self.appliers,
            "tables": self.tables(),
            "unreachable": unreachable,
        })
    }

    fn tables(&self) -> Vec<TableStatus<'_>> {
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

    fn table(&self) -> String {
        let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let lsn = |position: Option<Position>| dash(position.map(|position| position.to_string()));
        let source = match &self.source {
            Ok(source) => format!(
                "slot {} confirmed {}, WAL ends {}, {} retained",
                source.slot,
                lsn(source.confirmed_flush_lsn),
                source.current_lsn,
                dash(source.retained_wal_bytes.map(print::size)),
            ),
            Err(reason) => format!("unknown: {reason}"),
        };
        let archive = match &self.archive {
            Ok(contents) => format!(
                "{} to {}{}, {} segments, {} ({} raw), {} transactions, {} changes",
                contents.first_lsn,
                contents.last_lsn,
                self.stored.map(|lsn| format!(" (in the store up to {lsn})")).unwrap_or_default(),
                contents.segments,
                print::size(contents.bytes),
                print::size(contents.raw_bytes),
                contents.transactions,
                contents.changes,
            ),
            Err(reason) => format!("unknown: {reason}"),
        };
        let applier = match &self.applier {
            Ok(applier) => format!(
                "at {} ({}), lag {} and {}, {} transactions, {} changes",
                applier.replay_lsn,
                dash(applier.replay_time.map(|time| time.to_string())),
                dash(applier.lag_bytes.map(print::size)),
                dash(applier.lag_seconds.map(|seconds| format!("{seconds:.1} s"))),
                dash(applier.transactions.map(|count| count.to_string())),
                dash(applier.changes.map(|count| count.to_string())),
            ),
            Err(reason) => format!("unknown: {reason}"),
        };
        let mut mode = format!("{:?}", self.mode).to_lowercase();
        if self.held {
            mode.push_str(", held for a comparison");
        }
        let mut text =
            print::pairs(&[("mode", mode), ("source", source), ("archive", archive), ("applier", applier)]);
        if !self.appliers.is_empty() {
            let rows = self.appliers.iter().map(|applier| {
                let Registered { name, target, lsn, time, .. } = applier.clone();
                vec![name, target, lsn.to_string(), time]
            });
            text.push_str("\n\n");
            text.push_str(&print::columns(&["registered applier", "target", "durable there", "noted"], rows));
        }
        let rows: Vec<_> = self.tables().iter().map(TableStatus::row).collect();
        if !rows.is_empty() {
            text.push_str("\n\n");
            text.push_str(&print::columns(&["table", "received", "applied", "size"], rows));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(receiving: bool, apply: bool, endpos: u64, last: u64) -> Log {
        Log {
            totals: ArchiveTotals {
                first_lsn: Position(1),
                last_lsn: Position(last),
                segments: 1,
                bytes: 1,
                raw_bytes: 1,
                transactions: 1,
                changes: 1,
                tables: Vec::new(),
            },
            stored: None,
            pending: Some(Pending { transactions: 1, ..Pending::default() }),
            control: Some(Control { apply, endpos: Position(endpos), ..Control::default() }),
            receiving,
            appliers: Vec::new(),
        }
    }

    fn progress(lsn: u64) -> Found<Progress> {
        Ok(Progress {
            lsn: Position(lsn),
            commit_time: Some(Timestamp(0)),
            system_identifier: "1".into(),
            archive_id: "a".into(),
            transactions: 1,
            changes: 1,
        })
    }

    #[test]
    fn mode_follows_from_lock_sentinel_and_lag() {
        let far = LIVE_BYTES_MAX + 1000;
        let check = |log: Log, replay: u64, mode: Mode| {
            let status = assemble(Err("-".into()), Ok(log), progress(replay), Timestamp(0));
            assert_eq!(status.mode, mode);
        };
        check(log(false, true, 0, 100), 100, Mode::Stopped);
        check(log(false, true, 100, 100), 99, Mode::Stopped);
        check(log(false, true, 100, 100), 100, Mode::Done);
        check(log(false, false, 100, 100), 1, Mode::Done);
        check(log(true, false, 0, 100), 1, Mode::Prefetch);
        check(log(true, true, 0, far), 100, Mode::Catchup);
        check(log(true, true, 0, far), far - 100, Mode::Live);
    }

    #[test]
    fn what_is_out_of_reach_is_null_with_a_reason() {
        let status = assemble(Err("a".into()), Err("b".into()), Err("c".into()), Timestamp(0)).json();
        for (part, reason) in [("source", "a"), ("archive", "b"), ("applier", "c")] {
            assert_eq!(status[part], Value::Null);
            assert_eq!(status["unreachable"][part], reason);
        }
        assert_eq!(status["mode"], "stopped");
        assert_eq!(status["tables"], json!([]));
    }

    #[test]
    fn lag_is_that_of_pending_transactions() {
        let lag = |pending: u64| {
            let mut log = log(true, true, 0, 150);
            log.pending = Some(Pending { transactions: pending, ..Pending::default() });
            let status = assemble(Err("-".into()), Ok(log), progress(100), Timestamp(2_000_000));
            let applier = status.applier.unwrap();
            (applier.lag_bytes, applier.lag_seconds)
        };
        assert_eq!(lag(1), (Some(50), Some(2.0)));
        assert_eq!(lag(0), (Some(0), Some(0.0)));
    }
}
