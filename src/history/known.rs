//! What is known of rows: how they last were, by their keys.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Fault, Relation};
use crate::pgoutput::{Message, Old, Tuple};
use crate::transform::{Cell, Row, RowChange, sent};

/// A row's key: the values of some columns of a table, told apart by their text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) table: u32,
    values: Box<[u8]>,
}

impl Key {
    /// Of a row in which the values of the key are known.
    pub(super) fn of(relation: &Relation, places: &[usize], row: &Row) -> Key {
        let mut values = Vec::new();
        for at in places {
            match row.get(*at) {
                Some(Cell::Text(text)) => {
                    values.push(b't');
                    values.extend_from_slice(&(text.len() as u64).to_le_bytes());
                    values.extend_from_slice(text);
                }
                Some(Cell::Null) => values.push(b'n'),
                Some(Cell::Unknown) | None => values.push(b'?'),
            }
        }
        Key { table: relation.oid, values: values.into() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.values
    }
}

/// How a row last was, and by which definition of its table.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) relation: Arc<Relation>,
    pub(super) row: Row,
}

impl Image {
    /// By another definition: columns are told by their names. One of another type has another text.
    fn as_of(&self, relation: &Arc<Relation>) -> Row {
        if Arc::ptr_eq(&self.relation, relation) || *self.relation == **relation {
            return self.row.clone();
        }
        let cell = |name: &str, type_oid: u32| {
            let is_it = |column: &crate::model::Column| column.name == name && column.type_oid == type_oid;
            let at = self.relation.columns.iter().position(is_it)?;
            self.row.get(at).cloned()
        };
        let columns = relation.columns.iter();
        columns.map(|column| cell(&column.name, column.type_oid).unwrap_or_default()).collect()
    }
}

pub(super) type Images = HashMap<Key, Image>;

/// A change of a row, with what is known of it, and its keys before and after.
pub(super) struct Known {
    pub(super) change: RowChange,
    pub(super) old_key: Option<Key>,
    pub(super) new_key: Option<Key>,
}

/// Fills in what a change does not say of the row before it, from how the row was last.
pub(super) fn known(
    relation: &Arc<Relation>,
    places: &[usize],
    message: &Message<'_>,
    images: &Images,
) -> Result<Known, Fault> {
    let image = |key: &Key| images.get(key).map(|image| image.as_of(relation));
    let key = |row: &Row| Key::of(relation, places, row);
    Ok(match message {
        Message::Update { old, new, .. } => {
            let sent = row(relation, new)?;
            let (old_key, before) = match old {
                Old::Row(old) => {
                    let before = row(relation, old)?;
                    (key(&before), before)
                }
                Old::Key(old) => {
                    let named = named_by_key(relation, row(relation, old)?);
                    let old_key = key(&named);
                    let before = image(&old_key);
                    (old_key, over(before, named))
                }
                Old::Absent => {
                    let named = named_by_key(relation, sent.clone());
                    let old_key = key(&named);
                    let before = image(&old_key);
                    (old_key, over(before, named))
                }
            };
            let after = over(Some(before.clone()), sent);
            let new_key = key(&after);
            Known {
                change: RowChange::Updated { old: before, new: after },
                old_key: Some(old_key),
                new_key: Some(new_key),
            }
        }
        Message::Delete { old: Old::Row(old), .. } => {
            let before = row(relation, old)?;
            let old_key = Some(key(&before));
            Known { change: RowChange::Deleted(before), old_key, new_key: None }
        }
        Message::Delete { old: Old::Key(old), .. } => {
            let named = named_by_key(relation, row(relation, old)?);
            let old_key = key(&named);
            let before = over(image(&old_key), named);
            Known { change: RowChange::Deleted(before), old_key: Some(old_key), new_key: None }
        }
        Message::Insert { new, .. } => {
            let after = row(relation, new)?;
            let new_key = Some(key(&after));
            Known { change: RowChange::Inserted(after), old_key: None, new_key }
        }
        _ => return Err(Fault::stop("a message that is no change of a row")),
    })
}

/// Enters how the row is now: wherever it was known, or everywhere.
pub(super) fn remember(
    images: &mut Images,
    relation: &Arc<Relation>,
    known: &Known,
    is_wanted: impl Fn(&Key) -> bool,
) {
    if let Some(old) = &known.old_key {
        images.remove(old);
    }
    let (RowChange::Inserted(row) | RowChange::Updated { new: row, .. }) = &known.change else { return };
    if let Some(key) = known.new_key.as_ref().filter(|key| is_wanted(key)) {
        images.insert(key.clone(), Image { relation: Arc::clone(relation), row: row.clone() });
    }
}

/// Only the values of the key's columns.
fn named_by_key(relation: &Relation, row: Row) -> Row {
    let columns = relation.columns.iter().zip(row);
    columns.map(|(column, cell)| if column.key { cell } else { Cell::Unknown }).collect()
}

/// What the second row says, and else what the first one does.
fn over(below: Option<Row>, above: Row) -> Row {
    let Some(below) = below else { return above };
    let cells = above.into_iter().zip(below);
    cells.map(|(above, below)| if above == Cell::Unknown { below } else { above }).collect()
}

/// A row as it was sent; what was not sent is unknown.
fn row(relation: &Relation, tuple: &Tuple<'_>) -> Result<Row, Fault> {
    sent(tuple).ok_or_else(|| {
        Fault::stop(format!(
            "the log has values of {}.{} in binary form, which only a server can read",
            relation.schema, relation.name
        ))
        .hint("what is received with --format text can be looked at")
    })
}
