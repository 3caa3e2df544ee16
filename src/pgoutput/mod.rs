//! The pgoutput protocol: what the source says of a transaction and its rows. Version 1 is the language of the log; of
//! version 2 there is what the receiver needs to bring a streamed transaction into that form.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats"; `src/backend/replication/logical/proto.c`.
//! Messages borrow from the bytes they were read from, and rows are checked once and then walked without copies.
//! Integers are big-endian, strings end with NUL and are in the encoding of the connection.
//!
//! Deliberately absent: two-phase transactions and parallel streaming (versions 3 and 4), which are never asked for.

mod cursor;
mod decode;
mod encode;
mod stream;
mod tuple;

pub use decode::{Malformed, decode};
pub use encode::{Unwritable, encode, encode_begin, encode_commit};
pub use stream::{StreamMessage, decode_stream, split_streamed};
pub use tuple::{Tuple, TupleBuffer, Values};

use crate::model::{Lsn, Position, Relation, Timestamp, Xid};

/// One message of the stream.
#[derive(Debug, PartialEq)]
pub enum Message<'a> {
    Begin(Begin),
    Commit(Commit),
    /// The transaction was itself replicated to the source from elsewhere.
    Origin {
        commit_lsn: Lsn,
        name: &'a [u8],
    },
    /// Describes the table that later changes name by its OID. Repeated whenever the definition changes.
    Relation(Relation),
    /// Names a type that is not built in.
    Type {
        oid: u32,
        schema: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Old<'a>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Old<'a>,
    },
    Truncate(Truncate),
    /// `pg_logical_emit_message`. Transactional ones stand inside their transaction, others between transactions.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: &'a [u8],
        content: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record ("final LSN").
    pub commit_lsn: Lsn,
    pub commit_time: Timestamp,
    pub xid: Xid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub commit_lsn: Lsn,
    /// First byte after the commit record: what names the transaction.
    pub end: Position,
    pub commit_time: Timestamp,
}

/// What is known of the row before an UPDATE or DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// The key did not change, so the new row holds it (UPDATE only).
    Absent,
    /// Key columns; the others are sent as null and mean nothing.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Row(Tuple<'a>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// OIDs of all tables of the command, cascaded ones included.
    pub relations: Vec<u32>,
    pub cascade: bool,
    pub restart_identity: bool,
}
