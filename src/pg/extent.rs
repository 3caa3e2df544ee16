//! How large tables are, what tells their rows apart, and which part of them a publication publishes.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::answer::fault;
use crate::model::Fault;

/// Of a table, or of all leaves of a partitioned one.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// As the last ANALYZE has it; none before that.
    pub rows: Option<u64>,
    pub bytes: u64,
    /// Pages of the table itself; of a partitioned one those of its largest leaf.
    pub pages: u64,
    /// Columns of each unique index that knows no nulls, the primary key first, then the replica identity.
    pub keys: Vec<Vec<String>>,
    /// Types as SQL names them, without modifiers.
    pub types: HashMap<String, String>,
    /// Columns GENERATED ALWAYS AS IDENTITY, which no UPDATE may set.
    pub identities: Vec<String>,
}

const SIZES: &str = "
SELECT c.oid, sum(k.reltuples)::float8, sum(pg_relation_size(k.oid))::int8,
       max(pg_relation_size(k.oid) / current_setting('block_size')::int8)::int8, bool_or(k.reltuples < 0)
  FROM pg_class c
  LEFT JOIN LATERAL (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) leaf ON true
  JOIN pg_class k ON k.oid = coalesce(leaf.relid, c.oid)
 WHERE c.oid = ANY ($1) GROUP BY c.oid";

const KEYS: &str = "
SELECT i.indrelid, ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
                           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                          WHERE k.place <= i.indnkeyatts ORDER BY k.place)
  FROM pg_index i
 WHERE i.indrelid = ANY ($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k(number)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE NOT a.attnotnull)
 ORDER BY i.indrelid, i.indisprimary DESC, i.indisreplident DESC, i.indimmediate DESC, i.indexrelid";

const TYPES: &str = "
SELECT attrelid, attname::text, format_type(atttypid, -1), attidentity = 'a'
  FROM pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped";

/// Of these tables.
pub async fn extents(client: &Client, tables: &[u32]) -> Result<HashMap<u32, Extent>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading the extent of tables", e);
    let mut extents: HashMap<u32, Extent> = HashMap::new();
    for row in client.query(SIZES, &[&tables]).await.map_err(|e| doing(&e))? {
        let extent = extents.entry(row.get(0)).or_default();
        let number = |at| row.get::<_, Option<i64>>(at).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        (extent.bytes, extent.pages) = (number(2), number(3));
        extent.rows = (!row.get::<_, bool>(4)).then(|| row.get::<_, f64>(1) as u64);
    }
    for row in client.query(KEYS, &[&tables]).await.map_err(|e| doing(&e))? {
        extents.entry(row.get(0)).or_default().keys.push(row.get(1));
    }
    for row in client.query(TYPES, &[&tables]).await.map_err(|e| doing(&e))? {
        let extent = extents.entry(row.get(0)).or_default();
        if row.get(3) {
            extent.identities.push(row.get(1));
        }
        extent.types.insert(row.get(1), row.get(2));
    }
    Ok(extents)
}

/// A table as a publication has it.
#[derive(Clone, Debug)]
pub struct PublishedTable {
    pub schema: String,
    pub name: String,
    /// None where all columns are, or where the server is older than 15.
    pub columns: Option<Vec<String>>,
    /// An SQL condition.
    pub rows: Option<String>,
}

/// What a publication publishes, under the names that its changes come with; none where there is no such publication.
pub async fn published(client: &Client, publication: &str) -> Result<Option<Vec<PublishedTable>>, Fault> {
    let query = "
SELECT t.schemaname::text, t.tablename::text, to_jsonb(t) ->> 'rowfilter',
       CASE WHEN jsonb_typeof(to_jsonb(t) -> 'attnames') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(to_jsonb(t) -> 'attnames')) END
  FROM pg_publication p LEFT JOIN pg_publication_tables t ON t.pubname = p.pubname WHERE p.pubname = $1
 ORDER BY 1, 2";
    let doing = format!("listing the tables of publication \"{publication}\"");
    let rows = client.query(query, &[&publication]).await.map_err(|e| fault(&doing, &e))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let tables = rows.iter().filter_map(|row| {
        let (schema, name) = row.get::<_, Option<String>>(0).zip(row.get::<_, Option<String>>(1))?;
        Some(PublishedTable { schema, name, rows: row.get(2), columns: row.get(3) })
    });
    Ok(Some(tables.collect()))
}
