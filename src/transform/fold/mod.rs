//! The net change of each row over a run of changes: what was inserted, updated and deleted again in between is not said.
//!
//! Rows are told apart by their key as the source sent it, as text or in binary form. For each there is one entry:
//!
//! | is | insert | update | delete |
//! | --- | --- | --- | --- |
//! | nothing | Inserted | Updated | Deleted |
//! | Inserted | – | Inserted | Gone |
//! | Updated | – | Updated, merged column by column | Deleted |
//! | Deleted | Replaced | – | – |
//! | Replaced | – | Replaced | Deleted |
//! | Gone | Inserted | – | – |
//!
//! Where a row that is inserted may be there ([`Replaces`]) an insert makes of anything Inserted, but an Updated of all columns of a row that was marked as deleted
//! just now; a delete makes of Inserted a Deleted.
//!
//! A change of key is a delete and an insert, where the whole row is known. What stands as – in the table,
//! what has no key, and what has its key in another format than those before, is not taken: it is for the caller to apply what was folded of the table before, and then that change.
//!
//! All deletes go before all updates, and these before all inserts; so a row may come to a key that another one leaves.

mod arena;
mod net;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::model::{Format, Value};
use crate::pgoutput::{Message, Old, Tuple, TupleBuffer};

use arena::{Arena, Span};
pub use net::{Group, GroupKind, NetRow};

/// How a table's rows can be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// Columns of the relation by place, ascending. Without any, inserts alone are taken.
    pub columns: Vec<usize>,
    /// A row may be deleted and inserted again, since the log has all that the target stores.
    pub is_whole: bool,
    pub replaces: Replaces,
}

/// Which rows may be there that are inserted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replaces {
    #[default]
    None,
    /// One that is marked as deleted, which comes to life.
    Marked,
    /// Any; and one that is updated or deleted may not be there. What comes last holds.
    Any,
}

/// Changes that wait, net, table by table.
#[derive(Default)]
pub struct Fold {
    tables: Vec<Table>,
    places: HashMap<u32, usize>,
    bytes: usize,
    scratch: Scratch,
    /// Of the last key of each table that was met, also of those that are forgotten: what follows in the other format is not taken
    /// at first, so that the caller knows of it.
    formats: HashMap<u32, Format>,
}

/// Memory that is used again.
#[derive(Default)]
struct Scratch {
    before: Vec<u8>,
    after: Vec<u8>,
    row: TupleBuffer,
    hasher: RandomState,
}

struct Table {
    oid: u32,
    /// Of all the keys: a row's key is not the same bytes in the other.
    format: Option<Format>,
    /// Of the last key that was met.
    met: Option<Format>,
    arena: Arena,
    entries: Vec<Entry>,
    index: HashTable<u32>,
}

struct Entry {
    hash: u64,
    key: Span,
    state: State,
    /// The row before, where it was sent: what finds a row that is deleted.
    old: Option<(OldKind, Span)>,
    new: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inserted,
    Updated,
    Deleted,
    Replaced,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OldKind {
    Key,
    Row,
}

/// About what an entry takes beside its bytes.
const ENTRY_BYTES: usize = size_of::<Entry>() + 8;

impl Fold {
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.entries.is_empty())
    }

    /// About how many rows have changed.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|table| table.entries.len()).sum()
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tables with changes, in the order of their first ones.
    pub fn tables(&self) -> Vec<u32> {
        self.tables.iter().filter(|table| !table.entries.is_empty()).map(|table| table.oid).collect()
    }

    /// Takes a change in, if it can be folded.
    #[must_use]
    pub fn take(&mut self, key: &RowKey, message: &Message<'_>) -> bool {
        let (Message::Insert { relation: oid, .. }
        | Message::Update { relation: oid, .. }
        | Message::Delete { relation: oid, .. }) = *message
        else {
            return false;
        };
        let Fold { tables, places, bytes, scratch, formats } = self;
        let place = *places.entry(oid).or_insert_with(|| {
            tables.push(Table::new(oid, formats.get(&oid).copied()));
            tables.len() - 1
        });
        let Some(table) = tables.get_mut(place) else { return false };
        let (before, met) = (table.bytes(), table.met);
        let taken = match *message {
            Message::Insert { new, .. } if key.columns.is_empty() => table.append(new),
            Message::Insert { new, .. } => table.insert(key, new, scratch),
            Message::Update { old, new, .. } if !key.columns.is_empty() => {
                table.update(key, old, new, scratch)
            }
            Message::Delete { old, .. } if !key.columns.is_empty() => table.delete(key, old, scratch),
            _ => None,
        };
        *bytes += table.bytes().saturating_sub(before);
        if let Some(format) = table.met.filter(|_| table.met != met) {
            formats.insert(oid, format);
        }
        taken.is_some()
    }

    /// Forgets what was folded of a table.
    pub fn clear_table(&mut self, oid: u32) {
        if let Some(table) = self.places.get(&oid).and_then(|place| self.tables.get_mut(*place)) {
            self.bytes = self.bytes.saturating_sub(table.bytes());
            *table = Table::new(oid, self.formats.get(&oid).copied());
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.places.clear();
        self.bytes = 0;
    }

    /// What is to be done to a table's rows, each group with the rows in the order of their keys.
    pub fn groups(&self, oid: u32) -> Vec<Group<'_>> {
        let table = self.places.get(&oid).and_then(|place| self.tables.get(*place));
        table.map(net::groups).unwrap_or_default()
    }
}

impl Table {
    fn new(oid: u32, format: Option<Format>) -> Table {
        Table {
            oid,
            format,
            met: format,
            arena: Arena::default(),
            entries: Vec::new(),
            index: HashTable::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * ENTRY_BYTES
    }

    fn append(&mut self, new: Tuple<'_>) -> Option<()> {
        let new = Some(self.arena.push(|into| new.write(into)));
        self.entries.push(Entry { hash: 0, key: Span::default(), state: State::Inserted, old: None, new });
        Some(())
    }

    fn insert(&mut self, key: &RowKey, new: Tuple<'_>, scratch: &mut Scratch) -> Option<()> {
        self.read_key(key, new, &mut scratch.after)?;
        self.put(key, new, scratch)
    }

    /// A row comes to the key `scratch.after`.
    fn put(&mut self, key: &RowKey, new: Tuple<'_>, scratch: &Scratch) -> Option<()> {
        let hash = scratch.hasher.hash_one(&scratch.after);
        let Some(place) = self.find(hash, &scratch.after) else {
            self.add(hash, &scratch.after, State::Inserted, None, Some(new));
            return Some(());
        };
        let Table { arena, entries, .. } = self;
        let entry = entries.get_mut(place)?;
        entry.state = match entry.state {
            State::Gone => State::Inserted,
            State::Deleted | State::Updated if key.replaces == Replaces::Any => State::Inserted,
            State::Deleted if key.replaces == Replaces::Marked => State::Inserted,
            State::Deleted => State::Replaced,
            state @ (State::Inserted | State::Updated) if key.replaces != Replaces::None => state,
            State::Inserted | State::Updated | State::Replaced => return None,
        };
        entry.new = Some(arena.replace(entry.new, |into| new.write(into)));
        Some(())
    }

    fn update(&mut self, key: &RowKey, old: Old<'_>, new: Tuple<'_>, scratch: &mut Scratch) -> Option<()> {
        self.read_key(key, new, &mut scratch.after)?;
        let before = match old {
            Old::Absent => None,
            Old::Key(old) | Old::Row(old) => {
                self.read_key(key, old, &mut scratch.before)?;
                Some(old).filter(|_| scratch.before != scratch.after)
            }
        };
        match before {
            None => self.change(old, new, scratch),
            Some(_) => self.relocate(key, old, new, scratch),
        }
    }

    /// The row at the key `scratch.after` has new values.
    fn change(&mut self, old: Old<'_>, new: Tuple<'_>, scratch: &mut Scratch) -> Option<()> {
        let hash = scratch.hasher.hash_one(&scratch.after);
        let Some(place) = self.find(hash, &scratch.after) else {
            self.add(hash, &scratch.after, State::Updated, Some(old), Some(new));
            return Some(());
        };
        let Table { arena, entries, .. } = self;
        let entry = entries.get_mut(place)?;
        let known = arena.tuple(entry.new?)?;
        if matches!(entry.state, State::Deleted | State::Gone) || !is_of(known, old) {
            return None;
        }
        let merged = merge(known, new, &mut scratch.row)?;
        entry.new = Some(arena.replace(entry.new, |into| merged.write(into)));
        Some(())
    }

    /// The row at the key `scratch.before` goes to `scratch.after`. Nothing has changed where it is not taken.
    fn relocate(&mut self, key: &RowKey, old: Old<'_>, new: Tuple<'_>, scratch: &mut Scratch) -> Option<()> {
        let from_hash = scratch.hasher.hash_one(&scratch.before);
        let to_hash = scratch.hasher.hash_one(&scratch.after);
        let from = self.find(from_hash, &scratch.before);
        let state = from.and_then(|place| self.entries.get(place)).map(|entry| entry.state);
        let is_free = match self.find(to_hash, &scratch.after).and_then(|place| self.entries.get(place)) {
            None => true,
            Some(entry) => matches!(entry.state, State::Deleted | State::Gone),
        };
        let leaves = match state {
            Some(State::Deleted | State::Gone) => return None,
            Some(State::Inserted) => State::Gone,
            Some(State::Replaced) => State::Deleted,
            Some(State::Updated) | None if key.is_whole => State::Deleted,
            Some(State::Updated) | None => return None,
        };
        let known = from.and_then(|place| self.arena.tuple(self.entries.get(place)?.new?));
        if known.is_some_and(|known| !is_of(known, old)) {
            return None;
        }
        let mut row = TupleBuffer::default();
        let whole = known.map_or(Some(new), |known| merge(known, new, &mut row))?;
        if !is_free || has_unchanged(whole) {
            return None;
        }
        match from {
            None => self.add(from_hash, &scratch.before, State::Deleted, Some(old), None),
            Some(place) => {
                let Table { arena, entries, .. } = self;
                let entry = entries.get_mut(place)?;
                entry.state = leaves;
                entry.old = entry.old.or_else(|| keep(arena, old));
                entry.new = None;
            }
        }
        self.put(key, whole, scratch)
    }

    fn delete(&mut self, key: &RowKey, old: Old<'_>, scratch: &mut Scratch) -> Option<()> {
        let (Old::Key(row) | Old::Row(row)) = old else { return None };
        self.read_key(key, row, &mut scratch.before)?;
        let hash = scratch.hasher.hash_one(&scratch.before);
        let Some(place) = self.find(hash, &scratch.before) else {
            self.add(hash, &scratch.before, State::Deleted, Some(old), None);
            return Some(());
        };
        let Table { arena, entries, .. } = self;
        let entry = entries.get_mut(place)?;
        if entry.new.and_then(|new| arena.tuple(new)).is_some_and(|known| !is_of(known, old)) {
            return None;
        }
        entry.state = match entry.state {
            State::Inserted | State::Deleted if key.replaces != Replaces::None => State::Deleted,
            State::Inserted => State::Gone,
            State::Updated | State::Replaced => State::Deleted,
            State::Deleted | State::Gone => return None,
        };
        // What is told of the last one decides, where it does.
        let before = entry.old.filter(|_| key.replaces != Replaces::Any);
        entry.old = before.or_else(|| keep(arena, old));
        entry.new = None;
        Some(())
    }

    /// The values of the key one after the other, each behind its length. None where one is missing, null or unchanged, or in
    /// another format than the keys before.
    fn read_key(&mut self, key: &RowKey, row: Tuple<'_>, into: &mut Vec<u8>) -> Option<()> {
        into.clear();
        let mut values = row.values();
        let mut next = 0;
        for &column in &key.columns {
            let (format, bytes) = values.nth(column.checked_sub(next)?)?.bytes()?;
            self.met = Some(format);
            if *self.format.get_or_insert(format) != format {
                return None;
            }
            next = column + 1;
            into.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            into.extend_from_slice(bytes);
        }
        Some(())
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_it = |place: &u32| {
            let entry = self.entries.get(*place as usize);
            entry.is_some_and(|entry| entry.hash == hash && self.arena.get(entry.key) == Some(key))
        };
        self.index.find(hash, is_it).map(|place| *place as usize)
    }

    fn add(&mut self, hash: u64, key: &[u8], state: State, old: Option<Old<'_>>, new: Option<Tuple<'_>>) {
        let Table { arena, entries, index, .. } = self;
        let key = arena.push(|into| into.extend_from_slice(key));
        let old = old.and_then(|old| keep(arena, old));
        let new = new.map(|new| arena.push(|into| new.write(into)));
        let place = entries.len() as u32;
        entries.push(Entry { hash, key, state, old, new });
        index.insert_unique(hash, place, |place| entries.get(*place as usize).map_or(0, |entry| entry.hash));
    }
}

fn keep(arena: &mut Arena, old: Old<'_>) -> Option<(OldKind, Span)> {
    match old {
        Old::Absent => None,
        Old::Key(row) => Some((OldKind::Key, arena.push(|into| row.write(into)))),
        Old::Row(row) => Some((OldKind::Row, arena.push(|into| row.write(into)))),
    }
}

/// Whether the row that is known of a key is the one that is meant. Where whole rows identify, nothing says that the source has one
/// row a key at every moment: its key may be deferrable, or only the target's.
fn is_of(known: Tuple<'_>, old: Old<'_>) -> bool {
    let Old::Row(old) = old else { return true };
    known.values().zip(old.values()).all(|(known, old)| known == Value::Unchanged || known == old)
}

/// The new row, with what is known of the values that were not sent.
fn merge<'a>(known: Tuple<'_>, new: Tuple<'a>, row: &'a mut TupleBuffer) -> Option<Tuple<'a>> {
    if !has_unchanged(new) {
        return Some(new);
    }
    row.clear();
    for (value, known) in new.values().zip(known.values()) {
        row.push(if value == Value::Unchanged { known } else { value }).ok()?;
    }
    Some(row.tuple())
}

fn has_unchanged(row: Tuple<'_>) -> bool {
    row.values().any(|value| value == Value::Unchanged)
}

#[cfg(test)]
mod tests;
