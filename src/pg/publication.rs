//! The publication: which tables the slot's changes come from.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::answer::fault;
use super::quote_ident;
use super::tables::quoted_name;
use crate::model::Fault;

/// What a publication publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// FOR ALL TABLES, future ones too.
    Everything,
    /// Schema and name of each.
    Tables(BTreeSet<(String, String)>),
}

/// Which part of a table is published; PostgreSQL 15 and later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFilter {
    pub columns: Option<Vec<String>>,
    /// An SQL condition.
    pub rows: Option<String>,
}

/// By schema and name.
pub type Filters = BTreeMap<(String, String), TableFilter>;

impl std::fmt::Display for TableFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(columns) = &self.columns {
            let quoted: Vec<_> = columns.iter().map(|column| quote_ident(column)).collect();
            write!(f, " ({})", quoted.join(", "))?;
        }
        match &self.rows {
            // A comment in the condition must not swallow the parenthesis.
            Some(rows) if rows.contains("--") => write!(f, " WHERE ({rows}\n)"),
            Some(rows) => write!(f, " WHERE ({rows})"),
            None => Ok(()),
        }
    }
}

/// The first version with filters.
pub const FILTERS_SINCE: u32 = 150_000;

#[derive(Clone, Debug)]
pub struct Publication {
    pub published: Published,
    pub filters: Filters,
    /// FOR TABLES IN SCHEMA; PostgreSQL 15 and later.
    pub schemas: Vec<String>,
    /// INSERT, UPDATE, DELETE and TRUNCATE are all published.
    pub whole: bool,
    /// `publish_via_partition_root`: changes come under the root's name, and a leaf's TRUNCATE does not come at all.
    pub via_root: bool,
    /// The role may alter it.
    pub owned: bool,
}

pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>, Fault> {
    let doing = format!("reading publication \"{name}\"");
    let query = "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot,
                        pg_has_role(pubowner, 'USAGE'), current_setting('server_version_num')::int4
                   FROM pg_publication WHERE pubname = $1";
    let Some(row) = client.query_opt(query, &[&name]).await.map_err(|e| fault(&doing, &e))? else {
        return Ok(None);
    };
    let published = if row.get(0) {
        Published::Everything
    } else {
        let query = "SELECT n.nspname::text, c.relname::text
                       FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                       JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE p.pubname = $1";
        let rows = client.query(query, &[&name]).await.map_err(|e| fault(&doing, &e))?;
        Published::Tables(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    };
    let (filters, schemas) = match u32::try_from(row.get::<_, i32>(4)) {
        Ok(FILTERS_SINCE..) => (
            filters(client, name).await.map_err(|e| fault(&doing, &e))?,
            schemas(client, name).await.map_err(|e| fault(&doing, &e))?,
        ),
        _ => Default::default(),
    };
    let (whole, via_root, owned) = (row.get(1), row.get(2), row.get(3));
    Ok(Some(Publication { published, filters, schemas, whole, via_root, owned }))
}

async fn schemas(client: &Client, name: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let query =
        "SELECT n.nspname::text FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
                   JOIN pg_namespace n ON n.oid = s.pnnspid WHERE p.pubname = $1 ORDER BY 1";
    Ok(client.query(query, &[&name]).await?.iter().map(|row| row.get(0)).collect())
}

async fn filters(client: &Client, name: &str) -> Result<Filters, tokio_postgres::Error> {
    let query = "SELECT n.nspname::text, c.relname::text, pg_get_expr(r.prqual, r.prrelid),
                        CASE WHEN r.prattrs IS NOT NULL THEN
                            ARRAY(SELECT a.attname::text FROM pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs) ORDER BY a.attnum) END
                   FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
                   JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE p.pubname = $1 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)";
    let rows = client.query(query, &[&name]).await?;
    let filter = |row: &tokio_postgres::Row| TableFilter { rows: row.get(2), columns: row.get(3) };
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), filter(row))).collect())
}

/// What a filter asks of a table that its replica identity does not give: its UPDATE and DELETE fail on the source
/// (`CheckCmdReplicaIdentity`).
#[derive(Clone, Debug)]
pub struct Unidentified {
    pub schema: String,
    pub table: String,
    /// A column of the condition that is not part of the replica identity; none where the list of columns does not
    /// hold all of it.
    pub column: Option<String>,
}

const UNIDENTIFIED: &str = "
WITH published AS (
    SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relreplident, r.prattrs::int2[] AS columns,
           ARRAY(SELECT (regexp_matches(r.prqual::text, ':varattno ([0-9]+)', 'g'))[1]::int2) AS used,
           (SELECT i.indkey::int2[] FROM pg_index i WHERE i.indrelid = c.oid
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) AS key
      FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
      JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE p.pubname = $1)
SELECT schema, name, a.attname::text FROM published JOIN pg_attribute a ON a.attrelid = published.oid
 WHERE a.attnum = ANY (used) AND relreplident <> 'f' AND NOT a.attnum = ANY (coalesce(key, '{}'))
UNION ALL
SELECT schema, name, NULL FROM published
 WHERE columns IS NOT NULL AND (relreplident = 'f' OR NOT coalesce(key, '{}') <@ columns)
 ORDER BY 1, 2, 3";

pub async fn unidentified(client: &Client, name: &str) -> Result<Vec<Unidentified>, Fault> {
    let rows = client
        .query(UNIDENTIFIED, &[&name])
        .await
        .map_err(|e| fault(&format!("looking at the filters of publication \"{name}\""), &e))?;
    let one = |row: &tokio_postgres::Row| Unidentified {
        schema: row.get(0),
        table: row.get(1),
        column: row.get(2),
    };
    Ok(rows.iter().map(one).collect())
}

/// What [`unidentified`] would say of a publication of these tables, which is made for that and rolled back.
pub async fn rehearse(
    client: &Client,
    published: &Published,
    filters: &Filters,
) -> Result<Vec<Unidentified>, Fault> {
    const REHEARSAL: &str = "pgsluice_rehearsal";
    let begin = "BEGIN; SET LOCAL lock_timeout = '10s'";
    client.batch_execute(begin).await.map_err(|e| fault("trying the filters", &e))?;
    let found = match create(client, REHEARSAL, published, filters).await {
        Ok(()) => unidentified(client, REHEARSAL).await,
        Err(refused) => Err(refused),
    };
    client.batch_execute("ROLLBACK").await.map_err(|e| fault("trying the filters", &e))?;
    found
}

fn list(tables: &BTreeSet<(String, String)>, filters: &Filters) -> String {
    let names = tables.iter().map(|table| {
        let filter = filters.get(table).map(ToString::to_string).unwrap_or_default();
        quoted_name(&table.0, &table.1) + &filter
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Creates it. Must be committed before the slot is made, since the slot reads publications as they were at each LSN.
pub async fn create(
    client: &Client,
    name: &str,
    published: &Published,
    filters: &Filters,
) -> Result<(), Fault> {
    let what = match published {
        Published::Everything => "ALL TABLES".to_owned(),
        Published::Tables(tables) => format!("TABLE {}", list(tables, filters)),
    };
    client
        .batch_execute(&format!("CREATE PUBLICATION {} FOR {what}", quote_ident(name)))
        .await
        .map_err(|e| fault(&format!("creating publication \"{name}\""), &e))
}

/// Gives a publication of named tables another list.
pub async fn set_tables(
    client: &Client,
    name: &str,
    tables: &BTreeSet<(String, String)>,
    filters: &Filters,
) -> Result<(), Fault> {
    client
        .batch_execute(&format!(
            "ALTER PUBLICATION {} SET TABLE {}",
            quote_ident(name),
            list(tables, filters)
        ))
        .await
        .map_err(|e| fault(&format!("altering publication \"{name}\""), &e))
}

/// The tables whose changes it sends, by OID, with the partitioned tables above them.
pub async fn sent(client: &Client, name: &str) -> Result<BTreeMap<u32, Vec<u32>>, Fault> {
    let query =
        "SELECT c.oid, ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid)
                   FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
                   JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                  WHERE t.pubname = $1";
    let rows = client.query(query, &[&name]).await;
    let rows = rows.map_err(|e| fault(&format!("reading publication \"{name}\""), &e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn alter(client: &Client, name: &str, what: &str, tables: &[String]) -> Result<(), Fault> {
    client
        .batch_execute(&format!("ALTER PUBLICATION {} {what} TABLE {}", quote_ident(name), tables.join(", ")))
        .await
        .map_err(|e| fault(&format!("altering publication \"{name}\""), &e))
}

/// Publishes further tables, by their quoted names. Waits for who has written to them, and lets nobody begin to meanwhile: a walsender that decodes
/// a transaction of before the change may else take the tables for unpublished for good (before PostgreSQL 18, 17.5, 16.9, 15.13 and 14.18).
pub async fn add_tables(client: &Client, name: &str, tables: &[String]) -> Result<(), Fault> {
    let (name_quoted, tables) = (quote_ident(name), tables.join(", "));
    // One string is one transaction.
    let sql = format!(
        "SET LOCAL lock_timeout = '2s'; LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE; \
         ALTER PUBLICATION {name_quoted} ADD TABLE {tables}"
    );
    client.batch_execute(&sql).await.map_err(|e| fault(&format!("altering publication \"{name}\""), &e))
}

/// Publishes tables no longer, by their quoted names.
pub async fn remove_tables(client: &Client, name: &str, tables: &[String]) -> Result<(), Fault> {
    alter(client, name, "DROP", tables).await
}

/// Drops it; false where there was none.
pub async fn drop(client: &Client, name: &str) -> Result<bool, Fault> {
    if read(client, name).await?.is_none() {
        return Ok(false);
    }
    client
        .batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name)))
        .await
        .map_err(|e| fault(&format!("dropping publication \"{name}\""), &e))?;
    Ok(true)
}
