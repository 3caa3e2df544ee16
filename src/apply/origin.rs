//! What a session does before its first batch: it keeps other appliers of the stream out, and sets its origin up.

use std::time::{Duration, Instant};

use crate::faults;
use crate::model::{Fault, Position, quote_literal};
use crate::pg::{Pipeline, lane, progress};

use super::lanes::Torn;
use super::session::{Share, Stream};

/// How long to wait for an earlier applier's backend to notice that its client is gone.
const TAKEOVER: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Takes the stream's advisory lock and reads its progress, and what it says of tables that are left out, waiting for an old backend that may still be committing.
pub(super) async fn fence(
    connection: &mut Pipeline,
    stream: &Stream,
    again: bool,
) -> Result<(Position, i64), Fault> {
    let name = quote_literal(&stream.name);
    let lock = format!("SELECT pg_try_advisory_lock(hashtextextended('pgsluice ' || {name}, 0))");
    let started = Instant::now();
    while value(connection, &lock).await?.as_deref() != Some("t") {
        if started.elapsed() >= TAKEOVER {
            let pid =
                value(connection, &progress::holder(&stream.name)).await?.unwrap_or_else(|| "unknown".into());
            let message =
                format!("another applier of '{}' is at work on the target (pid {pid})", stream.name);
            let fault = if again { Fault::retry(message) } else { Fault::stop(message) };
            return Err(fault.hint("stop it, or apply under another --name"));
        }
        tokio::time::sleep(POLL).await;
    }
    // FOR UPDATE, since a backend whose client is gone may hold the row in a commit that is not decided yet.
    let lock = if faults::mutated("progress_is_not_locked") { "" } else { "FOR UPDATE" };
    let row = connection
        .simple(&format!(
            "SELECT lsn, archive_id, joining FROM pgsluice.progress WHERE stream = {name} {lock}"
        ))
        .await
        .map_err(progress_fault)?;
    let mut columns = row.into_iter().next().unwrap_or_default().into_iter();
    let [lsn, archive_id, joining] = [columns.next(), columns.next(), columns.next()].map(Option::flatten);
    let (Some(lsn), Some(archive_id)) = (lsn, archive_id) else {
        return Err(Fault::stop(format!("the target has no progress row for '{}'", stream.name))
            .hint("run pgsluice setup with this target"));
    };
    if archive_id != stream.archive_id {
        return Err(Fault::person(format!(
            "the target's progress of '{}' belongs to archive {archive_id}, not to {}",
            stream.name, stream.archive_id
        ))
        .hint("check --archive, or apply under another --name"));
    }
    let lsn = match faults::mutated("origin_is_progress") {
        true => {
            let origin = format!("SELECT pg_replication_origin_progress({name}, false)");
            value(connection, &origin).await?.unwrap_or(lsn)
        }
        false => lsn,
    };
    let lsn =
        lsn.parse().map_err(|error| Fault::stop(format!("progress row of '{}': {error}", stream.name)))?;
    Ok((lsn, joining.and_then(|joining| joining.parse().ok()).unwrap_or_default()))
}

fn progress_fault(fault: Fault) -> Fault {
    match fault.sqlstate.as_deref() {
        Some("42703") => fault.hint(
            "on the target: ALTER TABLE pgsluice.progress ADD COLUMN joining bigint NOT NULL DEFAULT 0",
        ),
        _ => fault,
    }
}

/// Sets the session's origin up at `progress`; false where the role may not, which costs only the tag on our changes.
pub(super) async fn set_up_origin(
    connection: &mut Pipeline,
    origin: &str,
    progress: Position,
) -> Result<bool, Fault> {
    let name = quote_literal(origin);
    let allowed = value(
        connection,
        "SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc \
         WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ('pg_replication_origin_session_setup', \
         'pg_replication_origin_xact_setup', 'pg_replication_origin_advance', 'pg_replication_origin_progress')",
    )
    .await?;
    let exists =
        value(connection, &format!("SELECT 1 FROM pg_replication_origin WHERE roname = {name}")).await?;
    if allowed.as_deref() != Some("t") || exists.is_none() {
        tracing::warn!(origin, "no replication origin: the changes carry no tag against loops");
        return Ok(false);
    }
    let stands = value(connection, &format!("SELECT pg_replication_origin_progress({name}, false)")).await?;
    if stands.as_deref().is_some_and(|stands| stands != progress.to_string()) {
        // An aborted transaction advances the origin from version 16 on; the row is right.
        tracing::info!(origin = ?stands, row = %progress, "origin differs from the progress row, setting it back");
        connection.simple(&format!("SELECT pg_replication_origin_advance({name}, '{progress}')")).await?;
    }
    let started = Instant::now();
    loop {
        match connection.simple(&format!("SELECT pg_replication_origin_session_setup({name})")).await {
            Ok(_) => return Ok(true),
            // "already active": the backend of an earlier session is on its way out.
            Err(fault) if fault.sqlstate.as_deref() == Some("55006") && started.elapsed() < TAKEOVER => {
                tokio::time::sleep(POLL).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Creates the origin where it is missing.
pub(super) async fn create_origin(connection: &mut Pipeline, origin: &str) -> Result<(), Fault> {
    let name = quote_literal(origin);
    let create = format!(
        "SELECT pg_replication_origin_create({name}) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = {name})"
    );
    connection.simple(&create).await.map(drop)
}

/// Shuts earlier appliers' lanes out. Gives the batch that only some of them have committed, if there is one.
pub(super) async fn torn(
    connection: &mut Pipeline,
    stream: &str,
    progress: Position,
) -> Result<Option<Torn>, Fault> {
    let kept = value(connection, "SELECT to_regclass('pgsluice.lane') IS NOT NULL").await?;
    if kept.as_deref() != Some("t") {
        return Ok(None);
    }
    let rows = format!("SELECT EXISTS (SELECT FROM pgsluice.lane WHERE stream = {})", quote_literal(stream));
    if value(connection, &rows).await.map_err(lane_fault)?.as_deref() != Some("t") {
        return Ok(None);
    }
    let mut lanes = Vec::new();
    connection.simple(&format!("SET lock_timeout = {}", TAKEOVER.as_millis())).await?;
    let rows = connection.simple(&lane::take_over(stream)).await.map_err(lane_fault)?;
    connection.simple("RESET lock_timeout").await?;
    for row in rows {
        let [Some(lane), Some(lanes_of_batch), Some(lsn), Some(digest)] = row.as_slice() else { continue };
        let committed = (|| {
            let share = Share { lanes: lanes_of_batch.parse().ok()?, digest: digest.parse().ok()? };
            Some((lane.parse().ok()?, lsn.parse().ok()?, share))
        })();
        let unreadable = || Fault::stop(format!("lane {lane} of '{stream}' on the target can't be read"));
        lanes.push(committed.ok_or_else(unreadable)?);
    }
    Torn::of(progress, lanes).map_err(|message| {
        Fault::person(format!("the lanes of '{stream}' on the target don't fit each other: {message}"))
            .hint("if somebody has set the progress back, delete the stream's rows of pgsluice.lane")
    })
}

fn lane_fault(fault: Fault) -> Fault {
    match fault.sqlstate.as_deref() {
        Some("42501") => {
            fault.hint("GRANT SELECT, INSERT, UPDATE, DELETE ON pgsluice.lane to the role that applies")
        }
        _ => fault,
    }
}

/// Where a lane's row stands, which is made where it is missing, and its epoch.
pub(super) async fn take_lane(
    connection: &mut Pipeline,
    stream: &str,
    lane: u32,
) -> Result<(Position, String), Fault> {
    let name = quote_literal(stream);
    let insert =
        format!("INSERT INTO pgsluice.lane VALUES ({name}, {lane}, 0, '0/0', 0, 0) ON CONFLICT DO NOTHING");
    connection.simple(&insert).await?;
    let read = format!("SELECT lsn, epoch FROM pgsluice.lane WHERE stream = {name} AND lane = {lane}");
    let row = connection.simple(&read).await?.into_iter().next().unwrap_or_default();
    let [Some(lsn), Some(epoch)] = row.as_slice() else {
        return Err(Fault::reread(format!("lane {lane} of '{stream}' is gone")));
    };
    let lsn = lsn.parse().map_err(|error| Fault::stop(format!("lane {lane} of '{stream}': {error}")))?;
    Ok((lsn, epoch.clone()))
}

pub(super) async fn value(connection: &mut Pipeline, sql: &str) -> Result<Option<String>, Fault> {
    let rows = connection.simple(sql).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
}
