//! What is to be copied: the published tables, and what both sides say of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Client;

use crate::model::{Column, Fault, Format, Relation, ReplicaIdentity, is_portable_between, quote_ident};
use crate::pg::control::fault;
use crate::pg::pattern::Pattern;
use crate::pg::tables::{quoted_name, shown_name};
use crate::rules::{RuleSet, Shaped};
use crate::transform::take_in;

/// A table of the source, and its place on the target.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// The partitioned tables above it.
    pub(super) above: Vec<(String, String)>,
    /// Has no rows of its own: those of its partitions are published as its own.
    pub(super) is_root: bool,
    pub(super) filenode: u32,
    /// Which table it is, with which columns: to be the same when its rows are read.
    pub(super) shape: String,
    /// What bounds its rows: NOT NULL, lengths, checks, and what is unique.
    pub(super) bounds: String,
    pub(super) blocks: u64,
    /// As the source's planner estimates; none where it has never counted.
    pub(super) rows: Option<u64>,
    /// Those that both sides store and the publication has.
    pub(super) columns: Vec<String>,
    /// Their types (OID and modifier), where rows are taken for others.
    pub(super) types: Vec<(u32, i32)>,
    /// SQL that rows must fulfil to be published.
    pub(super) condition: Option<String>,
    /// Columns by which changes of the log find a row; empty where there are none.
    pub(super) key: Vec<String>,
    pub(super) format: Format,
    /// Nothing on the target refers to it, and it has rows of its own there, so that it may be truncated.
    pub(super) unreferenced: bool,
    /// On the target its rows are in partitions.
    pub(super) divided: bool,
    /// Where they go.
    pub(super) there: There,
}

/// What a table is on the target.
#[derive(Clone, Debug, Default)]
pub(super) struct There {
    pub(super) schema: String,
    pub(super) name: String,
    /// In the order in which they are written.
    pub(super) columns: Vec<String>,
    /// Rules that make its rows of the source's, where they are others.
    pub(super) shaped: Option<Arc<Shaped>>,
    /// Rows of other tables go there too.
    pub(super) is_shared: bool,
    /// OIDs of those.
    pub(super) beside: Vec<u32>,
}

/// SQL by which rows wait in a table of their own, and are taken in.
pub(super) struct TakenIn {
    pub(super) make: String,
    pub(super) write: String,
    pub(super) take_in: String,
}

impl There {
    pub(super) fn same(schema: String, name: String, columns: Vec<String>) -> There {
        There { schema, name, columns, ..There::default() }
    }

    /// How rows go into it where they may meet those of other sources.
    pub(super) fn taken_in(&self) -> Option<TakenIn> {
        let shaped = self.shaped.as_deref()?;
        let contest = shaped.contest()?;
        let columns = self.columns.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ");
        let waiting = "pg_temp.pgsluice_arriving";
        Some(TakenIn {
            make: format!(
                "CREATE TEMPORARY TABLE pgsluice_arriving ON COMMIT DROP AS SELECT {columns} FROM {} WITH NO DATA",
                self.quoted()
            ),
            write: format!("COPY {waiting} ({columns}) FROM STDIN"),
            take_in: take_in(shaped.relation(), contest, &self.quoted(), waiting),
        })
    }

    pub(super) fn shaped(shaped: Arc<Shaped>) -> There {
        let relation = shaped.relation();
        There {
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            columns: relation.columns.iter().map(|column| column.name.clone()).collect(),
            is_shared: shaped.is_routed() || shaped.contest().is_some(),
            beside: Vec::new(),
            shaped: Some(shaped),
        }
    }

    /// For SQL.
    pub(super) fn quoted(&self) -> String {
        quoted_name(&self.schema, &self.name)
    }
}

impl Table {
    /// For SQL.
    pub(super) fn quoted(&self) -> String {
        quoted_name(&self.schema, &self.name)
    }

    /// The target's, without tables that inherit from it: they have rows of their own.
    pub(super) fn on_target(&self) -> String {
        format!("{}{}", if self.divided { "" } else { "ONLY " }, self.there.quoted())
    }

    fn is_there_as_it_is(&mut self) {
        self.there = There::same(self.schema.clone(), self.name.clone(), self.columns.clone());
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        shown_name(&self.schema, &self.name)
    }
}

/// Which tables are meant.
pub(super) struct Wanted<'a> {
    pub(super) publication: &'a str,
    pub(super) tables: &'a [Pattern],
    pub(super) exclude: &'a [Pattern],
    pub(super) only: Option<&'a HashSet<u32>>,
    /// Those that there were when the clone began; none where it begins now.
    pub(super) known: &'a [u32],
    /// What the rows are on the target.
    pub(super) rules: Option<&'a RuleSet>,
}

impl Wanted<'_> {
    fn means(&self, names: &[(String, String)]) -> bool {
        let any = |patterns: &[Pattern]| {
            patterns.iter().any(|pattern| names.iter().any(|(schema, name)| pattern.matches(schema, name)))
        };
        (self.tables.is_empty() || any(self.tables)) && !any(self.exclude)
    }
}

/// Which table `c` is, and its columns.
pub(super) const SHAPE: &str = "
concat_ws(' ', c.oid,
          (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.attgenerated), ', ' ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))";

/// What bounds the rows of table `c`.
const BOUNDS: &str = "
concat_ws(' ',
          (SELECT string_agg(concat_ws(' ', a.attnum, a.atttypmod, a.attnotnull), ', ' ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
          (SELECT string_agg(pg_get_constraintdef(k.oid), ', ' ORDER BY k.oid)
             FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'x')),
          (SELECT string_agg(pg_get_indexdef(i.indexrelid), ', ' ORDER BY i.indexrelid)
             FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique))";

/// `{filters}` are columns that PostgreSQL 15 and later have in the view.
const TABLES: &str = "
SELECT c.oid, t.schemaname::text, t.tablename::text, c.relkind = 'p', coalesce(pg_relation_filenode(c.oid), 0),
       coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8, c.reltuples::float8, {filters},
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND c.relreplident <> 'n'
                AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
       ARRAY(SELECT n.nspname::text FROM pg_partition_ancestors(c.oid) a JOIN pg_class p ON p.oid = a.relid
               JOIN pg_namespace n ON n.oid = p.relnamespace ORDER BY p.oid),
       ARRAY(SELECT p.relname::text FROM pg_partition_ancestors(c.oid) a JOIN pg_class p ON p.oid = a.relid
               JOIN pg_namespace n ON n.oid = p.relnamespace ORDER BY p.oid),
       {shape},
       {bounds}
  FROM pg_publication_tables t
  JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
 WHERE t.pubname = $1 AND t.schemaname <> 'pgsluice'
   -- What an extension has it makes itself.
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 2, 3";

/// Blocks of all tables of the source, by schema and name.
pub(super) async fn sizes(source: &Client) -> Result<HashMap<(String, String), u64>, Fault> {
    let query = "SELECT n.nspname::text, c.relname::text, c.relpages::int8
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')";
    let rows = source.query(query, &[]).await;
    let rows = rows.map_err(|error| fault(&error).context("looking at the source's tables"))?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get::<_, i64>(2).unsigned_abs())).collect())
}

/// Tables that are chosen and not published, nor a partitioned table above them: their rows stay behind.
pub(super) async fn unpublished(source: &Client, wanted: &Wanted<'_>) -> Result<Vec<String>, Fault> {
    let query = "SELECT n.nspname::text, c.relname::text
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
                    AND n.nspname NOT IN ('information_schema', 'pgsluice')
                    AND NOT EXISTS (SELECT FROM pg_depend d
                                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
                    AND NOT EXISTS (
                        SELECT FROM pg_publication_tables t JOIN pg_namespace s ON s.nspname = t.schemaname
                          JOIN pg_class p ON p.relnamespace = s.oid AND p.relname = t.tablename
                         WHERE t.pubname = $1 AND (p.oid = c.oid OR p.oid IN (SELECT relid FROM pg_partition_ancestors(c.oid))))
                  ORDER BY 1, 2";
    let rows = source.query(query, &[&wanted.publication]).await;
    let rows = rows.map_err(|error| fault(&error).context("looking at the source's tables"))?;
    let names = rows.iter().map(|row| (row.get(0), row.get(1)));
    let chosen = names.filter(|name| wanted.means(std::slice::from_ref(name)));
    Ok(chosen.map(|(schema, name): (String, String)| shown_name(&schema, &name)).collect())
}

/// Columns of a table, with their types; one row without a column where it has none.
const COLUMNS: &str = "
SELECT n.nspname::text, c.relname::text, a.attname::text, a.atttypid, a.attgenerated <> '',
       EXISTS (SELECT FROM pg_constraint f WHERE f.confrelid = c.oid AND f.contype = 'f'), c.relkind = 'p',
       current_setting('server_version_num')::int4,
       t.typtype = 'e' OR CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END < 16384,
       a.atttypmod, c.relreplident::text
  FROM unnest($1::text[], $2::text[]) w(schema, name)
  JOIN pg_namespace n ON n.nspname = w.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_type t ON t.oid = a.atttypid
 ORDER BY c.oid, a.attnum";

/// A side's columns of one table.
#[derive(Default)]
pub(super) struct Columns {
    /// Name, type, and whether it is generated.
    all: Vec<(String, u32, bool)>,
    /// Of the types, by name.
    modifiers: HashMap<String, i32>,
    identity: Option<ReplicaIdentity>,
    /// Of these types `=` is the system's own.
    comparable: HashSet<String>,
    referenced: bool,
    partitioned: bool,
    version: u32,
}

impl Columns {
    pub(super) fn is_unreferenced(&self) -> bool {
        !self.referenced && !self.partitioned
    }

    pub(super) fn is_partitioned(&self) -> bool {
        self.partitioned
    }

    /// Refuses a table of the target that has no place for one of these columns.
    pub(super) fn refuse_lacking(&self, columns: &[String], shown: &str) -> Result<(), Fault> {
        for name in columns {
            match self.all.iter().find(|(other, ..)| other == name) {
                Some((.., false)) => {}
                Some((.., true)) => {
                    return Err(Fault::stop(format!(
                        "column \"{name}\" of {shown} is generated on the target but not on the source"
                    ))
                    .hint("drop its expression on the target"));
                }
                None => {
                    return Err(Fault::stop(format!(
                        "column \"{name}\" of {shown} is missing on the target, and its values would be lost"
                    ))
                    .hint("add it on the target"));
                }
            }
        }
        Ok(())
    }
}

pub(super) async fn columns(
    client: &Client,
    names: &[(String, String)],
) -> Result<HashMap<(String, String), Columns>, tokio_postgres::Error> {
    let schemas: Vec<&str> = names.iter().map(|(schema, _)| schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
    let mut found: HashMap<_, Columns> = HashMap::new();
    for row in client.query(COLUMNS, &[&schemas, &tables]).await? {
        let table = found.entry((row.get(0), row.get(1))).or_default();
        (table.referenced, table.partitioned) = (row.get(5), row.get(6));
        table.version = row.get::<_, i32>(7).unsigned_abs();
        let Some(name) = row.get::<_, Option<String>>(2) else { continue };
        if row.get(8) {
            table.comparable.insert(name.clone());
        }
        table.modifiers.insert(name.clone(), row.get(9));
        table.identity = ReplicaIdentity::from_catalog(row.get(10));
        table.all.push((name, row.get(3), row.get(4)));
    }
    Ok(found)
}

/// The tables that are published and wanted, without what their columns are.
async fn published(source: &Client, wanted: &Wanted<'_>) -> Result<Vec<Table>, Fault> {
    let at_source = |error: &tokio_postgres::Error| fault(error).context("looking at the source's tables");
    let version = "SELECT current_setting('server_version_num')::int4 >= 150000";
    let filtered: bool = source.query_one(version, &[]).await.map_err(|e| at_source(&e))?.get(0);
    let filters = if filtered { "t.attnames::text[], t.rowfilter" } else { "NULL::text[], NULL::text" };
    let query = TABLES.replace("{filters}", filters).replace("{shape}", SHAPE).replace("{bounds}", BOUNDS);
    let rows = source.query(&query, &[&wanted.publication]).await;
    let mut tables = Vec::new();
    for row in rows.map_err(|e| at_source(&e))? {
        let (schema, name): (String, String) = (row.get(1), row.get(2));
        let mut names: Vec<_> =
            row.get::<_, Vec<String>>(10).into_iter().zip(row.get::<_, Vec<String>>(11)).collect();
        names.push((schema.clone(), name.clone()));
        if !wanted.means(&names) || wanted.only.is_some_and(|only| !only.contains(&row.get(0))) {
            continue;
        }
        let published: Option<Vec<String>> = row.get(7);
        let rows: f64 = row.get(6);
        tables.push(Table {
            oid: row.get(0),
            above: names.into_iter().filter(|other| *other != (schema.clone(), name.clone())).collect(),
            schema,
            name,
            is_root: row.get(3),
            filenode: row.get(4),
            shape: row.get(12),
            bounds: row.get(13),
            blocks: row.get::<_, i64>(5).unsigned_abs(),
            rows: (rows > 0.0).then_some(rows as u64),
            columns: published.unwrap_or_default(),
            types: Vec::new(),
            condition: row.get(8),
            key: row.get(9),
            format: Format::Text,
            unreferenced: false,
            divided: false,
            there: There::default(),
        });
    }
    Ok(tables)
}

/// The tables with all columns that are stored and published, the largest first; rows go as text.
pub(super) async fn of_source(source: &Client, wanted: &Wanted<'_>) -> Result<Vec<Table>, Fault> {
    let mut tables = published(source, wanted).await?;
    let names: Vec<_> = tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect();
    let found = columns(source, &names).await;
    let found = found.map_err(|error| fault(&error).context("looking at the source's tables"))?;
    for (table, name) in tables.iter_mut().zip(&names) {
        let listed = std::mem::take(&mut table.columns);
        let there = found.get(name);
        let stored = there.map(|columns| columns.all.as_slice()).unwrap_or_default();
        let modifier =
            |column: &String| there.and_then(|there| there.modifiers.get(column)).copied().unwrap_or(-1);
        let wanted = stored
            .iter()
            .filter(|(column, _, generated)| !generated && (listed.is_empty() || listed.contains(column)));
        (table.columns, table.types) =
            wanted.map(|(column, type_oid, _)| (column.clone(), (*type_oid, modifier(column)))).unzip();
        table.is_there_as_it_is();
    }
    tables.sort_by_key(|table| std::cmp::Reverse(table.blocks));
    Ok(tables)
}

/// The tables, the largest first.
pub(super) async fn tables(
    source: &Client,
    target: &Client,
    wanted: &Wanted<'_>,
) -> Result<Vec<Table>, Fault> {
    let at_source = |error: &tokio_postgres::Error| fault(error).context("looking at the source's tables");
    let at_target = |error: &tokio_postgres::Error| fault(error).context("looking at the target's tables");
    let tables = published(source, wanted).await?;
    let names: Vec<_> = tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect();
    let everything = "SELECT coalesce(bool_or(puballtables), false) FROM pg_publication WHERE pubname = $1";
    let everything: bool =
        source.query_one(everything, &[&wanted.publication]).await.map_err(|e| at_source(&e))?.get(0);
    let sources = columns(source, &names).await.map_err(|e| at_source(&e))?;
    let shaped =
        tables.iter().zip(&names).map(|(table, name)| shaped(table, sources.get(name)?, wanted.rules?));
    let shaped: Vec<Option<Arc<Shaped>>> = shaped.map(Option::transpose).collect::<Result<_, _>>()?;
    let place = |(name, shaped): (&(String, String), &Option<Arc<Shaped>>)| match shaped {
        Some(shaped) => (shaped.relation().schema.clone(), shaped.relation().name.clone()),
        None => name.clone(),
    };
    let places: Vec<_> = names.iter().zip(&shaped).map(place).collect();
    let targets = columns(target, &places).await.map_err(|e| at_target(&e))?;
    let mut found = Vec::new();
    for ((mut table, name), (place, shaped)) in tables.into_iter().zip(&names).zip(places.iter().zip(shaped))
    {
        let Some(here) = targets.get(place) else {
            if everything && !wanted.known.is_empty() && !wanted.known.contains(&table.oid) {
                // All that it ever had is in the log.
                tracing::warn!(
                    table = table.shown(),
                    "made on the source while it is cloned: make it on the target too, or let --ddl apply do it"
                );
                continue;
            }
            return Err(Fault::stop(format!(
                "table {} is missing on the target",
                shown_name(&place.0, &place.1)
            ))
            .hint("let clone make the schema, or make the table as it is on the source"));
        };
        let Some(there) = sources.get(name) else { continue };
        match shaped {
            Some(shaped) => fit_shaped(&mut table, shaped, here)?,
            None => fit(&mut table, there, here)?,
        }
        found.push(table);
    }
    note_beside(&mut found.iter_mut().collect::<Vec<_>>())?;
    found.sort_by_key(|table| std::cmp::Reverse(table.blocks));
    Ok(found)
}

/// Fills in which of the tables go to the same place. Refuses those of which nobody has said so: each would be emptied with the other.
pub(super) fn note_beside(tables: &mut [&mut Table]) -> Result<(), Fault> {
    let places = tables.iter().map(|table| (table.oid, table.there.quoted(), table.there.is_shared));
    let places: Vec<_> = places.collect();
    for table in tables {
        let place = table.there.quoted();
        let beside = places.iter().filter(|(oid, other, _)| *oid != table.oid && *other == place);
        let beside: Vec<_> = beside.collect();
        let is_meant = table.there.is_shared && beside.iter().all(|(.., shared)| *shared);
        if !beside.is_empty() && !is_meant {
            return Err(Fault::stop(format!(
                "by the rules rows of {} and of another table both go into {place}",
                table.shown()
            ))
            .hint("say into of both, if that is meant; or give one another name"));
        }
        table.there.beside = beside.into_iter().map(|(oid, ..)| *oid).collect();
    }
    Ok(())
}

/// Fills in which columns are copied, and how.
fn fit(table: &mut Table, source: &Columns, target: &Columns) -> Result<(), Fault> {
    let published = std::mem::take(&mut table.columns);
    let mut binary = true;
    for (name, source_type, generated) in &source.all {
        if *generated || !(published.is_empty() || published.contains(name)) {
            continue;
        }
        let found = target.all.iter().find(|(other, ..)| other == name);
        let Some((_, target_type, generated)) = found else {
            return Err(Fault::stop(format!(
                "column \"{name}\" of {} is missing on the target, and its values would be lost",
                table.shown()
            ))
            .hint("add it on the target; the source's tables must not be altered while they are cloned"));
        };
        if *generated {
            return Err(Fault::stop(format!(
                "column \"{name}\" of {} is generated on the target but not on the source",
                table.shown()
            ))
            .hint("drop its expression on the target"));
        }
        binary &=
            source_type == target_type && is_portable_between(*source_type, source.version, target.version);
        table.columns.push(name.clone());
    }
    if !table.key.iter().all(|key| table.columns.contains(key) && target.comparable.contains(key)) {
        table.key.clear();
    }
    table.format = if binary { Format::Binary } else { Format::Text };
    table.unreferenced = !target.referenced && !target.partitioned;
    table.divided = target.partitioned;
    table.is_there_as_it_is();
    Ok(())
}

/// What rules make of a table, as they would of its definition in the log; none where no rule means it.
fn shaped(table: &Table, source: &Columns, rules: &RuleSet) -> Option<Result<Arc<Shaped>, Fault>> {
    let identity = source.identity.unwrap_or(ReplicaIdentity::Default);
    let stored = source.all.iter().filter(|(name, _, generated)| {
        !generated && (table.columns.is_empty() || table.columns.contains(name))
    });
    let columns = stored.map(|(name, type_oid, _)| Column {
        name: name.clone(),
        key: identity == ReplicaIdentity::Full || table.key.contains(name),
        type_oid: *type_oid,
        type_modifier: source.modifiers.get(name).copied().unwrap_or(-1),
    });
    let relation = Relation {
        oid: table.oid,
        schema: table.schema.clone(),
        name: table.name.clone(),
        identity,
        columns: columns.collect(),
    };
    rules.shape(&relation).map_err(Fault::from).transpose().map(|shaped| shaped.map(Arc::new))
}

/// The same for a table that rules make another one of.
fn fit_shaped(table: &mut Table, shaped: Arc<Shaped>, target: &Columns) -> Result<(), Fault> {
    table.columns = shaped.source().columns.iter().map(|column| column.name.clone()).collect();
    table.there = There::shaped(shaped);
    let there = &table.there;
    target.refuse_lacking(&there.columns, &shown_name(&there.schema, &there.name))?;
    // Parts that an earlier run left over are not told apart by the target's keys.
    table.key.clear();
    table.format = Format::Text;
    table.unreferenced = target.is_unreferenced() && !there.is_shared;
    table.divided = target.partitioned;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(columns: &[(&str, u32, bool)]) -> Columns {
        let all =
            columns.iter().map(|(name, oid, generated)| ((*name).to_owned(), *oid, *generated)).collect();
        let comparable = columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
        Columns { all, comparable, version: 150_000, ..Columns::default() }
    }

    fn table(published: &[&str], key: &[&str]) -> Table {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Table {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            above: Vec::new(),
            is_root: false,
            filenode: 1,
            shape: String::new(),
            bounds: String::new(),
            blocks: 0,
            rows: None,
            columns: owned(published),
            types: Vec::new(),
            condition: None,
            key: owned(key),
            format: Format::Text,
            unreferenced: false,
            divided: false,
            there: There::default(),
        }
    }

    const INT4: u32 = 23;
    const ENUM: u32 = 70_000;

    #[test]
    fn columns_are_those_that_both_sides_store() {
        let source = side(&[("id", INT4, false), ("twice", INT4, true), ("note", INT4, false)]);
        let target =
            side(&[("note", INT4, false), ("twice", INT4, true), ("id", INT4, false), ("own", INT4, false)]);
        let mut all = table(&[], &["id"]);
        fit(&mut all, &source, &target).unwrap();
        assert_eq!((all.columns, all.format), (vec!["id".to_owned(), "note".to_owned()], Format::Binary));
        let mut listed = table(&["note"], &["id"]);
        fit(&mut listed, &source, &target).unwrap();
        assert_eq!((listed.columns, listed.key), (vec!["note".to_owned()], vec![]));
    }

    #[test]
    fn what_has_no_place_is_refused_and_other_types_go_as_text() {
        let source = side(&[("id", INT4, false), ("mood", ENUM, false)]);
        let check = |target: &[(&str, u32, bool)]| {
            let mut table = table(&[], &["id"]);
            fit(&mut table, &source, &side(target)).map(|()| table.format).map_err(|fault| fault.message)
        };
        assert_eq!(check(&[("id", INT4, false), ("mood", ENUM, false)]), Ok(Format::Text));
        assert!(check(&[("id", INT4, false)]).unwrap_err().contains("\"mood\""));
        assert!(check(&[("id", INT4, false), ("mood", ENUM, true)]).unwrap_err().contains("generated"));
    }
}
