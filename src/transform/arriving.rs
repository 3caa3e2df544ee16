//! What a row that comes may find on the target, and what the target must have for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fit::{Refusal, is_key};
use super::fold::Replaces;
use super::statement::Mapped;
use super::target::{Identity, TargetTable};
use crate::model::{Relation, quote_ident};

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
    pub(super) fn needs(&self, at: usize) -> bool {
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

/// The refusal of rows that may be there, where the target has no index by which that shows.
pub(super) fn no_conflict(
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
