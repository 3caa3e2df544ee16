//! The JSON of wal2json, format version 2: one object for each row and each end of a transaction.
//!
//! Types come by OID: their names would be printed without quoting, which makes a schema with capital letters broken JSON.
//! Version 2.5 and older print NaN and infinities as null; later ones print all numbers as strings when asked to.
//! Never told: flags of TRUNCATE, and what comes after a NUL in a logical message.

use std::borrow::Cow;

use super::json::Json;
use super::message::{Begin, Change, Field, FieldValue, Kind, Malformed, Message, Row, TableName, TypeName};
use super::time;
use crate::model::{Lsn, Position, Timestamp, Xid};
use crate::pgoutput::Commit;

/// The options of the slot that make it print what is read here.
pub const OPTIONS: [(&str, &str); 8] = [
    ("format-version", "2"),
    ("include-transaction", "1"),
    ("include-xids", "1"),
    ("include-timestamp", "1"),
    ("include-lsn", "1"),
    ("include-schemas", "1"),
    ("include-types", "0"),
    ("include-type-oids", "1"),
];

/// Makes NaN and infinities be printed. Unknown to version 2.5.
pub const ALL_NUMBERS: (&str, &str) = ("numeric-data-types-as-string", "1");

const BYTEA: u32 = 17;
/// `float4`, `float8`, `numeric`.
const WITH_NAN: [u32; 3] = [700, 701, 1700];

/// Reads one payload. `all_numbers`: [`ALL_NUMBERS`] is among the slot's options, so a null is one.
pub fn parse(payload: &[u8], all_numbers: bool) -> Result<Message<'_>, Malformed> {
    let mut json = Json::new(payload);
    let mut object = Object::default();
    json.object(|json, member| object.member(member, json, all_numbers))?;
    json.end()?;
    object.message().ok_or(json.wrong("an object that lacks something"))
}

/// All that any object may have.
#[derive(Default)]
struct Object<'a> {
    action: Cow<'a, [u8]>,
    xid: Option<Xid>,
    commit_time: Option<Timestamp>,
    lsn: Option<Lsn>,
    next_lsn: Option<Lsn>,
    schema: Option<String>,
    table: Option<String>,
    columns: Option<Row<'a>>,
    identity: Option<Row<'a>>,
    transactional: bool,
    prefix: Cow<'a, [u8]>,
    content: Cow<'a, [u8]>,
}

impl<'a> Object<'a> {
    fn member(&mut self, name: &[u8], json: &mut Json<'a>, all_numbers: bool) -> Result<(), Malformed> {
        match name {
            b"action" => self.action = json.string()?,
            b"xid" => self.xid = parsed(json.word()?).map(Xid),
            b"timestamp" if json.is_string() => self.commit_time = time::parse(&json.string()?),
            b"lsn" => self.lsn = parsed(&json.string()?),
            b"nextlsn" => self.next_lsn = parsed(&json.string()?),
            b"schema" => self.schema = Some(name_of(json)?.into_owned()),
            b"table" => self.table = Some(name_of(json)?.into_owned()),
            b"columns" => self.columns = Some(row(json, all_numbers)?),
            b"identity" => self.identity = Some(row(json, all_numbers)?),
            b"transactional" => self.transactional = json.word()? == b"true",
            b"prefix" => self.prefix = json.string()?,
            b"content" => self.content = json.string()?,
            _ => json.skip_value()?,
        }
        Ok(())
    }

    fn message(self) -> Option<Message<'a>> {
        let table = || Some(TableName { schema: self.schema?, name: self.table? });
        let commit = Some(()).and_then(|()| {
            let (commit_lsn, end) = (self.lsn?, self.next_lsn?);
            Some(Commit { commit_lsn, end: Position(end.0), commit_time: self.commit_time? })
        });
        let change = |table, kind| Some(Message::Change(Change { table, kind, leaves_out_unchanged: true }));
        match &*self.action {
            b"B" => Some(Message::Begin(Begin { xid: self.xid?, commit: Some(commit?) })),
            b"C" => Some(Message::Commit(commit?)),
            b"I" => change(table()?, Kind::Insert { new: self.columns }),
            b"U" => change(table()?, Kind::Update { old: self.identity, new: self.columns }),
            b"D" => change(table()?, Kind::Delete { old: self.identity }),
            b"T" => {
                let tables = vec![table()?];
                Some(Message::Truncate { tables, cascade: false, restart_identity: false })
            }
            b"M" => Some(Message::Logical {
                transactional: self.transactional,
                lsn: self.lsn?,
                prefix: self.prefix,
                content: self.content,
            }),
            _ => None,
        }
    }
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn name_of<'a>(json: &mut Json<'a>) -> Result<Cow<'a, str>, Malformed> {
    let name = match json.string()? {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    name.ok_or(json.wrong("not a name"))
}

fn row<'a>(json: &mut Json<'a>, all_numbers: bool) -> Result<Row<'a>, Malformed> {
    let mut row = Row::new();
    json.array(|json| {
        row.push(field(json, all_numbers)?);
        Ok(())
    })?;
    Ok(row)
}

fn field<'a>(json: &mut Json<'a>, all_numbers: bool) -> Result<Field<'a>, Malformed> {
    let (mut name, mut type_oid, mut value) = (None, None, None);
    json.object(|json, member| {
        match member {
            b"name" => name = Some(name_of(json)?),
            // Printed as a signed number.
            b"typeoid" => type_oid = parsed(json.word()?).map(|oid: i32| oid.cast_unsigned()),
            b"value" if json.is_string() => value = Some(FieldValue::Text(json.string()?)),
            b"value" => {
                value = Some(match json.word()? {
                    b"null" => FieldValue::Null,
                    b"true" => FieldValue::Text(Cow::Borrowed(b"t")),
                    b"false" => FieldValue::Text(Cow::Borrowed(b"f")),
                    number => FieldValue::Text(Cow::Borrowed(number)),
                });
            }
            _ => json.skip_value()?,
        }
        Ok(())
    })?;
    let (Some(name), Some(oid), Some(mut value)) = (name, type_oid, value) else {
        return Err(json.wrong("a column that lacks something"));
    };
    match &mut value {
        // The first two characters are cut off, whatever they are; the session sees to it that they are these.
        FieldValue::Text(hex) if oid == BYTEA => *hex = Cow::Owned([b"\\x", &**hex].concat()),
        FieldValue::Null if !all_numbers && WITH_NAN.contains(&oid) => value = FieldValue::Doubtful,
        _ => {}
    }
    Ok(Field { name, type_name: TypeName::Oid(oid), value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field<'a>(name: &'a str, oid: u32, value: FieldValue<'a>) -> Field<'a> {
        Field { name: Cow::Borrowed(name), type_name: TypeName::Oid(oid), value }
    }

    fn text(text: &str) -> FieldValue<'_> {
        FieldValue::Text(Cow::Borrowed(text.as_bytes()))
    }

    #[track_caller]
    fn check(json: &str, expected: Kind<'_>) {
        let table = TableName { schema: "S".into(), name: "t\"t".into() };
        let json = json.replacen('{', r#"{"xid":7,"lsn":"0/1","schema":"S","table":"t\"t","#, 1);
        let expected = Message::Change(Change { table, kind: expected, leaves_out_unchanged: true });
        assert_eq!(parse(json.as_bytes(), true).unwrap(), expected);
    }

    #[test]
    fn rows_of_all_kinds() {
        check(
            r#"{"action":"I","columns":[{"name":"a","typeoid":23,"value":"1"},{"name":"b","typeoid":16,"value":true},{"name":"c","typeoid":17,"value":"00ff"},{"name":"d","typeoid":-1,"value":null}]}"#,
            Kind::Insert {
                new: Some(vec![
                    field("a", 23, text("1")),
                    field("b", 16, text("t")),
                    field("c", 17, text("\\x00ff")),
                    field("d", u32::MAX, FieldValue::Null),
                ]),
            },
        );
        check(
            r#"{"action":"U","columns":[{"name":"n","typeoid":1700,"value":12345678901234567890.10}],"identity":[{"name":"n","typeoid":1700,"value":1e400}]}"#,
            Kind::Update {
                old: Some(vec![field("n", 1700, text("1e400"))]),
                new: Some(vec![field("n", 1700, text("12345678901234567890.10"))]),
            },
        );
        check(r#"{"action":"D"}"#, Kind::Delete { old: None });
        check(r#"{"action":"D","identity":[]}"#, Kind::Delete { old: Some(vec![]) });
    }

    #[test]
    fn a_null_number_is_doubtful_where_nan_is_null_too() {
        let json = br#"{"action":"I","schema":"s","table":"t","columns":[{"name":"a","typeoid":701,"value":null},{"name":"b","typeoid":23,"value":null}]}"#;
        let Ok(Message::Change(Change { kind: Kind::Insert { new: Some(new) }, .. })) = parse(json, false)
        else {
            panic!("no insert")
        };
        let values: Vec<_> = new.into_iter().map(|field| field.value).collect();
        assert_eq!(values, [FieldValue::Doubtful, FieldValue::Null]);
    }

    #[test]
    fn transaction_ends_truncate_and_messages() {
        let time = Timestamp(1_000_000);
        let commit = Commit { commit_lsn: Lsn(0xA0), end: Position(0xB0), commit_time: time };
        let ends = r#","xid":777,"timestamp":"2000-01-01 00:00:01+00","lsn":"0/A0","nextlsn":"0/B0"}"#;
        assert_eq!(
            parse(format!("{{\"action\":\"B\"{ends}").as_bytes(), true),
            Ok(Message::Begin(Begin { xid: Xid(777), commit: Some(commit) }))
        );
        assert_eq!(parse(format!("{{\"action\":\"C\"{ends}").as_bytes(), true), Ok(Message::Commit(commit)));
        let truncate = br#"{"action":"T","xid":7,"lsn":"0/1","schema":"s","table":"t"}"#;
        assert!(matches!(parse(truncate, true), Ok(Message::Truncate { .. })));
        let message = br#"{"action":"M","xid":null,"timestamp":null,"lsn":"0/1","transactional":false,"prefix":"p","content":"x\u0001"}"#;
        assert_eq!(
            parse(message, true),
            Ok(Message::Logical {
                transactional: false,
                lsn: Lsn(1),
                prefix: Cow::Borrowed(b"p"),
                content: Cow::Borrowed(b"x\x01")
            })
        );
    }

    #[test]
    fn cut_or_strange_text_is_malformed() {
        let whole =
            br#"{"action":"I","schema":"s","table":"t","columns":[{"name":"a","typeoid":23,"value":"1"}]}"#;
        assert!(parse(whole, true).is_ok());
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut], true).is_err(), "{cut}");
        }
        for text in [r#"{"action":"X"}"#, r#"{"action":"B","xid":1}"#, r#"{"action":"I","table":"t"}"#, "{}"]
        {
            assert!(parse(text.as_bytes(), true).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn values_come_back(name in "[^\0]{0,9}", value in "[^\0]{0,30}") {
            let quote = |text: &str| serde_json::Value::from(text).to_string();
            let json = format!(
                r#"{{"action":"I","schema":"s","table":{},"columns":[{{"name":{},"typeoid":25,"value":{}}}]}}"#,
                quote(&name), quote(&name), quote(&value)
            );
            let Ok(Message::Change(Change { table, kind: Kind::Insert { new: Some(new) }, .. })) = parse(json.as_bytes(), true)
            else { panic!("no insert: {json}") };
            prop_assert_eq!(&table.name, &name);
            prop_assert_eq!(&new, &vec![field(&name, 25, text(&value))]);
        }

        #[test]
        fn never_panics(head in prop::sample::select(vec!["", r#"{"action":"I","columns":[{"name":""#, r#"{"action":""#]), tail: Vec<u8>, text in r#"[{}\[\]",:\\u0-9a]{0,40}"#) {
            for tail in [tail, text.into_bytes()] {
                let _ = parse(&[head.as_bytes(), &tail].concat(), false);
            }
        }
    }
}
