//! The statements that read rows. Pure.

use std::fmt::Write as _;

use super::Table;
use crate::pg::{quote_ident, quote_literal};

/// From where and to where rows are read, as conditions on the control column. Values are PostgreSQL's own text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) above: Option<String>,
    pub(super) from: Option<String>,
    pub(super) below: Option<String>,
    pub(super) to: Option<String>,
    /// Nor above this.
    pub(super) through: Option<String>,
}

/// `a, b`, quoted.
pub(super) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(quote_ident).collect::<Vec<_>>().join(", ")
}

impl Range {
    /// ` FROM … WHERE …` of a table's rows in it.
    pub(super) fn rows(&self, table: &Table) -> String {
        let mut conditions = Vec::new();
        if let Some(column) = &table.column {
            let column = quote_ident(column);
            let bounds = [
                (&self.above, ">"),
                (&self.from, ">="),
                (&self.below, "<"),
                (&self.to, "<="),
                (&self.through, "<="),
            ];
            for (value, operator) in bounds {
                if let Some(value) = value {
                    conditions.push(format!("{column} {operator} {}", quote_literal(value)));
                }
            }
            // Without a bound, too, a row without a value is none that has been reached.
            conditions.push(format!("{column} IS NOT NULL"));
        }
        conditions.extend(table.condition.as_ref().map(|condition| format!("({condition}\n)")));
        let mut sql = format!(" FROM {}", table.quoted());
        if !conditions.is_empty() {
            let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
        }
        sql
    }

    /// The lowest value, and that of the row behind the first `limit`; each null where there is none.
    pub(super) fn probe(&self, table: &Table, limit: u64) -> String {
        let column = quote_ident(table.column.as_deref().unwrap_or_default());
        let rows = self.rows(table);
        // Ordered by the column, not by the text that is made of it.
        let at = |offset: u64| {
            format!(
                "(SELECT value::text FROM (SELECT {column} AS value{rows} ORDER BY {column} OFFSET {offset} LIMIT 1) one)"
            )
        };
        format!("SELECT {}, {}", at(0), at(limit))
    }

    pub(super) fn copy(&self, table: &Table, columns: &str) -> String {
        let mut sql = format!("COPY (SELECT {columns}{}", self.rows(table));
        if let Some(column) = &table.column {
            let _ = write!(sql, " ORDER BY {}", quote_ident(column));
        }
        sql.push_str(") TO STDOUT");
        sql
    }
}

/// How many rows there are, and the sums of two halves of a hash of each: in any order the same, of other rows another.
pub(super) fn content(table: &Table, columns: &str) -> String {
    let half =
        |side: &str| format!("coalesce(sum(('x' || {side}(hash, 16))::bit(64)::int8::numeric), 0)::text");
    let rows = Range::default().rows(table);
    format!(
        "SELECT count(*)::text || '/' || {} || '/' || {} FROM (SELECT md5(ROW({columns})::text) AS hash{rows}) hashed",
        half("left"),
        half("right"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::Method;

    #[test]
    fn rows_are_bounded_ordered_and_quoted() {
        let mut table = Table::new("s", "t\"", Method::Append);
        table.column = Some("at".into());
        table.condition = Some("a = 1 OR b".into());
        let range = Range { above: Some("it's".into()), below: Some("9".into()), ..Range::default() };
        assert_eq!(
            range.copy(&table, "\"at\""),
            r#"COPY (SELECT "at" FROM "s"."t""" WHERE "at" > 'it''s' AND "at" < '9' AND "at" IS NOT NULL AND (a = 1 OR b
) ORDER BY "at") TO STDOUT"#
        );
        let all = Table::new("s", "t", Method::Snapshot);
        assert_eq!(Range::default().copy(&all, "a"), r#"COPY (SELECT a FROM "s"."t") TO STDOUT"#);
    }
}
