//! Transactions of a stream that the target has refused and that were set aside. Their changes stay in the log; here is which they are,
//! noted in the target transactions that move the progress past them.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use super::progress::own_table;
use crate::model::{Fault, Lsn, Position, Timestamp};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.dead (
    stream      text NOT NULL,
    -- The end of its commit, and the start, by which the messages of pgsluice name it.
    lsn         pg_lsn NOT NULL,
    commit_lsn  pg_lsn NOT NULL,
    xid         bigint NOT NULL,
    commit_time timestamptz NOT NULL,
    -- refused: by the target; held: it changes rows of one that is set aside, which held_by names.
    reason      text NOT NULL,
    sqlstate    text,
    error       text NOT NULL,
    held_by     pg_lsn,
    -- The tables of the source, by OID, whose changes in it were left to the stream.
    tables      oid[] NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, lsn)
)";

/// Notes a transaction: stream, lsn, commit_lsn, xid, commit_time, reason, sqlstate, error, held_by, tables. Always one row.
pub const NOTE: &str = "
INSERT INTO pgsluice.dead (stream, lsn, commit_lsn, xid, commit_time, reason, sqlstate, error, held_by, tables)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (stream, lsn) DO UPDATE
   SET commit_lsn = excluded.commit_lsn, xid = excluded.xid, commit_time = excluded.commit_time, reason = excluded.reason,
       sqlstate = excluded.sqlstate, error = excluded.error, held_by = excluded.held_by, tables = excluded.tables,
       noted_at = excluded.noted_at";

/// Forgets one, by stream and lsn; of whoever brings its changes it is to be one row.
pub const FORGET: &str = "DELETE FROM pgsluice.dead WHERE stream = $1 AND lsn = $2";

/// A transaction that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The end of its commit.
    pub lsn: Position,
    /// Where its commit starts.
    pub commit_lsn: Lsn,
    pub xid: u32,
    pub commit_time: Timestamp,
    /// Of the target's refusal; none where it only comes behind another one.
    pub sqlstate: Option<String>,
    /// What PostgreSQL said, which may have values of rows in it.
    pub error: String,
    /// Of which transaction it changes rows.
    pub held_by: Option<Position>,
    /// Tables of the source whose changes are part of it.
    pub tables: Vec<u32>,
    pub noted_at: Timestamp,
}

/// How many are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub count: i64,
    pub oldest: Position,
}

/// Makes the place where they are kept.
pub async fn prepare(client: &Client) -> Result<(), Fault> {
    let query = "SELECT has_table_privilege(c.oid, 'DELETE')
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'pgsluice' AND c.relname = 'dead'";
    let is_ours = own_table(client, "dead", TABLE).await? && {
        let row = client.query_one(query, &[]).await.map_err(|e| fault("looking for pgsluice.dead", &e))?;
        row.get(0)
    };
    match is_ours {
        true => Ok(()),
        false => Err(Fault::stop("the user of the target may not write pgsluice.dead").hint(
            "let it create tables in schema pgsluice, or own that one; or run without --on-error quarantine",
        )),
    }
}

async fn exists(client: &Client) -> Result<bool, Fault> {
    // By the catalog, since to resolve the name one needs privileges.
    let query = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                 WHERE n.nspname = 'pgsluice' AND c.relname = 'dead')";
    let row = client.query_one(query, &[]).await.map_err(|e| fault("looking for pgsluice.dead", &e))?;
    Ok(row.get(0))
}

/// Those of a stream, in the order of the log.
pub async fn read(client: &Client, stream: &str) -> Result<Vec<Note>, Fault> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let query = "SELECT lsn, commit_lsn, xid, (extract(epoch FROM commit_time) * 1000000)::int8, sqlstate, error, held_by,
                        tables, (extract(epoch FROM noted_at) * 1000000)::int8
                   FROM pgsluice.dead WHERE stream = $1 ORDER BY lsn";
    let denied = |fault: Fault| match fault.sqlstate.as_deref() {
        Some("42501") => {
            fault.hint("GRANT SELECT, INSERT, UPDATE, DELETE ON pgsluice.dead to this role of the target")
        }
        _ => fault,
    };
    let rows = client.query(query, &[&stream]).await;
    let rows = rows.map_err(|e| denied(fault("reading pgsluice.dead", &e)))?;
    let note = |row: &tokio_postgres::Row| Note {
        lsn: position(row.get(0)),
        commit_lsn: Lsn(position(row.get(1)).0),
        xid: u32::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
        commit_time: Timestamp::from_unix_microseconds(row.get(3)),
        sqlstate: row.get(4),
        error: row.get(5),
        held_by: row.get::<_, Option<PgLsn>>(6).map(position),
        tables: row.get(7),
        noted_at: Timestamp::from_unix_microseconds(row.get(8)),
    };
    Ok(rows.iter().map(note).collect())
}

/// How many a stream has; none where there are none.
pub async fn open(client: &Client, stream: &str) -> Result<Option<Open>, Fault> {
    if !exists(client).await? {
        return Ok(None);
    }
    let query = "SELECT count(*), min(lsn) FROM pgsluice.dead WHERE stream = $1";
    let row = client.query_one(query, &[&stream]).await.map_err(|e| fault("reading pgsluice.dead", &e))?;
    let oldest: Option<PgLsn> = row.get(1);
    Ok(oldest.map(|oldest| Open { count: row.get(0), oldest: position(oldest) }))
}

/// Refuses what would be wrong while transactions of a stream are set aside.
pub async fn refuse_open(client: &Client, stream: &str, what: &str) -> Result<(), Fault> {
    match open(client, stream).await? {
        None => Ok(()),
        Some(Open { count, oldest }) => {
            let message = format!("{what}: {count} transactions are set aside, the oldest ends at {oldest}");
            Err(Fault::stop(message)
                .hint("pgsluice dead list shows them; pgsluice dead retry, or skip, ends that"))
        }
    }
}

/// Says why it could not be applied this time.
pub async fn note_error(client: &Client, stream: &str, lsn: Position, error: &Fault) -> Result<(), Fault> {
    let update = "UPDATE pgsluice.dead SET sqlstate = $3, error = $4 WHERE stream = $1 AND lsn = $2";
    let done = client.execute(update, &[&stream, &PgLsn::from(lsn.0), &error.sqlstate, &error.message]).await;
    done.map(|_| ()).map_err(|e| fault("writing pgsluice.dead", &e))
}

/// Forgets these, for good; says how many there were.
pub async fn forget(client: &mut Client, stream: &str, lsns: &[Position]) -> Result<u64, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("writing pgsluice.dead", e);
    let lsns: Vec<PgLsn> = lsns.iter().map(|lsn| PgLsn::from(lsn.0)).collect();
    let transaction = client.transaction().await.map_err(|e| doing(&e))?;
    transaction.batch_execute("SET LOCAL synchronous_commit = on").await.map_err(|e| doing(&e))?;
    let delete = "DELETE FROM pgsluice.dead WHERE stream = $1 AND lsn = ANY ($2)";
    let deleted = transaction.execute(delete, &[&stream, &lsns]).await.map_err(|e| doing(&e))?;
    if deleted != lsns.len() as u64 {
        return Err(Fault::reread("what is set aside was changed by somebody else meanwhile"));
    }
    transaction.commit().await.map_err(|e| doing(&e))?;
    Ok(deleted)
}

/// Forgets all of a stream; says how many there were.
pub async fn drop(client: &Client, stream: &str) -> Result<u64, Fault> {
    if !exists(client).await? {
        return Ok(0);
    }
    let delete = "DELETE FROM pgsluice.dead WHERE stream = $1";
    client.execute(delete, &[&stream]).await.map_err(|e| fault("writing pgsluice.dead", &e))
}
