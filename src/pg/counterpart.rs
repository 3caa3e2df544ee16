//! Which table of the target took the changes of which table of the source: names alone don't tell when a table of the
//! source is renamed, or dropped and created again under its old name.

use tokio_postgres::Client;

use super::answer::fault;
use super::progress::own_table;
use crate::model::Fault;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.counterpart (
    archive_id   text NOT NULL,
    source_table oid NOT NULL,
    target_table oid NOT NULL,
    PRIMARY KEY (archive_id, source_table)
)";

/// Why a table of the target is not the one that took the changes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// They went into another table, of this schema and name.
    Elsewhere(String, String),
    /// It took those of another table of the source.
    Taken,
}

/// Makes the place where they are kept; false where the role may not.
pub async fn prepare(client: &Client) -> Result<bool, Fault> {
    own_table(client, "counterpart", TABLE).await
}

/// Forgets what was noted of a table of the source, and of the target's of this quoted name.
pub async fn forget(client: &Client, archive_id: &str, source_table: u32, target: &str) -> Result<(), Fault> {
    let doing = |e: &tokio_postgres::Error| fault("writing pgsluice.counterpart", e);
    let exists = "SELECT to_regclass('pgsluice.counterpart') IS NOT NULL";
    if !client.query_one(exists, &[]).await.map_err(|e| doing(&e))?.get::<_, bool>(0) {
        return Ok(());
    }
    let delete = "DELETE FROM pgsluice.counterpart
                   WHERE archive_id = $1 AND (source_table = $2 OR target_table = to_regclass($3))";
    client.execute(delete, &[&archive_id, &source_table, &target]).await.map(drop).map_err(|e| doing(&e))
}

/// Notes that the target's table stands for the source's, unless something else was noted before. `shared`: it may stand for others too.
pub async fn note(
    client: &Client,
    archive_id: &str,
    source_table: u32,
    target_table: u32,
    shared: bool,
) -> Result<Option<Mismatch>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading pgsluice.counterpart", e);
    // What was noted of a table that is gone from the target counts no more.
    let known = "SELECT k.source_table, k.target_table, n.nspname::text, c.relname::text
                   FROM pgsluice.counterpart k
                   JOIN pg_class c ON c.oid = k.target_table JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE k.archive_id = $1 AND (k.source_table = $2 OR k.target_table = $3)";
    let rows =
        client.query(known, &[&archive_id, &source_table, &target_table]).await.map_err(|e| doing(&e))?;
    for row in &rows {
        let (source, target): (u32, u32) = (row.get(0), row.get(1));
        if target != target_table {
            return Ok(Some(Mismatch::Elsewhere(row.get(2), row.get(3))));
        }
        if source != source_table && !shared {
            return Ok(Some(Mismatch::Taken));
        }
    }
    if !rows.iter().any(|row| row.get::<_, u32>(0) == source_table) {
        let insert = "INSERT INTO pgsluice.counterpart VALUES ($1, $2, $3)
                      ON CONFLICT (archive_id, source_table) DO UPDATE SET target_table = excluded.target_table";
        client.execute(insert, &[&archive_id, &source_table, &target_table]).await.map_err(|e| doing(&e))?;
    }
    Ok(None)
}

/// Notes tables of the source (OID, schema, name) with those of the same names on the target, where nothing is noted yet.
pub async fn note_all(
    client: &Client,
    archive_id: &str,
    tables: &[(u32, String, String)],
) -> Result<(), Fault> {
    let oids: Vec<u32> = tables.iter().map(|(oid, ..)| *oid).collect();
    let schemas: Vec<&str> = tables.iter().map(|(_, schema, _)| schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|(.., name)| name.as_str()).collect();
    let insert = "INSERT INTO pgsluice.counterpart
                  SELECT $1, s.oid, c.oid FROM unnest($2::oid[], $3::text[], $4::text[]) s(oid, schema, name)
                    JOIN pg_namespace n ON n.nspname = s.schema
                    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.name
                  ON CONFLICT DO NOTHING";
    client
        .execute(insert, &[&archive_id, &oids, &schemas, &names])
        .await
        .map_err(|e| fault("writing pgsluice.counterpart", &e))?;
    Ok(())
}
