//! Which definition of its table a change was made under: the one of the catalog if the change agrees with it, else
//! one made of what the change itself shows.
//!
//! The catalog is that of now and the change is of then. That they agree on the columns' names, types and order, and on those
//! of the old key, is all that can be known and all that is needed.

use std::collections::HashMap;

use super::message::{Change, Field, FieldValue, Kind, Row, TypeName};
use crate::model::{Column, ColumnFacts, Relation, ReplicaIdentity, TableFacts};

/// The catalog's definition as pgoutput would send it.
pub(super) fn of_catalog(schema: &str, name: &str, facts: &TableFacts) -> Relation {
    let columns = facts.columns.iter().filter(|column| !column.left_out).map(|column| Column {
        name: column.name.clone(),
        key: column.key,
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
    });
    Relation {
        oid: facts.oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        identity: facts.identity,
        columns: columns.collect(),
    }
}

/// Whether the change may have been made under the catalog's definition.
pub(super) fn agree(facts: &TableFacts, change: &Change<'_>) -> bool {
    let leaves_out_nulls = !change.leaves_out_unchanged;
    match &change.kind {
        Kind::Insert { new: Some(new) } => has_all(facts, new, false),
        Kind::Update { old, new: Some(new) } => {
            let old_agrees = match old {
                // A key that did not change is not sent.
                None => {
                    facts.identity != ReplicaIdentity::Full && facts.columns.iter().any(|column| column.key)
                }
                Some(old) => is_old(facts, old, leaves_out_nulls),
            };
            old_agrees && has_all(facts, new, change.leaves_out_unchanged)
        }
        Kind::Delete { old: Some(old) } => is_old(facts, old, leaves_out_nulls),
        _ => false,
    }
}

/// All columns in order, or all but some that may be stored apart.
fn has_all(facts: &TableFacts, row: &Row<'_>, leaves_out_unchanged: bool) -> bool {
    in_order(&facts.columns, row, |column| leaves_out_unchanged && column.toastable)
}

/// Whether a definition that is newer than the change might agree with it too, and mean something else: an old row without
/// some columns, which are null if it is a whole one, and unknown if it is a key.
pub(super) fn is_ambiguous(facts: &TableFacts, change: &Change<'_>) -> bool {
    let (Kind::Update { old: Some(old), .. } | Kind::Delete { old: Some(old) }) = &change.kind else {
        return false;
    };
    facts.identity == ReplicaIdentity::Full && old.len() < facts.columns.len()
}

/// Exactly the key's columns; of a whole row those that are null may be missing.
fn is_old(facts: &TableFacts, row: &Row<'_>, leaves_out_nulls: bool) -> bool {
    let full = facts.identity == ReplicaIdentity::Full;
    let sent = facts.columns.iter().filter(|column| full || column.key);
    in_order(sent, row, |_| full && leaves_out_nulls)
}

fn in_order<'c>(
    columns: impl IntoIterator<Item = &'c ColumnFacts>,
    row: &Row<'_>,
    may_miss: impl Fn(&ColumnFacts) -> bool,
) -> bool {
    let mut fields = row.iter().peekable();
    let all = columns
        .into_iter()
        .all(|column| fields.next_if(|field| is_same(column, field)).is_some() || may_miss(column));
    all && fields.peek().is_none()
}

fn is_same(column: &ColumnFacts, field: &Field<'_>) -> bool {
    field.name == column.name
        && match field.type_name {
            TypeName::Text(name) => name == column.type_name,
            TypeName::Oid(oid) => oid == column.type_oid,
        }
}

/// Why no definition can be made of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// Which columns were the key is not said anywhere.
    Key,
    /// A type's name means nothing on the source any more.
    Type(String),
    /// A type's name was never looked up.
    LookUp,
}

/// A definition made of the change's columns. What it does not show need not be known: an unchanged value is not set, and
/// without null columns a row is still found, or more than one is and the applier stops.
pub(super) fn of_change(
    change: &Change<'_>,
    oid: u32,
    facts: Option<&TableFacts>,
    types: &HashMap<String, Option<u32>>,
) -> Result<Relation, Unclear> {
    let (old, new) = match &change.kind {
        Kind::Insert { new } => (None, new.as_ref()),
        Kind::Update { old, new } => (old.as_ref(), new.as_ref()),
        Kind::Delete { old } => (old.as_ref(), None),
    };
    let known = |field: &Field<'_>| facts?.columns.iter().find(|column| field.name == column.name);
    let is_key = |field: &Field<'_>| known(field).is_some_and(|column| column.key);
    let full = match (old, new, facts) {
        // Keys are never null.
        (Some(old), _, _) if old.iter().any(|field| field.value == FieldValue::Null) => true,
        (Some(old), Some(new), _) => new.iter().all(|field| has(old, &field.name)),
        (Some(_), None, Some(facts)) => facts.identity == ReplicaIdentity::Full,
        _ => false,
    };
    if let (Kind::Update { .. }, None) = (&change.kind, old) {
        let facts = facts.filter(|facts| facts.identity != ReplicaIdentity::Full).ok_or(Unclear::Key)?;
        let mut keys = facts.columns.iter().filter(|column| column.key).peekable();
        let all_shown = |row: &Row<'_>| keys.peek().is_some() && keys.all(|column| has(row, &column.name));
        if !new.is_some_and(all_shown) {
            return Err(Unclear::Key);
        }
    }
    let mut columns = Vec::new();
    for field in new.or(old).into_iter().flatten() {
        let same = known(field).filter(|column| is_same(column, field));
        if known(field).is_some_and(|column| column.left_out) {
            continue;
        }
        let type_oid = match (same, field.type_name) {
            (Some(column), _) => column.type_oid,
            (None, TypeName::Oid(oid)) => oid,
            (None, TypeName::Text(name)) => match types.get(name) {
                Some(Some(oid)) => *oid,
                Some(None) => return Err(Unclear::Type(name.to_owned())),
                None => return Err(Unclear::LookUp),
            },
        };
        columns.push(Column {
            name: field.name.clone().into_owned(),
            key: full || old.map_or_else(|| is_key(field), |old| has(old, &field.name)),
            type_oid,
            type_modifier: same.map_or(-1, |column| column.type_modifier),
        });
    }
    let identity = match facts.map(|facts| facts.identity) {
        _ if full => ReplicaIdentity::Full,
        Some(identity) if identity != ReplicaIdentity::Full => identity,
        _ => ReplicaIdentity::Default,
    };
    let (schema, name) = (change.table.schema.clone(), change.table.name.clone());
    Ok(Relation { oid, schema, name, identity, columns })
}

fn has(row: &Row<'_>, name: &str) -> bool {
    row.iter().any(|field| field.name == name)
}
