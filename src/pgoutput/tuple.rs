//! Rows as they stand in a message.

use crate::faults;
use crate::model::Value;

use super::cursor::Cursor;
use super::{Malformed, Unwritable};

/// The columns of a row, checked when the message was decoded and walked on demand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Reads `count` and that many columns; everything that [`Values`] relies on is checked here.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>, Malformed> {
        let columns = cursor.u16()?;
        let start = cursor.rest();
        for _ in 0..columns {
            read_value(cursor)?;
        }
        let length = start.len() - cursor.rest().len();
        Ok(Tuple { columns, bytes: start.get(..length).ok_or(Malformed::Short)? })
    }

    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    pub fn values(&self) -> Values<'a> {
        Values { remaining: self.columns, cursor: Cursor::new(self.bytes) }
    }

    /// Appends the row as it stands in a message.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.columns.to_be_bytes());
        into.extend_from_slice(self.bytes);
    }

    /// The checksum (CRC32C) of what `before` is the checksum of and this row.
    pub fn extend_checksum(&self, before: u32) -> u32 {
        crc32c::crc32c_append(before, self.bytes)
    }

    /// The row that [`Tuple::write`] has written. Of other bytes it has those columns that make sense.
    pub fn written(bytes: &'a [u8]) -> Option<Tuple<'a>> {
        let (columns, bytes) = bytes.split_first_chunk()?;
        Some(Tuple { columns: u16::from_be_bytes(*columns), bytes })
    }
}

/// A row that is being put together, for [`encode`](super::encode).
#[derive(Clone, Debug, Default)]
pub struct TupleBuffer {
    columns: u16,
    bytes: Vec<u8>,
}

impl TupleBuffer {
    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.columns = 0;
        self.bytes.clear();
    }

    pub fn push(&mut self, value: Value<'_>) -> Result<(), Unwritable> {
        self.columns = self.columns.checked_add(1).ok_or(Unwritable("a row of so many columns"))?;
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(text) => (b't', Some(text)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        self.bytes.push(kind);
        if let Some(bytes) = bytes {
            let length = u32::try_from(bytes.len()).map_err(|_| Unwritable("so long a value"))?;
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(bytes);
        }
        Ok(())
    }

    pub fn tuple(&self) -> Tuple<'_> {
        Tuple { columns: self.columns, bytes: &self.bytes }
    }
}

impl std::fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

fn read_value<'a>(cursor: &mut Cursor<'a>) -> Result<Value<'a>, Malformed> {
    match cursor.u8()? {
        b'n' => Ok(Value::Null),
        b'u' if faults::mutated("unchanged_is_null") => Ok(Value::Null),
        b'u' => Ok(Value::Unchanged),
        kind @ (b't' | b'b') => {
            let length = cursor.u32()?;
            let bytes = cursor.bytes(length as usize)?;
            Ok(if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) })
        }
        other => Err(Malformed::Tag(other)),
    }
}

/// The values of a [`Tuple`], in the order of the relation's columns.
pub struct Values<'a> {
    remaining: u16,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        read_value(&mut self.cursor).ok()
    }
}
