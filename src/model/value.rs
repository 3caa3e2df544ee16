//! A column's value as the source sent it.

use super::Format;

/// One value of a row, borrowed from its message. Text is PostgreSQL's own, never parsed nor re-formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A TOASTed value that the change left alone, so that the source did not send it.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes of a value that was sent and is not null, and how they are to be read.
    pub fn bytes(self) -> Option<(Format, &'a [u8])> {
        match self {
            Value::Null | Value::Unchanged => None,
            Value::Text(text) => Some((Format::Text, text)),
            Value::Binary(bytes) => Some((Format::Binary, bytes)),
        }
    }
}
