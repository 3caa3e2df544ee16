//! By which rules a stream's rows came to the target: those of other rules would make it a mixture.

use tokio_postgres::Client;

use super::answer::fault;
use super::progress::own_table;
use crate::model::Fault;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.rules (
    stream      text PRIMARY KEY,
    -- Of the file of rules, and of the key of its hashes.
    fingerprint text NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT now()
)";

/// What is noted of a stream; none where its tables are those of the source.
pub async fn read(client: &Client, stream: &str) -> Result<Option<String>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading pgsluice.rules", e);
    let exists = "SELECT to_regclass('pgsluice.rules') IS NOT NULL";
    if !client.query_one(exists, &[]).await.map_err(|e| doing(&e))?.get::<_, bool>(0) {
        return Ok(None);
    }
    let query = "SELECT fingerprint FROM pgsluice.rules WHERE stream = $1";
    let row = client.query_opt(query, &[&stream]).await.map_err(|e| doing(&e))?;
    Ok(row.map(|row| row.get(0)))
}

/// Notes the rules that hold from now on, or that there are none.
pub async fn note(client: &Client, stream: &str, fingerprint: Option<&str>) -> Result<(), Fault> {
    let doing = |e: &tokio_postgres::Error| fault("writing pgsluice.rules", e);
    let Some(fingerprint) = fingerprint else {
        let delete = "DELETE FROM pgsluice.rules WHERE stream = $1";
        return client.execute(delete, &[&stream]).await.map(drop).map_err(|e| doing(&e));
    };
    if !own_table(client, "rules", TABLE).await? {
        return Err(Fault::stop(
            "the user of the target may not write pgsluice.rules, where it is kept by which rules rows came",
        )
        .hint("GRANT USAGE, CREATE ON SCHEMA pgsluice TO that role; on the target"));
    }
    let insert = "INSERT INTO pgsluice.rules (stream, fingerprint) VALUES ($1, $2)
                  ON CONFLICT (stream) DO UPDATE SET fingerprint = excluded.fingerprint, noted_at = now()";
    client.execute(insert, &[&stream, &fingerprint]).await.map(drop).map_err(|e| doing(&e))
}

/// Refuses what takes the target's tables for those of the source, where rules have made them.
pub async fn refuse(client: &Client, stream: &str, doing: &str) -> Result<(), Fault> {
    match read(client, stream).await? {
        None => Ok(()),
        Some(_) => Err(Fault::stop(format!(
            "{doing} takes the tables of the target for those of the source, and rules have made them of stream {stream}"
        ))
        .hint("docs/RULES.md tells what works with rules")),
    }
}
