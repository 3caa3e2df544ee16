//! Rows that may be there when they come, and rows of which each version stays.

use super::super::arriving::{Arriving, Contest, Versioned};
use super::super::columns::ColumnSet;
use super::super::target::Identity;
use super::{
    Mapped, Place, Source, Sql, Statement, StatementKind, equal_by_operator, join, only, qualified, written,
};
use crate::model::{Column, Relation, quote_ident, quote_literal};

/// What becomes of an insert that finds its row there.
pub(super) fn on_conflict(place: Place<'_>, arriving: &Arriving) -> String {
    let condition = match arriving {
        Arriving::New => return String::new(),
        Arriving::Replacing => None,
        Arriving::Reviving(marker) => {
            place.columns.get(*marker).map(|marker| format!("t.{} IS NOT NULL", marker.quoted))
        }
        // One that has ended in the transaction that made it.
        Arriving::Versioned(versioned) => {
            place.columns.get(versioned.to).map(|to| format!("t.{} <> {OPEN}", to.quoted))
        }
        Arriving::Contested(contest) => {
            let name = |at: usize| place.columns.get(at).map(|column| column.quoted.clone());
            Some(wins(contest, "t.", name, |_, name| format!("EXCLUDED.{name}")))
        }
    };
    let key = |(at, column): &&(usize, &Mapped)| column.key || arriving.beside_key() == Some(*at);
    let written = written(place.columns);
    let keys = written.iter().filter(key);
    let from = match arriving {
        Arriving::Versioned(versioned) => Some(versioned.from),
        _ => None,
    };
    let set = anew(&written, from);
    let condition = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    let keys = keys.map(|(_, column)| column.quoted.clone());
    format!(" ON CONFLICT ({}) DO UPDATE SET {set}{condition}", join(keys, ", "))
}

/// All columns of a row that is there, set to those of one that comes; of the key too, which may be another text of an equal value.
/// `from`: where a version begins, which is never earlier than it was.
fn anew(written: &[(usize, &Mapped)], from: Option<usize>) -> String {
    let settable = written.iter().filter(|(_, column)| column.identity != Identity::Always);
    let mut set: Vec<_> = settable
        .map(|(at, column)| match from == Some(*at) {
            true => format!("{0} = greatest(t.{0}, EXCLUDED.{0})", column.quoted),
            false => format!("{0} = EXCLUDED.{0}", column.quoted),
        })
        .collect();
    // A key alone that may not be set: as DEFAULT would be another one, the row is locked and left.
    if set.is_empty() {
        set.extend(written.first().map(|(_, column)| format!("{0} = t.{0}", column.quoted)));
    }
    set.join(", ")
}

/// Rows of a table that is only there for that, taken into the one of a relation where they win over those that are there.
pub fn take_in(relation: &Relation, contest: &Contest, target: &str, waiting: &str) -> String {
    let quoted = |at: usize| relation.columns.get(at).map(|column| quote_ident(&column.name));
    let names = |columns: &[&Column]| join(columns.iter().map(|column| quote_ident(&column.name)), ", ");
    let (keys, others): (Vec<_>, Vec<_>) = relation.columns.iter().partition(|column| column.key);
    let set = if others.is_empty() { &keys } else { &others };
    let set = set.iter().map(|column| format!("{0} = EXCLUDED.{0}", quote_ident(&column.name)));
    let keys = names(&keys);
    let all = names(&relation.columns.iter().collect::<Vec<_>>());
    let condition = wins(contest, "t.", quoted, |_, name| format!("EXCLUDED.{name}"));
    format!(
        "INSERT INTO {target} AS t ({all}) OVERRIDING SYSTEM VALUE SELECT {all} FROM {waiting} ORDER BY {keys} \
         ON CONFLICT ({keys}) DO UPDATE SET {} WHERE {condition}",
        join(set, ", ")
    )
}

/// True of a row that is there, under this prefix, where one wins whose values `arriving` gives. `quoted`: the name of a column.
fn wins(
    contest: &Contest,
    there: &str,
    quoted: impl Fn(usize) -> Option<String>,
    mut arriving: impl FnMut(usize, &str) -> String,
) -> String {
    let mut both = |at: usize| {
        let name = quoted(at)?;
        Some((format!("{there}{name}"), arriving(at, &name)))
    };
    let condition = match contest {
        Contest::First { source } => {
            both(*source).map(|(there, new)| format!("{there} IS NOT DISTINCT FROM {new}"))
        }
        Contest::Last { time, source } => both(*time).map(|(there, new)| {
            let (mut before, mut after) = (there.clone(), new);
            if let Some((source, new)) = source.and_then(&mut both) {
                before = format!("({before}, {source}::text COLLATE \"C\")");
                after = format!("({after}, {new}::text COLLATE \"C\")");
            }
            format!("{there} IS NULL OR {before} <= {after}")
        }),
        Contest::Order { source, names } => both(*source).map(|(there, new)| {
            let last = names.len() + 1;
            let names = join(names.iter().map(|name| quote_literal(name)), ", ");
            let rank = |name: &str| {
                format!("coalesce(array_position(ARRAY[{names}]::text[], {name}::text), {last})")
            };
            format!("{} >= {}", rank(&there), rank(&new))
        }),
    };
    format!("({})", condition.unwrap_or_else(|| "true".into()))
}

/// A change of so many rows of which those count as nothing that give way to others. Each of them is a row without columns.
pub(super) fn giving_way(sql: &str, rows: &str) -> String {
    format!(
        "WITH kept AS ({sql} RETURNING 1) SELECT FROM generate_series(1, {rows} - (SELECT count(*) FROM kept))"
    )
}

/// A change that need not find its row. What is no change of rows by its tag is not counted.
pub(super) fn uncounted(sql: &str) -> String {
    format!("WITH gone AS ({sql}) SELECT WHERE false")
}

/// The end of a version that has none.
pub(super) const OPEN: &str = "'infinity'";

/// One more version of a row, and, first, the end of the one before. Values in `unchanged` are that one's. Nothing of a version that the same
/// transaction has made stays: nobody has seen it.
pub(in crate::transform) fn version(
    id: u32,
    place: Place<'_>,
    versioned: Versioned,
    unchanged: &ColumnSet,
) -> Statement {
    let mut sql = Sql::new(String::new(), place.format);
    let columns = |at: usize| place.columns.get(at).map_or("", |column| column.quoted.as_str());
    let (position, from, to) = (columns(versioned.position), columns(versioned.from), columns(versioned.to));
    let keys: Vec<_> = place.columns.iter().enumerate().filter(|(_, column)| column.key).collect();
    let found = |sql: &mut Sql| {
        let equal =
            keys.iter().map(|(at, key)| equal_by_operator(key, &sql.parameter(Source::New(*at), key)));
        join(equal, " AND ")
    };
    let table = only(place.target);
    let before = format!("SELECT * FROM {table} WHERE {} AND {to} = {OPEN}", found(&mut sql));
    let value = |sql: &mut Sql, at: usize| match place.columns.get(at) {
        Some(column) => sql.parameter(Source::New(at), column),
        None => "NULL".into(),
    };
    let ended = format!(
        "UPDATE {table} SET {to} = greatest({from}, {}) WHERE {} AND {to} = {OPEN} AND {position} <> {}",
        value(&mut sql, versioned.from),
        found(&mut sql),
        value(&mut sql, versioned.position),
    );
    let written = written(place.columns);
    let names = join(written.iter().map(|(_, column)| column.quoted.clone()), ", ");
    let values: Vec<_> = written
        .iter()
        .map(|(at, column)| match unchanged.contains(*at) {
            true => format!("before.{}", column.quoted),
            // A clock may have been set back.
            false if *at == versioned.from => format!("greatest(before.{from}, {})", value(&mut sql, *at)),
            false => value(&mut sql, *at),
        })
        .collect();
    let key = |(at, column): &&(usize, &Mapped)| column.key || *at == versioned.position;
    let conflict = written.iter().filter(key).map(|(_, column)| column.quoted.clone());
    let set = anew(&written, Some(versioned.from));
    sql.text = format!(
        "WITH before AS ({before}), ended AS ({ended} RETURNING 1) \
         INSERT INTO {} AS t ({names}) OVERRIDING SYSTEM VALUE SELECT {} FROM before WHERE (SELECT count(*) FROM ended) < 2 \
         ON CONFLICT ({}) DO UPDATE SET {set}",
        qualified(place.target),
        values.join(", "),
        join(conflict, ", ")
    );
    sql.statement(id, StatementKind::Row)
}

/// The end of a row's last version.
pub(in crate::transform) fn end_version(id: u32, place: Place<'_>, versioned: Versioned) -> Statement {
    let mut sql = Sql::new(String::new(), place.format);
    let name = |at: usize| place.columns.get(at).map_or("", |column| column.quoted.as_str());
    let (from, to) = (name(versioned.from), name(versioned.to));
    let time = place.columns.get(versioned.to).map(|column| sql.parameter(Source::New(versioned.to), column));
    let keys: Vec<_> = place.columns.iter().enumerate().filter(|(_, column)| column.key).collect();
    let found = keys.iter().map(|(at, key)| equal_by_operator(key, &sql.parameter(Source::New(*at), key)));
    let found = join(found.collect::<Vec<_>>(), " AND ");
    sql.text = format!(
        "UPDATE {} SET {to} = greatest({from}, {}) WHERE {found} AND {to} = {OPEN}",
        only(place.target),
        time.unwrap_or_default()
    );
    sql.statement(id, StatementKind::Row)
}

/// Lets a change of a row give way, where rows of other sources may have its key.
pub(super) fn contested(
    sql: &mut Sql,
    place: Place<'_>,
    arriving: &Arriving,
    source: impl Fn(usize) -> Source,
) {
    let Arriving::Contested(contest) = arriving else { return };
    let column = |at: usize| place.columns.get(at);
    let condition = wins(
        contest,
        "",
        |at| Some(column(at)?.quoted.clone()),
        |at, _| column(at).map(|column| sql.parameter(source(at), column)).unwrap_or_default(),
    );
    sql.text = giving_way(&format!("{} AND {condition}", sql.text), "1");
}
