//! What stands in the way of a pipeline, or will, and what to do about it. Pure: from what was seen to what is to be said.
//!
//! A sign is what can be seen at one moment. It becomes an alarm when it has stood for as long as it is given to pass by itself
//! ([`Sign::patience`]): a position that must move is part of the sign's subject, so one that does not move is the same sign.

use std::time::Duration;

use serde::Serialize;

use crate::follow::Mode;
use crate::model::{Position, Timestamp};
use crate::pg::dead;
use crate::pg::vitals::{Blocker, BlockerKind};

use super::look::{ArchiveLook, Look, Road, SourceLook};
use super::status::Status;
use super::trend::Rates;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth to know.
    Notice,
    /// Will be a fault if nothing is done.
    Warning,
    /// Data is in danger, or nothing moves.
    Critical,
}

impl Level {
    pub const ALL: [Level; 3] = [Level::Notice, Level::Warning, Level::Critical];

    pub fn name(self) -> &'static str {
        match self {
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Critical => "critical",
        }
    }
}

/// What a sign is seen on. One that can't be looked at says nothing of its signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Source,
    Target,
    Archive,
    /// All together, or none.
    Road,
}

/// What is seen at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sign {
    /// Of which kind, such as `slot_held`.
    pub alarm: &'static str,
    /// Of what: a process id, a table, a position. Together with `alarm` it tells whether two signs are the same.
    pub subject: String,
    pub level: Level,
    pub part: Part,
    pub message: String,
    /// SQL or a command, or what to look at.
    pub cure: String,
    /// How long it is given to pass by itself.
    pub patience: Duration,
}

/// A sign that has stood long enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alarm {
    pub alarm: &'static str,
    pub subject: String,
    pub level: Level,
    /// When the sign was first seen.
    pub since: Timestamp,
    pub message: String,
    pub cure: String,
}

/// From where on something is worth an alarm.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long what may pass by itself is given.
    pub patience: Duration,
    /// WAL that the source keeps for the slot where the server sets no limit.
    pub retained_bytes: u64,
    pub clock_seconds: f64,
    /// How far the target trails on purpose.
    pub delay: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            patience: Duration::from_secs(60),
            retained_bytes: 16 << 30,
            clock_seconds: 5.0,
            delay: Duration::ZERO,
        }
    }
}

/// What is judged.
pub(super) struct Seen<'a> {
    pub road: &'a Road,
    pub look: &'a Look,
    pub status: &'a Status,
    pub rates: Rates,
    pub limits: Limits,
    /// Whether a receiver, or an applier, ought to be at work.
    pub receives: bool,
    pub applies: bool,
}

/// Free space below which a large disk is low, whatever part of it that is.
const FREE_BYTES_LOW: u64 = 16 << 30;
const FREE_BYTES_SCARCE: u64 = 256 << 20;
/// WAL that may be behind while nothing is received, since not all of it is for us.
const UNRECEIVED_BYTES: u64 = 32 << 20;

/// All that can be seen now.
pub(super) fn signs(seen: &Seen<'_>) -> Vec<Sign> {
    let mut signs = Signs { found: Vec::new(), limits: seen.limits };
    out_of_reach(seen, &mut signs);
    if let Ok(source) = &seen.look.source {
        of_slot(seen, source, &mut signs);
        for blocker in &source.holders {
            let (age, patience, more) = match blocker.age_seconds {
                Some(age) => (format!("for {}", span(age)), Duration::ZERO, ""),
                // It is as old as it was seen.
                None => (
                    format!("for more than {}", span(seen.road.transaction_age.as_secs_f64())),
                    seen.road.transaction_age,
                    "; GRANT pg_read_all_stats to this role shows whose it is",
                ),
            };
            signs.add(
                ("slot_held", Part::Source, subject(blocker), Level::Warning),
                patience,
                format!(
                    "a transaction on the source holds the slot's WAL back {age}: {}{}",
                    named(blocker),
                    statement(blocker)
                ),
                format!("{} -- on the source; or let it end{more}", blocker.cure()),
            );
        }
        for table in &source.keyless {
            signs.add(
                ("table_without_key", Part::Source, table.clone(), Level::Warning),
                Duration::ZERO,
                format!("{table} is published and has no usable replica identity: its UPDATE and DELETE fail on the source"),
                format!("ALTER TABLE {table} REPLICA IDENTITY FULL; -- on the source; or give it a primary key"),
            );
        }
        of_clock("source", source.clock_ahead_seconds, &mut signs);
    }
    if let Ok(target) = &seen.look.target {
        of_clock("target", target.clock_ahead_seconds, &mut signs);
        if let Some(dead::Open { count, oldest }) = target.dead {
            signs.add(
                ("dead_letters", Part::Target, seen.road.stream.clone(), Level::Warning),
                Duration::ZERO,
                format!("the target lacks {count} transactions that were set aside, the oldest ends at {oldest}"),
                "pgsluice dead list; mend what it says, stop the applier, then pgsluice dead retry, or dead skip",
            );
        }
        for blocker in &target.in_the_way {
            signs.add(
                ("apply_blocked", Part::Target, subject(blocker), Level::Warning),
                seen.limits.patience / 6,
                format!("the applier waits for a lock of {}{}", named(blocker), statement(blocker)),
                format!("{} -- on the target; or let it end", blocker.cure()),
            );
        }
    }
    if let Ok(archive) = &seen.look.archive {
        of_archive(seen, archive, &mut signs);
    }
    of_progress(seen, &mut signs);
    signs.found
}

struct Signs {
    found: Vec<Sign>,
    limits: Limits,
}

impl Signs {
    fn add(
        &mut self,
        (alarm, part, subject, level): (&'static str, Part, String, Level),
        patience: Duration,
        message: String,
        cure: impl Into<String>,
    ) {
        self.found.push(Sign { alarm, subject, level, part, message, cure: cure.into(), patience });
    }
}

fn out_of_reach(seen: &Seen<'_>, signs: &mut Signs) {
    let patience = signs.limits.patience;
    let mut away = |alarm: &'static str, level, wanted: bool, reason: Option<&String>, cure: &str| {
        if let Some(reason) = reason.filter(|_| wanted) {
            let what = if alarm == "archive_away" { "read" } else { "reached" };
            let who = alarm.trim_end_matches("_away");
            let message = format!("the {who} can't be {what}: {reason}");
            signs.add((alarm, Part::Road, String::new(), level), patience, message, cure);
        }
    };
    away(
        "source_away",
        Level::Critical,
        seen.road.source.is_some(),
        seen.look.source.as_ref().err(),
        "start the source or mend the way to it; its WAL is kept for the slot meanwhile, and everything goes on by itself",
    );
    away(
        "target_away",
        Level::Warning,
        seen.road.target.is_some(),
        seen.look.target.as_ref().err(),
        "start the target or mend the way to it; the archive keeps what is received meanwhile, and everything goes on by itself",
    );
    away(
        "archive_away",
        Level::Critical,
        true,
        seen.look.archive.as_ref().err(),
        "mend the archive's disk or the way to its store; pgsluice archive verify tells whether it is whole",
    );
}

fn of_slot(seen: &Seen<'_>, source: &SourceLook, signs: &mut Signs) {
    let name = &seen.road.slot;
    let Some(slot) = &source.slot else {
        // A pipeline that was never set up has none.
        if seen.look.archive.is_ok() && seen.status.mode != Some(Mode::Done) {
            signs.add(
                ("slot_lost", Part::Source, name.clone(), Level::Critical),
                Duration::ZERO,
                format!("slot \"{name}\" does not exist on the source: what is written there now is not in the archive"),
                "a new slot leaves a gap: see docs/OPERATIONS.md, \"Slot lost\"",
            );
        }
        return;
    };
    let status = slot.wal_status.as_deref().unwrap_or_default();
    if status == "lost" {
        signs.add(
            ("slot_lost", Part::Source, name.clone(), Level::Critical),
            Duration::ZERO,
            format!("slot \"{name}\" is lost: the source has removed WAL that it needs"),
            "a new slot leaves a gap: see docs/OPERATIONS.md, \"Slot lost\"",
        );
        return;
    }
    match (slot.safe_wal_bytes, slot.keep_bytes_max) {
        (Some(safe), Some(limit)) if status == "unreserved" || safe < limit / 10 * 3 => {
            let level =
                if status == "unreserved" || safe < limit / 10 { Level::Critical } else { Level::Warning };
            signs.add(
                ("slot_near_limit", Part::Source, name.clone(), level),
                Duration::ZERO,
                format!(
                    "slot \"{name}\" is lost after {} more of WAL (max_slot_wal_keep_size is {})",
                    size(u64::try_from(safe).unwrap_or(0)),
                    size(u64::try_from(limit).unwrap_or(0))
                ),
                "see that the receiver runs and what holds the slot back; ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf(); -- on the source, for more time",
            );
        }
        (_, None) if slot.retained_bytes > signs.limits.retained_bytes => {
            signs.add(
                ("wal_retained", Part::Source, name.clone(), Level::Warning),
                Duration::ZERO,
                format!(
                    "the source keeps {} of WAL for slot \"{name}\", without a limit",
                    size(slot.retained_bytes)
                ),
                "see that the receiver runs and what holds the slot back, before the source's disk is full",
            );
        }
        _ => {}
    }
}

fn of_clock(whose: &'static str, ahead_seconds: f64, signs: &mut Signs) {
    if ahead_seconds.abs() > signs.limits.clock_seconds {
        let way = if ahead_seconds > 0.0 { "ahead of" } else { "behind" };
        signs.add(
            ("clock_skew", if whose == "source" { Part::Source } else { Part::Target }, whose.to_owned(), Level::Warning),
            Duration::ZERO,
            format!("the {whose}'s clock is {} {way} this machine's", span(ahead_seconds.abs())),
            "let both follow NTP: lag in seconds, points in time and --apply-delay are as wrong as the clocks",
        );
    }
}

fn of_archive(seen: &Seen<'_>, archive: &ArchiveLook, signs: &mut Signs) {
    let patience = signs.limits.patience;
    if let Some(stored) = archive.stored.filter(|stored| seen.receives && *stored < archive.sealed) {
        signs.add(
            ("store_behind", Part::Archive, stored.to_string(), Level::Warning),
            patience,
            format!(
                "segments are not brought into the archive's store: it has the log up to {stored}, the spool up to {}",
                archive.sealed
            ),
            "look for \"can't be brought into the store\" in the log: credentials, network, quota; the spool keeps everything meanwhile",
        );
    }
    if let Some(disk) = archive.disk {
        let is_low = disk.free_bytes < disk.size_bytes / 10 && disk.free_bytes < FREE_BYTES_LOW;
        let is_scarce = disk.free_bytes < (disk.size_bytes / 50).min(FREE_BYTES_SCARCE);
        if is_low || is_scarce {
            signs.add(
                ("spool_filling", Part::Archive, String::new(), if is_scarce { Level::Critical } else { Level::Warning }),
                Duration::ZERO,
                format!("{} are free of {} where the log is written", size(disk.free_bytes), size(disk.size_bytes)),
                "make space there, or pgsluice archive prune; nothing is received while the disk is full, and nothing is lost",
            );
        }
    }
    let unreceived =
        seen.look.source.as_ref().map_or(0, |source| source.current_lsn.bytes_since(archive.totals.last_lsn));
    // What is wanted may be there already; and a long transaction moves nothing until its commit.
    let is_complete = archive
        .control
        .and_then(|control| control.endpos())
        .is_some_and(|end| archive.totals.last_lsn >= end);
    if seen.receives && unreceived > UNRECEIVED_BYTES && !is_complete && !seen.rates.is_receiving {
        signs.add(
            ("receive_stuck", Part::Archive, archive.totals.last_lsn.to_string(), Level::Critical),
            patience,
            format!("nothing is received: the log ends at {}, {} before the source's", archive.totals.last_lsn, size(unreceived)),
            "look at the last warnings in the log: a lost connection, a full disk or spool, a transaction on the source that is long",
        );
    }
}

fn of_progress(seen: &Seen<'_>, signs: &mut Signs) {
    let patience = signs.limits.patience;
    let Ok(applier) = &seen.status.applier else { return };
    let is_on =
        seen.applies && matches!(seen.status.mode, Some(Mode::Catchup | Mode::Live)) && !seen.status.held;
    let late = applier.lag_seconds.unwrap_or(0.0) > (seen.limits.delay + patience).as_secs_f64();
    let pending = seen.status.pending.as_ref().is_none_or(|pending| pending.transactions > 0);
    if is_on && pending && applier.lag_bytes.unwrap_or(0) > 0 && (late || seen.limits.delay.is_zero()) {
        signs.add(
            ("apply_stuck", Part::Road, applier.replay_lsn.to_string(), Level::Warning),
            patience,
            format!(
                "the target does not move: it stands at {}, {} behind",
                applier.replay_lsn,
                size(applier.lag_bytes.unwrap_or(0))
            ),
            "look at the last warnings in the log, and at pg_stat_activity of the target for 'pgsluice apply': a lock, a slow trigger, one very large transaction",
        );
    }
    if is_on
        && late
        && let Some(growth) = seen.rates.lag_growth.filter(|growth| *growth > 0.0)
    {
        signs.add(
            ("lag_growing", Part::Road, String::new(), Level::Warning),
            patience,
            format!(
                "the target is {} behind, and {} more each second: the source writes faster than the target takes",
                span(applier.lag_seconds.unwrap_or(0.0)),
                size(growth as u64)
            ),
            "--lanes auto; a faster disk or more memory for the target; fewer indexes until it has caught up",
        );
    }
    if is_on && seen.rates.only_full_batches {
        signs.add(
            ("batches_full", Part::Road, String::new(), Level::Notice),
            patience,
            "all batches are as large as they may be: the target sets the pace".into(),
            "--lanes auto, where the target has cores to spare",
        );
    }
}

fn subject(blocker: &Blocker) -> String {
    match &blocker.kind {
        BlockerKind::Session { pid, xid } => format!("{pid} {xid}").trim_end().to_owned(),
        BlockerKind::Prepared { .. } => blocker.who.clone(),
    }
}

fn named(blocker: &Blocker) -> String {
    match &blocker.kind {
        BlockerKind::Session { pid, .. } => format!("pid {pid} ({})", blocker.who),
        BlockerKind::Prepared { database } => {
            format!("prepared transaction \"{}\" of {database}", blocker.who)
        }
    }
}

fn statement(blocker: &Blocker) -> String {
    if blocker.query.is_empty() { String::new() } else { format!(": {}", blocker.query) }
}

/// `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// `42 s`, `7 min`, `3.5 h`.
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Where the target will have caught up, by how fast it comes nearer.
pub(super) fn arrival_seconds(lag_bytes: u64, rates: &Rates) -> Option<f64> {
    let growth = rates.lag_growth.filter(|growth| *growth < 0.0)?;
    (lag_bytes > 0).then_some(lag_bytes as f64 / -growth)
}

/// Whether a position has been told at all.
pub(super) fn some(position: Position) -> Option<Position> {
    (position != Position::ZERO).then_some(position)
}

#[cfg(test)]
mod tests;
