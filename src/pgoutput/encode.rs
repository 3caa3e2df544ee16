//! [`Message`] to bytes: what pgoutput would have said.

use crate::model::{Relation, ReplicaIdentity};

use super::{Begin, Commit, Message, Old, Tuple};

/// Why a message can't be written: names hold a NUL, or something is longer than its length field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} can't be put into a pgoutput message")]
pub struct Unwritable(pub(super) &'static str);

/// Appends one message; what stands in `into` already stays. After an error `into` ends with a part of it.
pub fn encode(message: &Message<'_>, into: &mut Vec<u8>) -> Result<(), Unwritable> {
    match message {
        Message::Begin(begin) => into.extend_from_slice(&encode_begin(begin)),
        Message::Commit(commit) => into.extend_from_slice(&encode_commit(commit)),
        Message::Origin { commit_lsn, name } => {
            into.push(b'O');
            put_u64(into, commit_lsn.0);
            put_string(into, name)?;
        }
        Message::Relation(relation) => put_relation(into, relation)?,
        Message::Type { oid, schema, name } => {
            into.push(b'Y');
            put_u32(into, *oid);
            put_schema(into, schema)?;
            put_string(into, name.as_bytes())?;
        }
        Message::Insert { relation, new } => {
            into.push(b'I');
            put_u32(into, *relation);
            put_tuple(into, b'N', new);
        }
        Message::Update { relation, old, new } => {
            into.push(b'U');
            put_u32(into, *relation);
            put_old(into, old);
            put_tuple(into, b'N', new);
        }
        Message::Delete { relation, old } => {
            into.push(b'D');
            put_u32(into, *relation);
            put_old(into, old);
        }
        Message::Truncate(truncate) => {
            into.push(b'T');
            let count = u32::try_from(truncate.relations.len());
            put_u32(into, count.map_err(|_| Unwritable("a TRUNCATE of so many tables"))?);
            into.push(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            for oid in &truncate.relations {
                put_u32(into, *oid);
            }
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            into.push(b'M');
            into.push(u8::from(*transactional));
            put_u64(into, lsn.0);
            put_string(into, prefix)?;
            let length = u32::try_from(content.len());
            put_u32(into, length.map_err(|_| Unwritable("so long a logical message"))?);
            into.extend_from_slice(content);
        }
    }
    Ok(())
}

/// `logicalrep_write_begin`.
pub fn encode_begin(begin: &Begin) -> Vec<u8> {
    let mut message = vec![b'B'];
    put_u64(&mut message, begin.commit_lsn.0);
    put_u64(&mut message, begin.commit_time.0.cast_unsigned());
    put_u32(&mut message, begin.xid.0);
    message
}

/// `logicalrep_write_commit`.
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    put_u64(&mut message, commit.commit_lsn.0);
    put_u64(&mut message, commit.end.0);
    put_u64(&mut message, commit.commit_time.0.cast_unsigned());
    message
}

fn put_u32(into: &mut Vec<u8>, number: u32) {
    into.extend_from_slice(&number.to_be_bytes());
}

fn put_u64(into: &mut Vec<u8>, number: u64) {
    into.extend_from_slice(&number.to_be_bytes());
}

fn put_string(into: &mut Vec<u8>, text: &[u8]) -> Result<(), Unwritable> {
    if text.contains(&0) {
        return Err(Unwritable("a name with a NUL"));
    }
    into.extend_from_slice(text);
    into.push(0);
    Ok(())
}

fn put_schema(into: &mut Vec<u8>, schema: &str) -> Result<(), Unwritable> {
    put_string(into, if schema == "pg_catalog" { b"" } else { schema.as_bytes() })
}

fn put_relation(into: &mut Vec<u8>, relation: &Relation) -> Result<(), Unwritable> {
    into.push(b'R');
    put_u32(into, relation.oid);
    put_schema(into, &relation.schema)?;
    put_string(into, relation.name.as_bytes())?;
    into.push(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    let count = u16::try_from(relation.columns.len()).map_err(|_| Unwritable("so many columns"))?;
    into.extend_from_slice(&count.to_be_bytes());
    for column in &relation.columns {
        into.push(u8::from(column.key));
        put_string(into, column.name.as_bytes())?;
        put_u32(into, column.type_oid);
        put_u32(into, column.type_modifier.cast_unsigned());
    }
    Ok(())
}

fn put_old(into: &mut Vec<u8>, old: &Old<'_>) {
    match old {
        Old::Absent => {}
        Old::Key(key) => put_tuple(into, b'K', key),
        Old::Row(row) => put_tuple(into, b'O', row),
    }
}

fn put_tuple(into: &mut Vec<u8>, tag: u8, tuple: &Tuple<'_>) {
    into.push(tag);
    tuple.write(into);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Column, Lsn, Position, Timestamp, Value, Xid};
    use crate::pgoutput::{Begin, Commit, Truncate, TupleBuffer, decode};

    #[track_caller]
    fn check(message: Message<'_>) {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), message);
    }

    #[derive(Clone, Debug)]
    enum Cell {
        Null,
        Unchanged,
        Text(Vec<u8>),
        Binary(Vec<u8>),
    }

    fn cells() -> impl Strategy<Value = Vec<Cell>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        let cell = prop_oneof![
            Just(Cell::Null),
            Just(Cell::Unchanged),
            bytes().prop_map(Cell::Text),
            bytes().prop_map(Cell::Binary)
        ];
        prop::collection::vec(cell, 0..6)
    }

    fn buffer(cells: &[Cell]) -> TupleBuffer {
        let mut buffer = TupleBuffer::default();
        for cell in cells {
            let value = match cell {
                Cell::Null => Value::Null,
                Cell::Unchanged => Value::Unchanged,
                Cell::Text(text) => Value::Text(text),
                Cell::Binary(bytes) => Value::Binary(bytes),
            };
            buffer.push(value).unwrap();
        }
        buffer
    }

    fn column() -> impl Strategy<Value = Column> {
        (any::<bool>(), "[^\0]{0,9}", any::<u32>(), any::<i32>())
            .prop_map(|(key, name, type_oid, type_modifier)| Column { name, key, type_oid, type_modifier })
    }

    proptest! {
        #[test]
        fn rows_are_read_as_they_were_written(relation: u32, old in cells(), new in cells()) {
            let (old, new) = (buffer(&old), buffer(&new));
            let (old, new) = (old.tuple(), new.tuple());
            check(Message::Insert { relation, new });
            check(Message::Delete { relation, old: Old::Key(old) });
            for old in [Old::Absent, Old::Key(old), Old::Row(old)] {
                check(Message::Update { relation, old, new });
            }
        }

        #[test]
        fn definitions_are_read_as_they_were_written(
            oid: u32, schema in "[^\0]{1,9}", name in "[^\0]{0,9}", identity in 0usize..4,
            columns in prop::collection::vec(column(), 0..5),
        ) {
            use ReplicaIdentity::{Default, Full, Index, Nothing};
            check(Message::Type { oid, schema: schema.clone(), name: name.clone() });
            let identity = [Default, Nothing, Full, Index][identity];
            check(Message::Relation(Relation { oid, schema, name, identity, columns }));
        }

        #[test]
        fn the_rest_is_read_as_it_was_written(
            lsn: u64, end: u64, time: i64, xid: u32, flags: [bool; 2], relations: Vec<u32>, content: Vec<u8>,
        ) {
            let (commit_lsn, commit_time) = (Lsn(lsn), Timestamp(time));
            check(Message::Begin(Begin { commit_lsn, commit_time, xid: Xid(xid) }));
            check(Message::Commit(Commit { commit_lsn, end: Position(end), commit_time }));
            check(Message::Origin { commit_lsn, name: b"up" });
            let [cascade, restart_identity] = flags;
            check(Message::Truncate(Truncate { relations, cascade, restart_identity }));
            check(Message::Logical { transactional: cascade, lsn: commit_lsn, prefix: b"p", content: &content });
        }
    }

    #[test]
    fn the_systems_schema_is_written_as_pgoutput_does() {
        let mut bytes = Vec::new();
        encode(&Message::Type { oid: 1, schema: "pg_catalog".into(), name: "x".into() }, &mut bytes).unwrap();
        assert_eq!(bytes, b"Y\0\0\0\x01\0x\0");
        let wrong = Message::Type { oid: 1, schema: "a\0b".into(), name: "x".into() };
        assert!(encode(&wrong, &mut bytes).is_err());
    }
}
