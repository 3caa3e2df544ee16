//! SQL text of the statements, and which value goes where.

mod arrival;
mod emptying;

use std::sync::Arc;

use crate::model::{Format, quote_ident};

use super::arriving::Arriving;
use super::target::{Equality, Identity, TargetTable};
use arrival::{contested, giving_way, on_conflict, uncounted};

pub use arrival::take_in;
pub(super) use arrival::{end_version, version};
pub use emptying::{Emptying, Removal, equal};
pub(super) use emptying::{delete_all, empty, truncate};

/// A statement that is prepared once and executed for many rows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Unique within the planner: the name to prepare it under.
    pub id: u32,
    pub kind: StatementKind,
    pub sql: Arc<str>,
    /// Where each parameter comes from.
    pub(super) sources: Arc<[Source]>,
    /// Of the parameters, or of a COPY's rows.
    pub format: Format,
    /// Types of the parameters (OIDs), where they are binary; those of text are typed by their place.
    pub types: Arc<[u32]>,
    /// The same for many rows with different keys at once; the target does that much faster.
    pub many: Option<Arc<Many>>,
    /// To be run before, in the same transaction.
    pub check: Option<Arc<Check>>,
}

/// A query that fails where the table's columns are of other types by now, and keeps them as they are up to the transaction's
/// end. The parameters of a statement have their types with them; rows of a COPY in binary form are taken for whatever the columns
/// are.
#[derive(Clone, Debug)]
pub struct Check {
    pub id: u32,
    pub sql: String,
}

/// A statement that changes many rows. Its parameters are those of the one for a single row, in the same order, each an array
/// of the rows' values.
#[derive(Clone, Debug)]
pub struct Many {
    pub id: u32,
    pub sql: String,
    /// Types of the elements (OIDs), one for each parameter.
    pub elements: Vec<u32>,
}

impl Statement {
    pub fn parameter_count(&self) -> usize {
        self.sources.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Must touch exactly one row.
    Row,
    /// `COPY … FROM STDIN`, fed with rows of the parameters of an insert.
    Copy,
    /// Not worth preparing; touches what it touches.
    Truncate,
    /// The same row by row.
    DeleteAll,
}

/// A value of the change, by source column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    New(usize),
    Old(usize),
}

/// How one column of the relation stands on the target.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) quoted: String,
    pub(super) key: bool,
    /// Not written, nor compared: the target computes it, or it is left out.
    pub(super) unwritten: bool,
    pub(super) identity: Identity,
    pub(super) equality: Equality,
    pub(super) type_name: String,
    /// The type on the source, as SQL names it.
    pub(super) arriving: String,
    /// A cast of a value's text gives the value.
    pub(super) castable: bool,
    pub(super) binary: Option<Binary>,
}

/// How values of a column are handed on in binary form.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    /// On both sides.
    pub(super) type_oid: u32,
    /// The target's column's own, where that is a domain.
    pub(super) declared_oid: u32,
    pub(super) is_array: bool,
}

/// `text`.
const TEXT: u32 = 25;

/// How the row to change is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// By columns that are unique on the target: at most one row.
    Key(Vec<(usize, Source)>),
    /// By all columns, some null: any one of the rows that are equal.
    Row { columns: Vec<usize>, nulls: Vec<usize> },
}

/// The table that a statement is for, and how its parameters come.
#[derive(Clone, Copy)]
pub(super) struct Place<'t> {
    pub(super) target: &'t TargetTable,
    pub(super) columns: &'t [Mapped],
    pub(super) format: Format,
}

/// Collects SQL, and its parameters in their order.
struct Sql {
    text: String,
    format: Format,
    sources: Vec<Source>,
    types: Vec<u32>,
}

impl Sql {
    fn new(text: String, format: Format) -> Sql {
        Sql { text, format, sources: Vec::new(), types: Vec::new() }
    }

    /// A value of this column.
    fn parameter(&mut self, source: Source, column: &Mapped) -> String {
        self.typed(source, column.binary.as_ref().map_or(0, |binary| binary.type_oid))
    }

    fn typed(&mut self, source: Source, type_oid: u32) -> String {
        self.sources.push(source);
        if self.format == Format::Binary {
            self.types.push(type_oid);
        }
        format!("${}", self.sources.len())
    }

    fn statement(self, id: u32, kind: StatementKind) -> Statement {
        let Sql { text, format, sources, types } = self;
        Statement {
            id,
            kind,
            sql: text.into(),
            sources: sources.into(),
            format,
            types: types.into(),
            many: None,
            check: None,
        }
    }
}

fn join(parts: impl IntoIterator<Item = String>, separator: &str) -> String {
    parts.into_iter().collect::<Vec<_>>().join(separator)
}

/// The table's name, with the `ONLY` that keeps inheritance children out.
fn only(target: &TargetTable) -> String {
    format!("{}{}", if target.partitioned { "" } else { "ONLY " }, qualified(target))
}

fn qualified(target: &TargetTable) -> String {
    format!("{}.{}", quote_ident(&target.schema), quote_ident(&target.name))
}

/// The form for many rows, where rows may be there, has the next id.
pub(super) fn insert(id: u32, place: Place<'_>, arriving: &Arriving) -> Statement {
    let written = written(place.columns);
    let conflict = on_conflict(place, arriving);
    let alias = if conflict.is_empty() { "" } else { " AS t" };
    let mut sql = Sql::new(format!("INSERT INTO {}{alias}", qualified(place.target)), place.format);
    if written.is_empty() {
        sql.text += " DEFAULT VALUES";
        return sql.statement(id, StatementKind::Row);
    }
    let names = join(written.iter().map(|(_, column)| column.quoted.clone()), ", ");
    let head = format!("{} ({names}) OVERRIDING SYSTEM VALUE", sql.text);
    let values: Vec<_> = written.iter().map(|(at, column)| sql.parameter(Source::New(*at), column)).collect();
    sql.text = format!("{head} VALUES ({}){conflict}", values.join(", "));
    let mut statement = sql.statement(id, StatementKind::Row);
    let gives_way = matches!(arriving, Arriving::Contested(_));
    if gives_way {
        statement.sql = giving_way(&statement.sql, "1").into();
    }
    if !conflict.is_empty() {
        let columns: Vec<&Mapped> = written.iter().map(|(_, column)| *column).collect();
        statement.many = Rows::of(place.format, &columns).map(|rows| {
            let values = join((1..=columns.len()).map(|at| format!("r.c{at}")), ", ");
            let sql = format!("{head} SELECT {values} FROM {}{conflict}", rows.sql);
            let sql = if gives_way { giving_way(&sql, "cardinality($1)") } else { sql };
            Arc::new(Many { id: id + 1, sql, elements: rows.elements })
        });
    }
    statement
}

/// The same columns as [`insert`] in the same order, so that its parameters are the row. What must be run before has the next id.
pub(super) fn copy(id: u32, place: Place<'_>) -> Option<Statement> {
    let written = written(place.columns);
    let names = join(written.iter().map(|(_, column)| column.quoted.clone()), ", ");
    let format = if place.format == Format::Binary { " WITH (FORMAT binary)" } else { "" };
    let sql =
        Sql::new(format!("COPY {} ({names}) FROM STDIN{format}", qualified(place.target)), place.format);
    (!written.is_empty()).then(|| {
        let mut statement = sql.statement(id, StatementKind::Copy);
        if place.format == Format::Binary {
            statement.check = Some(Arc::new(check(id + 1, place.target, &written)));
        }
        statement
    })
}

fn check(id: u32, target: &TargetTable, written: &[(usize, &Mapped)]) -> Check {
    // Of a column that takes nothing in binary form comes nothing but nulls.
    let typed = written.iter().filter_map(|(_, column)| Some((column, column.binary.as_ref()?)));
    let typed = typed.map(|(column, binary)| {
        format!("pg_catalog.pg_typeof(r.{}) = {}::pg_catalog.regtype", column.quoted, binary.declared_oid)
    });
    let alike = join(["true".to_owned()].into_iter().chain(typed), " AND ");
    let table = only(target);
    let sql = format!("SELECT 1 / ({alike})::int4 FROM (SELECT) AS one LEFT JOIN {table} AS r ON false");
    Check { id, sql }
}

fn written(columns: &[Mapped]) -> Vec<(usize, &Mapped)> {
    columns.iter().enumerate().filter(|(_, column)| !column.unwritten).collect()
}

/// Sets `set` to the new values. Columns in `fixed` can't be set, so they must already have the new value. The form for many
/// rows has the next id.
pub(super) fn update(
    id: u32,
    place: Place<'_>,
    set: &[usize],
    fixed: &[usize],
    found_by: &Match,
    arriving: &Arriving,
) -> Statement {
    let mut sql = Sql::new(String::new(), place.format);
    let assignments: Vec<_> = set
        .iter()
        .filter_map(|&at| {
            let column = place.columns.get(at)?;
            Some(format!("{} = {}", column.quoted, sql.parameter(Source::New(at), column)))
        })
        .collect();
    let table = only(place.target);
    let fixed = fixed.iter().map(|&at| (at, Source::New(at))).collect::<Vec<_>>();
    let found = find(&mut sql, place, found_by, &fixed);
    sql.text = match found {
        Found::Condition(condition) => {
            format!("UPDATE {table} SET {} WHERE {condition}", assignments.join(", "))
        }
        Found::One(one) => format!(
            "WITH one AS MATERIALIZED ({one}) UPDATE {table} AS t SET {} FROM one \
             WHERE t.ctid = one.row AND t.tableoid = one.part",
            assignments.join(", ")
        ),
    };
    contested(&mut sql, place, arriving, Source::New);
    let is_contested = matches!(arriving, Arriving::Contested(_));
    let mut statement = sql.statement(id, StatementKind::Row);
    if let Match::Key(key) = found_by
        && !is_contested
    {
        statement.many = many(id + 1, place, set, key.iter().chain(&fixed).map(|(at, _)| *at));
    }
    statement
}

/// The form for many rows of an update or delete that finds each by its key: `set` takes the first parameters, what must be
/// equal the others. None where no array of values can be made of the column's, as of texts whose cast is not the type's own
/// input; or where a key might mean several rows: then a count of all rows would prove nothing.
fn many(id: u32, place: Place<'_>, set: &[usize], equal: impl Iterator<Item = usize>) -> Option<Arc<Many>> {
    let used = set.iter().copied().chain(equal).map(|at| place.columns.get(at));
    let used: Vec<&Mapped> = used.collect::<Option<_>>()?;
    let key: Vec<&str> = used.iter().skip(set.len()).map(|column| column.quoted.as_str()).collect();
    let is_key = |unique: &Vec<String>| unique.iter().all(|name| key.contains(&quote_ident(name).as_str()));
    if !place.target.unique.iter().any(is_key) {
        return None;
    }
    let Rows { sql: rows, elements } = Rows::of(place.format, &used)?;
    let named = || used.iter().zip(1..);
    let found = named()
        .skip(set.len())
        .map(|(column, at)| format!("t.{} {} r.c{at}", column.quoted, operator(column)));
    let found = join(found, " AND ");
    let table = only(place.target);
    let sql = if set.is_empty() {
        format!("DELETE FROM {table} AS t USING {rows} WHERE {found}")
    } else {
        let set =
            join(named().take(set.len()).map(|(column, at)| format!("{} = r.c{at}", column.quoted)), ", ");
        format!("UPDATE {table} AS t SET {set} FROM {rows} WHERE {found}")
    };
    Some(Arc::new(Many { id, sql, elements }))
}

/// Rows from arrays of their values.
struct Rows {
    /// `r`, with columns `c1`, `c2`, …
    sql: String,
    /// Types of the elements, array by array.
    elements: Vec<u32>,
}

impl Rows {
    /// None where no array of values can be made of a column's.
    fn of(format: Format, columns: &[&Mapped]) -> Option<Rows> {
        let element = |column: &&Mapped| match (format, &column.binary) {
            (Format::Text, _) => column.castable.then_some(TEXT),
            // An array of arrays would be one array.
            (Format::Binary, Some(binary)) if !binary.is_array => Some(binary.type_oid),
            (Format::Binary, _) => None,
        };
        let elements: Vec<u32> = columns.iter().map(element).collect::<Option<_>>()?;
        let named = || columns.iter().zip(1..);
        let names = join(named().map(|(_, at)| format!("c{at}")), ", ");
        let sql = match format {
            Format::Text => {
                let arrays = join(named().map(|(_, at)| format!("${at}::text[]")), ", ");
                let values =
                    join(named().map(|(column, at)| format!("c{at}::{} AS c{at}", column.type_name)), ", ");
                format!("(SELECT {values} FROM unnest({arrays}) AS u ({names})) AS r")
            }
            Format::Binary => {
                let arrays = join(named().map(|(column, at)| format!("${at}::{}[]", column.type_name)), ", ");
                format!("unnest({arrays}) AS r ({names})")
            }
        };
        Some(Rows { sql, elements })
    }
}

pub(super) fn delete(id: u32, place: Place<'_>, found_by: &Match, arriving: &Arriving) -> Statement {
    let mut sql = Sql::new(String::new(), place.format);
    let table = only(place.target);
    sql.text = match find(&mut sql, place, found_by, &[]) {
        Found::Condition(condition) => format!("DELETE FROM {table} WHERE {condition}"),
        Found::One(one) => format!(
            "WITH one AS MATERIALIZED ({one}) DELETE FROM {table} AS t USING one \
             WHERE t.ctid = one.row AND t.tableoid = one.part"
        ),
    };
    contested(&mut sql, place, arriving, Source::Old);
    let mut statement = sql.statement(id, StatementKind::Row);
    if let Match::Key(key) = found_by {
        statement.many = many(id + 1, place, &[], key.iter().map(|(at, _)| *at));
    }
    match arriving {
        Arriving::Replacing => {
            statement.sql = uncounted(&statement.sql).into();
            let many = |many: Arc<Many>| Arc::new(Many { sql: uncounted(&many.sql), ..(*many).clone() });
            statement.many = statement.many.map(many);
        }
        Arriving::Contested(_) => statement.many = None,
        Arriving::New | Arriving::Reviving(_) | Arriving::Versioned(_) => {}
    }
    statement
}

/// Deletes the row and inserts it again with the new values, all others kept: the only way to change an identity
/// column that is GENERATED ALWAYS.
pub(super) fn reinsert(id: u32, place: Place<'_>, set: &[usize], found_by: &Match) -> Statement {
    let Place { target, columns, format } = place;
    let mut sql = Sql::new(String::new(), format);
    let table = only(target);
    let delete = match find(&mut sql, place, found_by, &[]) {
        Found::Condition(condition) => {
            format!("WITH old AS (DELETE FROM {table} WHERE {condition} RETURNING *)")
        }
        Found::One(one) => format!(
            "WITH one AS MATERIALIZED ({one}), old AS (DELETE FROM {table} AS t USING one \
             WHERE t.ctid = one.row AND t.tableoid = one.part RETURNING t.*)"
        ),
    };
    let stored = || target.columns.iter().filter(|column| column.generated == super::Generated::No);
    let names = join(stored().map(|column| quote_ident(&column.name)), ", ");
    let mut values = Vec::new();
    for column in stored() {
        let quoted = quote_ident(&column.name);
        let mut sent = set.iter().filter_map(|&at| Some((at, columns.get(at)?)));
        values.push(match sent.find(|(_, mapped)| mapped.quoted == quoted) {
            Some((at, mapped)) => sql.parameter(Source::New(at), mapped),
            None => format!("old.{quoted}"),
        });
    }
    sql.text = format!(
        "{delete} INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {} FROM old",
        qualified(target),
        values.join(", ")
    );
    sql.statement(id, StatementKind::Row)
}

enum Found {
    /// True for the one row.
    Condition(String),
    /// A query that gives place (`row`, `part`) of one of the rows.
    One(String),
}

fn find(sql: &mut Sql, place: Place<'_>, found_by: &Match, fixed: &[(usize, Source)]) -> Found {
    let Place { target, columns, .. } = place;
    let mut conditions = Vec::new();
    match found_by {
        Match::Key(key) => {
            for &(at, source) in key.iter().chain(fixed) {
                let Some(column) = columns.get(at) else { continue };
                conditions.push(equal_by_operator(column, &sql.parameter(source, column)));
            }
            Found::Condition(conditions.join(" AND "))
        }
        Match::Row { columns: compared, nulls } => {
            for &at in compared {
                let Some(column) = columns.get(at) else { continue };
                let old = Source::Old(at);
                conditions.push(if nulls.contains(&at) {
                    format!(
                        "{} {}",
                        column.quoted,
                        if column.equality.record { NO_RECORD } else { "IS NULL" }
                    )
                } else if column.equality.exact {
                    equal_by_operator(column, &sql.parameter(old, column))
                } else {
                    let parameter = sql.parameter(old, column);
                    match sql.format {
                        Format::Text => equal_by_text(column, &parameter),
                        // Equal values may differ in their bytes: NaN, arrays that once held a null.
                        Format::Binary => equal_by_text(column, &printed(&parameter)),
                    }
                });
            }
            let table = only(target);
            let condition = if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") };
            Found::One(format!("SELECT ctid AS row, tableoid AS part FROM {table} WHERE {condition} LIMIT 1"))
        }
    }
}

/// Of a composite value `IS NULL` asks its fields: `(,)` is null to it, and `(1,)` is not not null.
const NO_RECORD: &str = "IS NOT DISTINCT FROM NULL";
const A_RECORD: &str = "IS DISTINCT FROM NULL";

fn equal_by_operator(column: &Mapped, parameter: &str) -> String {
    let cast = if column.equality.record { format!("::{}", column.type_name) } else { String::new() };
    format!("{} {} {parameter}{cast}", column.quoted, operator(column))
}

fn operator(column: &Mapped) -> String {
    match &column.equality.operator_schema {
        Some(schema) => format!("OPERATOR({}.=)", quote_ident(schema)),
        None => "=".into(),
    }
}

/// Compares the type's own output, for types without `=` or whose `=` matches more than one text (1.0 and 1.00).
/// `format` calls the output function, where a cast to text may do something else (boolean, char(n), inet).
fn equal_by_text(column: &Mapped, parameter: &str) -> String {
    let name = &column.quoted;
    let there = if column.equality.record { A_RECORD } else { "IS NOT NULL" };
    format!("({name} {there} AND {} = {parameter})", printed(name))
}

/// A value's text, by its type's output function.
fn printed(value: &str) -> String {
    format!("pg_catalog.format('%s', {value}) COLLATE pg_catalog.\"C\"")
}
