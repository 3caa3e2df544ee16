//! A change of a row, with what was sent of it.

use std::sync::Arc;

use crate::model::{Fault, Position, Relation, Timestamp, Xid};
use crate::pgoutput::{Message, Old, Tuple};
use crate::transform::{Cell, Row, sent};

pub(super) struct Transaction {
    pub(super) xid: Xid,
    pub(super) time: Timestamp,
    /// Of its commit, which names it.
    pub(super) end: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    pub(super) fn letter(self) -> &'static str {
        match self {
            Op::Insert => "c",
            Op::Update => "u",
            Op::Delete => "d",
        }
    }
}

pub(super) const TRUNCATED: &str = "t";

pub(super) struct Change<'a> {
    pub(super) relation: &'a Arc<Relation>,
    pub(super) op: Op,
    /// As it was: all of it where whole rows are sent, else the key. Of an update only where that was sent, since the key changed.
    pub(super) before: Option<Row>,
    pub(super) after: Option<Row>,
}

impl Change<'_> {
    pub(super) fn of<'a>(relation: &'a Arc<Relation>, message: &Message<'_>) -> Result<Change<'a>, Fault> {
        let (op, old, new) = match message {
            Message::Insert { new, .. } => (Op::Insert, &Old::Absent, Some(new)),
            Message::Update { old, new, .. } => (Op::Update, old, Some(new)),
            Message::Delete { old, .. } => (Op::Delete, old, None),
            _ => return Err(Fault::stop("a message that is no change of a row")),
        };
        let before = match old {
            Old::Absent => None,
            Old::Key(key) => Some(only_key(relation, row(relation, key)?)),
            Old::Row(whole) => Some(row(relation, whole)?),
        };
        let mut after = new.map(|new| row(relation, new)).transpose()?;
        if let (Some(after), Some(before)) = (&mut after, &before) {
            for (cell, before) in after.iter_mut().zip(before) {
                if *cell == Cell::Unknown {
                    cell.clone_from(before);
                }
            }
        }
        Ok(Change { relation, op, before, after })
    }

    /// The columns that were not sent of the row that is told: as it is behind the change, or was before it is deleted.
    pub(super) fn unsent(&self) -> impl Iterator<Item = &str> {
        let row = self.after.as_ref().or(self.before.as_ref()).into_iter().flatten();
        let columns = self.relation.columns.iter().zip(row);
        columns.filter(|(_, cell)| **cell == Cell::Unknown).map(|(column, _)| column.name.as_str())
    }
}

fn row(relation: &Relation, tuple: &Tuple<'_>) -> Result<Row, Fault> {
    let row = sent(tuple).ok_or_else(|| {
        Fault::stop(format!(
            "the log has values of {} in binary form, which only a server can read",
            shown(relation)
        ))
        .hint("leave the table out, or export a part of the log that was received with --format text")
    })?;
    if row.len() == relation.columns.len() {
        return Ok(row);
    }
    Err(Fault::person(format!("a row of {} has {} columns", shown(relation), row.len()))
        .hint("`pgsluice archive verify` tells what is damaged"))
}

/// What is sent of the other columns means nothing.
pub(super) fn only_key(relation: &Relation, row: Row) -> Row {
    let columns = relation.columns.iter().zip(row);
    columns.map(|(column, cell)| if column.key { cell } else { Cell::Unknown }).collect()
}

pub(super) fn shown(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}
