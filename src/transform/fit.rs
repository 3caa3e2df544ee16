//! How a relation of the log fits the table of the target: which column is which, what the target lacks, and the DDL that
//! would mend it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{Column, Fault, Relation, ReplicaIdentity, is_portable, quote_ident};

use super::fold::Replaces;
use super::statement::{Binary, Mapped};
use super::target::{Equality, Generated, Identity, TargetColumn, TargetTable};
use super::types::{ColumnType, keeps};

/// Why a change can't be expressed on the target. The caller adds the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub hint: Option<String>,
    /// A statement after which the change would pass, if all that lacks are columns that can simply be added.
    pub add_columns: Option<String>,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let fault = Fault::stop(refusal.message);
        match refusal.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

impl Refusal {
    pub(super) fn new(message: String) -> Refusal {
        Refusal { message, hint: None, add_columns: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}

/// What was decided about a table's columns.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Columns that the target lacks are left out.
    pub ignore_extra: bool,
    /// The columns to apply, if not all.
    pub columns: Option<Vec<String>>,
    /// Changes of a row must not be made one.
    pub exact: bool,
    /// Columns, by place, in which equal values may be different texts: by them rows can't be told apart here.
    pub loose: Vec<usize>,
    pub arriving: Arriving,
}

/// What a row that arrives may find on the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Arriving {
    /// No row with its key.
    #[default]
    New,
    /// The row as it was, which it replaces. A delete may find none.
    Replacing,
    /// A row with its key that this column, by place, marks as deleted, which comes to life.
    Reviving(usize),
    /// Earlier versions of the row. Each change makes one more.
    Versioned(Versioned),
    /// A row of another source, over which it may win.
    Contested(Contest),
}

/// Whose row it is where those of several sources have one key. Columns by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contest {
    /// The row of the source that was there first.
    First { source: usize },
    /// What was committed last; of two of the same time that of the source with the greater name, where rows tell it.
    Last { time: usize, source: Option<usize> },
    /// The row of the source that comes first in the list.
    Order { source: usize, names: Arc<[String]> },
}

/// Columns of a table that keeps each version of a row, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The position of the transaction that has made the version: tells it from others of its row.
    pub position: usize,
    /// When the version began, and when it ended: `infinity` while it is the row's last one.
    pub from: usize,
    pub to: usize,
}

impl Arriving {
    /// Whether rows can't be kept so without the column.
    fn needs(&self, at: usize) -> bool {
        match self {
            Arriving::New | Arriving::Replacing => false,
            Arriving::Reviving(marker) => *marker == at,
            Arriving::Versioned(Versioned { position, from, to }) => [*position, *from, *to].contains(&at),
            Arriving::Contested(Contest::Last { time, source }) => *time == at || *source == Some(at),
            Arriving::Contested(Contest::First { source } | Contest::Order { source, .. }) => *source == at,
        }
    }

    pub(super) fn replaces(&self) -> Replaces {
        match self {
            Arriving::New => Replaces::None,
            Arriving::Reviving(_) | Arriving::Versioned(_) => Replaces::Marked,
            Arriving::Replacing | Arriving::Contested(_) => Replaces::Any,
        }
    }

    /// The columns by which a row that is there is found, beside those of its key.
    pub(super) fn beside_key(&self) -> Option<usize> {
        match self {
            Arriving::Versioned(versioned) => Some(versioned.position),
            Arriving::New | Arriving::Replacing | Arriving::Reviving(_) | Arriving::Contested(_) => None,
        }
    }
}

/// What the target's table lacks for the relation's rows.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    /// Of changes that carry key columns only.
    pub(super) for_keys: Option<Refusal>,
    /// Of all others.
    pub(super) for_rows: Option<Refusal>,
    /// Columns that are left out by choice.
    pub(super) left_out: Vec<String>,
}

/// The name that a relation had before.
#[derive(Debug)]
pub(super) struct Renamed {
    schema: String,
    name: String,
}

impl Renamed {
    pub(super) fn between(before: Relation, after: &Relation) -> Option<Renamed> {
        let same = before.schema == after.schema && before.name == after.name;
        (!same).then_some(Renamed { schema: before.schema, name: before.name })
    }
}

/// A column that does not fit.
enum Misfit {
    Missing,
    /// The type of the target would silently change values.
    Loses(ColumnType),
    /// Left out by choice, which the key can't be.
    KeyLeftOut,
}

/// Matches the relation's columns with the target's by name.
pub(super) fn fit(
    relation: &Relation,
    target: &TargetTable,
    arriving: &[Option<ColumnType>],
    choice: &Choice,
) -> (Vec<Mapped>, Lacks) {
    let mut misfits = Vec::new();
    let mut left_out = Vec::new();
    let none_is_there = !relation.columns.iter().any(|column| target.column(&column.name).is_some());
    let mut mapped = Vec::new();
    for (at, column) in relation.columns.iter().enumerate() {
        let found = target.column(&column.name);
        let key = is_key(relation, column);
        let chosen = choice.columns.as_ref().is_none_or(|columns| columns.contains(&column.name));
        let is_spare = choice.ignore_extra && !none_is_there && !choice.arriving.needs(at);
        let omitted = !chosen || (found.is_none() && is_spare);
        let source = arriving.get(at).and_then(Option::as_ref);
        match found {
            _ if !chosen && key => misfits.push((at, Misfit::KeyLeftOut)),
            _ if omitted && !key => left_out.push(column.name.clone()),
            None => misfits.push((at, Misfit::Missing)),
            Some(found) if found.generated == Generated::Yes => {}
            Some(found) => {
                if source.is_some_and(|source| !keeps(source, &found.column_type)) {
                    misfits.push((at, Misfit::Loses(found.column_type.clone())));
                }
            }
        }
        mapped.push(map(column, found.filter(|_| !omitted), source));
    }
    let refusal = |keys_only: bool| {
        let concerned = misfits.iter().any(|(at, _)| {
            !keys_only || relation.columns.get(*at).is_some_and(|column| is_key(relation, column))
        });
        concerned.then(|| refuse(relation, target, arriving, &misfits))
    };
    let for_rows = refusal(false).or_else(|| no_conflict(relation, target, &mapped, &choice.arriving));
    let lacks = Lacks { for_keys: refusal(true), for_rows, left_out };
    (mapped, lacks)
}

/// The refusal of rows that may be there, where the target has no index by which that shows.
fn no_conflict(
    relation: &Relation,
    target: &TargetTable,
    mapped: &[Mapped],
    arriving: &Arriving,
) -> Option<Refusal> {
    if *arriving == Arriving::New {
        return None;
    }
    let table = format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name));
    let columns = || relation.columns.iter().zip(mapped).enumerate();
    let beside = |at: usize| arriving.beside_key() == Some(at);
    // That of the key first: rows are looked for by it.
    let keys = columns().filter(|(_, (column, _))| is_key(relation, column));
    let keys: Vec<_> = keys.chain(columns().filter(|(at, _)| beside(*at))).collect();
    if let Some((_, (_, column))) = keys.iter().find(|(_, (_, column))| column.unwritten) {
        let what =
            format!("column {} of table {table} identifies rows and is not written here", column.quoted);
        return Some(Refusal::new(what));
    }
    let names: BTreeSet<&String> = keys.iter().map(|(_, (column, _))| &column.name).collect();
    let quoted = keys.iter().map(|(_, (_, column))| column.quoted.as_str()).collect::<Vec<_>>().join(", ");
    if !target.unique.iter().any(|unique| unique.iter().collect::<BTreeSet<_>>() == names) {
        let what = format!(
            "rows of table {table} may be there when they come, and nothing unique on the target is over exactly ({quoted})"
        );
        let hint = format!(
            "on the target: ALTER TABLE {table} ADD UNIQUE ({quoted}); then run the same command again"
        );
        return Some(Refusal::new(what).hint(hint));
    }
    let position = keys.iter().find(|(at, _)| beside(*at)).map(|(_, (column, _))| &column.name);
    let is_of_one = |unique: &&Vec<String>| position.is_some_and(|position| !unique.contains(position));
    if let Some(unique) = target.unique.iter().find(is_of_one) {
        let unique = unique.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ");
        let what = format!("table {table} on the target has room for one version of each ({unique})");
        return Some(Refusal::new(what).hint(format!(
            "drop that unique index or primary key, and say PRIMARY KEY ({quoted}); then run the same command again"
        )));
    }
    // Nobody could set it where the row is there.
    let fixed = columns()
        .find(|(_, (column, mapped))| mapped.identity == Identity::Always && !is_key(relation, column));
    let fixed = fixed.map(|(_, (_, mapped))| mapped)?;
    Some(
        Refusal::new(format!(
            "column {} of table {table} is GENERATED ALWAYS on the target, and can't be set again",
            fixed.quoted
        ))
        .hint(format!("on the target: ALTER TABLE {table} ALTER COLUMN {} DROP IDENTITY;", fixed.quoted)),
    )
}

/// Whether the column finds rows. With REPLICA IDENTITY FULL rows are found by whatever columns the target has: rows
/// that are equal in all of those can stand for one another.
fn is_key(relation: &Relation, column: &Column) -> bool {
    column.key && relation.identity != ReplicaIdentity::Full
}

fn map(column: &Column, found: Option<&TargetColumn>, source: Option<&ColumnType>) -> Mapped {
    Mapped {
        quoted: quote_ident(&column.name),
        key: column.key,
        unwritten: found.is_none_or(|found| found.generated == Generated::Yes),
        identity: found.map_or(Identity::No, |found| found.identity),
        equality: found.map_or_else(Equality::default, |found| found.equality.clone()),
        type_name: found.map(|found| found.type_name.clone()).unwrap_or_default(),
        arriving: name_of(source).to_owned(),
        castable: found.is_some_and(|found| found.castable),
        binary: found.and_then(|found| binary(column, found)),
    }
}

/// How values go to the column in binary form. That says nothing of its type, so it must be the same on both sides.
fn binary(column: &Column, found: &TargetColumn) -> Option<Binary> {
    let of = &found.column_type;
    let same = found.has_send && of.oid == column.type_oid && is_portable(of.oid);
    same.then_some(Binary { type_oid: of.oid, declared_oid: found.declared_oid, is_array: of.element != 0 })
}

/// The refusal of a value in binary form that the target's column would take for another one, or not at all.
pub(super) fn no_binary(relation: &Relation, at: usize, columns: &[Mapped]) -> Refusal {
    let (Some(column), Some(mapped)) = (relation.columns.get(at), columns.get(at)) else {
        return Refusal::new("a value is in binary form, and of no column".into());
    };
    let (quoted, source, target) = (&mapped.quoted, &mapped.arriving, &mapped.type_name);
    let what = format!("column {quoted} of table {}.{} came in binary form", relation.schema, relation.name);
    let alter = |type_name: &str| {
        let table = format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name));
        format!(
            "on the target: ALTER TABLE {table} ALTER COLUMN {quoted} TYPE {type_name}; then run the same command again"
        )
    };
    if !is_portable(column.type_oid) {
        return Refusal::new(format!("{what}, which of type {source} means nothing to another server"))
            .hint("leave the column out with --columns, or the table with --exclude; or start a new archive with --format text");
    }
    let refusal = if source == target {
        Refusal::new(format!("{what}, in which values of type {source} from this source may be others here"))
    } else {
        Refusal::new(format!("{what}; it is {source} on the source and {target} on the target"))
            .hint(alter(source))
    };
    Refusal {
        hint: refusal.hint.or(Some("upgrade the target, or start a new archive with --format text".into())),
        ..refusal
    }
}

fn refuse(
    relation: &Relation,
    target: &TargetTable,
    arriving: &[Option<ColumnType>],
    misfits: &[(usize, Misfit)],
) -> Refusal {
    let table = format!("{}.{}", relation.schema, relation.name);
    let (schema, name) = target.root.as_ref().map_or((&relation.schema, &relation.name), |(s, n)| (s, n));
    let alter = format!("ALTER TABLE {}.{}", quote_ident(schema), quote_ident(name));
    let (mut what, mut mend, mut renames) = (Vec::new(), Vec::new(), Vec::new());
    let mut additions = Some(Vec::new());
    let extra: Vec<&TargetColumn> = target
        .columns
        .iter()
        .filter(|column| column.generated == Generated::No)
        .filter(|column| !relation.columns.iter().any(|other| other.name == column.name))
        .collect();
    for (at, misfit) in misfits {
        let Some(column) = relation.columns.get(*at) else { continue };
        let source = arriving.get(*at).and_then(Option::as_ref);
        let sql = name_of(source);
        let quoted = quote_ident(&column.name);
        match misfit {
            Misfit::Missing => {
                what.push(format!(
                    "table {table} on the target has no column {quoted}, which the change needs"
                ));
                let addition = format!("ADD COLUMN {quoted} {sql}");
                mend.push(format!("{alter} {addition};"));
                let source = source.filter(|source| source.oid != 0);
                let alike =
                    |other: &&&TargetColumn| source.is_none_or(|source| source.oid == other.column_type.oid);
                let renamed = extra.iter().find(alike);
                if let Some(other) = renamed {
                    renames.push(format!("{alter} RENAME COLUMN {} TO {quoted};", quote_ident(&other.name)));
                }
                // Columns are added at the end. One that was renamed stands where it stood, and holds old values.
                let mut after = relation.columns.iter().skip(at.saturating_add(1));
                let last = after.all(|column| target.column(&column.name).is_none());
                let simple = last && renamed.is_none() && source.is_some() && !is_key(relation, column);
                additions = additions.filter(|_| simple).map(|mut additions| {
                    additions.push(format!("ADD COLUMN IF NOT EXISTS {quoted} {sql}"));
                    additions
                });
            }
            Misfit::Loses(there) => {
                additions = None;
                what.push(format!(
                    "column {quoted} of table {table} is {sql} on the source and {} on the target, which would not keep every value",
                    there.sql
                ));
                mend.push(format!("{alter} ALTER COLUMN {quoted} TYPE {sql};"));
            }
            Misfit::KeyLeftOut => {
                additions = None;
                what.push(format!("column {quoted} is part of the key of {table} and can't be left out"));
            }
        }
    }
    what.extend(absent_types(misfits.iter().filter_map(|(at, _)| arriving.get(*at)?.as_ref())));
    let hint = match (mend.is_empty(), renames.is_empty()) {
        (true, _) => "name the column in --columns, then run the same command again".to_owned(),
        (false, true) => format!("on the target: {} then run the same command again", mend.join(" ")),
        (false, false) => format!(
            "on the target: {} or, if the source has renamed a column: {} then run the same command again",
            mend.join(" "),
            renames.join(" ")
        ),
    };
    let add_columns = additions.map(|additions| format!("{alter} {}", additions.join(", ")));
    Refusal { add_columns, ..Refusal::new(what.join("; ")).hint(hint) }
}

/// The refusal of every change of a table that the target does not have.
pub(super) fn no_table(
    relation: &Relation,
    arriving: &[Option<ColumnType>],
    rows: &Arriving,
    renamed: Option<&Renamed>,
) -> Refusal {
    let name = format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name));
    let types = arriving.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let column = |(column, of): (&Column, _)| format!("{} {}", quote_ident(&column.name), name_of(of));
    let mut parts: Vec<String> = relation.columns.iter().zip(types).map(column).collect();
    let columns = relation.columns.iter().enumerate();
    let keys = columns.filter(|(at, column)| is_key(relation, column) || rows.beside_key() == Some(*at));
    let keys: Vec<_> = keys.map(|(_, column)| quote_ident(&column.name)).collect();
    if !keys.is_empty() {
        let kind = if relation.identity == ReplicaIdentity::Index { "UNIQUE" } else { "PRIMARY KEY" };
        parts.push(format!("{kind} ({})", keys.join(", ")));
    }
    let create = format!("CREATE TABLE {name} ({});", parts.join(", "));
    let before = renamed.map_or_else(String::new, |renamed| {
        let old = format!("{}.{}", quote_ident(&renamed.schema), quote_ident(&renamed.name));
        format!("or, since it was called {old} before: ALTER TABLE {old} {}; ", rename(renamed, relation))
    });
    let mut what = vec![format!("table {}.{} does not exist on the target", relation.schema, relation.name)];
    what.extend(absent_types(arriving.iter().flatten()));
    Refusal::new(what.join("; ")).hint(format!(
        "on the target: {create} {before}then run the same command again; or leave it out with --exclude"
    ))
}

fn name_of(told: Option<&ColumnType>) -> &str {
    told.map_or("TYPE", |told| told.sql.as_str())
}

fn absent_types<'t>(told: impl Iterator<Item = &'t ColumnType>) -> Option<String> {
    let absent: Vec<&str> = told.filter(|told| told.oid == 0).map(|told| told.sql.as_str()).collect();
    let names = absent.join(", ");
    (!absent.is_empty()).then(|| format!("type {names} does not exist on the target, create it first"))
}

fn rename(from: &Renamed, to: &Relation) -> String {
    if from.name == to.name {
        format!("SET SCHEMA {}", quote_ident(&to.schema))
    } else {
        format!("RENAME TO {}", quote_ident(&to.name))
    }
}
