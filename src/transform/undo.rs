//! SQL that takes changes back, as a script for psql.
//!
//! Each statement changes just one row, which must still be as the change has left it, or the script ends and its transaction with it.
//! Values are written as the source printed them, in the source's encoding, which the script says at its head along with the settings
//! that they were printed under.

use crate::model::{Column, Relation, ReplicaIdentity, Value, quote_ident};
use crate::pgoutput::Tuple;

/// A column's value as far as the log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cell {
    #[default]
    Unknown,
    Null,
    Text(Box<[u8]>),
}

/// A row, column by column of its relation.
pub type Row = Vec<Cell>;

/// A row as it was sent; what was not sent is unknown. None where a value is in binary form, which only a server can read.
pub fn sent(tuple: &Tuple<'_>) -> Option<Row> {
    let cell = |value: Value<'_>| match value {
        Value::Null => Some(Cell::Null),
        Value::Unchanged => Some(Cell::Unknown),
        Value::Text(text) => Some(Cell::Text(text.into())),
        Value::Binary(_) => None,
    };
    tuple.values().map(cell).collect()
}

/// What was done to a row, with what is known of it before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    Inserted(Row),
    /// What is unknown in both did not change.
    Updated {
        old: Row,
        new: Row,
    },
    Deleted(Row),
}

/// Values from before the change that would have to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Names of the columns.
    pub columns: Vec<String>,
}

/// Built-in types that print equal values alike, and no others: bool, int8, int2, int4, oid, date, timestamp, timestamptz, uuid. Their
/// `=` tells rows apart as their text does, and finds an index.
const EXACT: [u32; 9] = [16, 20, 21, 23, 26, 1082, 1114, 1184, 2950];

/// Keys that are longer are not shown where a row is named.
const NAMED_BYTES_MAX: usize = 200;

/// The statement that takes a change back, for the body of a block; none where nothing is different.
pub fn undo(relation: &Relation, change: &RowChange) -> Result<Option<Vec<u8>>, Lacking> {
    let (statement, row, said) = match change {
        RowChange::Inserted(new) => {
            let all: Vec<usize> = (0..relation.columns.len()).collect();
            (delete(relation, new, &all), new, NOT_AS_IT_WAS)
        }
        RowChange::Updated { old, new } => {
            let changed = changed(relation, old, new)?;
            if changed.is_empty() {
                return Ok(None);
            }
            (update(relation, new, old, &changed, &changed), new, NOT_AS_IT_WAS)
        }
        RowChange::Deleted(old) => (insert(relation, old)?, old, " was not put back, rows inserted: "),
    };
    Ok(Some(checked(statement, &[named(relation, row), said.as_bytes().to_vec()].concat())))
}

/// A statement that must change one row, or ends the script.
pub(super) fn checked(statement: Vec<u8>, said: &[u8]) -> Vec<u8> {
    let mut sql = statement;
    sql.extend_from_slice(
        b";\nGET DIAGNOSTICS pgsluice_rows = ROW_COUNT;\n\
          IF pgsluice_rows <> 1 THEN RAISE EXCEPTION USING MESSAGE = ",
    );
    push_literal(&mut sql, said);
    sql.extend_from_slice(b" || pgsluice_rows; END IF;\n");
    sql
}

const NOT_AS_IT_WAS: &str = " is not as the change has left it, rows found: ";

pub(super) fn insert(relation: &Relation, old: &Row) -> Result<Vec<u8>, Lacking> {
    refuse_lacking(relation, |at| matches!(old.get(at), None | Some(Cell::Unknown)))?;
    let names: Vec<_> = relation.columns.iter().map(|column| quote_ident(&column.name)).collect();
    let (table, names) = (table(relation), names.join(", "));
    if relation.columns.is_empty() {
        return Ok(format!("INSERT INTO {table} DEFAULT VALUES").into_bytes());
    }
    // That lets columns be given that are generated always as identity, and means nothing elsewhere.
    let mut sql = format!("INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES (").into_bytes();
    push_list(&mut sql, old.iter(), push_value);
    sql.push(b')');
    Ok(sql)
}

/// Finds the row as it is now, with these columns of it as they are said to be, and gives some of its columns other values.
pub(super) fn update(
    relation: &Relation,
    now: &Row,
    then: &Row,
    changed: &[usize],
    guarded: &[usize],
) -> Vec<u8> {
    let (one, alias) = one(relation, now);
    let mut sql = one.clone();
    sql.extend_from_slice(format!("UPDATE {}{alias} SET ", table(relation)).as_bytes());
    push_list(&mut sql, cells(relation, then, changed), |sql, (column, cell)| {
        sql.extend_from_slice(format!("{} = ", quote_ident(&column.name)).as_bytes());
        push_value(sql, cell);
    });
    if one.is_empty() {
        sql.extend_from_slice(b" WHERE ");
        push_by_key(&mut sql, relation, now, guarded);
    } else {
        sql.extend_from_slice(b" FROM pgsluice_one");
        sql.extend_from_slice(IS_ONE);
    }
    sql
}

pub(super) fn delete(relation: &Relation, new: &Row, guarded: &[usize]) -> Vec<u8> {
    let (one, alias) = one(relation, new);
    let mut sql = one.clone();
    sql.extend_from_slice(format!("DELETE FROM {}{alias}", table(relation)).as_bytes());
    if one.is_empty() {
        sql.extend_from_slice(b" WHERE ");
        push_by_key(&mut sql, relation, new, guarded);
    } else {
        sql.extend_from_slice(b" USING pgsluice_one");
        sql.extend_from_slice(IS_ONE);
    }
    sql
}

const IS_ONE: &[u8] =
    b" WHERE pgsluice_t.ctid = pgsluice_one.row AND pgsluice_t.tableoid = pgsluice_one.part";

/// Without a key, what goes before a statement and finds one row that is just like this; of several that are alike any one will do. And what the
/// table is called then.
fn one(relation: &Relation, row: &Row) -> (Vec<u8>, &'static str) {
    if has_key(relation) {
        return (Vec::new(), "");
    }
    let mut sql = b"WITH pgsluice_one AS MATERIALIZED (SELECT ctid AS row, tableoid AS part FROM ".to_vec();
    sql.extend_from_slice(table(relation).as_bytes());
    sql.extend_from_slice(b" WHERE ");
    let all: Vec<usize> = (0..relation.columns.len()).collect();
    push_conditions(&mut sql, cells(relation, row, &all).map(|found| (false, found)));
    sql.extend_from_slice(b" LIMIT 1) ");
    (sql, " AS pgsluice_t")
}

pub(super) fn table(relation: &Relation) -> String {
    format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name))
}

fn cells<'a>(
    relation: &'a Relation,
    row: &'a Row,
    places: &'a [usize],
) -> impl Iterator<Item = (&'a Column, &'a Cell)> {
    places.iter().filter_map(|at| Some((relation.columns.get(*at)?, row.get(*at)?)))
}

/// A row by its key, for people: `public.orders (id=42)`.
pub fn named(relation: &Relation, row: &Row) -> Vec<u8> {
    let mut name = format!("{}.{}", relation.schema, relation.name).into_bytes();
    let mut key = Vec::new();
    for (column, cell) in keys(relation).filter_map(|at| Some((relation.columns.get(at)?, row.get(at)?))) {
        key.extend_from_slice(if key.is_empty() { b"" } else { b", " });
        key.extend_from_slice(column.name.as_bytes());
        key.push(b'=');
        match cell {
            Cell::Text(text) => key.extend_from_slice(text),
            Cell::Null => key.extend_from_slice(b"null"),
            Cell::Unknown => key.push(b'?'),
        }
    }
    if !key.is_empty() && key.len() <= NAMED_BYTES_MAX {
        name.extend_from_slice(&[b" (", key.as_slice(), b")"].concat());
    }
    name
}

/// Whether the key of a row, as the source sends it, tells it from all others.
pub fn has_key(relation: &Relation) -> bool {
    matches!(relation.identity, ReplicaIdentity::Default | ReplicaIdentity::Index)
        && relation.columns.iter().any(|column| column.key)
}

/// The places of the key's columns; of no use where all columns are.
pub(super) fn keys(relation: &Relation) -> impl Iterator<Item = usize> {
    let keyed = has_key(relation);
    relation.columns.iter().zip(0..).filter(move |(column, _)| keyed && column.key).map(|(_, at)| at)
}

/// The columns that have another value now.
fn changed(relation: &Relation, old: &Row, new: &Row) -> Result<Vec<usize>, Lacking> {
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let changed: Vec<usize> = (0..relation.columns.len()).filter(differs).collect();
    let lacks = |at: usize| {
        changed.contains(&at) && matches!(old.get(at), None | Some(Cell::Unknown))
            || !changed.contains(&at) && new.get(at).is_none()
    };
    refuse_lacking(relation, lacks)?;
    Ok(changed)
}

fn refuse_lacking(relation: &Relation, lacks: impl Fn(usize) -> bool) -> Result<(), Lacking> {
    let columns = relation.columns.iter().zip(0..).filter(|(_, at)| lacks(*at));
    let columns: Vec<_> = columns.map(|(column, _)| column.name.clone()).collect();
    if columns.is_empty() { Ok(()) } else { Err(Lacking { columns }) }
}

/// Finds the row by its key, if these columns are as they are said to be.
pub(super) fn push_by_key(sql: &mut Vec<u8>, relation: &Relation, row: &Row, guarded: &[usize]) {
    let key: Vec<usize> = keys(relation).collect();
    let others: Vec<usize> = guarded.iter().copied().filter(|at| !key.contains(at)).collect();
    // Unique by the type's own `=`, which an index knows.
    let key = cells(relation, row, &key).map(|found| (true, found));
    push_conditions(sql, key.chain(cells(relation, row, &others).map(|found| (false, found))));
}

fn push_conditions<'a>(sql: &mut Vec<u8>, cells: impl Iterator<Item = (bool, (&'a Column, &'a Cell))>) {
    let before = sql.len();
    for (is_key, (column, cell)) in cells {
        if matches!(cell, Cell::Unknown) {
            continue;
        }
        if sql.len() > before {
            sql.extend_from_slice(b" AND ");
        }
        let name = quote_ident(&column.name);
        match cell {
            // Of a composite value `IS NULL` asks its fields.
            Cell::Null | Cell::Unknown => {
                sql.extend_from_slice(format!("{name} IS NOT DISTINCT FROM NULL").as_bytes());
            }
            Cell::Text(text) if is_key || EXACT.contains(&column.type_oid) => {
                sql.extend_from_slice(format!("{name} = ").as_bytes());
                push_literal(sql, text);
            }
            // Some types have no `=`, and that of others is lax. `format` calls the type's output function.
            Cell::Text(text) => {
                let printed = format!(
                    "{name} IS DISTINCT FROM NULL AND pg_catalog.format('%s', {name}) COLLATE pg_catalog.\"C\" = "
                );
                sql.extend_from_slice(printed.as_bytes());
                push_literal(sql, text);
            }
        }
    }
    if sql.len() == before {
        sql.extend_from_slice(b"true");
    }
}

pub(super) fn push_list<T>(
    sql: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T),
) {
    for (item, number) in items.zip(0..) {
        if number > 0 {
            sql.extend_from_slice(b", ");
        }
        push(sql, item);
    }
}

pub(super) fn push_value(sql: &mut Vec<u8>, cell: &Cell) {
    match cell {
        Cell::Text(text) => push_literal(sql, text),
        Cell::Null | Cell::Unknown => sql.extend_from_slice(b"NULL"),
    }
}

/// A literal under `standard_conforming_strings`. In no encoding of a server is a quote a part of another character.
pub(super) fn push_literal(sql: &mut Vec<u8>, text: &[u8]) {
    sql.push(b'\'');
    for byte in text {
        if *byte == b'\'' {
            sql.push(b'\'');
        }
        sql.push(*byte);
    }
    sql.push(b'\'');
}

/// What a script begins with that is one transaction. Comments are lines for people.
pub fn script_head(encoding: &str, comments: &[String]) -> String {
    format!("{}BEGIN;\n{}", script_begin(comments), pinned(encoding, "SET LOCAL"))
}

/// What a script of many transactions begins with.
pub fn session_head(encoding: &str, comments: &[String]) -> String {
    script_begin(comments) + &pinned(encoding, "SET")
}

fn script_begin(comments: &[String]) -> String {
    let lines: String = comments.iter().map(|line| comment(line)).collect();
    lines + "\\set ON_ERROR_STOP on\n\\set QUIET on\n"
}

/// A line for people, whatever is in it.
pub fn comment(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("-- {plain}\n")
}

/// Under these settings values mean what they meant when they were printed.
fn pinned(encoding: &str, set: &str) -> String {
    let pinned = [
        ("client_encoding", encoding),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO"),
        ("intervalstyle", "postgres"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("timezone", "UTC"),
        ("lc_monetary", "C"),
        ("xmlbinary", "base64"),
    ];
    let set = pinned.map(|(name, value)| format!("{set} {name} = '{}';\n", value.replace('\'', "''")));
    set.concat()
}

pub const SCRIPT_TAIL: &str = "COMMIT;\n";

/// What a script looks at before it changes anything.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Of the source.
    pub publication: String,
    /// It is for another server than the source.
    pub elsewhere: bool,
    /// Triggers may fire again.
    pub with_triggers: bool,
    /// Rows that came into a filter, or left it, are to be taken for new and deleted ones.
    pub filtered: bool,
}

impl Guard {
    /// The body of a block for these tables: OID of the source, schema, name.
    pub fn sql<'t>(&self, tables: impl Iterator<Item = (u32, &'t str, &'t str)>) -> Vec<u8> {
        let mut sql = b"FOR pgsluice_table IN SELECT v.*, c.oid AS found FROM (VALUES ".to_vec();
        push_list(&mut sql, tables, |sql, (oid, schema, name)| {
            sql.extend_from_slice(format!("({oid}::oid, ").as_bytes());
            push_literal(sql, schema.as_bytes());
            sql.extend_from_slice(b", ");
            push_literal(sql, name.as_bytes());
            sql.push(b')');
        });
        sql.extend_from_slice(FOUND);
        if !self.elsewhere {
            sql.extend_from_slice(ANOTHER);
        }
        if !self.with_triggers {
            sql.extend_from_slice(TRIGGERS);
        }
        if !self.filtered && !self.elsewhere {
            sql.extend_from_slice(FILTERED);
            push_literal(&mut sql, self.publication.as_bytes());
            sql.extend_from_slice(FILTER_TOLD);
        }
        sql.extend_from_slice(b"END LOOP;\n");
        sql
    }
}

const FOUND: &[u8] = b") v(oid, schema, name) \
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = v.schema LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.name LOOP
";
const ANOTHER: &[u8] = b"IF pgsluice_table.found IS DISTINCT FROM pgsluice_table.oid THEN RAISE EXCEPTION USING \
MESSAGE = pg_catalog.format('%I.%I is not the table that was changed', pgsluice_table.schema, pgsluice_table.name), \
HINT = 'it was dropped or renamed since, or this is not the source: pgsluice history --undo-sql --elsewhere writes a script that does not look'; END IF;
";
const TRIGGERS: &[u8] = b"IF EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE NOT g.tgisinternal \
AND (g.tgenabled = 'A' OR g.tgenabled = 'O' AND pg_catalog.current_setting('session_replication_role') <> 'replica') \
AND (g.tgrelid = pgsluice_table.found OR g.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(pgsluice_table.found)))) \
THEN RAISE EXCEPTION USING MESSAGE = pg_catalog.format('triggers of %I.%I would fire, and what they did is in the log too', pgsluice_table.schema, pgsluice_table.name), \
HINT = 'run the script with session_replication_role = replica (PGOPTIONS), or let pgsluice history --undo-sql --with-triggers write one that does not look'; END IF;
";
const FILTERED: &[u8] = b"IF EXISTS (SELECT FROM pg_catalog.pg_publication_tables p WHERE p.schemaname = pgsluice_table.schema \
AND p.tablename = pgsluice_table.name AND pg_catalog.to_jsonb(p) ->> 'rowfilter' IS NOT NULL AND p.pubname = ";
const FILTER_TOLD: &[u8] = b") THEN RAISE EXCEPTION USING MESSAGE = pg_catalog.format('%I.%I is published with a filter of rows', pgsluice_table.schema, pgsluice_table.name), \
HINT = 'a row that came into the filter is in the log as new, one that left it as deleted: pgsluice history --undo-sql --filtered takes them for that'; END IF;
";

/// The body of a block that has a record `pgsluice_table`, as one command.
pub fn block_of(body: &[u8]) -> Vec<u8> {
    let tag = tag(body);
    let head = format!("DO {tag}\nDECLARE pgsluice_table record;\nBEGIN\n");
    [head.as_bytes(), body, b"END ", tag.as_bytes(), b";\n"].concat()
}

/// What is in none of these bytes.
fn tag(bytes: &[u8]) -> String {
    let mut tag = String::from("$undo$");
    let mut number = 0u32;
    while memchr::memmem::find(bytes, tag.as_bytes()).is_some() {
        number += 1;
        tag = format!("$undo{number}$");
    }
    tag
}

/// Statements of [`undo`], one after the other, as one command.
pub fn block(statements: &[u8]) -> Vec<u8> {
    let tag = tag(statements);
    let head = format!("DO {tag}\n#variable_conflict use_column\nDECLARE pgsluice_rows bigint;\nBEGIN\n");
    [head.as_bytes(), statements, b"END ", tag.as_bytes(), b";\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(identity: ReplicaIdentity, columns: &[(&str, bool, u32)]) -> Relation {
        let column = |(name, key, type_oid): &(&str, bool, u32)| Column {
            name: (*name).into(),
            key: *key,
            type_oid: *type_oid,
            type_modifier: -1,
        };
        Relation {
            oid: 1,
            schema: "public".into(),
            name: "o\"rders".into(),
            identity,
            columns: columns.iter().map(column).collect(),
        }
    }

    fn keyed() -> Relation {
        relation(ReplicaIdentity::Default, &[("id", true, 23), ("note", false, 25), ("doc", false, 114)])
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.as_bytes().into())
    }

    #[track_caller]
    fn check(relation: &Relation, change: &RowChange, expected: &str) {
        let sql = String::from_utf8(undo(relation, change).unwrap().unwrap()).unwrap();
        let (statement, check) = sql.split_once(";\n").unwrap();
        assert_eq!(statement, expected);
        assert!(check.contains("pgsluice_rows <> 1"), "{check}");
    }

    #[test]
    fn what_was_deleted_is_inserted() {
        let row = vec![text("1"), text("it's \\"), Cell::Null];
        check(
            &keyed(),
            &RowChange::Deleted(row),
            "INSERT INTO \"public\".\"o\"\"rders\" (\"id\", \"note\", \"doc\") OVERRIDING SYSTEM VALUE VALUES ('1', 'it''s \\', NULL)",
        );
        let lacking = undo(&keyed(), &RowChange::Deleted(vec![text("1"), Cell::Unknown, Cell::Null]));
        assert_eq!(lacking, Err(Lacking { columns: vec!["note".into()] }));
    }

    #[test]
    fn what_was_updated_is_set_back_where_it_is_as_it_was_left() {
        let old = vec![text("1"), text("a"), text("{}")];
        let new = vec![text("2"), Cell::Null, text("{}")];
        check(
            &keyed(),
            &RowChange::Updated { old: old.clone(), new },
            "UPDATE \"public\".\"o\"\"rders\" SET \"id\" = '1', \"note\" = 'a' WHERE \"id\" = '2' AND \"note\" IS NOT DISTINCT FROM NULL",
        );
        assert_eq!(undo(&keyed(), &RowChange::Updated { old: old.clone(), new: old.clone() }), Ok(None));
        // What was not sent did not change.
        let unsent = vec![text("1"), text("a"), Cell::Unknown];
        assert_eq!(undo(&keyed(), &RowChange::Updated { old: unsent.clone(), new: unsent }), Ok(None));
        let unknown = vec![text("1"), Cell::Unknown, text("{}")];
        let lacking = undo(&keyed(), &RowChange::Updated { old: unknown, new: old });
        assert_eq!(lacking, Err(Lacking { columns: vec!["note".into()] }));
    }

    #[test]
    fn what_was_inserted_is_deleted_if_nothing_of_it_has_changed() {
        check(
            &keyed(),
            &RowChange::Inserted(vec![text("1"), text("a"), Cell::Null]),
            "DELETE FROM \"public\".\"o\"\"rders\" WHERE \"id\" = '1' AND \"note\" IS DISTINCT FROM NULL AND \
             pg_catalog.format('%s', \"note\") COLLATE pg_catalog.\"C\" = 'a' AND \"doc\" IS NOT DISTINCT FROM NULL",
        );
    }

    #[test]
    fn of_rows_without_a_key_one_is_taken() {
        let relation = relation(ReplicaIdentity::Full, &[("a", true, 23), ("b", true, 1700)]);
        check(
            &relation,
            &RowChange::Inserted(vec![text("1"), text("1.0")]),
            "WITH pgsluice_one AS MATERIALIZED (SELECT ctid AS row, tableoid AS part FROM \"public\".\"o\"\"rders\" \
             WHERE \"a\" = '1' AND \"b\" IS DISTINCT FROM NULL AND pg_catalog.format('%s', \"b\") COLLATE \
             pg_catalog.\"C\" = '1.0' LIMIT 1) DELETE FROM \"public\".\"o\"\"rders\" AS pgsluice_t USING pgsluice_one \
             WHERE pgsluice_t.ctid = pgsluice_one.row AND pgsluice_t.tableoid = pgsluice_one.part",
        );
    }

    #[test]
    fn rows_can_not_end_a_block() {
        let block = String::from_utf8(block(b"x $undo$ y $undo1$ z")).unwrap();
        assert!(block.starts_with("DO $undo2$\n") && block.ends_with("END $undo2$;\n"), "{block}");
    }
}
