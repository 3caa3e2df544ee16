//! What a reader gets.

use bytes::Bytes;

use crate::model::Position;
use crate::segment::{Damage, FrameHeader, Peek, Records, peek};

/// A frame of the log, decoded. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How far the log goes with it: the end of its last commit, or idle progress.
    pub through: Position,
    /// The end of the first commit inside; `through` where there is none.
    pub first: Position,
    /// Whether no transaction is unfinished at its end.
    pub ends_on_commit: bool,
    pub starts_in_transaction: bool,
    pub transactions: u32,
    pub changes: u32,
    /// The records as they are in the file.
    pub raw: Bytes,
    /// Whether it came from the tail.
    pub from_memory: bool,
}

impl Frame {
    pub(super) fn new(header: &FrameHeader, raw: Bytes, from_memory: bool) -> Frame {
        Frame {
            through: header.through,
            first: header.first,
            ends_on_commit: header.ends_on_commit,
            starts_in_transaction: header.starts_in_transaction,
            transactions: header.transactions,
            changes: header.changes,
            raw,
            from_memory,
        }
    }

    /// One that no file has: records without transactions.
    pub(super) fn bare(through: Position, raw: Bytes) -> Frame {
        Frame {
            through,
            first: through,
            ends_on_commit: true,
            starts_in_transaction: false,
            transactions: 0,
            changes: 0,
            raw,
            from_memory: false,
        }
    }

    /// What is left of it behind `bytes` of records, which end between transactions.
    pub(super) fn behind(self, bytes: usize) -> Result<Frame, Damage> {
        let mut rest = Frame { first: self.through, transactions: 0, changes: 0, ..self };
        if bytes > rest.raw.len() {
            return Err(Damage::Short("a frame's records"));
        }
        rest.raw = rest.raw.slice(bytes..);
        for message in Records::new(&rest.raw) {
            match peek(message?)? {
                Peek::Commit { end, .. } => {
                    rest.first = if rest.transactions == 0 { end } else { rest.first };
                    rest.transactions += 1;
                }
                Peek::Insert { .. } | Peek::Update { .. } | Peek::Delete { .. } | Peek::Truncate => {
                    rest.changes += 1;
                }
                _ => {}
            }
        }
        Ok(rest)
    }

    /// The pgoutput messages, in order.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.raw)
    }
}
