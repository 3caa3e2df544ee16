//! The SQL of a comparison: sums of hashes, rows of buckets, rows by their keys, and what puts rows right.
//!
//! Values are compared as the servers print them. They are written as literals, whose types are said by casts to the columns' types without
//! modifiers: from there the columns take them by assignment, which refuses what does not fit instead of cutting it.

use std::fmt::Write;

use crate::model::{quote_ident, quote_literal};

/// A table as one side has it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Quoted; with ONLY where it has rows of its own.
    pub(super) from: String,
    /// Which rows are meant.
    pub(super) filter: Option<String>,
    /// Rows are hashed in UTF-8 whatever their encoding, since that of the other side is another.
    pub(super) recode: bool,
}

/// Pages of a table, from the first up to but not including the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) from: u64,
    pub(super) to: Option<u64>,
}

impl Table {
    fn hash(&self, columns: &[String]) -> String {
        let text = format!("ROW({})::text", of_table(columns).join(", "));
        if self.recode {
            format!("hashtextextended(encode(convert_to({text}, 'UTF8'), 'hex') COLLATE \"C\", 0)")
        } else {
            format!("hashtextextended({text} COLLATE \"C\", 0)")
        }
    }

    fn conditions(&self, pages: Pages) -> Vec<String> {
        let mut conditions: Vec<_> = self.filter.iter().map(|filter| format!("({filter}\n)")).collect();
        if pages.from > 0 {
            conditions.push(format!("t.ctid >= '({},0)'", pages.from));
        }
        if let Some(to) = pages.to {
            conditions.push(format!("t.ctid < '({to},0)'"));
        }
        conditions
    }

    /// Number of rows and sum of their hashes, for each bucket.
    pub(super) fn sums(&self, columns: &[String], buckets: u64, pages: Pages) -> String {
        let (hash, from, mask) = (self.hash(columns), &self.from, buckets.saturating_sub(1));
        let condition = whole(&self.conditions(pages));
        // OFFSET 0 keeps the hash from being worked out twice.
        format!(
            "SELECT h & {mask}, count(*), sum(h) FROM (SELECT {hash} AS h FROM {from} AS t{condition} OFFSET 0) r GROUP BY 1"
        )
    }

    /// Hash of the key, hash of the row and the key of each row of some buckets, in the order of the first.
    pub(super) fn rows(&self, columns: &[String], key: &[String], buckets: u64, wanted: &[u64]) -> String {
        let (row, order, from, mask) =
            (self.hash(columns), self.hash(key), &self.from, buckets.saturating_sub(1));
        let list: Vec<_> = wanted.iter().map(u64::to_string).collect();
        let mut conditions = self.conditions(Pages { from: 0, to: None });
        conditions.push(format!("({row} & {mask}) = ANY ('{{{}}}'::int8[])", list.join(",")));
        let condition = whole(&conditions);
        let selected = [vec![order, row], of_table(key)].concat().join(", ");
        format!("SELECT {selected} FROM {from} AS t{condition} ORDER BY 1")
    }

    /// Values of some columns, of the rows with these keys; the key's come first.
    pub(super) fn fetch(&self, columns: &[String], key: &Key<'_>, keys: &[&[Option<String>]]) -> String {
        let selected = [of_table(key.columns), of_table(columns)].concat().join(", ");
        format!("SELECT {selected} FROM {} AS t JOIN {} ON {}", self.from, values(keys), key.is_of_values())
    }

    pub(super) fn delete(&self, key: &Key<'_>, keys: &[&[Option<String>]]) -> String {
        format!("DELETE FROM {} AS t USING {} WHERE {}", self.from, values(keys), key.is_of_values())
    }

    /// Deletes so many rows of each hash, and of those that are meant only.
    pub(super) fn delete_by_hash(&self, columns: &[String], hashes: &[(i64, u64)]) -> String {
        let hash = self.hash(columns);
        let condition = whole(&self.conditions(Pages { from: 0, to: None }));
        let list: Vec<_> = hashes.iter().map(|(hash, count)| format!("('{hash}'::int8, {count})")).collect();
        format!(
            "DELETE FROM {from} AS t USING (SELECT place, leaf, h, row_number() OVER (PARTITION BY h) AS n \
             FROM (SELECT t.ctid AS place, t.tableoid AS leaf, {hash} AS h FROM {from} AS t{condition} OFFSET 0) r) r, \
             (VALUES {list}) AS w(h, n) \
             WHERE r.h = w.h AND r.n <= w.n AND t.ctid = r.place AND t.tableoid = r.leaf",
            from = self.from,
            list = list.join(", ")
        )
    }

    /// Rows hold the values of the key, then those of the columns.
    pub(super) fn update(
        &self,
        columns: &[(String, String)],
        key: &Key<'_>,
        rows: &[&[Option<String>]],
    ) -> String {
        let first = key.columns.len();
        let set = columns.iter().enumerate();
        let set = set.map(|(at, (name, kind))| format!("{} = w.v{}::{kind}", quote_ident(name), first + at));
        let set = set.collect::<Vec<_>>().join(", ");
        format!("UPDATE {} AS t SET {set} FROM {} WHERE {}", self.from, values(rows), key.is_of_values())
    }

    pub(super) fn insert(
        &self,
        table: &str,
        columns: &[(String, String)],
        rows: &[&[Option<String>]],
    ) -> String {
        let names: Vec<_> = columns.iter().map(|(name, _)| quote_ident(name)).collect();
        let selected = columns.iter().enumerate().map(|(at, (_, kind))| format!("w.v{at}::{kind}"));
        let selected = selected.collect::<Vec<_>>().join(", ");
        format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {selected} FROM {}",
            names.join(", "),
            values(rows)
        )
    }
}

/// The columns of a key, and their types.
pub(super) struct Key<'a> {
    pub(super) columns: &'a [String],
    pub(super) types: Vec<String>,
}

impl Key<'_> {
    fn is_of_values(&self) -> String {
        let columns = of_table(self.columns);
        let equal = columns.iter().zip(&self.types).enumerate();
        let equal = equal.map(|(at, (column, kind))| format!("{column} = w.v{at}::{kind}"));
        equal.collect::<Vec<_>>().join(" AND ")
    }
}

fn of_table(columns: &[String]) -> Vec<String> {
    columns.iter().map(|column| format!("t.{}", quote_ident(column))).collect()
}

fn whole(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

/// A list of rows with the columns `v0`, `v1`, ….
fn values(rows: &[&[Option<String>]]) -> String {
    let mut list = String::from("(VALUES ");
    for (at, row) in rows.iter().enumerate() {
        let row = row.iter().map(|value| value.as_deref().map_or_else(|| "NULL::text".into(), literal));
        let comma = if at > 0 { ", " } else { "" };
        // Writing into a string does not fail.
        let _ = write!(list, "{comma}({})", row.collect::<Vec<_>>().join(", "));
    }
    let width = rows.first().map_or(0, |row| row.len());
    let names: Vec<_> = (0..width).map(|at| format!("v{at}")).collect();
    let _ = write!(list, ") AS w({})", names.join(", "));
    list
}

fn literal(text: &str) -> String {
    format!("{}::text", quote_literal(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn table(filter: Option<&str>) -> Table {
        Table { from: "ONLY \"s\".\"t\"".into(), filter: filter.map(str::to_owned), recode: false }
    }

    const HASH: &str = r#"hashtextextended(ROW(t."a", t."b""c")::text COLLATE "C", 0)"#;

    #[test]
    fn sums_of_pages() {
        let columns = names(&["a", "b\"c"]);
        let check = |pages, filter, condition: &str| {
            let expected = format!(
                r#"SELECT h & 7, count(*), sum(h) FROM (SELECT {HASH} AS h FROM ONLY "s"."t" AS t{condition} OFFSET 0) r GROUP BY 1"#
            );
            assert_eq!(table(filter).sums(&columns, 8, pages), expected);
        };
        check(Pages { from: 0, to: None }, None, "");
        check(Pages { from: 0, to: Some(9) }, None, " WHERE t.ctid < '(9,0)'");
        check(Pages { from: 9, to: None }, Some("a > 1"), " WHERE (a > 1\n) AND t.ctid >= '(9,0)'");
    }

    #[test]
    fn rows_of_buckets_come_in_the_order_of_their_keys() {
        let sql = table(None).rows(&names(&["a", "b\"c"]), &names(&["a"]), 8, &[1, 5]);
        let expected = format!(
            r#"SELECT hashtextextended(ROW(t."a")::text COLLATE "C", 0), {HASH}, t."a" FROM ONLY "s"."t" AS t WHERE ({HASH} & 7) = ANY ('{{1,5}}'::int8[]) ORDER BY 1"#
        );
        assert_eq!(sql, expected);
    }

    #[test]
    fn rows_are_put_right_by_key() {
        let columns = names(&["a"]);
        let key = Key { columns: &columns, types: names(&["integer"]) };
        let row: &[Option<String>] = &[Some("1".into()), Some("it's \\".into()), None];
        let typed = [("b".to_owned(), "text".to_owned()), ("c".to_owned(), "\"bit\"".to_owned())];
        let (one, list) = ([row], r#"(VALUES ('1'::text,  E'it''s \\'::text, NULL::text)) AS w(v0, v1, v2)"#);
        assert_eq!(
            table(None).update(&typed, &key, &one),
            format!(
                r#"UPDATE ONLY "s"."t" AS t SET "b" = w.v1::text, "c" = w.v2::"bit" FROM {list} WHERE t."a" = w.v0::integer"#
            )
        );
        assert_eq!(
            table(None).delete(&key, &one),
            format!(r#"DELETE FROM ONLY "s"."t" AS t USING {list} WHERE t."a" = w.v0::integer"#)
        );
        assert_eq!(
            table(None).insert("\"s\".\"t\"", &typed, &one),
            format!(
                r#"INSERT INTO "s"."t" ("b", "c") OVERRIDING SYSTEM VALUE SELECT w.v0::text, w.v1::"bit" FROM {list}"#
            )
        );
    }
}
