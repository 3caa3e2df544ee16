//! Which views of the target show snapshots of polled tables, noted in the target transactions that swap them.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::fault;
use super::progress::{drop_if_empty, own_table};
use crate::model::{Fault, Position, Timestamp};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.snapshot (
    view_schema  text NOT NULL,
    view_name    text NOT NULL,
    stream       text NOT NULL,
    -- The table or view of the source, by OID.
    source_table oid NOT NULL,
    -- The table, of the same schema, that the view shows.
    shown        text NOT NULL,
    rows         bigint NOT NULL,
    -- Where the transaction of the log ends that holds the snapshot, and when it was taken.
    lsn          pg_lsn NOT NULL,
    taken_at     timestamptz NOT NULL,
    swapped_at   timestamptz NOT NULL,
    PRIMARY KEY (view_schema, view_name)
)";

/// Whose a view is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    pub schema: String,
    pub name: String,
    pub stream: String,
    pub source_table: u32,
}

/// What a view shows from now on.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub rows: u64,
    pub lsn: Position,
    pub taken_at: Timestamp,
}

/// Makes the place where it is kept.
pub async fn prepare(client: &Client) -> Result<(), Fault> {
    match own_table(client, "snapshot", TABLE).await? {
        true => Ok(()),
        false => Err(Fault::stop(
            "the user of the target may not write pgsluice.snapshot, where it is kept which views are pgsluice's",
        )
        .hint("GRANT USAGE, CREATE ON SCHEMA pgsluice TO that role; on the target")),
    }
}

/// What is noted of the view of this name, and of all that show this table of the stream.
pub async fn read(
    client: &Client,
    (schema, name): (&str, &str),
    (stream, source_table): (&str, u32),
) -> Result<Vec<Noted>, Fault> {
    let query = "SELECT view_schema, view_name, stream, source_table FROM pgsluice.snapshot
                  WHERE (view_schema = $1 AND view_name = $2) OR (stream = $3 AND source_table = $4)";
    let rows = client.query(query, &[&schema, &name, &stream, &source_table]).await;
    let rows = rows.map_err(|e| fault("reading pgsluice.snapshot", &e))?;
    let noted = rows.iter().map(|row| Noted {
        schema: row.get(0),
        name: row.get(1),
        stream: row.get(2),
        source_table: row.get(3),
    });
    Ok(noted.collect())
}

/// Notes which table a view shows, and what. To be run in the transaction that swaps it.
pub async fn note(client: &Client, view: &Noted, table: &str, shown: Shown) -> Result<(), Fault> {
    let insert = "INSERT INTO pgsluice.snapshot AS s
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::timestamptz, clock_timestamp())
                  ON CONFLICT (view_schema, view_name) DO UPDATE
                     SET stream = excluded.stream, source_table = excluded.source_table, shown = excluded.shown,
                         rows = excluded.rows, lsn = excluded.lsn, taken_at = excluded.taken_at,
                         swapped_at = excluded.swapped_at";
    let (rows, lsn) = (i64::try_from(shown.rows).unwrap_or(i64::MAX), PgLsn::from(shown.lsn.0));
    let taken_at = shown.taken_at.to_string();
    client
        .execute(
            insert,
            &[&view.schema, &view.name, &view.stream, &view.source_table, &table, &rows, &lsn, &taken_at],
        )
        .await
        .map_err(|e| fault("writing pgsluice.snapshot", &e))?;
    Ok(())
}

/// Forgets the views of a stream, which stay as they are; how many they were.
pub async fn drop(client: &mut Client, stream: &str) -> Result<u64, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("writing pgsluice.snapshot", e);
    let owned =
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('pgsluice.snapshot')";
    let Some(owned) = client.query_opt(owned, &[]).await.map_err(|e| doing(&e))? else { return Ok(0) };
    let delete = "DELETE FROM pgsluice.snapshot WHERE stream = $1";
    let views = client.execute(delete, &[&stream]).await.map_err(|e| doing(&e))?;
    if owned.get(0) {
        drop_if_empty(client, "snapshot", "").await?;
    }
    Ok(views)
}
