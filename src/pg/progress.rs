//! The target's progress row: the truth of what was applied, written in the transactions that carry the rows.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use super::sql::quote_literal;
use crate::model::{Fault, Position, Timestamp};

/// One row of `pgsluice.progress`.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Every transaction whose commit ends at or before it was applied.
    pub lsn: Position,
    /// Of the last transaction applied; none before the first.
    pub commit_time: Option<Timestamp>,
    pub system_identifier: String,
    pub archive_id: String,
    pub transactions: i64,
    pub changes: i64,
}

const SCHEMA: &str = "
CREATE TABLE pgsluice.progress (
    stream            text PRIMARY KEY,
    lsn               pg_lsn NOT NULL,
    commit_time       timestamptz,
    xid               bigint,
    system_identifier text NOT NULL,
    archive_id        text NOT NULL,
    transactions      bigint NOT NULL,
    changes           bigint NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    -- Raised with every change of which tables are left out.
    joining           bigint NOT NULL DEFAULT 0
)";

/// Makes the schema of ours where it is missing; IF NOT EXISTS alone would demand the privilege even so.
pub(super) async fn own_schema(client: &Client) -> Result<(), Fault> {
    if place(client).await? == Place::Absent {
        let create = "CREATE SCHEMA IF NOT EXISTS pgsluice";
        client.batch_execute(create).await.map_err(|e| fault("creating schema pgsluice", &e))?;
    }
    Ok(())
}

/// Makes a table of ours beside it; false where the role may not.
pub(super) async fn own_table(client: &Client, name: &str, create: &str) -> Result<bool, Fault> {
    let doing = |e: &tokio_postgres::Error| fault(&format!("preparing pgsluice.{name}"), e);
    let query = "SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE')
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'pgsluice' AND c.relname = $1::text";
    if let Some(row) = client.query_opt(query, &[&name]).await.map_err(|e| doing(&e))? {
        return Ok(row.get(0));
    }
    let may = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'pgsluice'";
    let may = client.query_opt(may, &[]).await.map_err(|e| doing(&e))?.is_some_and(|row| row.get(0));
    if may {
        client.batch_execute(create).await.map_err(|e| doing(&e))?;
    }
    Ok(may)
}

/// How far the place for progress is made on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Absent,
    /// The schema alone; whether the role may create the table in it.
    Schema {
        usable: bool,
    },
    /// The table; whether the role may read and write it.
    Table {
        usable: bool,
    },
}

pub async fn place(client: &Client) -> Result<Place, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("looking for schema pgsluice", e);
    let schema = "SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE')
                    FROM pg_namespace WHERE nspname = 'pgsluice'";
    let Some(schema) = client.query_opt(schema, &[]).await.map_err(|e| doing(&e))? else {
        return Ok(Place::Absent);
    };
    // By OID, since to resolve the name one needs the privilege that is asked for.
    let table = "SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'pgsluice' AND c.relname = 'progress'";
    let enters: bool = schema.get(0);
    Ok(match client.query_opt(table, &[]).await.map_err(|e| doing(&e))? {
        Some(table) => Place::Table { usable: enters && table.get(0) },
        None => Place::Schema { usable: enters && schema.get(1) },
    })
}

/// The stream's row, or none where row, table or schema is missing.
pub async fn read(client: &Client, stream: &str) -> Result<Option<Progress>, Fault> {
    if !matches!(place(client).await?, Place::Table { .. }) {
        return Ok(None);
    }
    let query =
        "SELECT lsn, (extract(epoch FROM commit_time) * 1000000)::int8, system_identifier, archive_id,
                        transactions, changes
                   FROM pgsluice.progress WHERE stream = $1";
    let row = client
        .query_opt(query, &[&stream])
        .await
        .map_err(|e| fault(&format!("reading the progress of stream \"{stream}\""), &e))?;
    Ok(row.map(|row| Progress {
        lsn: position(row.get::<_, PgLsn>(0)),
        commit_time: row.get::<_, Option<i64>>(1).map(Timestamp::from_unix_microseconds),
        system_identifier: row.get(2),
        archive_id: row.get(3),
        transactions: row.get(4),
        changes: row.get(5),
    }))
}

/// Which process of the target applies the stream: it has the stream's advisory lock.
pub fn holder(stream: &str) -> String {
    let name = quote_literal(stream);
    format!(
        "SELECT string_agg(l.pid::text, ', ') FROM pg_locks l, hashtextextended('pgsluice ' || {name}, 0) k \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
         AND l.classid::bigint = ((k >> 32) & 4294967295) AND l.objid::bigint = (k & 4294967295)"
    )
}

/// Whether somebody applies the stream now.
pub async fn has_applier(client: &Client, stream: &str) -> Result<bool, Fault> {
    let row = client.query_one(&holder(stream), &[]).await;
    let row = row.map_err(|e| fault(&format!("looking for the applier of stream \"{stream}\""), &e))?;
    Ok(row.get::<_, Option<&str>>(0).is_some())
}

/// Makes schema and table where they are missing, and the stream's row at `start` where there is none; says whether it was
/// made now. A row that exists is left as it is.
pub async fn create(
    client: &Client,
    stream: &str,
    start: Position,
    system_identifier: &str,
    archive_id: &str,
) -> Result<bool, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("creating pgsluice.progress", e);
    let place = place(client).await?;
    // Each only where it is missing: IF NOT EXISTS would demand the privilege even so.
    if place == Place::Absent {
        client.batch_execute("CREATE SCHEMA IF NOT EXISTS pgsluice").await.map_err(|e| doing(&e))?;
    }
    if !matches!(place, Place::Table { .. }) {
        client
            .batch_execute(&SCHEMA.replacen("TABLE", "TABLE IF NOT EXISTS", 1))
            .await
            .map_err(|e| doing(&e))?;
        client.batch_execute(super::lane::TABLE).await.map_err(|e| doing(&e))?;
    }
    if read(client, stream).await?.is_some() {
        return Ok(false);
    }
    // Lanes of an earlier stream of that name, and what was set aside of it, say nothing about this one.
    super::lane::drop(client, stream).await?;
    super::dead::drop(client, stream).await?;
    let insert =
        "INSERT INTO pgsluice.progress (stream, lsn, system_identifier, archive_id, transactions, changes)
                  VALUES ($1, $2, $3, $4, 0, 0) ON CONFLICT (stream) DO NOTHING";
    let made = client
        .execute(insert, &[&stream, &PgLsn::from(start.0), &system_identifier, &archive_id])
        .await
        .map_err(|e| doing(&e))?;
    Ok(made > 0)
}

/// Deletes the stream's row; false where there was none. Table and schema go too with the last row, where the role may
/// drop them.
pub async fn drop(client: &mut Client, stream: &str) -> Result<bool, Fault> {
    let doing =
        |e: &tokio_postgres::Error| fault(&format!("dropping the progress of stream \"{stream}\""), e);
    if !matches!(place(client).await?, Place::Table { .. }) {
        return Ok(false);
    }
    let dropped = client
        .execute("DELETE FROM pgsluice.progress WHERE stream = $1", &[&stream])
        .await
        .map_err(|e| doing(&e))?;
    let owned = "SELECT pg_has_role(c.relowner, 'USAGE') AND pg_has_role(n.nspowner, 'USAGE')
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'pgsluice' AND c.relname = 'progress'";
    let owned = client.query_opt(owned, &[]).await.map_err(|e| doing(&e))?;
    if owned.is_some_and(|row| row.get(0)) {
        drop_if_empty(
            client,
            "progress",
            "pgsluice.counterpart, pgsluice.lane, pgsluice.joining, pgsluice.dead",
        )
        .await?;
    }
    Ok(dropped > 0)
}

/// Drops a table of ours that has no rows any more, with others that mean nothing without it, and the schema where nothing is left in it.
pub(super) async fn drop_if_empty(client: &mut Client, name: &str, with: &str) -> Result<(), Fault> {
    let doing = |e: &tokio_postgres::Error| fault(&format!("dropping pgsluice.{name}"), e);
    let transaction = client.transaction().await.map_err(|e| doing(&e))?;
    // A row that another stream inserts meanwhile waits for the lock, and then keeps the table.
    let lock = format!("LOCK TABLE pgsluice.{name} IN ACCESS EXCLUSIVE MODE");
    transaction.batch_execute(&lock).await.map_err(|e| doing(&e))?;
    let empty = format!("SELECT NOT EXISTS (SELECT FROM pgsluice.{name})");
    if transaction.query_one(&empty, &[]).await.map_err(|e| doing(&e))?.get(0) {
        let tables = if with.is_empty() { String::new() } else { format!("DROP TABLE IF EXISTS {with};") };
        let tables = format!("{tables} DROP TABLE pgsluice.{name}");
        transaction.batch_execute(&tables).await.map_err(|e| doing(&e))?;
    }
    transaction.commit().await.map_err(|e| doing(&e))?;
    let others = "SELECT EXISTS (SELECT FROM pg_depend
                   WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'pgsluice'::regnamespace)";
    let kept = client.query_one(others, &[]).await.map_err(|e| doing(&e))?;
    if !kept.get::<_, bool>(0) {
        client.batch_execute("DROP SCHEMA pgsluice").await.map_err(|e| doing(&e))?;
    }
    Ok(())
}
