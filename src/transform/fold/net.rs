//! What comes out of a fold: groups of rows for which one statement serves.

use std::collections::BTreeMap;

use super::{Entry, OldKind, State, Table};
use crate::model::{Format, Value};
use crate::pgoutput::{Message, Old, Tuple};
use crate::transform::columns::ColumnSet;

/// Rows of one table to which the same is done, no two with the same key, in the order of their keys.
#[derive(Debug)]
pub struct Group<'f> {
    pub kind: GroupKind,
    pub rows: Vec<NetRow<'f>>,
}

/// In the order in which they are to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    Delete,
    /// All with the same columns that were not sent.
    Update,
    Insert,
}

/// A change that stands for all those of its row.
#[derive(Clone, Copy, Debug)]
pub struct NetRow<'f> {
    kind: GroupKind,
    key: &'f [u8],
    format: Option<Format>,
    old: Old<'f>,
    new: Option<Tuple<'f>>,
}

impl<'f> NetRow<'f> {
    /// The change as the source would have said it.
    pub fn message(&self, relation: u32) -> Option<Message<'f>> {
        Some(match (self.kind, self.new) {
            (GroupKind::Delete, _) => Message::Delete { relation, old: self.old },
            (GroupKind::Update, Some(new)) => Message::Update { relation, old: self.old, new },
            (GroupKind::Insert, Some(new)) => Message::Insert { relation, new },
            (_, None) => return None,
        })
    }

    /// A number that is the same for all changes of a row, in any batch, and mostly for rows that lie together.
    pub fn block(&self) -> u32 {
        match (Rank::of(Some(self.key), self.format), self.new) {
            (Rank::Integer(number, _), _) if is_single(self.key) => {
                crc32c::crc32c(&(number >> BLOCK_BITS).to_be_bytes())
            }
            // Rows without a key are inserted only.
            (Rank::Other(&[]), Some(new)) => new.extend_checksum(0),
            _ => crc32c::crc32c(self.key),
        }
    }

    /// A checksum over rows: that of those before, and this one.
    pub fn digest(&self, relation: u32, before: u32) -> u32 {
        let mut digest = crc32c::crc32c_append(before, &relation.to_be_bytes());
        digest = crc32c::crc32c_append(digest, &[self.kind as u8]);
        digest = crc32c::crc32c_append(digest, self.key);
        self.new.map_or(digest, |new| new.extend_checksum(digest))
    }
}

/// Whether a key is of one column.
fn is_single(key: &[u8]) -> bool {
    let length = key.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
    length.is_some_and(|length| length + 4 == key.len())
}

/// Integer keys that differ in these bits only are one block.
const BLOCK_BITS: u32 = 8;

pub(super) fn groups(table: &Table) -> Vec<Group<'_>> {
    let mut sorted: Vec<(Rank<'_>, &Entry)> = table
        .entries
        .iter()
        .map(|entry| (Rank::of(table.arena.get(entry.key), table.format), entry))
        .collect();
    // Rows without a key stay as they came.
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (mut deletes, mut inserts) = (Vec::new(), Vec::new());
    let mut updates: BTreeMap<ColumnSet, Vec<NetRow<'_>>> = BTreeMap::new();
    for (_, entry) in sorted {
        let old = match entry.old.and_then(|(kind, span)| Some((kind, table.arena.tuple(span)?))) {
            Some((OldKind::Key, row)) => Old::Key(row),
            Some((OldKind::Row, row)) => Old::Row(row),
            None => Old::Absent,
        };
        let new = entry.new.and_then(|span| table.arena.tuple(span));
        let key = table.arena.get(entry.key).unwrap_or_default();
        let row = |kind| NetRow { kind, key, format: table.format, old, new };
        if matches!(entry.state, State::Deleted | State::Replaced) {
            deletes.push(row(GroupKind::Delete));
        }
        if matches!(entry.state, State::Inserted | State::Replaced) {
            inserts.push(row(GroupKind::Insert));
        }
        if let (State::Updated, Some(new)) = (entry.state, new) {
            updates.entry(unchanged(new)).or_default().push(row(GroupKind::Update));
        }
    }
    let updates = updates.into_values().map(|rows| (GroupKind::Update, rows));
    let groups =
        std::iter::once((GroupKind::Delete, deletes)).chain(updates).chain([(GroupKind::Insert, inserts)]);
    groups.filter(|(_, rows)| !rows.is_empty()).map(|(kind, rows)| Group { kind, rows }).collect()
}

fn unchanged(new: Tuple<'_>) -> ColumnSet {
    let mut unchanged = ColumnSet::default();
    for (at, value) in new.values().enumerate() {
        if value == Value::Unchanged {
            unchanged.insert(at);
        }
    }
    unchanged
}

/// The order of keys: integers by their values, so that rows which lie together on the target are visited together.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank<'k> {
    Integer(i64, &'k [u8]),
    Other(&'k [u8]),
}

impl<'k> Rank<'k> {
    fn of(key: Option<&'k [u8]>, format: Option<Format>) -> Rank<'k> {
        let key = key.unwrap_or_default();
        let first = key
            .split_first_chunk()
            .and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
        let number = first.and_then(|value| match format {
            Some(Format::Binary) => integer(value),
            Some(Format::Text) | None => std::str::from_utf8(value).ok()?.parse().ok(),
        });
        number.map_or(Rank::Other(key), |number| Rank::Integer(number, key))
    }
}

/// What an integer's binary form would mean. Other types of those lengths (times, the most floats) have the same order.
fn integer(bytes: &[u8]) -> Option<i64> {
    match *bytes {
        [a, b] => Some(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
        _ => bytes.try_into().map(i64::from_be_bytes).ok(),
    }
}
