//! Which entries of the schema were made on the target: each noted in the transaction that made it.

use std::collections::HashSet;

use tokio_postgres::{Client, Transaction};

use super::answer::fault;
use super::progress::{self, own_table};
use crate::model::Fault;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.defined (
    stream  text NOT NULL,
    entry   text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, entry)
)";

/// Makes the place where they are kept.
pub async fn prepare(client: &Client) -> Result<(), Fault> {
    match make(client).await {
        // Somebody else made it at the same moment.
        Err(fault) if matches!(fault.sqlstate.as_deref(), Some("23505" | "42P06" | "42P07")) => {
            make(client).await
        }
        made => made,
    }
}

async fn make(client: &Client) -> Result<(), Fault> {
    progress::own_schema(client).await?;
    if own_table(client, "defined", TABLE).await? {
        return Ok(());
    }
    Err(Fault::stop("the role may not keep notes in schema pgsluice of the target")
        .hint("grant it USAGE and CREATE on schema pgsluice"))
}

/// What was made for the stream.
pub async fn read(client: &Client, stream: &str) -> Result<HashSet<String>, Fault> {
    let query = "SELECT entry FROM pgsluice.defined WHERE stream = $1";
    let rows = client.query(query, &[&stream]).await.map_err(|e| fault("reading pgsluice.defined", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Notes entries, before they are made; false where some were noted already. Somebody who is at one of them is waited for: a server goes on for
/// a while with what it was told by a process that is gone.
pub async fn note(transaction: &Transaction<'_>, stream: &str, entries: &[String]) -> Result<bool, Fault> {
    let insert = "INSERT INTO pgsluice.defined (stream, entry) SELECT $1, e FROM unnest($2::text[]) e
                  ON CONFLICT DO NOTHING";
    let noted = transaction
        .execute(insert, &[&stream, &entries])
        .await
        .map_err(|e| fault("writing pgsluice.defined", &e))?;
    Ok(usize::try_from(noted) == Ok(entries.len()))
}

/// Deletes the stream's notes; says how many there were. The table goes with the last one, where the role may drop it, and the schema with the
/// last table.
pub async fn drop(client: &mut Client, stream: &str) -> Result<u64, Fault> {
    let doing = |e: &tokio_postgres::Error| fault(&format!("dropping the notes of \"{stream}\""), e);
    let owned =
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('pgsluice.defined')";
    let Some(owned) = client.query_opt(owned, &[]).await.map_err(|e| doing(&e))? else { return Ok(0) };
    let delete = "DELETE FROM pgsluice.defined WHERE stream = $1";
    let deleted = client.execute(delete, &[&stream]).await.map_err(|e| doing(&e))?;
    if owned.get(0) {
        progress::drop_if_empty(client, "defined", "").await?;
    }
    Ok(deleted)
}
