//! How a table is divided, and the SQL that reads and writes its parts. Pure.
//!
//! Parts are ranges of the blocks of the source's table. All of a table that are read in the first run share one snapshot. Parts that a crash
//! left over are read later, and then without what was written since that snapshot's `xmin`, the *horizon*: such rows are read once more
//! at the end, from wherever they are by then (see `refresh`). So no row is in two parts, and whatever was copied is a subset of what the
//! first snapshot shows.

use crate::model::{Format, Xid, quote_ident};

use super::survey::Table;

/// How many parts a table of so many blocks has.
pub(super) fn parts(blocks: u64, part_blocks: u64) -> u32 {
    u32::try_from(blocks.div_ceil(part_blocks.max(1))).unwrap_or(u32::MAX).max(1)
}

/// Blocks from `first`, up to but without `end`; without one, all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    first: u64,
    end: Option<u64>,
}

impl Blocks {
    /// Those of part `number`, counted from 0.
    pub(super) fn of_part(number: u32, parts: u32, part_blocks: u64) -> Blocks {
        let first = u64::from(number).saturating_mul(part_blocks);
        let is_last = number.saturating_add(1) >= parts;
        Blocks { first, end: (!is_last).then(|| first.saturating_add(part_blocks)) }
    }

    fn condition(self) -> Option<String> {
        let from = (self.first > 0).then(|| format!("ctid >= '({},0)'::tid", self.first));
        let to = self.end.map(|end| format!("ctid < '({end},0)'::tid"));
        match (from, to) {
            (Some(from), Some(to)) => Some(format!("{from} AND {to}")),
            (from, to) => from.or(to),
        }
    }
}

/// SQL that is true of rows that were written by a transaction from the horizon on. Transactions before 3 are those of initdb and of
/// rows frozen long ago. A row so old that its transaction id seems new counts as new, which costs only time.
pub(super) fn written_since(horizon: Xid) -> String {
    format!(
        "(xmin::text::int8 >= 3 AND (xmin::text::int8 - {} + 4294967296) % 4294967296 < 2147483648)",
        horizon.0
    )
}

/// Which rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which<'a> {
    /// All of these blocks.
    All(Blocks),
    /// Of these blocks those that were there before.
    Before(Xid, Blocks),
    /// Of the whole table those that were written since.
    Since(Xid),
    /// Of the whole table those that fulfil this SQL.
    Fulfilling(&'a str),
}

/// The COPY that reads them.
pub(super) fn read(table: &Table, which: Which<'_>) -> String {
    let mut conditions = Vec::new();
    match which {
        Which::All(blocks) => conditions.extend(blocks.condition()),
        Which::Before(horizon, blocks) => {
            conditions.extend(blocks.condition());
            conditions.push(format!("NOT {}", written_since(horizon)));
        }
        Which::Since(horizon) => conditions.push(written_since(horizon)),
        // As typed: a comment in it must not swallow the parenthesis.
        Which::Fulfilling(condition) => conditions.push(format!("({condition}\n)")),
    }
    // Its words are the server's own; a comment in it must not swallow the parenthesis.
    conditions.extend(table.condition.as_ref().map(|condition| format!("({condition}\n)")));
    let rows = if conditions.is_empty() && !table.is_root {
        format!("{}{}", table.quoted(), listed(&table.columns))
    } else {
        let only = if table.is_root { "" } else { "ONLY " };
        let filter = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        format!("(SELECT {} FROM {only}{}{filter})", columns(&table.columns), table.quoted())
    };
    format!("COPY {rows} TO STDOUT{}", options(table.format, false))
}

/// The COPY that writes them. `frozen`: into a table that was truncated in the same transaction.
pub(super) fn write(table: &Table, frozen: bool) -> String {
    let options = options(table.format, frozen);
    format!("COPY {}{} FROM STDIN{options}", table.there.quoted(), listed(&table.there.columns))
}

/// ` (a, b)`; nothing where the table has no columns.
fn listed(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" ({})", columns(names)) }
}

pub(super) fn columns(names: &[String]) -> String {
    names.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ")
}

fn options(format: Format, frozen: bool) -> &'static str {
    match (format, frozen) {
        (Format::Text, false) => "",
        (Format::Text, true) => " WITH (FREEZE)",
        (Format::Binary, false) => " WITH (FORMAT binary)",
        (Format::Binary, true) => " WITH (FORMAT binary, FREEZE)",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::survey::There;
    use super::*;

    pub(in crate::copy) fn table() -> Table {
        Table {
            oid: 1,
            schema: "public".into(),
            name: "My t".into(),
            above: Vec::new(),
            is_root: false,
            filenode: 1,
            shape: String::new(),
            bounds: String::new(),
            blocks: 10,
            rows: None,
            columns: vec!["id".into(), "a b".into()],
            types: Vec::new(),
            condition: None,
            key: vec!["id".into()],
            format: Format::Text,
            unreferenced: true,
            divided: false,
            there: There {
                schema: "public".into(),
                name: "My t".into(),
                columns: vec!["id".into(), "a b".into()],
                ..There::default()
            },
        }
    }

    #[test]
    fn parts_cover_every_block_once() {
        for (blocks, part_blocks, expected) in
            [(0, 4, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (12, 4, 3), (7, 0, 7)]
        {
            let count = parts(blocks, part_blocks);
            assert_eq!(count, expected, "{blocks} {part_blocks}");
            let mut next = 0;
            for number in 0..count {
                let range = Blocks::of_part(number, count, part_blocks);
                assert_eq!(range.first, next);
                next = range.end.unwrap_or(u64::MAX);
            }
            assert_eq!(next, u64::MAX, "the last one has no end");
        }
    }

    #[test]
    fn the_sql_names_what_is_read() {
        let (plain, whole) = (table(), Blocks::of_part(0, 1, 4));
        assert_eq!(read(&plain, Which::All(whole)), r#"COPY public."My t" (id, "a b") TO STDOUT"#.replace("public", "\"public\"").replace("(id", "(\"id\""));
        let second = Blocks::of_part(1, 3, 4);
        let text = read(&plain, Which::All(second));
        assert!(
            text.contains(
                "FROM ONLY \"public\".\"My t\" WHERE ctid >= '(4,0)'::tid AND ctid < '(8,0)'::tid) TO"
            ),
            "{text}"
        );
        let later = read(&plain, Which::Before(Xid(77), Blocks::of_part(2, 3, 4)));
        assert!(
            later.contains("ctid >= '(8,0)'::tid AND NOT (xmin::text::int8 >= 3 AND (xmin::text::int8 - 77 "),
            "{later}"
        );
        let root =
            Table { is_root: true, condition: Some("id > 5 -- x".into()), format: Format::Binary, ..table() };
        let text = read(&root, Which::All(whole));
        assert!(
            text.contains("FROM \"public\".\"My t\" WHERE (id > 5 -- x\n)) TO STDOUT WITH (FORMAT binary)"),
            "{text}"
        );
        assert!(write(&root, true).ends_with("FROM STDIN WITH (FORMAT binary, FREEZE)"));
    }
}
