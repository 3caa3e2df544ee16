//! What a session does before its first batch: it keeps other appliers of the stream out, and sets its origin up.

use std::time::{Duration, Instant};

use crate::model::{Fault, Position, quote_literal};
use crate::pg::Pipeline;

use super::session::Stream;

/// How long to wait for an earlier applier's backend to notice that its client is gone.
const TAKEOVER: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Takes the stream's advisory lock and reads its progress, waiting for an old backend that may still be committing.
pub(super) async fn fence(
    connection: &mut Pipeline,
    stream: &Stream,
    again: bool,
) -> Result<Position, Fault> {
    let name = quote_literal(&stream.name);
    let lock = format!("SELECT pg_try_advisory_lock(hashtextextended('pgsluice ' || {name}, 0))");
    let started = Instant::now();
    while value(connection, &lock).await?.as_deref() != Some("t") {
        if started.elapsed() >= TAKEOVER {
            let holder = format!(
                "SELECT string_agg(l.pid::text, ', ') FROM pg_locks l, hashtextextended('pgsluice ' || {name}, 0) k \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.classid::bigint = ((k >> 32) & 4294967295) AND l.objid::bigint = (k & 4294967295)"
            );
            let pid = value(connection, &holder).await?.unwrap_or_else(|| "unknown".into());
            let message =
                format!("another applier of '{}' is at work on the target (pid {pid})", stream.name);
            let fault = if again { Fault::retry(message) } else { Fault::stop(message) };
            return Err(fault.hint("stop it, or apply under another --name"));
        }
        tokio::time::sleep(POLL).await;
    }
    // FOR UPDATE, since a backend whose client is gone may hold the row in a commit that is not decided yet.
    let row = connection
        .simple(&format!("SELECT lsn, archive_id FROM pgsluice.progress WHERE stream = {name} FOR UPDATE"))
        .await?;
    let mut columns = row.into_iter().next().unwrap_or_default().into_iter();
    let (Some(Some(lsn)), Some(Some(archive_id))) = (columns.next(), columns.next()) else {
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
    lsn.parse().map_err(|error| Fault::stop(format!("progress row of '{}': {error}", stream.name)))
}

/// Sets the session's origin up at `progress`; false where the role may not, which costs only the tag on our changes.
pub(super) async fn set_up_origin(
    connection: &mut Pipeline,
    stream: &Stream,
    progress: Position,
) -> Result<bool, Fault> {
    let name = quote_literal(&stream.name);
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
        tracing::warn!(origin = stream.name, "no replication origin: the changes carry no tag against loops");
        return Ok(false);
    }
    let origin = value(connection, &format!("SELECT pg_replication_origin_progress({name}, false)")).await?;
    if origin.as_deref().is_some_and(|origin| origin != progress.to_string()) {
        // An aborted transaction advances the origin from version 16 on; the row is right.
        tracing::info!(origin = ?origin, row = %progress, "origin differs from the progress row, setting it back");
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

async fn value(connection: &mut Pipeline, sql: &str) -> Result<Option<String>, Fault> {
    let rows = connection.simple(sql).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
}
