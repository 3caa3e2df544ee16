//! The changes of a transaction that was set aside, as the log has them.

use std::collections::HashMap;

use super::{Letter, Said, of_tables};
use crate::archive::Archive;
use crate::model::{Fault, Relation, Value};
use crate::pg::dead::Note;
use crate::pgoutput::{Message, Old, Tuple};

/// One change of one row, or of tables as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `schema.name`; of a TRUNCATE all of them.
    pub table: String,
    pub operation: &'static str,
    /// The columns that identify the row.
    pub key: Vec<(String, Cell)>,
    /// The row before, where it was sent whole.
    pub old: Vec<(String, Cell)>,
    pub new: Vec<(String, Cell)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    /// It did not change, and was not sent.
    Unchanged,
    Text(String),
    /// In binary form, shown as hexadecimal digits.
    Binary(String),
}

/// Tells the changes in their order. Blocks on the disk.
pub fn show(
    archive: &Archive,
    note: &Note,
    mut tell: impl FnMut(Change) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut letter = Letter::open(archive, None, note)?;
    let mut relations: HashMap<u32, Relation> = HashMap::new();
    loop {
        let frame = letter.frame()?;
        for record in frame.records() {
            match letter.read(record)? {
                Some(Said::Definition(Message::Relation(relation))) => {
                    relations.insert(relation.oid, relation);
                }
                Some(Said::Change(_, change)) => {
                    let mut spare = None;
                    let rest = of_tables(&note.tables, &change, &mut spare);
                    if let Some(change) = rest.and_then(|rest| shown(&relations, rest)) {
                        tell(change)?;
                    }
                }
                Some(Said::Commit(_)) => return Ok(()),
                Some(Said::Definition(_)) | None => {}
            }
        }
    }
}

fn shown(relations: &HashMap<u32, Relation>, change: &Message<'_>) -> Option<Change> {
    let name = |relation: &Relation| format!("{}.{}", relation.schema, relation.name);
    let (operation, oid, old, new) = match *change {
        Message::Insert { relation, new } => ("insert", relation, Old::Absent, Some(new)),
        Message::Update { relation, old, new } => ("update", relation, old, Some(new)),
        Message::Delete { relation, old } => ("delete", relation, old, None),
        Message::Truncate(ref truncate) => {
            let tables = truncate.relations.iter().filter_map(|oid| relations.get(oid)).map(name);
            let table = tables.collect::<Vec<_>>().join(", ");
            return Some(Change { table, operation: "truncate", key: vec![], old: vec![], new: vec![] });
        }
        _ => return None,
    };
    let relation = relations.get(&oid)?;
    let (known, whole) = match old {
        Old::Absent => (new, None),
        Old::Key(row) => (Some(row), None),
        Old::Row(row) => (Some(row), Some(row)),
    };
    let mut key = cells(relation, known);
    let is_key = |name: &String| relation.columns.iter().any(|column| column.name == *name && column.key);
    key.retain(|(name, _)| is_key(name));
    Some(Change {
        table: name(relation),
        operation,
        key,
        old: cells(relation, whole),
        new: cells(relation, new),
    })
}

fn cells(relation: &Relation, row: Option<Tuple<'_>>) -> Vec<(String, Cell)> {
    let values = row.into_iter().flat_map(|row| row.values());
    relation.columns.iter().zip(values).map(|(column, value)| (column.name.clone(), cell(value))).collect()
}

fn cell(value: Value<'_>) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Unchanged => Cell::Unchanged,
        Value::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        Value::Binary(bytes) => Cell::Binary(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}
