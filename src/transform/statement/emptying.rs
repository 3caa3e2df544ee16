//! Tables that lose all their rows, or all of some.

use super::super::target::TargetTable;
use super::arrival::OPEN;
use super::{Sql, Statement, StatementKind, join, only, qualified};
use crate::model::{Format, quote_ident, quote_literal};

/// `TRUNCATE` of all tables of one command at once, since foreign keys may bind them. The source has expanded CASCADE.
pub(in crate::transform) fn truncate<'t>(
    id: u32,
    targets: impl IntoIterator<Item = &'t TargetTable>,
    restart_identity: bool,
) -> Statement {
    let tables = join(targets.into_iter().map(only), ", ");
    let identity = if restart_identity { " RESTART IDENTITY" } else { "" };
    Sql::new(format!("TRUNCATE {tables}{identity}"), Format::Text).statement(id, StatementKind::Truncate)
}

/// The same by DELETE, which needs no other tables that refer to these. In one block, since it is one change: nothing may stay behind, by a
/// trigger, a rule or a policy, and sequences begin anew as they do by TRUNCATE.
pub(in crate::transform) fn delete_all(
    id: u32,
    targets: &[&TargetTable],
    restart_identity: bool,
) -> Statement {
    let mut body = String::from(
        "DECLARE security text := current_setting('row_security'); owned text; \
         BEGIN PERFORM set_config('row_security', 'off', true); ",
    );
    for target in targets {
        let (table, shown) = (only(target), quote_literal(&qualified(target)));
        body += &format!(
            "DELETE FROM {table}; IF EXISTS (SELECT FROM {table}) THEN \
             RAISE EXCEPTION 'a trigger or a rule keeps rows in %', {shown}; END IF; "
        );
    }
    if restart_identity {
        let names = join(targets.iter().map(|target| quote_literal(&qualified(target))), ", ");
        body += &format!(
            "FOR owned IN SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid \
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 \
             AND d.deptype IN ('a', 'i') AND s.relkind = 'S' AND d.refobjid IN \
             (SELECT n FROM unnest(ARRAY[{names}]::regclass[]) n \
             UNION ALL SELECT p.relid FROM unnest(ARRAY[{names}]::regclass[]) n, pg_partition_tree(n) p) \
             LOOP EXECUTE 'ALTER SEQUENCE ' || owned || ' RESTART'; END LOOP; "
        );
    }
    body += "PERFORM set_config('row_security', security, true); END";
    let sql = Sql::new(format!("DO {}", quote_literal(&body)), Format::Text);
    sql.statement(id, StatementKind::DeleteAll)
}

/// Deletes the rows that are meant, or marks or ends them, however many.
pub(in crate::transform) fn empty(id: u32, target: &TargetTable, emptying: &Emptying) -> Statement {
    let mut conditions = equal(&emptying.rows);
    let table = only(target);
    let change = match &emptying.by {
        Removal::Delete => format!("DELETE FROM {table}"),
        Removal::Mark(marker) => {
            conditions.push(format!("{} IS NULL", quote_ident(marker)));
            format!("UPDATE {table} SET {}", equal(&emptying.set).join(", "))
        }
        Removal::End { from, to, time } => {
            let (from, to) = (quote_ident(from), quote_ident(to));
            conditions.push(format!("{to} = {OPEN}"));
            format!("UPDATE {table} SET {to} = greatest({from}, {})", quote_literal(time))
        }
    };
    let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    let shown = quote_literal(&qualified(target));
    let body = format!(
        "DECLARE security text := current_setting('row_security'); \
         BEGIN PERFORM set_config('row_security', 'off', true); {change} WHERE {condition}; \
         IF EXISTS (SELECT FROM {table} WHERE {condition}) THEN \
         RAISE EXCEPTION 'a trigger or a rule keeps rows in %', {shown}; END IF; \
         PERFORM set_config('row_security', security, true); END"
    );
    Sql::new(format!("DO {}", quote_literal(&body)), Format::Text).statement(id, StatementKind::DeleteAll)
}

/// `column = text` for each, quoted.
pub fn equal(texts: &[(String, String)]) -> Vec<String> {
    texts.iter().map(|(column, text)| format!("{} = {}", quote_ident(column), quote_literal(text))).collect()
}

/// What a TRUNCATE is where it is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptying {
    /// Texts by column that tell the rows; all rows where there are none.
    pub rows: Vec<(String, String)>,
    pub by: Removal,
    /// What else is set, text by column.
    pub set: Vec<(String, String)>,
}

/// How rows go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    #[default]
    Delete,
    /// They stay, with this column no longer null.
    Mark(String),
    /// Their last versions end at a time.
    End { from: String, to: String, time: String },
}
