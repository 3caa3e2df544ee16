//! A column's value as the source sent it.

/// One value of a row, borrowed from its message. Text is PostgreSQL's own, never parsed nor re-formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A TOASTed value that the change left alone, so that the source did not send it.
    Unchanged,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}
