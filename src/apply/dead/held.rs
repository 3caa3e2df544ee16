//! Which rows later changes must not touch: those that transactions have changed which were set aside. Pure.
//!
//! A row is its key, as the source sent it. Where two keys that differ may mean the same row, where rows have anything else to do with
//! each other, or where a key can't be told, the table is held as a whole: that holds too much and never too little.

use std::collections::HashMap;

use crate::model::{Format, Position, Relation, ReplicaIdentity, Value};
use crate::pgoutput::{Message, Old, Tuple};

/// Keys that are held one by one, of all tables.
const KEYS_MAX: usize = 1_000_000;

/// Rows, each with the last transaction that holds it.
#[derive(Debug, Default)]
pub(in crate::apply) struct Held {
    tables: HashMap<u32, Table>,
    keys: usize,
}

#[derive(Debug)]
struct Table {
    schema: String,
    name: String,
    rows: Rows,
    last: Position,
}

#[derive(Debug)]
enum Rows {
    All,
    Some(Keys),
}

#[derive(Debug)]
struct Keys {
    /// Name and type of the columns of the key, in the order of the table.
    columns: Vec<(String, u32)>,
    format: Format,
    keys: HashMap<Box<[u8]>, Position>,
}

impl Held {
    pub(in crate::apply) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many keys are held, and how many tables as a whole.
    pub(in crate::apply) fn count(&self) -> (usize, usize) {
        (self.keys, self.tables.values().filter(|table| matches!(table.rows, Rows::All)).count())
    }

    /// The transaction that holds a row which this change touches; the last one of those that are met first.
    pub(in crate::apply) fn holder<'r>(
        &self,
        change: &Message<'_>,
        relation: impl Fn(u32) -> Option<&'r Relation>,
    ) -> Option<Position> {
        let oid = match change {
            Message::Truncate(truncate) => {
                let tables = truncate.relations.iter().filter_map(|oid| self.table(*oid, relation(*oid)));
                return tables.map(|table| table.last).max();
            }
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => *relation,
            _ => return None,
        };
        let relation = relation(oid);
        let table = self.table(oid, relation)?;
        // One of this name and another OID: nobody knows whether it is the same.
        let is_it = self.tables.contains_key(&oid);
        let (Rows::Some(keys), Some(relation), true) = (&table.rows, relation, is_it) else {
            return Some(table.last);
        };
        let Some(places) = keys.places(relation) else { return Some(table.last) };
        let mut key = Vec::new();
        rows(change).find_map(|row| match read_key(row, &places, &mut key) {
            Some(format) if format == keys.format => keys.keys.get(key.as_slice()).copied(),
            _ => Some(table.last),
        })
    }

    fn table(&self, oid: u32, relation: Option<&Relation>) -> Option<&Table> {
        self.tables.get(&oid).or_else(|| {
            let relation = relation?;
            let is_called = |table: &&Table| table.name == relation.name && table.schema == relation.schema;
            self.tables.values().find(is_called)
        })
    }

    /// Holds the rows of a change of one relation. `key`: columns by place that tell its rows apart; none where nothing does.
    pub(in crate::apply) fn take(
        &mut self,
        relation: &Relation,
        key: Option<&[usize]>,
        change: &Message<'_>,
    ) {
        let by_key = key.filter(|_| !matches!(change, Message::Truncate(_)));
        let columns = by_key.and_then(|places| named(relation, places));
        let (Some(places), Some(columns)) = (by_key, columns) else { return self.take_all(relation) };
        let mut key = Vec::new();
        for row in rows(change) {
            let Some(format) = read_key(row, places, &mut key) else { return self.take_all(relation) };
            let keys = || Keys { columns: columns.clone(), format, keys: HashMap::new() };
            let table =
                self.tables.entry(relation.oid).or_insert_with(|| Table::of(relation, Rows::Some(keys())));
            let Rows::Some(held) = &mut table.rows else { return };
            if held.columns != columns || held.format != format || self.keys >= KEYS_MAX {
                return self.take_all(relation);
            }
            if held.keys.insert(key.as_slice().into(), Position::ZERO).is_none() {
                self.keys += 1;
            }
        }
    }

    /// Holds a relation as a whole.
    fn take_all(&mut self, relation: &Relation) {
        let table = self.tables.entry(relation.oid).or_insert_with(|| Table::of(relation, Rows::All));
        if let Rows::Some(held) = std::mem::replace(&mut table.rows, Rows::All) {
            self.keys -= held.keys.len();
        }
    }

    /// Adds what a transaction holds that ends there and comes behind all those before.
    pub(in crate::apply) fn add(&mut self, other: Held, lsn: Position) {
        for (oid, theirs) in other.tables {
            let Some(ours) = self.tables.get_mut(&oid) else {
                let mut theirs = theirs;
                theirs.last = lsn;
                if let Rows::Some(held) = &mut theirs.rows {
                    held.keys.values_mut().for_each(|holder| *holder = lsn);
                    self.keys += held.keys.len();
                }
                self.tables.insert(oid, theirs);
                continue;
            };
            ours.last = lsn;
            (ours.schema, ours.name) = (theirs.schema, theirs.name);
            let fits = match (&mut ours.rows, theirs.rows) {
                (Rows::Some(held), Rows::Some(more)) => {
                    let fits = held.columns == more.columns && held.format == more.format;
                    let before = held.keys.len();
                    if fits {
                        held.keys.extend(more.keys.into_keys().map(|key| (key, lsn)));
                    }
                    self.keys += held.keys.len() - before;
                    fits && self.keys <= KEYS_MAX
                }
                _ => false,
            };
            if !fits && let Rows::Some(held) = std::mem::replace(&mut ours.rows, Rows::All) {
                self.keys -= held.keys.len();
            }
        }
    }
}

impl Table {
    fn of(relation: &Relation, rows: Rows) -> Table {
        let (schema, name) = (relation.schema.clone(), relation.name.clone());
        Table { schema, name, rows, last: Position::ZERO }
    }
}

impl Keys {
    /// Where the columns are now; none where something else may identify its rows now.
    fn places(&self, relation: &Relation) -> Option<Vec<usize>> {
        let place = |(name, type_oid): &(String, u32)| {
            relation.columns.iter().position(|column| column.name == *name && column.type_oid == *type_oid)
        };
        let mut places = self.columns.iter().map(place).collect::<Option<Vec<_>>>()?;
        places.sort_unstable();
        let identity = || (0..).zip(&relation.columns).filter(|(_, column)| column.key).map(|(at, _)| at);
        let is_same = relation.identity == ReplicaIdentity::Full || identity().eq(places.iter().copied());
        // Their order is that of the bytes of a key.
        let in_order = named(relation, &places)? == self.columns;
        (is_same && in_order).then_some(places)
    }
}

fn named(relation: &Relation, places: &[usize]) -> Option<Vec<(String, u32)>> {
    let column = |at: &usize| relation.columns.get(*at).map(|column| (column.name.clone(), column.type_oid));
    places.iter().map(column).collect()
}

/// The rows that a change tells, before and after it.
fn rows<'m>(change: &Message<'m>) -> impl Iterator<Item = Tuple<'m>> + use<'m> {
    let known = |old: Old<'m>| match old {
        Old::Absent => None,
        Old::Key(row) | Old::Row(row) => Some(row),
    };
    let (old, new) = match *change {
        Message::Insert { new, .. } => (None, Some(new)),
        Message::Update { old, new, .. } => (known(old), Some(new)),
        Message::Delete { old, .. } => (known(old), None),
        _ => (None, None),
    };
    old.into_iter().chain(new)
}

/// The values of the key, each behind its length. None where one of them is missing, or they are in two formats.
fn read_key(row: Tuple<'_>, places: &[usize], into: &mut Vec<u8>) -> Option<Format> {
    into.clear();
    let (mut values, mut next, mut all) = (row.values(), 0, None);
    for &place in places {
        let value: Value<'_> = values.nth(place.checked_sub(next)?)?;
        let (format, bytes) = value.bytes()?;
        if *all.get_or_insert(format) != format {
            return None;
        }
        next = place + 1;
        into.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        into.extend_from_slice(bytes);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Column;
    use crate::pgoutput::{Truncate, TupleBuffer};

    fn relation(identity: ReplicaIdentity, columns: &[(&str, bool)]) -> Relation {
        let column = |(name, key): &(&str, bool)| Column {
            name: (*name).to_owned(),
            key: *key,
            type_oid: 23,
            type_modifier: -1,
        };
        let columns = columns.iter().map(column).collect();
        Relation { oid: 1, schema: "s".into(), name: "t".into(), identity, columns }
    }

    fn row(values: &[&str]) -> TupleBuffer {
        let mut row = TupleBuffer::default();
        for value in values {
            let value = match *value {
                "-" => Value::Null,
                "?" => Value::Unchanged,
                text => Value::Text(text.as_bytes()),
            };
            row.push(value).unwrap();
        }
        row
    }

    fn ident() -> Relation {
        relation(ReplicaIdentity::Default, &[("id", true), ("v", false)])
    }

    /// Row 5, which was 4, of a transaction that ends at 100.
    fn held() -> Held {
        let (old, new) = (row(&["4", "-"]), row(&["5", "a"]));
        let mut one = Held::default();
        let update = Message::Update { relation: 1, old: Old::Key(old.tuple()), new: new.tuple() };
        one.take(&ident(), Some(&[0]), &update);
        let mut held = Held::default();
        held.add(one, Position(100));
        held
    }

    #[test]
    fn a_change_is_held_by_the_keys_that_it_leaves_and_comes_to() {
        let held = held();
        assert_eq!(held.count(), (2, 0));
        let holder = |old: Option<&[&str]>, new: Option<&[&str]>| {
            let (old_row, new_row) = (old.map(row), new.map(row));
            let old = old_row.as_ref().map_or(Old::Absent, |row| Old::Key(row.tuple()));
            let change = match &new_row {
                Some(new) => Message::Update { relation: 1, old, new: new.tuple() },
                None => Message::Delete { relation: 1, old },
            };
            let known = ident();
            held.holder(&change, |_| Some(&known)).is_some()
        };
        assert!(holder(None, Some(&["5", "x"])) && holder(None, Some(&["4", "x"])));
        assert!(!holder(None, Some(&["6", "x"])));
        assert!(holder(Some(&["5", "-"]), Some(&["6", "x"])) && holder(Some(&["6", "-"]), Some(&["5", "x"])));
        assert!(holder(Some(&["4", "-"]), None) && !holder(Some(&["6", "-"]), None));
        // A key that was not sent may be any.
        assert!(holder(None, Some(&["?", "x"])));
    }

    #[test]
    fn another_definition_holds_all_unless_it_identifies_as_before() {
        let (held, new) = (held(), row(&["x", "6"]));
        let insert = Message::Insert { relation: 1, new: new.tuple() };
        let is_held = |relation: Relation| held.holder(&insert, |_| Some(&relation)).is_some();
        let moved = [("v", false), ("id", true)];
        assert!(!is_held(relation(ReplicaIdentity::Default, &moved)));
        assert!(!is_held(relation(ReplicaIdentity::Full, &moved)));
        assert!(is_held(relation(ReplicaIdentity::Default, &[("v", true), ("id", false)])));
        assert!(is_held(relation(ReplicaIdentity::Default, &[("v", true), ("id", true)])));
        assert!(is_held(relation(ReplicaIdentity::Default, &[("v", false), ("key", true)])));
        // Of the same name, and of another OID.
        let other = Message::Insert { relation: 2, new: new.tuple() };
        let same = relation(ReplicaIdentity::Default, &moved);
        assert!(held.holder(&other, |_| Some(&same)).is_some());
        let named = Relation { name: "u".into(), ..same };
        assert!(held.holder(&other, |_| Some(&named)).is_none());
    }

    #[test]
    fn tables_without_a_key_and_truncates_hold_all_and_are_held_by_any() {
        let new = row(&["9", "x"]);
        let insert = Message::Insert { relation: 1, new: new.tuple() };
        let truncate =
            Message::Truncate(Truncate { relations: vec![1], cascade: false, restart_identity: false });
        let known = ident();
        assert_eq!(held().holder(&insert, |_| Some(&known)), None);
        assert_eq!(held().holder(&truncate, |_| Some(&known)), Some(Position(100)));
        for (key, change) in [(None, &insert), (Some(&[0][..]), &truncate)] {
            let (mut one, mut all) = (Held::default(), held());
            one.take(&known, key, change);
            all.add(one, Position(200));
            assert_eq!(all.count(), (0, 1));
            assert_eq!(all.holder(&insert, |_| Some(&known)), Some(Position(200)));
        }
    }

    #[test]
    fn the_last_transaction_of_a_row_is_what_holds_it() {
        let (mut held, new, known) = (held(), row(&["5", "b"]), ident());
        let insert = Message::Insert { relation: 1, new: new.tuple() };
        let mut one = Held::default();
        one.take(&known, Some(&[0]), &insert);
        held.add(one, Position(200));
        assert_eq!(held.count(), (2, 0));
        assert_eq!(held.holder(&insert, |_| Some(&known)), Some(Position(200)));
        // The same key in binary form may be any.
        let mut binary = TupleBuffer::default();
        binary.push(Value::Binary(&[0, 0, 0, 9])).unwrap();
        binary.push(Value::Null).unwrap();
        let insert = Message::Insert { relation: 1, new: binary.tuple() };
        assert!(held.holder(&insert, |_| Some(&known)).is_some());
    }
}
