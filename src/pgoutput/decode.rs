//! Bytes to [`Message`].

use crate::model::{Column, Lsn, Position, Relation, ReplicaIdentity, Timestamp, Xid};

use super::cursor::Cursor;
use super::{Begin, Commit, Message, Old, Truncate, Tuple};

/// Why bytes are not a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("pgoutput message ends too early")]
    Short,
    #[error("pgoutput message has {0} bytes too many")]
    Long(usize),
    #[error("unknown tag {0:#04x} in a pgoutput message")]
    Tag(u8),
    #[error("a name in a pgoutput message is not UTF-8")]
    Name,
}

/// Reads one message, all of it.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let message = match cursor.u8()? {
        b'B' => Message::Begin(Begin {
            commit_lsn: Lsn(cursor.u64()?),
            commit_time: Timestamp(cursor.u64()?.cast_signed()),
            xid: Xid(cursor.u32()?),
        }),
        b'C' => {
            cursor.u8()?; // flags, none defined
            Message::Commit(Commit {
                commit_lsn: Lsn(cursor.u64()?),
                end: Position(cursor.u64()?),
                commit_time: Timestamp(cursor.u64()?.cast_signed()),
            })
        }
        b'O' => Message::Origin { commit_lsn: Lsn(cursor.u64()?), name: cursor.string()? },
        b'R' => Message::Relation(relation(&mut cursor)?),
        b'Y' => Message::Type { oid: cursor.u32()?, schema: schema(&mut cursor)?, name: name(&mut cursor)? },
        b'I' => {
            let relation = cursor.u32()?;
            match cursor.u8()? {
                b'N' => Message::Insert { relation, new: Tuple::read(&mut cursor)? },
                other => return Err(Malformed::Tag(other)),
            }
        }
        b'U' => update(&mut cursor)?,
        b'D' => {
            let relation = cursor.u32()?;
            let old = match cursor.u8()? {
                b'K' => Old::Key(Tuple::read(&mut cursor)?),
                b'O' => Old::Row(Tuple::read(&mut cursor)?),
                other => return Err(Malformed::Tag(other)),
            };
            Message::Delete { relation, old }
        }
        b'T' => truncate(&mut cursor)?,
        b'M' => {
            let transactional = cursor.u8()? & 1 != 0;
            let (lsn, prefix, length) = (Lsn(cursor.u64()?), cursor.string()?, cursor.u32()?);
            Message::Logical { transactional, lsn, prefix, content: cursor.bytes(length as usize)? }
        }
        other => return Err(Malformed::Tag(other)),
    };
    cursor.end()?;
    Ok(message)
}

fn update<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Malformed> {
    let relation = cursor.u32()?;
    let (old, new_tag) = match cursor.u8()? {
        b'K' => (Old::Key(Tuple::read(cursor)?), cursor.u8()?),
        b'O' => (Old::Row(Tuple::read(cursor)?), cursor.u8()?),
        tag => (Old::Absent, tag),
    };
    match new_tag {
        b'N' => Ok(Message::Update { relation, old, new: Tuple::read(cursor)? }),
        other => Err(Malformed::Tag(other)),
    }
}

fn truncate<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Malformed> {
    let count = cursor.u32()?;
    let flags = cursor.u8()?;
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(cursor.u32()?);
    }
    Ok(Message::Truncate(Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 }))
}

fn relation(cursor: &mut Cursor<'_>) -> Result<Relation, Malformed> {
    let (oid, schema, table) = (cursor.u32()?, schema(cursor)?, name(cursor)?);
    let identity = match cursor.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        other => return Err(Malformed::Tag(other)),
    };
    let mut columns = Vec::new();
    for _ in 0..cursor.u16()? {
        columns.push(Column {
            key: cursor.u8()? & 1 != 0,
            name: name(cursor)?,
            type_oid: cursor.u32()?,
            type_modifier: cursor.u32()?.cast_signed(),
        });
    }
    Ok(Relation { oid, schema, name: table, identity, columns })
}

fn name(cursor: &mut Cursor<'_>) -> Result<String, Malformed> {
    let text = std::str::from_utf8(cursor.string()?).map_err(|_| Malformed::Name)?;
    Ok(text.to_owned())
}

/// An empty schema stands for `pg_catalog` (`logicalrep_write_namespace`).
fn schema(cursor: &mut Cursor<'_>) -> Result<String, Malformed> {
    let name = name(cursor)?;
    Ok(if name.is_empty() { "pg_catalog".into() } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;

    fn check(bytes: &[u8], expected: Message<'_>) {
        assert_eq!(decode(bytes).unwrap(), expected);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(decode(&longer).is_err(), "one byte too many");
    }

    #[test]
    fn transaction_ends() {
        check(
            b"B\0\0\0\0\x02\x02\x2A\xA8\0\0\0\0\0\0\0\x07\0\0\x03\x09",
            Message::Begin(Begin { commit_lsn: Lsn(0x2022AA8), commit_time: Timestamp(7), xid: Xid(777) }),
        );
        check(
            b"C\0\0\0\0\0\x02\x02\x2A\xA8\0\0\0\0\x02\x02\x2A\xD8\0\0\0\0\0\0\0\x07",
            Message::Commit(Commit {
                commit_lsn: Lsn(0x2022AA8),
                end: Position(0x2022AD8),
                commit_time: Timestamp(7),
            }),
        );
    }

    #[test]
    fn relation_with_key() {
        check(
            b"R\0\0\0\x09\0t\"t\0d\0\x02\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF\0n\0\0\0\0\x19\0\0\0\x08",
            Message::Relation(Relation {
                oid: 9,
                schema: "pg_catalog".into(),
                name: "t\"t".into(),
                identity: ReplicaIdentity::Default,
                columns: vec![
                    Column { name: "id".into(), key: true, type_oid: 23, type_modifier: -1 },
                    Column { name: "n".into(), key: false, type_oid: 25, type_modifier: 8 },
                ],
            }),
        );
    }

    #[test]
    fn rows() {
        let update = b"U\0\0\0\x09K\0\x02t\0\0\0\x011nN\0\x03t\0\0\0\x012nu";
        let Message::Update { relation: 9, old: Old::Key(old), new } = decode(update).unwrap() else {
            panic!("not an update with a key")
        };
        assert_eq!(old.values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null]);
        assert_eq!(new.values().collect::<Vec<_>>(), [Value::Text(b"2"), Value::Null, Value::Unchanged]);
        for cut in 0..update.len() {
            assert!(decode(&update[..cut]).is_err());
        }
        assert!(matches!(
            decode(b"D\0\0\0\x09O\0\x01b\0\0\0\0"),
            Ok(Message::Delete { old: Old::Row(_), .. })
        ));
        assert_eq!(decode(b"I\0\0\0\x09N\0\x01t\xFF\xFF\xFF\xFF"), Err(Malformed::Short));
    }

    #[test]
    fn truncate_of_two() {
        check(
            b"T\0\0\0\x02\x03\0\0\0\x09\0\0\0\x0A",
            Message::Truncate(Truncate { relations: vec![9, 10], cascade: true, restart_identity: true }),
        );
    }

    #[test]
    fn logical_message_and_origin() {
        check(
            b"M\x01\0\0\0\0\0\0\0\x05p\0\0\0\0\x02\0\xFF",
            Message::Logical { transactional: true, lsn: Lsn(5), prefix: b"p", content: &[0, 0xFF] },
        );
        check(b"O\0\0\0\0\0\0\0\x05up\0", Message::Origin { commit_lsn: Lsn(5), name: b"up" });
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, tag in proptest::sample::select(b"BCORYIUDTM".to_vec())) {
            let mut message = vec![tag];
            message.extend(bytes);
            let _ = decode(&message);
        }
    }
}
