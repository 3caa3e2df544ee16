//! A worker's two connections: one reads under a snapshot of the source, the other writes.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::model::{Fault, Position, Remedy};
use crate::pg::copied::Moment;
use crate::pg::{Conninfo, Pipeline, PipelineOptions, Rows, quote_literal};

use super::survey::{SHAPE, Table};

const APPLICATION: &str = "pgsluice clone";

/// A connection to the source.
pub(super) async fn source(conninfo: &Conninfo) -> Result<Pipeline, Fault> {
    let options = PipelineOptions {
        application_name: APPLICATION,
        client_encoding: None,
        synchronous_commit: None,
        replica_role: false,
    };
    let connected = async {
        let mut source = Pipeline::connect(conninfo, &options).await?;
        // Rows that a policy hides are an error, not fewer rows.
        source.simple("SET row_security = off").await?;
        Ok(source)
    };
    connected.await.map_err(|fault: Fault| fault.context("source"))
}

/// A connection to the target, on which triggers and foreign keys rest. What is noted commits with the rows, so a crash of the target that
/// takes one takes the other.
pub(super) async fn target(conninfo: &Conninfo, encoding: &str) -> Result<Pipeline, Fault> {
    let options = PipelineOptions {
        application_name: APPLICATION,
        client_encoding: Some(encoding),
        synchronous_commit: Some("off"),
        replica_role: true,
    };
    let connected = async {
        let mut target = Pipeline::connect(conninfo, &options).await?;
        target.simple("SET row_security = off").await?;
        Ok(target)
    };
    connected.await.map_err(|fault: Fault| fault.context("target"))
}

/// Begins to read under a snapshot, which may be one that another session holds. With a table, that is locked before the snapshot is taken, so
/// that nothing writes it anew (VACUUM FULL, ALTER TABLE) while it is read; then its file is told too.
pub(super) async fn begin(
    source: &mut Pipeline,
    exported: Option<&str>,
    table: Option<&Table>,
) -> Result<(Moment, u32), Fault> {
    let mut sql = String::from("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;");
    if let Some(exported) = exported {
        sql.push_str(&format!("SET TRANSACTION SNAPSHOT {};", quote_literal(exported)));
    }
    if let Some(table) = table {
        let only = if table.is_root { "" } else { "ONLY " };
        // Who waits for the one that holds the snapshot, and its lock, would let nobody pass, and we would all wait for each other.
        let nowait = if exported.is_some() { " NOWAIT" } else { "" };
        sql.push_str(&format!("LOCK TABLE {only}{} IN ACCESS SHARE MODE{nowait};", table.quoted()));
    }
    // The LSN is asked for behind the snapshot: a commit that it shows is in WAL before.
    sql.push_str("SELECT pg_current_snapshot()::text;");
    sql.push_str(INSERTED);
    if let Some(table) = table {
        let name = quote_literal(&table.quoted());
        let found = format!("FROM pg_class c WHERE c.oid = to_regclass({name})");
        sql.push_str(&format!("; SELECT {SHAPE} {found}"));
        sql.push_str(&format!("; SELECT coalesce(pg_relation_filenode(c.oid), 0)::text {found}"));
    }
    let rows = source.simple(&sql).await.map_err(|fault| {
        let gone = exported.is_some()
            && matches!(fault.sqlstate.as_deref(), Some("22023" | "42704" | "55000" | "55P03"));
        // Whoever held the snapshot has gone, or is in somebody's way.
        let fault = if gone { Fault { remedy: Remedy::Retry, ..fault } } else { fault };
        fault.context("source")
    })?;
    let (snapshot, lsn) = (cell(&rows, 0), cell(&rows, 1));
    let through: Option<Position> = lsn.and_then(|lsn| lsn.parse().ok());
    if let Some(table) = table
        && cell(&rows, 2).as_ref() != Some(&table.shape)
    {
        return Err(Fault::retry(format!("table {} was altered meanwhile", table.shown())));
    }
    let filenode = cell(&rows, 3).and_then(|filenode| filenode.parse().ok()).unwrap_or(0);
    let moment = snapshot.zip(through).map(|(snapshot, through)| (Moment { snapshot, through }, filenode));
    moment.ok_or_else(|| Fault::stop("the source's snapshot makes no sense"))
}

/// Where the WAL ends. Behind the head of a page (of 40 bytes in a segment's first, else of 24) nothing has ended yet that did not end
/// before it, and to there nothing is ever flushed.
const INSERTED: &str = "
SELECT (lsn - CASE WHEN at = 40 THEN 40 WHEN at % current_setting('wal_block_size')::int4 = 24 THEN 24 ELSE 0 END)::text
  FROM (SELECT lsn, (pg_walfile_name_offset(lsn)).file_offset AS at FROM pg_current_wal_insert_lsn() lsn OFFSET 0) inserted";

/// How long the source is given to flush its WAL by itself.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// Ends the reading, and waits until no crash of the source can take back what the snapshot showed.
pub(super) async fn settle(source: &mut Pipeline, moment: &Moment) -> Result<(), Fault> {
    let settled = async {
        source.simple("COMMIT").await?;
        let flushed = format!("SELECT pg_current_wal_flush_lsn() >= '{}'", moment.through);
        let mut since = Instant::now();
        while cell(&source.simple(&flushed).await?, 0).as_deref() != Some("t") {
            tokio::time::sleep(POLL).await;
            if since.elapsed() >= PATIENCE {
                // WAL that no commit waits for may stay in memory: a commit takes it along.
                since = Instant::now();
                let emit =
                    "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgsluice', '')";
                source.simple(emit).await?;
            }
        }
        Ok(())
    };
    settled.await.map_err(|fault: Fault| fault.context("source"))
}

/// The one value of a row.
pub(super) fn cell(rows: &Rows, row: usize) -> Option<String> {
    rows.get(row)?.first()?.clone()
}

/// A session that does nothing but hold a snapshot that others read under.
pub(super) struct Leader {
    pub(super) moment: Moment,
    /// Of the table that it has locked.
    pub(super) filenode: u32,
    /// What they import.
    pub(super) exported: String,
    /// While it is open, so is the snapshot.
    _session: Mutex<Pipeline>,
}

impl Leader {
    pub(super) async fn open(conninfo: &Conninfo, table: Option<&Table>) -> Result<Leader, Fault> {
        let mut session = source(conninfo).await?;
        let (moment, filenode) = begin(&mut session, None, table).await?;
        let rows =
            session.simple("SELECT pg_export_snapshot()").await.map_err(|fault| fault.context("source"))?;
        let exported = cell(&rows, 0).ok_or_else(|| Fault::stop("the source exports no snapshot"))?;
        Ok(Leader { moment, filenode, exported, _session: Mutex::new(session) })
    }
}
