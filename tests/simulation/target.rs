//! A target in memory, which takes nothing that does not fit: a row that is there already, or one that is not.

use std::collections::{BTreeMap, HashMap};

use pgsluice::model::{Position, Relation, Value};
use pgsluice::pgoutput::{Message, Old, Tuple, decode};
use pgsluice::segment::Records;

type Field = Option<Vec<u8>>;
pub(super) type Row = Vec<Field>;

#[derive(Clone)]
pub(super) struct Target {
    /// Everything up to here is applied.
    pub(super) position: Position,
    relations: HashMap<u32, Relation>,
    /// Rows of each table by their key; more than one only where whole rows identify.
    rows: BTreeMap<String, BTreeMap<Row, Vec<Row>>>,
}

impl Target {
    pub(super) fn new(position: Position) -> Target {
        Target { position, relations: HashMap::new(), rows: BTreeMap::new() }
    }

    /// Tables that have rows.
    pub(super) fn rows(&self) -> &BTreeMap<String, BTreeMap<Row, Vec<Row>>> {
        &self.rows
    }

    pub(super) fn table(&self, name: &str) -> impl Iterator<Item = &Row> {
        self.rows.get(name).into_iter().flat_map(BTreeMap::values).flatten()
    }

    pub(super) fn checksum(&self) -> u32 {
        crc32c::crc32c(format!("{:?}", self.rows).as_bytes())
    }

    /// Applies records that end between transactions, but for the transactions that it has; tells after each of the others.
    pub(super) fn apply(&mut self, records: &[u8], mut applied: impl FnMut(&Target)) {
        let mut is_known = false;
        for message in Records::new(records) {
            match decode(message.unwrap()).unwrap() {
                // A transaction ends behind the start of its commit record.
                Message::Begin(begin) => is_known = begin.commit_lsn.0 < self.position.0,
                Message::Commit(commit) => {
                    if !is_known {
                        assert!(commit.end > self.position, "{} after {}", commit.end, self.position);
                        self.position = commit.end;
                        applied(self);
                    }
                    assert!(commit.end <= self.position, "{} is known in part", commit.end);
                    is_known = false;
                }
                Message::Relation(relation) => drop(self.relations.insert(relation.oid, relation)),
                message if !is_known => self.change(&message),
                _ => {}
            }
        }
    }

    pub(super) fn change(&mut self, message: &Message<'_>) {
        match message {
            Message::Insert { relation, new } => self.put(*relation, whole(new)),
            Message::Update { relation, old, new } => {
                let key = match old {
                    Old::Absent => self.key(*relation, &whole_or_unchanged(new, None)),
                    Old::Key(old) | Old::Row(old) => self.key(*relation, &whole(old)),
                };
                let before = self.take(*relation, &key);
                self.put(*relation, whole_or_unchanged(new, Some(&before)));
            }
            Message::Delete { relation, old } => {
                let (Old::Key(old) | Old::Row(old)) = old else { panic!("a delete without an old row") };
                let key = self.key(*relation, &whole(old));
                self.take(*relation, &key);
            }
            Message::Truncate(truncate) => {
                for oid in &truncate.relations {
                    let name = self.relations[oid].name.clone();
                    self.rows.remove(&name);
                }
            }
            Message::Logical { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn key(&self, oid: u32, row: &Row) -> Row {
        let columns = &self.relations[&oid].columns;
        row.iter().zip(columns).filter(|(_, column)| column.key).map(|(field, _)| field.clone()).collect()
    }

    fn put(&mut self, oid: u32, row: Row) {
        let relation = &self.relations[&oid];
        let is_whole = relation.columns.iter().all(|column| column.key);
        let (name, key) = (relation.name.clone(), self.key(oid, &row));
        let there = self.rows.entry(name).or_default().entry(key).or_default();
        assert!(is_whole || there.is_empty(), "a row is there already: {row:?}");
        there.push(row);
    }

    fn take(&mut self, oid: u32, key: &Row) -> Row {
        let name = &self.relations[&oid].name;
        let table = self.rows.get_mut(name).unwrap_or_else(|| panic!("{name} has no rows, and no {key:?}"));
        let there = table.get_mut(key).unwrap_or_else(|| panic!("{name} has no row {key:?}"));
        let row = there.pop().unwrap();
        if there.is_empty() {
            table.remove(key);
        }
        if table.is_empty() {
            let name = name.clone();
            self.rows.remove(&name);
        }
        row
    }
}

fn whole(tuple: &Tuple<'_>) -> Row {
    whole_or_unchanged(tuple, None)
}

/// With values that were not sent taken from the row before.
fn whole_or_unchanged(tuple: &Tuple<'_>, before: Option<&Row>) -> Row {
    let values = tuple.values().enumerate().map(|(column, value)| match value {
        Value::Text(text) => Some(text.to_vec()),
        Value::Unchanged => before.and_then(|before| before[column].clone()),
        Value::Null | Value::Binary(_) => None,
    });
    values.collect()
}
