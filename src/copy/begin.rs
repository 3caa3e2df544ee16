//! The moment from which on every snapshot and the log together have everything.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::model::Fault;
use crate::pg::control;
use crate::pg::copied;

use super::Options;

const POLL: Duration = Duration::from_millis(200);
/// How often those who are waited for are named.
const TELL: Duration = Duration::from_secs(10);

/// Begins or continues a clone: refuses one of another log, and waits until every transaction has ended that may have committed before the
/// log began. `alone`: the log was made for this clone.
pub async fn begin(options: &Options, alone: bool) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    copied::prepare(&target).await?;
    let archive_id = options.archive.manifest().archive_id.to_string();
    let clone = match copied::clone(&target, &options.stream).await? {
        Some(clone) => clone,
        None => {
            let first = next_xid(&source).await?;
            copied::begin(&target, &options.stream, &archive_id, alone, first).await?;
            let clone = copied::clone(&target, &options.stream).await?;
            clone.ok_or_else(|| Fault::retry("the clone's row has gone from the target"))?
        }
    };
    if clone.archive_id != archive_id {
        return Err(Fault::person(format!(
            "the target holds the clone '{}' of archive {}, not of {archive_id}",
            options.stream, clone.archive_id
        ))
        .hint("check --archive, or clone into another target"));
    }
    wait_for(&source, clone.first_xid).await
}

/// A transaction id after those of all transactions that have one.
pub(super) async fn next_xid(source: &Client) -> Result<u64, Fault> {
    let row = source.query_one("SELECT pg_current_xact_id()::text", &[]).await.map_err(|e| says(&e))?;
    let xid: String = row.get(0);
    xid.parse().map_err(|_| Fault::stop("the source's transaction id makes no sense"))
}

/// Waits until no transaction before this one is under way.
pub(super) async fn wait_for(source: &Client, first: u64) -> Result<(), Fault> {
    let oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text";
    let mut told = Instant::now();
    loop {
        let row = source.query_one(oldest, &[]).await.map_err(|e| says(&e))?;
        if row.get::<_, String>(0).parse().is_ok_and(|oldest: u64| oldest >= first) {
            return Ok(());
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            let running = "SELECT coalesce(string_agg(who, ', '), 'unknown') FROM (
                SELECT 'pid ' || pid || coalesce(' of ' || nullif(application_name, ''), '') AS who FROM pg_stat_activity
                 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
                   AND ($1::text::numeric - backend_xid::text::numeric + 4294967296) % 4294967296 BETWEEN 1 AND 2147483647
                UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts) running";
            let row = source.query_one(running, &[&first.to_string()]).await.map_err(|e| says(&e))?;
            tracing::warn!(
                transactions = row.get::<_, String>(0),
                "waiting for transactions of the source that began before the log did"
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn says(error: &tokio_postgres::Error) -> Fault {
    control::fault(error).context("source")
}
