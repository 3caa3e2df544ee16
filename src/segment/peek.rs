//! The little that the log must know of a pgoutput message (protocol version 1): its kind, the ends of transactions
//! and the relation that a change is of. Message layouts: PostgreSQL's manual, "Logical Replication Message Formats".

use crate::model::{Lsn, Position, Timestamp, Xid};

use super::Damage;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    Begin {
        final_lsn: Lsn,
        time: Timestamp,
        xid: Xid,
    },
    Commit {
        end: Position,
        time: Timestamp,
    },
    Relation {
        oid: u32,
    },
    Type {
        oid: u32,
    },
    Insert {
        relation: u32,
    },
    Update {
        relation: u32,
    },
    Delete {
        relation: u32,
    },
    /// Of several relations: [`truncated_oids`].
    Truncate,
    Origin,
    Message {
        transactional: bool,
    },
}

fn field<const N: usize>(message: &[u8], offset: usize) -> Result<[u8; N], Damage> {
    let rest = message.get(offset..).and_then(|rest| rest.first_chunk());
    rest.copied().ok_or(Damage::Short("a pgoutput message"))
}

pub fn peek(message: &[u8]) -> Result<Peek, Damage> {
    let oid = |offset| field(message, offset).map(u32::from_be_bytes);
    let lsn = |offset| field(message, offset).map(u64::from_be_bytes);
    let time = |offset| field(message, offset).map(i64::from_be_bytes).map(Timestamp);
    match message.first() {
        Some(b'I') => Ok(Peek::Insert { relation: oid(1)? }),
        Some(b'U') => Ok(Peek::Update { relation: oid(1)? }),
        Some(b'D') => Ok(Peek::Delete { relation: oid(1)? }),
        Some(b'B') => Ok(Peek::Begin { final_lsn: Lsn(lsn(1)?), time: time(9)?, xid: Xid(oid(17)?) }),
        Some(b'C') => Ok(Peek::Commit { end: Position(lsn(10)?), time: time(18)? }),
        Some(b'R') => Ok(Peek::Relation { oid: oid(1)? }),
        Some(b'Y') => Ok(Peek::Type { oid: oid(1)? }),
        Some(b'T') => oid(1).map(|_| Peek::Truncate),
        Some(b'O') => Ok(Peek::Origin),
        Some(b'M') => field(message, 1).map(|[flags]| Peek::Message { transactional: flags & 1 != 0 }),
        Some(_) => Err(Damage::Malformed("a pgoutput message")),
        None => Err(Damage::Short("a pgoutput message")),
    }
}

/// Prefix and content of a logical message.
pub(super) fn logical(message: &[u8]) -> Option<(&[u8], &[u8])> {
    // Tag, flags and LSN before them; the content's length between them.
    let (prefix, rest) = split_string(message.get(10..)?)?;
    let length = u32::from_be_bytes(field(rest, 0).ok()?);
    Some((prefix, rest.get(4..)?.get(..length as usize)?))
}

/// The relations of a Truncate message, as far as its bytes go.
pub fn truncated_oids(message: &[u8]) -> impl Iterator<Item = u32> {
    let count = field(message, 1).map(u32::from_be_bytes).unwrap_or(0) as usize;
    let oids = message.get(6..).unwrap_or_default().chunks_exact(4);
    oids.take(count).filter_map(|oid| oid.try_into().ok().map(u32::from_be_bytes))
}

/// A Relation message, split at its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationPeek<'a> {
    pub schema: &'a [u8],
    pub name: &'a [u8],
    /// Replica identity, column count and columns.
    columns: &'a [u8],
}

fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// Schema and name of a Relation message.
pub fn relation_name(message: &[u8]) -> Result<RelationPeek<'_>, Damage> {
    let split = || {
        let (schema, rest) = split_string(message.get(5..)?)?;
        let (name, columns) = split_string(rest)?;
        Some(RelationPeek { schema, name, columns })
    };
    split().ok_or(Damage::Short("a pgoutput Relation message"))
}

/// The types of the columns of a Relation message, as far as its bytes go.
pub fn relation_type_oids(message: &[u8]) -> Vec<u32> {
    let mut oids = Vec::new();
    let Ok(relation) = relation_name(message) else { return oids };
    // Replica identity (1 byte), number of columns (2), then each: flags (1), name, type (4), modifier (4).
    let mut rest = relation.columns.get(3..).unwrap_or_default();
    while let Some((_, after_name)) = rest.get(1..).and_then(split_string) {
        let Ok(oid) = field(after_name, 0) else { break };
        oids.push(u32::from_be_bytes(oid));
        rest = after_name.get(8..).unwrap_or_default();
    }
    oids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_are_errors() {
        let mut commit = vec![b'C', 0];
        commit.extend_from_slice(&[1; 24]);
        let messages: [&[u8]; 4] =
            [b"R\0\0\0\x01s\0t\0d\0\0", b"T\0\0\0\x01\0\0\0\0\x07", b"I\0\0\0\x02N", &commit];
        for message in messages {
            assert!(peek(message).is_ok());
            for end in 0..message.len() {
                let cut = &message[..end];
                let _ = (peek(cut), relation_name(cut), relation_type_oids(cut), truncated_oids(cut).count());
            }
            assert!(peek(&message[..4]).is_err());
        }
        assert_eq!(peek(b"Z1234"), Err(Damage::Malformed("a pgoutput message")));
        assert_eq!(truncated_oids(messages[1]).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn finds_names_and_types_of_a_relation() {
        let message = b"R\0\0\x40\x01public\0t\0d\0\x02\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF\0v\0\0\0\0\x19\xFF\xFF\xFF\xFF";
        let relation = relation_name(message).unwrap();
        assert_eq!((relation.schema, relation.name), (&b"public"[..], &b"t"[..]));
        assert_eq!(relation_type_oids(message), [23, 25]);
    }
}
