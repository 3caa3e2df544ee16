//! What the catalog says of one table now, and which transactions it has seen.

use std::collections::HashMap;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::answer;
use crate::model::{ColumnFacts, Fault, Remedy, ReplicaIdentity, TableFacts, VisibleXids};

/// What was found, in one look.
#[derive(Clone, Debug)]
pub struct Found {
    pub seen: VisibleXids,
    /// The publication is FOR ALL TABLES, future ones too.
    pub everything: bool,
    /// None where there is no such table.
    pub table: Option<TableFacts>,
}

/// One row for each column, at least one in all. In one statement, so that the snapshot is that of all of it.
const FACTS: &str = "
SELECT pg_current_snapshot()::text, p.puballtables, c.oid, c.relkind = 'p', c.relreplident::text,
       c.relkind IN ('r', 'p') AND CASE WHEN p.puballtables
            -- What is said of one that is unlogged now is of a time when it was not.
            THEN pg_relation_is_publishable(c.oid) OR (c.relpersistence = 'u' AND c.oid >= 16384) ELSE l.listed IS NOT NULL END,
       a.attname::text, a.atttypid, format_type(a.atttypid, NULL), a.atttypmod,
       a.attgenerated <> '' OR NOT coalesce(l.listed -> 'attnames' ? a.attname::text, true),
       a.attlen = -1 AND a.attstorage <> 'p',
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
                  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
       b.nspname, b.typname, l.listed ->> 'rowfilter' IS NOT NULL,
       coalesce(p.pubviaroot AND c.relispartition, false)
  FROM pg_publication p
  LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace) ON n.nspname = $2 AND c.relname = $3
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN LATERAL (
       -- Lists of columns and filters are there since version 15.
       SELECT to_jsonb(t) AS listed FROM pg_publication_tables t
        WHERE NOT p.puballtables AND t.pubname = p.pubname AND t.schemaname = n.nspname AND t.tablename = c.relname) l ON true
  LEFT JOIN LATERAL (
       WITH RECURSIVE base AS (
            SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace FROM pg_type t WHERE t.oid = a.atttypid
             UNION ALL
            SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace
              FROM base JOIN pg_type t ON t.oid = base.typbasetype WHERE base.typtype = 'd')
       SELECT s.nspname::text, base.typname::text FROM base JOIN pg_namespace s ON s.oid = base.typnamespace
        WHERE base.typtype <> 'd' AND a.atttypid >= 10000) b ON true
 WHERE p.pubname = $1
 ORDER BY a.attnum";

/// Looks a table up, by the name that it has now.
pub async fn look_up(client: &Client, publication: &str, schema: &str, name: &str) -> Result<Found, Fault> {
    let doing = format!("looking up table {schema}.{name}");
    let rows =
        client.query(FACTS, &[&publication, &schema, &name]).await.map_err(|error| fault(&doing, &error))?;
    let Some(first) = rows.first() else {
        return Err(Fault::person(format!("{doing}: publication \"{publication}\" is gone from the source"))
            .hint("it says which tables are wanted: create it again with the same tables, and run the same command again"));
    };
    let seen = VisibleXids::parse(first.get(0))
        .ok_or_else(|| Fault::stop(format!("{doing}: the server's snapshot makes no sense")))?;
    let everything = first.get(1);
    let Some(oid) = first.get::<_, Option<u32>>(2) else {
        return Ok(Found { seen, everything, table: None });
    };
    for (at, what) in [(15, "filters its rows"), (16, "publishes it under the name of its partition root")] {
        if first.get(at) {
            return Err(Fault::person(format!(
                "{doing}: publication \"{publication}\" {what}, which the slot's output plugin does not"
            ))
            .hint("alter the publication, or set up anew with --plugin pgoutput"));
        }
    }
    let identity = ReplicaIdentity::from_catalog(first.get(4))
        .ok_or_else(|| Fault::stop(format!("{doing}: unknown replica identity")))?;
    let mut columns = Vec::new();
    for row in rows.iter().filter(|row| row.get::<_, Option<&str>>(6).is_some()) {
        let user_type = row.get::<_, Option<String>>(13).zip(row.get::<_, Option<String>>(14));
        columns.push(ColumnFacts {
            name: row.get(6),
            type_oid: row.get(7),
            type_name: row.get(8),
            type_modifier: row.get(9),
            left_out: row.get(10),
            toastable: row.get(11),
            key: identity == ReplicaIdentity::Full || row.get::<_, bool>(12),
            user_type,
        });
    }
    let table = TableFacts { oid, partitioned: first.get(3), published: first.get(5), identity, columns };
    Ok(Found { seen, everything, table: Some(table) })
}

/// The tables of a publication, by schema and name; none of one FOR ALL TABLES, or of one that is gone.
pub async fn published(
    client: &Client,
    publication: &str,
) -> Result<(VisibleXids, Vec<(String, String)>), Fault> {
    let doing = format!("listing the tables of publication \"{publication}\"");
    let query = "SELECT pg_current_snapshot()::text, t.schemaname::text, t.tablename::text
                   FROM (SELECT) one LEFT JOIN pg_publication p ON p.pubname = $1 AND NOT p.puballtables
                   LEFT JOIN pg_publication_tables t ON t.pubname = p.pubname";
    let rows = client.query(query, &[&publication]).await.map_err(|error| fault(&doing, &error))?;
    let seen = rows.first().and_then(|row| VisibleXids::parse(row.get(0)));
    let seen = seen.ok_or_else(|| Fault::stop(format!("{doing}: the server's snapshot makes no sense")))?;
    let tables = rows.iter().filter_map(|row| row.get::<_, Option<_>>(1).zip(row.get(2)));
    Ok((seen, tables.collect()))
}

/// OIDs of types by what `format_type` prints of them; none where there is no such type.
pub async fn types(client: &Client, names: &[String]) -> Result<HashMap<String, Option<u32>>, Fault> {
    let query = "SELECT name, to_regtype(name)::oid FROM unnest($1::text[]) name";
    let rows = client.query(query, &[&names]).await.map_err(|error| fault("looking up types", &error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A table that is dropped while functions of the catalog look at it is an internal error to the server: the next look is without it.
fn fault(doing: &str, error: &Error) -> Fault {
    let fault = answer::fault(doing, error);
    match error.code() {
        Some(&SqlState::INTERNAL_ERROR) => Fault { remedy: Remedy::Retry, ..fault },
        _ => fault,
    }
}
