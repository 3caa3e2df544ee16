//! The replication origin on the target. It tags our changes against loops and fences a second applier; it is never
//! trusted for progress, and the road goes without it where privileges deny it.

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::answer::{fault, position};
use crate::model::{Fault, Position};

/// The functions an applier calls, as `has_function_privilege` and GRANT name them.
pub const FUNCTIONS: [&str; 7] = [
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_reset()",
    "pg_replication_origin_xact_setup(pg_lsn, timestamptz)",
    "pg_replication_origin_advance(text, pg_lsn)",
    "pg_replication_origin_progress(text, boolean)",
];

/// Which of [`FUNCTIONS`] the role may not call. From version 19 on one of them has one more parameter, so they are
/// looked for by name.
pub async fn denied(client: &Client) -> Result<Vec<String>, Fault> {
    let names: Vec<_> = FUNCTIONS.iter().filter_map(|function| function.split('(').next()).collect();
    let query = "SELECT oid::regprocedure::text FROM pg_proc
                  WHERE proname = ANY ($1) AND pronamespace = 'pg_catalog'::regnamespace
                    AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1";
    let rows = client.query(query, &[&names]).await.map_err(|e| fault("inspecting privileges", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub async fn exists(client: &Client, name: &str) -> Result<bool, Fault> {
    let row = client
        .query_one("SELECT EXISTS (SELECT FROM pg_replication_origin WHERE roname = $1)", &[&name])
        .await
        .map_err(|e| fault(&format!("looking for replication origin \"{name}\""), &e))?;
    Ok(row.get(0))
}

/// Where the origin stands; none where it has no progress yet or does not exist.
pub async fn read(client: &Client, name: &str) -> Result<Option<Position>, Fault> {
    if !exists(client, name).await? {
        return Ok(None);
    }
    let row = client
        .query_one("SELECT pg_replication_origin_progress($1, false)", &[&name])
        .await
        .map_err(|e| fault(&format!("reading replication origin \"{name}\""), &e))?;
    Ok(row.get::<_, Option<PgLsn>>(0).map(position))
}

/// Creates it; false where it exists.
pub async fn create(client: &Client, name: &str) -> Result<bool, Fault> {
    if exists(client, name).await? {
        return Ok(false);
    }
    client
        .query_one("SELECT pg_replication_origin_create($1)", &[&name])
        .await
        .map_err(|e| fault(&format!("creating replication origin \"{name}\""), &e))?;
    Ok(true)
}

/// Drops it; false where there was none.
pub async fn drop(client: &Client, name: &str) -> Result<bool, Fault> {
    if !exists(client, name).await? {
        return Ok(false);
    }
    client
        .query_one("SELECT pg_replication_origin_drop($1)", &[&name])
        .await
        .map_err(|e| fault(&format!("dropping replication origin \"{name}\""), &e))?;
    Ok(true)
}
