//! Looks at the source without a snapshot: its clock, and who runs.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::limit::{Point, Running};
use super::shape::Control;
use crate::model::{Fault, Timestamp};
use crate::pg::{Conninfo, Pipeline, PipelineOptions, quote_literal};

const APPLICATION: &str = "pgsluice poll";

/// This process's sessions, by the servers' process ids and when those began, since an id is used again: what they run writes nothing.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeSet<(String, String)>>);

/// From so many on those that have ended are looked for.
const SESSIONS_MAX: usize = 32;

const SELF: &str = "SELECT pid::text, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";

impl Sessions {
    pub(super) async fn connect(&self, conninfo: &Conninfo) -> Result<Pipeline, Fault> {
        let options = PipelineOptions {
            application_name: APPLICATION,
            client_encoding: Some("UTF8"),
            synchronous_commit: None,
            replica_role: false,
        };
        let connected = async {
            let mut source = Pipeline::connect(conninfo, &options).await?;
            // Rows that a policy hides are an error, not fewer rows.
            source.simple("SET row_security = off").await?;
            let mut fields = source.simple(SELF).await?.into_iter().flatten();
            if let (Some(Some(pid)), Some(Some(start))) = (fields.next(), fields.next()) {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((pid, start));
                self.forget_ended(&mut source).await?;
            }
            Ok(source)
        };
        connected.await.map_err(|fault: Fault| fault.context("source"))
    }

    /// Forgets those that have ended, so that there are never many.
    async fn forget_ended(&self, source: &mut Pipeline) -> Result<(), Fault> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known().len() < SESSIONS_MAX {
            return Ok(());
        }
        let rows = source.simple("SELECT pid::text, backend_start::text FROM pg_stat_activity").await?;
        let there: BTreeSet<(String, String)> = rows
            .into_iter()
            .filter_map(|row| {
                let mut fields = row.into_iter().flatten();
                Some((fields.next()?, fields.next()?))
            })
            .collect();
        known().retain(|session| there.contains(session));
        Ok(())
    }

    /// As a list of rows, for SQL.
    fn list(&self) -> String {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody = std::iter::once(("0".to_owned(), String::new()));
        let all = nobody.chain(sessions.iter().cloned());
        all.map(|(pid, start)| format!("({}, {})", quote_literal(&pid), quote_literal(&start)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The first value of the first row.
pub(super) async fn cell(source: &mut Pipeline, sql: &str) -> Result<Option<String>, Fault> {
    let rows = source.simple(sql).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
}

/// A time as PostgreSQL prints it under our settings.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_unix_microseconds(time.as_microsecond()))
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Timestamp,
    pub(super) is_standby: bool,
}

/// On a standby, when the last transaction committed that it shows: rows of later ones are not there yet, whatever its clock says.
pub(super) async fn clock(source: &mut Pipeline) -> Result<Clock, Fault> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() ELSE clock_timestamp() END::text,
                      pg_is_in_recovery()::text";
    let row = source.simple(sql).await?.into_iter().next().unwrap_or_default();
    let mut fields = row.into_iter();
    let (now, is_standby) = (fields.next().flatten(), fields.next().flatten());
    let is_standby = is_standby.as_deref() == Some("true");
    match now.as_deref().and_then(time) {
        Some(now) => Ok(Clock { now, is_standby }),
        None if is_standby => {
            Err(Fault::retry("the standby has replayed no transaction since it was started"))
        }
        None => Err(Fault::stop("the source's clock makes no sense")),
    }
}

/// A transaction that has its time already may not be listed among those that run for a moment.
pub(super) const MARGIN_MICROSECONDS: i64 = 1_000_000;

/// Who runs in this database, but for this process. To be asked behind the point that it is about.
pub(super) async fn running(source: &mut Pipeline, sessions: &Sessions) -> Result<Running, Fault> {
    let sql = format!(
        "SELECT l.virtualxid FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
          WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
            AND NOT coalesce((a.pid::text, a.backend_start::text) IN ({}), false)
            AND NOT coalesce(a.datid <> (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()), false)
            AND coalesce(to_jsonb(a) ->> 'backend_type', '') <> 'autovacuum worker'",
        sessions.list()
    );
    let ids = |rows: crate::pg::Rows| rows.into_iter().flatten().flatten().collect();
    let virtual_xids = ids(source.simple(&sql).await?);
    // Behind the others, so that one that is being prepared is seen here or there.
    let prepared = "SELECT transaction::text FROM pg_prepared_xacts WHERE database = current_database()";
    let prepared = ids(source.simple(prepared).await?);
    Ok(Running { virtual_xids, prepared })
}

/// A commit that does not wait for the disk is there after three times `wal_writer_delay` (0.2 s), and with it all that was seen of it.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(20);

/// Waits until no crash of the source can take back what a snapshot before this has shown: a commit that does not wait for the disk is seen
/// before it is there, and a sequence would give its numbers again. Where the server does not tell, nothing is waited for.
pub(super) async fn settle(source: &mut Pipeline) -> Result<(), Fault> {
    if source.server_version_num() < 100_000 {
        return Ok(());
    }
    let inserted = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END::text";
    let inserted = match cell(source, inserted).await {
        Ok(Some(inserted)) => inserted,
        Ok(None) => return Ok(()),
        Err(fault) if fault.sqlstate.is_some() => {
            tracing::debug!(error = %fault, "the source does not tell what is durable");
            return Ok(());
        }
        Err(fault) => return Err(fault),
    };
    let began = Instant::now();
    let flushed = format!("SELECT (pg_current_wal_flush_lsn() >= '{inserted}')::text");
    while cell(source, &flushed).await?.as_deref() != Some("true") {
        if began.elapsed() >= FLUSH_PATIENCE {
            // What was inserted last may be the head of a page, which is not flushed before something follows.
            tracing::debug!(inserted, "the source has not flushed its WAL that far");
            break;
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// How an instant is written in a control column of times: as the lowest local time from then on, where it is local. In the hour that comes
/// twice that stands still until the hour is over, and where an hour is left out it jumps.
pub(super) async fn limit_text(
    source: &mut Pipeline,
    control: Control,
    zone: Option<&str>,
    point: Point,
) -> Result<String, Fault> {
    let instant = Timestamp(i64::try_from(point).unwrap_or(i64::MIN)).to_string();
    let (Control::Local | Control::Day, Some(zone)) = (control, zone) else { return Ok(instant) };
    let (instant, zone) = (quote_literal(&instant), quote_literal(zone));
    let as_type = if control == Control::Day { "date" } else { "timestamp" };
    // Clocks are changed at a quarter of an hour, and by at most a day.
    let sql = format!(
        "SELECT min(moment AT TIME ZONE {zone})::{as_type}::text FROM (
             SELECT {instant}::timestamptz AS moment
              UNION ALL
             SELECT quarter FROM generate_series(date_trunc('hour', {instant}::timestamptz),
                                                 {instant}::timestamptz + interval '26 hours', interval '15 minutes') quarter
              WHERE quarter > {instant}::timestamptz) moments"
    );
    cell(source, &sql).await?.ok_or_else(|| Fault::stop("the source's local time makes no sense"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_server_are_read() {
        let expected = Timestamp::from_unix_microseconds(1_763_901_855_120_000);
        assert_eq!(time("2025-11-23 12:44:15.12+00"), Some(expected));
        assert_eq!(time("2025-11-23T12:44:15.120000Z"), Some(expected));
        assert_eq!(time("infinity"), None);
    }
}
