//! The tables of a database: names, replica identities, columns, and what of them stands in the way.
//!
//! Tables of the system and of our own schema are never among them.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::answer::fault;
use super::quote_ident;
use crate::model::{Fault, ReplicaIdentity};

/// Why the source's UPDATE and DELETE of a table would fail once it is published (`CheckCmdReplicaIdentity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyless {
    NoPrimaryKey,
    /// A deferrable key is no replica identity.
    DeferrablePrimaryKey,
    /// REPLICA IDENTITY NOTHING was chosen.
    Nothing,
    /// REPLICA IDENTITY USING INDEX, and the index is gone or not valid.
    IndexGone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    pub name: String,
    /// As `format_type` prints it, typmod included.
    pub type_name: String,
    pub type_oid: u32,
    /// The same, but of a domain that which it stands on.
    pub base_type_oid: u32,
    pub not_null: bool,
    /// Has a default or an identity, so that an INSERT may leave it out.
    pub fills_itself: bool,
    /// GENERATED ALWAYS AS (…): never written by anybody.
    pub generated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// Holds no rows itself; its changes come under the names of its leaves.
    pub partitioned: bool,
    /// The partitioned tables above it, nearest first.
    pub ancestors: Vec<u32>,
    /// Permanent and logged, so that its changes are in WAL.
    pub logged: bool,
    pub identity: ReplicaIdentity,
    pub identity_index: Option<String>,
    pub primary_key: PrimaryKey,
    /// The role owns it, so it may alter and publish it.
    pub owned: bool,
    /// Which of the privileges that an applier needs are missing.
    pub denied: Vec<String>,
    /// Row security would silently hide rows from the role.
    pub row_security: bool,
    pub columns: Vec<TableColumn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryKey {
    Absent,
    Deferrable,
    Immediate,
}

impl Table {
    /// For SQL.
    pub fn quoted(&self) -> String {
        quoted_name(&self.schema, &self.name)
    }

    /// For people.
    pub fn shown(&self) -> String {
        shown_name(&self.schema, &self.name)
    }

    /// Why it has no usable replica identity. A partitioned table has no rows, so only its leaves are asked.
    pub fn keyless(&self) -> Option<Keyless> {
        if self.partitioned {
            return None;
        }
        match (self.identity, self.primary_key) {
            (ReplicaIdentity::Full, _) | (ReplicaIdentity::Default, PrimaryKey::Immediate) => None,
            (ReplicaIdentity::Default, PrimaryKey::Absent) => Some(Keyless::NoPrimaryKey),
            (ReplicaIdentity::Default, PrimaryKey::Deferrable) => Some(Keyless::DeferrablePrimaryKey),
            (ReplicaIdentity::Nothing, _) => Some(Keyless::Nothing),
            (ReplicaIdentity::Index, _) => self.identity_index.is_none().then_some(Keyless::IndexGone),
        }
    }
}

/// `"schema"."table"`, for SQL.
pub fn quoted_name(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// `schema.table`, for people: a part is quoted only where it would be read as something else. Also a valid pattern.
pub fn shown_name(schema: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let part = |text: &str| if text.chars().all(plain) { text.to_owned() } else { quote_ident(text) };
    format!("{}.{}", part(schema), part(name))
}

const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p',
       ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid),
       c.relpersistence = 'p', c.relreplident::text,
       (SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
         WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid AND i.indimmediate),
       (SELECT i.indimmediate FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid),
       pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
              WHERE NOT has_table_privilege(c.oid, p)
             UNION ALL
             SELECT 'USAGE' WHERE NOT has_schema_privilege(n.oid, 'USAGE')),
       row_security_active(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')
 ORDER BY n.nspname, c.relname";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.atttypid,
       (WITH RECURSIVE base(oid, kind, next) AS (
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.next WHERE b.kind = 'd')
        SELECT b.oid FROM base b WHERE b.kind <> 'd')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')
 ORDER BY a.attrelid, a.attnum";

/// All tables of user schemas, partitioned ones and their leaves too, ordered by name.
pub async fn tables(client: &Client) -> Result<Vec<Table>, Fault> {
    let doing = |e: &tokio_postgres::Error| fault("reading the tables", e);
    let mut columns: HashMap<u32, Vec<TableColumn>> = HashMap::new();
    for row in client.query(COLUMNS, &[]).await.map_err(|e| doing(&e))? {
        columns.entry(row.get(0)).or_default().push(TableColumn {
            name: row.get(1),
            type_name: row.get(2),
            not_null: row.get(3),
            fills_itself: row.get(4),
            generated: row.get(5),
            type_oid: row.get(6),
            base_type_oid: row.get(7),
        });
    }
    let rows = client.query(TABLES, &[]).await.map_err(|e| doing(&e))?;
    rows.iter()
        .map(|row| {
            let oid = row.get(0);
            Ok(Table {
                oid,
                schema: row.get(1),
                name: row.get(2),
                partitioned: row.get(3),
                ancestors: row.get(4),
                logged: row.get(5),
                identity: identity(row.get(6))?,
                identity_index: row.get(7),
                primary_key: match row.get(8) {
                    None => PrimaryKey::Absent,
                    Some(false) => PrimaryKey::Deferrable,
                    Some(true) => PrimaryKey::Immediate,
                },
                owned: row.get(9),
                denied: row.get(10),
                row_security: row.get(11),
                columns: columns.remove(&oid).unwrap_or_default(),
            })
        })
        .collect()
}

fn identity(letter: &str) -> Result<ReplicaIdentity, Fault> {
    ReplicaIdentity::from_catalog(letter)
        .ok_or_else(|| Fault::stop(format!("unknown replica identity '{letter}' in pg_class")))
}

/// A constraint or a trigger of a table that an applier must know of.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub table: u32,
    pub name: String,
    /// A constraint's definition; for a trigger `A` (ALWAYS) or `R` (REPLICA).
    pub definition: String,
}

/// PRIMARY KEY, UNIQUE and EXCLUDE that are deferrable: with `session_replication_role = replica` nothing checks them,
/// since the trigger that does is an ordinary one.
pub async fn deferrable_keys(client: &Client) -> Result<Vec<Attachment>, Fault> {
    let query = "SELECT conrelid, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
                  WHERE condeferrable AND contype IN ('p', 'u', 'x') ORDER BY conrelid, conname";
    attachments(client, query).await
}

/// Triggers that run in the replica role too, and may change the rows that are applied.
pub async fn eager_triggers(client: &Client) -> Result<Vec<Attachment>, Fault> {
    let query = "SELECT tgrelid, tgname::text, tgenabled::text FROM pg_trigger
                  WHERE NOT tgisinternal AND tgenabled IN ('A', 'R') ORDER BY tgrelid, tgname";
    attachments(client, query).await
}

async fn attachments(client: &Client, query: &str) -> Result<Vec<Attachment>, Fault> {
    let rows = client.query(query, &[]).await.map_err(|e| fault("reading constraints and triggers", &e))?;
    Ok(rows
        .iter()
        .map(|row| Attachment { table: row.get(0), name: row.get(1), definition: row.get(2) })
        .collect())
}

/// Sets what the table sends of old rows. Takes a lock on it for a moment.
pub async fn set_identity(
    client: &Client,
    schema: &str,
    name: &str,
    identity: ReplicaIdentity,
    index: Option<&str>,
) -> Result<(), Fault> {
    let what = match (identity, index) {
        (ReplicaIdentity::Full, _) => "FULL".to_owned(),
        (ReplicaIdentity::Default, _) => "DEFAULT".to_owned(),
        (ReplicaIdentity::Index, Some(index)) => format!("USING INDEX {}", quote_ident(index)),
        (ReplicaIdentity::Nothing, _) | (ReplicaIdentity::Index, None) => "NOTHING".to_owned(),
    };
    let table = quoted_name(schema, name);
    client
        .batch_execute(&format!("ALTER TABLE {table} REPLICA IDENTITY {what}"))
        .await
        .map_err(|e| fault(&format!("setting the replica identity of {table}"), &e))
}
