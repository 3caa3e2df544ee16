//! What the catalog holds, and its keys and values as bytes.
//!
//! | key | value |
//! | --- | --- |
//! | `v` | version of this table, archive id |
//! | `s` after | segment |
//! | `f` end of the frame's last commit | frame |
//! | `t` segment, oid | what happened to a table in it |
//! | `r` oid, after, segment, number | Relation message |
//! | `p` segment, number | a pin |
//!
//! Integers in keys are big-endian, so that keys sort by them; those in values are 64 bits, little-endian.

use crate::model::{Position, Timestamp};

/// What a sealed segment gives to the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRows {
    pub segment: SegmentRow,
    /// Those in which a transaction ends.
    pub frames: Vec<FrameRow>,
    pub tables: Vec<TableRow>,
    pub relations: Vec<RelationRow>,
    pub pins: Vec<PinRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    pub after: Position,
    pub through: Position,
    /// The file's length.
    pub bytes: u64,
    pub raw_bytes: u64,
    pub transactions: u64,
    pub changes: u64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRow {
    /// The `after` of its segment.
    pub segment: Position,
    pub offset: u64,
    /// The ends of the first and the last commit inside.
    pub first: Position,
    pub last: Position,
    pub transactions: u64,
    /// The least and the greatest, of commit times and of xids as plain numbers.
    pub first_time: Timestamp,
    pub last_time: Timestamp,
    pub xid_min: u32,
    pub xid_max: u32,
}

/// What happened to a table in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRow {
    /// The `after` of its segment.
    pub segment: Position,
    pub oid: u32,
    /// `schema.name`, unquoted.
    pub name: String,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Of the change messages.
    pub bytes: u64,
}

/// A relation's definition, for the commits that end after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationRow {
    pub oid: u32,
    pub after: Position,
    pub message: Vec<u8>,
}

/// A transaction that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinRow {
    /// The `after` of its segment.
    pub segment: Position,
    /// Its place among the segment's.
    pub number: u64,
    /// Where its commit ends.
    pub end: Position,
    pub name: String,
}

pub(super) const VERSION_KEY: &[u8] = b"v";
pub(super) const SEGMENT: u8 = b's';
pub(super) const FRAME: u8 = b'f';
pub(super) const TABLE: u8 = b't';
pub(super) const RELATION: u8 = b'r';
pub(super) const PIN: u8 = b'p';

pub(super) fn key(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = vec![kind];
    numbers.iter().for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key
}

pub(super) fn relation_key(oid: u32, after: Position, segment: Position, number: usize) -> Vec<u8> {
    key(RELATION, &[oid.into(), after.0, segment.0, number as u64])
}

/// The numbers of a key behind its kind.
pub(super) fn key_numbers<const N: usize>(key: &[u8]) -> Option<[u64; N]> {
    numbers(key.get(1..)?, u64::from_be_bytes)
}

fn numbers<const N: usize>(bytes: &[u8], read: fn([u8; 8]) -> u64) -> Option<[u64; N]> {
    let numbers: Vec<u64> =
        bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(read)).collect();
    (bytes.len() == N * 8).then(|| numbers.try_into().ok()).flatten()
}

fn value(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

impl SegmentRow {
    pub(super) fn key(&self) -> Vec<u8> {
        key(SEGMENT, &[self.after.0])
    }

    pub(super) fn value(&self) -> Vec<u8> {
        value(&[
            self.through.0,
            self.bytes,
            self.raw_bytes,
            self.transactions,
            self.changes,
            self.first_time.0 as u64,
            self.last_time.0 as u64,
        ])
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<SegmentRow> {
        let [after] = key_numbers(key)?;
        let [through, stored, raw_bytes, transactions, changes, first, last] =
            numbers(bytes, u64::from_le_bytes)?;
        Some(SegmentRow {
            after: Position(after),
            through: Position(through),
            bytes: stored,
            raw_bytes,
            transactions,
            changes,
            first_time: Timestamp(first as i64),
            last_time: Timestamp(last as i64),
        })
    }
}

impl FrameRow {
    pub(super) fn key(&self) -> Vec<u8> {
        key(FRAME, &[self.last.0])
    }

    pub(super) fn value(&self) -> Vec<u8> {
        value(&[
            self.segment.0,
            self.offset,
            self.first.0,
            self.transactions,
            self.first_time.0 as u64,
            self.last_time.0 as u64,
            self.xid_min.into(),
            self.xid_max.into(),
        ])
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<FrameRow> {
        let [last] = key_numbers(key)?;
        let [segment, offset, first, transactions, first_time, last_time, xid_min, xid_max] =
            numbers(bytes, u64::from_le_bytes)?;
        Some(FrameRow {
            segment: Position(segment),
            offset,
            first: Position(first),
            last: Position(last),
            transactions,
            first_time: Timestamp(first_time as i64),
            last_time: Timestamp(last_time as i64),
            xid_min: u32::try_from(xid_min).ok()?,
            xid_max: u32::try_from(xid_max).ok()?,
        })
    }
}

impl TableRow {
    pub(super) fn key(&self) -> Vec<u8> {
        key(TABLE, &[self.segment.0, self.oid.into()])
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let mut bytes = value(&[self.inserts, self.updates, self.deletes, self.truncates, self.bytes]);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<TableRow> {
        let [segment, oid] = key_numbers(key)?;
        let (counts, name) = bytes.split_at_checked(5 * 8)?;
        let [inserts, updates, deletes, truncates, bytes] = numbers(counts, u64::from_le_bytes)?;
        Some(TableRow {
            segment: Position(segment),
            oid: u32::try_from(oid).ok()?,
            name: String::from_utf8(name.to_vec()).ok()?,
            inserts,
            updates,
            deletes,
            truncates,
            bytes,
        })
    }
}

impl PinRow {
    pub(super) fn key(&self) -> Vec<u8> {
        key(PIN, &[self.segment.0, self.number])
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let mut bytes = value(&[self.end.0]);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<PinRow> {
        let [segment, number] = key_numbers(key)?;
        let (end, name) = bytes.split_at_checked(8)?;
        let [end] = numbers(end, u64::from_le_bytes)?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some(PinRow { segment: Position(segment), number, end: Position(end), name })
    }
}
