//! Patterns that choose tables: `schema.table` with `*` and `?`, either part in double quotes where case or a dot matters.
//!
//! As in psql, what is not quoted is folded to lower case, and inside quotes `*` and `?` mean themselves. A pattern without
//! a dot names tables of any schema.

use std::collections::HashSet;
use std::str::FromStr;

use super::tables::{Table, quoted_name};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As it was typed.
    text: String,
    schema: Vec<Piece>,
    table: Vec<Piece>,
}

#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a table pattern such as public.orders, sales.* or \"Mixed Case\".\"T\"")]
pub struct BadPattern(String);

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Pattern, BadPattern> {
        let bad = || BadPattern(text.to_owned());
        let mut parts = vec![Vec::new()];
        let mut quoted = false;
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let piece = match character {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    Piece::Char('"')
                }
                '"' => {
                    quoted = !quoted;
                    continue;
                }
                '.' if !quoted => {
                    parts.push(Vec::new());
                    continue;
                }
                '*' if !quoted => Piece::Any,
                '?' if !quoted => Piece::One,
                other if !quoted => {
                    let part = parts.last_mut().ok_or_else(bad)?;
                    part.extend(other.to_lowercase().map(Piece::Char));
                    continue;
                }
                other => Piece::Char(other),
            };
            parts.last_mut().ok_or_else(bad)?.push(piece);
        }
        if quoted || parts.iter().any(Vec::is_empty) {
            return Err(bad());
        }
        let (schema, table) = match <[Vec<Piece>; 2]>::try_from(parts) {
            Ok([schema, table]) => (schema, table),
            Err(mut one) if one.len() == 1 => (vec![Piece::Any], one.pop().ok_or_else(bad)?),
            Err(_) => return Err(bad()),
        };
        Ok(Pattern { text: text.to_owned(), schema, table })
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// One table.
    pub fn of(schema: &str, table: &str) -> Pattern {
        let pieces = |name: &str| name.chars().map(Piece::Char).collect();
        Pattern { text: quoted_name(schema, table), schema: pieces(schema), table: pieces(table) }
    }

    /// The one table that it means, where it has no `*` or `?`.
    pub fn exact(&self) -> Option<(String, String)> {
        let plain = |pieces: &[Piece]| -> Option<String> {
            let character = |piece: &Piece| match piece {
                Piece::Char(character) => Some(*character),
                _ => None,
            };
            pieces.iter().map(character).collect()
        };
        Some((plain(&self.schema)?, plain(&self.table)?))
    }

    pub fn matches(&self, schema: &str, table: &str) -> bool {
        glob(&self.schema, schema) && glob(&self.table, table)
    }

    /// Whether all tables that it may mean have the same name, in whatever schema.
    pub fn names_one_table(&self) -> bool {
        self.table.iter().all(|piece| matches!(piece, Piece::Char(_)))
    }

    /// Whether a table can be one that both mean.
    pub fn overlaps(&self, other: &Pattern) -> bool {
        meet(&self.schema, &other.schema) && meet(&self.table, &other.table)
    }
}

/// That a table of the source is called otherwise on the target.
#[derive(Clone, Debug)]
pub struct Rename {
    pub from: Pattern,
    pub schema: String,
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not two tables such as public.orders=restored.orders")]
pub struct BadRename(String);

impl FromStr for Rename {
    type Err = BadRename;

    fn from_str(text: &str) -> Result<Rename, BadRename> {
        let bad = || BadRename(text.to_owned());
        let mut quoted = false;
        let at = text.char_indices().find(|(_, character)| {
            quoted ^= *character == '"';
            *character == '=' && !quoted
        });
        let (from, to) = at.and_then(|(at, _)| text.split_at_checked(at)).ok_or_else(bad)?;
        let from: Pattern = from.trim().parse().map_err(|_| bad())?;
        let to: Pattern = to.trim_start_matches('=').trim().parse().map_err(|_| bad())?;
        let (schema, name) = to.exact().ok_or_else(bad)?;
        from.exact().map(|_| Rename { from, schema, name }).ok_or_else(bad)
    }
}

impl std::fmt::Display for Rename {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.from, quoted_name(&self.schema, &self.name))
    }
}

impl Rename {
    pub fn is_of(&self, schema: &str, name: &str) -> bool {
        self.from.matches(schema, name)
    }

    /// Where a table is on the target.
    pub fn place(renames: &[Rename], schema: &str, name: &str) -> (String, String) {
        let rename = renames.iter().find(|rename| rename.is_of(schema, name));
        let place = rename.map(|rename| (rename.schema.clone(), rename.name.clone()));
        place.unwrap_or_else(|| (schema.to_owned(), name.to_owned()))
    }
}

/// Whether the pieces match the whole name. `row[n]` says whether the pieces so far match its first n characters.
fn glob(pieces: &[Piece], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut row: Vec<bool> = std::iter::once(true).chain(name.iter().map(|_| false)).collect();
    for piece in pieces {
        let mut reached = false;
        row = match piece {
            Piece::Any => row
                .iter()
                .map(|&here| {
                    reached |= here;
                    reached
                })
                .collect(),
            Piece::One | Piece::Char(_) => std::iter::once(false)
                .chain(row.iter().zip(&name).map(|(&before, &is)| {
                    before
                        && match piece {
                            Piece::Char(wanted) => *wanted == is,
                            Piece::One | Piece::Any => true,
                        }
                }))
                .collect(),
        };
    }
    row.last().copied().unwrap_or(false)
}

/// Whether a name can match both. `row[n]` says whether the pieces of the one so far and the first n of the other can.
fn meet(one: &[Piece], other: &[Piece]) -> bool {
    let mut row = vec![true];
    for piece in other {
        row.push(row.last() == Some(&true) && *piece == Piece::Any);
    }
    for piece in one {
        let above = std::mem::take(&mut row);
        row.push(above.first() == Some(&true) && *piece == Piece::Any);
        for (with, [before, here]) in other.iter().zip(above.array_windows()) {
            let left = row.last() == Some(&true);
            row.push(match (piece, with) {
                // It is empty, or takes what stands on the other side.
                (Piece::Any, _) | (_, Piece::Any) => *here || left,
                (Piece::Char(one), Piece::Char(other)) => *before && one == other,
                (Piece::One, _) | (_, Piece::One) => *before,
            });
        }
    }
    row.last() == Some(&true)
}

/// The tables that are chosen: those that `wanted` matches (all, where it is empty) and `excluded` does not. What is said
/// of a partitioned table is said of its partitions. Tables without WAL are never chosen.
pub fn choose<'a>(tables: &'a [Table], wanted: &[Pattern], excluded: &[Pattern]) -> Vec<&'a Table> {
    let named = |patterns: &[Pattern]| -> HashSet<u32> {
        tables
            .iter()
            .filter(|table| patterns.iter().any(|pattern| pattern.matches(&table.schema, &table.name)))
            .map(|table| table.oid)
            .collect()
    };
    let (wanted_oids, excluded_oids) = (named(wanted), named(excluded));
    let family = |table: &Table, set: &HashSet<u32>| {
        std::iter::once(&table.oid).chain(&table.ancestors).any(|o| set.contains(o))
    };
    tables
        .iter()
        .filter(|table| table.logged)
        .filter(|table| wanted.is_empty() || family(table, &wanted_oids))
        .filter(|table| !family(table, &excluded_oids))
        .collect()
}

/// The names to publish for the chosen tables. A partitioned table stands for its partitions, future ones too, when all
/// of them are chosen; otherwise the chosen partitions are named one by one.
pub fn names_to_publish<'a>(all: &[Table], chosen: &[&'a Table]) -> Vec<&'a Table> {
    let chosen_oids: HashSet<u32> = chosen.iter().map(|table| table.oid).collect();
    let broken: HashSet<u32> = all
        .iter()
        .filter(|table| table.logged && !chosen_oids.contains(&table.oid))
        .flat_map(|table| table.ancestors.iter().copied())
        .collect();
    let whole = |oid: &u32| chosen_oids.contains(oid) && !broken.contains(oid);
    chosen
        .iter()
        .filter(|table| !table.partitioned || whole(&table.oid))
        .filter(|table| !table.ancestors.iter().any(whole))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tables::PrimaryKey;
    use super::*;
    use crate::model::ReplicaIdentity;

    #[test]
    fn two_patterns_overlap_where_a_table_can_be_of_both() {
        for (one, other, overlap) in [
            ("a.t", "a.t", true),
            ("a.t", "b.t", false),
            ("a.*", "*.t", true),
            ("t", "a.t?", false),
            ("t?", "a.tx", true),
            ("a*b", "*c", false),
            ("a*b", "*cb", true),
            ("x.a*", "x.*b", true),
            ("x.a?", "x.*b*c", false),
            ("*", "\"Odd.Name\"", true),
            ("a.?", "a.*", true),
        ] {
            let (first, second): (Pattern, Pattern) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(first.overlaps(&second), overlap, "{one} {other}");
            assert_eq!(second.overlaps(&first), overlap, "{other} {one}");
        }
    }

    fn table(oid: u32, name: &str, partitioned: bool, ancestors: &[u32]) -> Table {
        let (schema, name) = name.split_once('.').unwrap();
        Table {
            oid,
            schema: schema.into(),
            name: name.into(),
            partitioned,
            ancestors: ancestors.to_vec(),
            logged: true,
            identity: ReplicaIdentity::Default,
            identity_index: None,
            primary_key: PrimaryKey::Immediate,
            owned: true,
            denied: Vec::new(),
            row_security: false,
            columns: Vec::new(),
        }
    }

    #[test]
    fn patterns_match_as_typed() {
        let check = |pattern: &str, yes: &[&str], no: &[&str]| {
            let pattern: Pattern = pattern.parse().unwrap();
            let matches = |name: &&&str| {
                let (schema, table) = name.split_once('.').unwrap();
                pattern.matches(schema, table)
            };
            assert_eq!(yes.iter().filter(matches).count(), yes.len(), "{pattern}: {yes:?}");
            assert_eq!(no.iter().filter(matches).count(), 0, "{pattern}: {no:?}");
        };
        check("public.orders", &["public.orders"], &["public.orders2", "other.orders", "public.Orders"]);
        check("Public.ORDERS", &["public.orders"], &["Public.ORDERS"]);
        check("sales.*", &["sales.a", "sales."], &["sale.a", "salesx.a"]);
        check("*.log_??", &["a.log_01", "b.log_ab"], &["a.log_1", "a.log_001"]);
        check("a*b*c.x*", &["abc.x", "aXbYc.xyz", "abbcc.x"], &["abcd.x", "ac.x", "abc.y"]);
        check("orders", &["public.orders", "x.orders"], &["x.order"]);
        check("s.\"Pre\"*", &["s.Prefix", "s.Pre"], &["s.prefix"]);
        check("é.??", &["é.ßü"], &["é.ß"]);
        let dotted: Pattern = "\"Mixed.Case\".\"T\"\"*?\"".parse().unwrap();
        assert!(dotted.matches("Mixed.Case", "T\"*?"));
        assert!(!dotted.matches("Mixed.Case", "T\"ab"));
        assert!(!dotted.matches("mixed.case", "t\"*?"));
    }

    #[test]
    fn bad_patterns_are_told() {
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "a.\"\"", "\"a\"\"", "a..b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_partitioned_table_speaks_for_its_partitions() {
        let all = [
            table(1, "s.root", true, &[]),
            table(2, "s.root_1", false, &[1]),
            table(3, "s.sub", true, &[1]),
            table(4, "s.sub_1", false, &[3, 1]),
            table(5, "s.plain", false, &[]),
        ];
        let check = |wanted: &[&str], excluded: &[&str], chosen: &[u32], named: &[u32]| {
            let parse =
                |texts: &[&str]| -> Vec<Pattern> { texts.iter().map(|t| t.parse().unwrap()).collect() };
            let tables = choose(&all, &parse(wanted), &parse(excluded));
            assert_eq!(tables.iter().map(|t| t.oid).collect::<Vec<_>>(), chosen, "{wanted:?} {excluded:?}");
            let names = names_to_publish(&all, &tables);
            assert_eq!(names.iter().map(|t| t.oid).collect::<Vec<_>>(), named, "{wanted:?} {excluded:?}");
        };
        check(&[], &[], &[1, 2, 3, 4, 5], &[1, 5]);
        check(&["s.root"], &[], &[1, 2, 3, 4], &[1]);
        check(&[], &["s.root"], &[5], &[5]);
        check(&[], &["s.root_1"], &[1, 3, 4, 5], &[3, 5]);
        check(&[], &["s.sub"], &[1, 2, 5], &[2, 5]);
        check(&["s.sub_1", "s.plain"], &[], &[4, 5], &[4, 5]);
    }
}
