//! SQL that does changes once more, elsewhere, as a script for psql; by the rules of [`undo`](super::undo).
//!
//! What the target's table is like is not known, so nothing here depends on it but what the script finds out when it runs.

use crate::model::{Relation, quote_ident};

use super::undo::{
    Cell, Lacking, Row, RowChange, checked, delete, has_key, insert, keys, named, push_by_key, push_list,
    push_literal, push_value, table, update,
};

const FOUND: &[u8] = b" is not as it was before the change, rows found: ";
const NOT_INSERTED: &[u8] = b" was not inserted, rows: ";

/// The statement that does a change, for the body of a block. What is known of a row before is what finds it: its key, or all of it. Of the
/// row behind it, what was not sent stays as it is.
pub fn redo(relation: &Relation, change: &RowChange) -> Result<Vec<u8>, Lacking> {
    let said = |row: &Row, what: &[u8]| [&named(relation, row), what].concat();
    Ok(match change {
        RowChange::Inserted(new) => checked(insert(relation, new)?, &said(new, NOT_INSERTED)),
        RowChange::Deleted(old) => {
            refuse_unfound(relation, old)?;
            checked(delete(relation, old, &[]), &said(old, FOUND))
        }
        RowChange::Updated { old, new } => {
            refuse_unfound(relation, old)?;
            let is_set = |at: &usize| {
                !matches!(new.get(*at), None | Some(Cell::Unknown)) && old.get(*at) != new.get(*at)
            };
            let set: Vec<usize> = (0..relation.columns.len()).filter(is_set).collect();
            let moves = has_key(relation) && keys(relation).any(|at| set.contains(&at));
            let statement =
                if set.is_empty() { look(relation, old) } else { update(relation, old, new, &set, &[]) };
            let statement = checked(statement, &said(old, FOUND));
            if moves { or_reinserted(relation, statement, old, new, &set) } else { statement }
        }
    })
}

/// The row has to be there, also where nothing of it changes.
fn look(relation: &Relation, row: &Row) -> Vec<u8> {
    let mut sql = format!("PERFORM FROM {} WHERE ", table(relation)).into_bytes();
    let all: Vec<usize> = (0..relation.columns.len()).collect();
    if has_key(relation) {
        push_by_key(&mut sql, relation, row, &[]);
    } else {
        push_by_key(&mut sql, relation, row, &all);
        sql.extend_from_slice(b" LIMIT 1");
    }
    sql
}

/// An identity column that is generated always can't be updated; then the row is deleted, and inserted with what it had.
fn or_reinserted(relation: &Relation, update: Vec<u8>, old: &Row, new: &Row, set: &[usize]) -> Vec<u8> {
    let mut sql = b"BEGIN\n".to_vec();
    sql.extend_from_slice(&update);
    sql.extend_from_slice(b"EXCEPTION WHEN generated_always THEN\n");
    let names: Vec<_> = relation.columns.iter().map(|column| quote_ident(&column.name)).collect();
    let mut again = b"WITH pgsluice_old AS (".to_vec();
    again.extend_from_slice(&delete(relation, old, &[]));
    let into = format!(
        " RETURNING *) INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT ",
        table(relation),
        names.join(", ")
    );
    again.extend_from_slice(into.as_bytes());
    push_list(&mut again, names.iter().zip(new).zip(0..), |sql, ((name, cell), at)| {
        if set.contains(&at) {
            push_value(sql, cell);
        } else {
            sql.extend_from_slice(format!("pgsluice_old.{name}").as_bytes());
        }
    });
    again.extend_from_slice(b" FROM pgsluice_old");
    sql.extend_from_slice(&checked(again, &[&named(relation, old), FOUND].concat()));
    sql.extend_from_slice(b"END;\n");
    sql
}

/// Without a key the whole row has to be known.
fn refuse_unfound(relation: &Relation, old: &Row) -> Result<(), Lacking> {
    let keyed = has_key(relation);
    let lacks =
        |at: usize, is_key: bool| (is_key || !keyed) && matches!(old.get(at), None | Some(Cell::Unknown));
    let columns = relation.columns.iter().zip(0..).filter(|(column, at)| lacks(*at, column.key));
    let columns: Vec<_> = columns.map(|(column, _)| column.name.clone()).collect();
    if columns.is_empty() { Ok(()) } else { Err(Lacking { columns }) }
}

/// One command for all tables, since foreign keys may bind them. Heirs that the source has truncated too are among them, so the others are left
/// alone; partitioned tables have no rows of their own.
pub fn truncate<'t>(relations: impl Iterator<Item = &'t Relation>, restart_identity: bool) -> Vec<u8> {
    let mut sql = b"EXECUTE (SELECT 'TRUNCATE ' || pg_catalog.string_agg(CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END \
        || c.oid::pg_catalog.regclass::pg_catalog.text, ', ')"
        .to_vec();
    if restart_identity {
        sql.extend_from_slice(b" || ' RESTART IDENTITY'");
    }
    sql.extend_from_slice(b" FROM pg_catalog.pg_class c WHERE c.oid IN (");
    push_list(&mut sql, relations, |sql, relation| {
        push_literal(sql, table(relation).as_bytes());
        sql.extend_from_slice(b"::pg_catalog.regclass");
    });
    sql.extend_from_slice(b"));\n");
    sql
}

/// The script ends where the table has rows.
pub fn must_be_empty(schema: &str, name: &str) -> Vec<u8> {
    let table = format!("{}.{}", quote_ident(schema), quote_ident(name));
    let mut sql =
        format!("IF EXISTS (SELECT FROM {table}) THEN RAISE EXCEPTION USING MESSAGE = ").into_bytes();
    push_literal(&mut sql, format!("{schema}.{name} has rows already").as_bytes());
    sql.extend_from_slice(b"; END IF;\n");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ReplicaIdentity};

    fn relation(identity: ReplicaIdentity) -> Relation {
        let column = |(name, key, type_oid): (&str, bool, u32)| Column {
            name: name.into(),
            key: key || identity == ReplicaIdentity::Full,
            type_oid,
            type_modifier: -1,
        };
        let columns = [("id", true, 23), ("note", false, 25), ("big", false, 25)].map(column).into();
        Relation { oid: 1, schema: "public".into(), name: "t".into(), identity, columns }
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.as_bytes().into())
    }

    #[track_caller]
    fn check(identity: ReplicaIdentity, change: RowChange, expected: &str) {
        let sql = String::from_utf8(redo(&relation(identity), &change).unwrap()).unwrap();
        assert!(sql.starts_with(expected), "{sql}");
        assert!(sql.contains("pgsluice_rows <> 1"), "{sql}");
    }

    #[test]
    fn only_what_was_sent_and_differs_is_set() {
        let update = |old: [Cell; 3], new: [Cell; 3]| RowChange::Updated { old: old.into(), new: new.into() };
        let key = [text("1"), Cell::Unknown, Cell::Unknown];
        check(
            ReplicaIdentity::Default,
            update(key.clone(), [text("1"), text("it's"), Cell::Unknown]),
            "UPDATE \"public\".\"t\" SET \"note\" = 'it''s' WHERE \"id\" = '1';\n",
        );
        check(
            ReplicaIdentity::Default,
            update(key.clone(), [text("1"), Cell::Unknown, Cell::Unknown]),
            "PERFORM FROM \"public\".\"t\" WHERE \"id\" = '1';\n",
        );
        let moved =
            redo(&relation(ReplicaIdentity::Default), &update(key, [text("2"), Cell::Null, Cell::Unknown]));
        let moved = String::from_utf8(moved.unwrap()).unwrap();
        for part in [
            "BEGIN\nUPDATE \"public\".\"t\" SET \"id\" = '2', \"note\" = NULL WHERE \"id\" = '1';\n",
            "EXCEPTION WHEN generated_always THEN\nWITH pgsluice_old AS (DELETE FROM \"public\".\"t\" WHERE \"id\" = '1' RETURNING *) \
             INSERT INTO \"public\".\"t\" (\"id\", \"note\", \"big\") OVERRIDING SYSTEM VALUE SELECT '2', NULL, pgsluice_old.\"big\" FROM pgsluice_old;\n",
        ] {
            assert!(moved.contains(part), "{moved}");
        }
        check(
            ReplicaIdentity::Full,
            update([text("1"), text("a"), text("b")], [text("1"), text("a"), text("c")]),
            "WITH pgsluice_one AS MATERIALIZED (SELECT ctid AS row, tableoid AS part FROM \"public\".\"t\" WHERE \"id\" = '1' AND \
             \"note\" IS DISTINCT FROM NULL AND pg_catalog.format('%s', \"note\") COLLATE pg_catalog.\"C\" = 'a' AND ",
        );
    }

    #[test]
    fn a_row_that_nothing_tells_is_not_looked_for() {
        let row = vec![Cell::Unknown, text("a"), Cell::Null];
        for identity in [ReplicaIdentity::Default, ReplicaIdentity::Full, ReplicaIdentity::Nothing] {
            let lacking = redo(&relation(identity), &RowChange::Deleted(row.clone()));
            assert_eq!(lacking, Err(Lacking { columns: vec!["id".into()] }), "{identity:?}");
        }
    }

    #[test]
    fn a_truncate_is_one_command() {
        let relation = relation(ReplicaIdentity::Default);
        let sql = String::from_utf8(truncate([&relation, &relation].into_iter(), true)).unwrap();
        assert!(sql.ends_with(
            "IN ('\"public\".\"t\"'::pg_catalog.regclass, '\"public\".\"t\"'::pg_catalog.regclass));\n"
        ));
    }
}
