//! What a message looks like apart from what it says: the parts that repeat, and where the values are.

use super::super::Damage;
use super::super::take::{Take, put_varint};
use super::WHAT;

/// Shapes are told by one byte: these, and from [`CHANGES`] on the changes that a frame holds.
pub(super) const RAW: u8 = 0;
pub(super) const BEGIN: u8 = 1;
pub(super) const COMMIT: u8 = 2;
pub(super) const CHANGES: u8 = 3;
pub(super) const CHANGES_MAX: usize = 256 - CHANGES as usize;

/// A change of a relation, with `columns` columns in each of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// `I`, `U` or `D`.
    pub(super) tag: u8,
    pub(super) relation: u32,
    /// `K` or `O` where the old row is told.
    pub(super) old: Option<u8>,
    pub(super) columns: u16,
}

/// Which row of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Old,
    New,
}

impl Change {
    /// Its rows in the order of the message, each with the byte that announces it.
    pub(super) fn rows(self) -> impl Iterator<Item = (Row, u8)> {
        let old = self.old.map(|marker| (Row::Old, marker));
        let new = (self.tag != b'D').then_some((Row::New, b'N'));
        old.into_iter().chain(new)
    }

    /// As PostgreSQL sends it: no Insert has an old row, every Delete has one.
    fn checked(self) -> Option<Change> {
        let known = matches!(self.old, None | Some(b'K' | b'O'));
        let fits = match self.tag {
            b'I' => self.old.is_none(),
            b'U' => true,
            b'D' => self.old.is_some(),
            _ => false,
        };
        (known && fits).then_some(self)
    }

    pub(super) fn put(self, meta: &mut Vec<u8>) {
        meta.extend_from_slice(&[self.tag, self.old.unwrap_or(0)]);
        put_varint(meta, self.relation.into());
        put_varint(meta, self.columns.into());
    }

    pub(super) fn take(meta: &mut Take<'_>) -> Result<Change, Damage> {
        let (tag, old) = (meta.u8()?, meta.u8()?);
        let (relation, columns) = (u32::try_from(meta.varint()?), u16::try_from(meta.varint()?));
        let (Ok(relation), Ok(columns)) = (relation, columns) else { return Err(meta.malformed()) };
        let change = Change { tag, relation, old: (old != 0).then_some(old), columns };
        change.checked().ok_or(meta.malformed())
    }
}

/// A column of a row: its kind, and its bytes where the kind has some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    pub(super) kind: u8,
    pub(super) value: Option<&'a [u8]>,
}

pub(super) fn has_bytes(kind: u8) -> bool {
    matches!(kind, b't' | b'b')
}

/// The fields of a Begin message: final LSN, commit time, xid.
pub(super) fn split_begin(message: &[u8]) -> Option<[u64; 3]> {
    let mut take = Take::new(message.strip_prefix(b"B")?, WHAT);
    let fields = [u64_of(&mut take)?, u64_of(&mut take)?, u32_of(&mut take)?.into()];
    take.is_empty().then_some(fields)
}

/// The fields of a Commit message: flags, LSN of the commit, its end, its time.
pub(super) fn split_commit(message: &[u8]) -> Option<[u64; 4]> {
    let mut take = Take::new(message.strip_prefix(b"C")?, WHAT);
    let flags = take.u8().ok()?.into();
    let fields = [flags, u64_of(&mut take)?, u64_of(&mut take)?, u64_of(&mut take)?];
    take.is_empty().then_some(fields)
}

/// Splits an Insert, Update or Delete into its shape and the cells of its rows, which are appended in order. `None` where
/// it is none, or not as PostgreSQL writes it.
pub(super) fn split_change<'a>(message: &'a [u8], cells: &mut Vec<Cell<'a>>) -> Option<Change> {
    let mut take = Take::new(message, WHAT);
    let tag = take.u8().ok()?;
    let relation = u32_of(&mut take)?;
    let old = Some(take.u8().ok()?).filter(|marker| *marker != b'N');
    let columns = row(&mut take, cells)?;
    let change = Change { tag, relation, old, columns }.checked()?;
    if tag == b'U' && old.is_some() && (take.u8().ok()? != b'N' || row(&mut take, cells)? != columns) {
        return None;
    }
    take.is_empty().then_some(change)
}

fn row<'a>(take: &mut Take<'a>, cells: &mut Vec<Cell<'a>>) -> Option<u16> {
    let columns = take.array().map(u16::from_be_bytes).ok()?;
    for _ in 0..columns {
        let kind = take.u8().ok()?;
        let value = match kind {
            _ if has_bytes(kind) => {
                let length = u32_of(take)?;
                Some(take.bytes(length as usize).ok()?)
            }
            b'n' | b'u' => None,
            _ => return None,
        };
        cells.push(Cell { kind, value });
    }
    Some(columns)
}

fn u32_of(take: &mut Take<'_>) -> Option<u32> {
    take.array().map(u32::from_be_bytes).ok()
}

fn u64_of(take: &mut Take<'_>) -> Option<u64> {
    take.array().map(u64::from_be_bytes).ok()
}
