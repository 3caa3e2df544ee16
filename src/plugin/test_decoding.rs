//! The text of `contrib/test_decoding`: `table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 "N"[text]:'it''s'`.
//!
//! Names are as `quote_identifier` gives them, and only quotes are doubled in values: everything else is raw, so names and
//! values may hold anything that looks like syntax. Hence one walk from left to right, never a search.

use std::borrow::Cow;

use super::message::{Begin, Change, Field, FieldValue, Kind, Malformed, Message, Row, TableName, TypeName};
use super::time;
use crate::model::{Lsn, Position, Xid};
use crate::pgoutput::Commit;

/// The options of the slot that make it print what is read here. Transactions without changes are wanted too: with
/// `skip-empty-xacts` a logical message would come before the BEGIN of its transaction.
pub const OPTIONS: [(&str, &str); 3] =
    [("include-xids", "on"), ("include-timestamp", "on"), ("skip-empty-xacts", "off")];

/// Reads one payload. `start` is its place as the stream says: of a commit the end of its record, of a logical message
/// its LSN.
///
/// The start of a commit's record is not told by anybody, so `commit_lsn` is the byte before its end: behind every earlier
/// end, and before its own, which is what it is asked for.
pub fn parse(payload: &[u8], start: Lsn) -> Result<Message<'_>, Malformed> {
    let mut walk = Walk { all: payload, at: 0 };
    if walk.skip(b"table ") {
        return walk.change();
    }
    if walk.skip(b"message: transactional: ") {
        return walk.logical(start);
    }
    if walk.skip(b"BEGIN ") {
        let xid = walk.xid()?;
        walk.end()?;
        return Ok(Message::Begin(Begin { xid, commit: None }));
    }
    if walk.skip(b"COMMIT ") {
        walk.xid()?;
        walk.expect(b" (at ", "no commit time")?;
        let text = walk.rest().strip_suffix(b")").unwrap_or_default();
        let commit_time = time::parse(text).ok_or(walk.wrong("a commit time that is none"))?;
        let commit_lsn = Lsn(start.0.saturating_sub(1));
        return Ok(Message::Commit(Commit { commit_lsn, end: Position(start.0), commit_time }));
    }
    Err(walk.wrong("neither table nor message, BEGIN nor COMMIT"))
}

struct Walk<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    fn rest(&self) -> &'a [u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    fn next(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn skip(&mut self, text: &[u8]) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn expect(&mut self, text: &[u8], what: &'static str) -> Result<(), Malformed> {
        if self.skip(text) { Ok(()) } else { Err(self.wrong(what)) }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.wrong("more than expected")) }
    }

    /// Everything while `wanted` holds.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|byte| !wanted(*byte)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn number<N: std::str::FromStr>(&mut self, what: &'static str) -> Result<N, Malformed> {
        let digits = std::str::from_utf8(self.take_while(|byte| byte.is_ascii_digit())).ok();
        digits.and_then(|digits| digits.parse().ok()).ok_or(self.wrong(what))
    }

    fn xid(&mut self) -> Result<Xid, Malformed> {
        self.number("no transaction id").map(Xid)
    }

    /// What stands between quotes, which are doubled inside; the opening one is behind us.
    fn quoted(&mut self, quote: u8) -> Result<Cow<'a, [u8]>, Malformed> {
        let mut text = Cow::Borrowed(&[][..]);
        loop {
            let rest = self.rest();
            let length = memchr::memchr(quote, rest).ok_or(self.wrong("a quote without end"))?;
            let part = rest.get(..length).unwrap_or_default();
            self.at += length + 1;
            let doubled = self.next() == Some(quote);
            if text.is_empty() && !doubled {
                return Ok(Cow::Borrowed(part));
            }
            let text = text.to_mut();
            text.extend_from_slice(part);
            if !doubled {
                return Ok(Cow::Owned(std::mem::take(text)));
            }
            text.push(quote);
            self.at += 1;
        }
    }

    fn identifier(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let start = self.at;
        let bytes = if self.skip(b"\"") {
            self.quoted(b'"')?
        } else {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            Cow::Borrowed(self.take_while(plain))
        };
        let text = match bytes {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        text.filter(|text| !text.is_empty()).ok_or(Malformed { what: "not a name", at: start })
    }

    fn table(&mut self) -> Result<TableName, Malformed> {
        let schema = self.identifier()?.into_owned();
        self.expect(b".", "a table without schema")?;
        Ok(TableName { schema, name: self.identifier()?.into_owned() })
    }

    fn change(&mut self) -> Result<Message<'a>, Malformed> {
        let table = self.table()?;
        let kind = if self.skip(b": INSERT:") {
            Kind::Insert { new: self.row()? }
        } else if self.skip(b": UPDATE:") {
            let mut old = None;
            if self.skip(b" old-key:") {
                old = self.row()?;
                self.expect(b" new-tuple:", "an old key without new row")?;
            }
            Kind::Update { old, new: self.row()? }
        } else if self.skip(b": DELETE:") {
            Kind::Delete { old: self.row()? }
        } else {
            return self.truncate(table);
        };
        self.end()?;
        Ok(Message::Change(Change { table, kind, leaves_out_unchanged: false }))
    }

    fn truncate(&mut self, first: TableName) -> Result<Message<'a>, Malformed> {
        let mut tables = vec![first];
        while self.skip(b", ") {
            tables.push(self.table()?);
        }
        self.expect(b": TRUNCATE:", "an unknown command")?;
        let restart_identity = self.skip(b" restart_seqs");
        let cascade = self.skip(b" cascade");
        if !restart_identity && !cascade {
            self.expect(b" (no-flags)", "unknown flags of TRUNCATE")?;
        }
        self.end()?;
        Ok(Message::Truncate { tables, cascade, restart_identity })
    }

    /// Columns up to the end, or to the new row; a column's name that looks like its beginning would be quoted.
    fn row(&mut self) -> Result<Option<Row<'a>>, Malformed> {
        if self.skip(b" (no-tuple-data)") {
            return Ok(None);
        }
        let mut row = Row::new();
        while !self.rest().is_empty() && !self.rest().starts_with(b" new-tuple:") {
            self.expect(b" ", "columns that run together")?;
            let name = self.identifier()?;
            let type_name = TypeName::Text(self.type_name()?);
            self.expect(b":", "a column without value")?;
            row.push(Field { name, type_name, value: self.value()? });
        }
        Ok(Some(row))
    }

    /// `[timestamp with time zone]`, `[integer[]]`, `[public."odd ] name"]`.
    fn type_name(&mut self) -> Result<&'a str, Malformed> {
        self.expect(b"[", "a column without type")?;
        let start = self.at;
        let (mut depth, mut quoted) = (1, false);
        loop {
            match self.next().ok_or(self.wrong("a type without end"))? {
                b'"' => quoted = !quoted,
                b'[' if !quoted => depth += 1,
                b']' if !quoted => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                let name = self.all.get(start..self.at - 1).unwrap_or_default();
                return std::str::from_utf8(name).map_err(|_| Malformed { what: "not a name", at: start });
            }
        }
    }

    fn value(&mut self) -> Result<FieldValue<'a>, Malformed> {
        if self.skip(b"'") || self.skip(b"B'") {
            return Ok(FieldValue::Text(self.quoted(b'\'')?));
        }
        match self.take_while(|byte| byte != b' ') {
            b"null" => Ok(FieldValue::Null),
            b"unchanged-toast-datum" => Ok(FieldValue::Unchanged),
            b"true" => Ok(FieldValue::Text(Cow::Borrowed(b"t"))),
            b"false" => Ok(FieldValue::Text(Cow::Borrowed(b"f"))),
            b"" => Err(self.wrong("an empty value")),
            number => Ok(FieldValue::Text(Cow::Borrowed(number))),
        }
    }

    /// `1 prefix: PREFIX, sz: 6 content:CONTENT`. The prefix may hold anything too: it ends where the size that follows is
    /// that of all the rest.
    fn logical(&mut self, lsn: Lsn) -> Result<Message<'a>, Malformed> {
        let transactional: u8 = self.number("a message of no kind")?;
        self.expect(b" prefix: ", "a message without prefix")?;
        let start = self.at;
        for found in memchr::memmem::find_iter(self.rest(), b", sz: ") {
            self.at = start + found + b", sz: ".len();
            let Ok(size) = self.number::<usize>("") else { continue };
            if self.skip(b" content:") && self.rest().len() == size {
                let prefix = self.all.get(start..start + found).unwrap_or_default();
                return Ok(Message::Logical {
                    transactional: transactional == 1,
                    lsn,
                    prefix: Cow::Borrowed(prefix),
                    content: Cow::Borrowed(self.rest()),
                });
            }
        }
        self.at = start;
        Err(self.wrong("a message whose size is another"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field<'a>(name: &'a str, type_name: &'a str, value: &'a str) -> Field<'a> {
        let value = match value {
            "NULL" => FieldValue::Null,
            "UNCHANGED" => FieldValue::Unchanged,
            text => FieldValue::Text(Cow::Borrowed(text.as_bytes())),
        };
        Field { name: Cow::Borrowed(name), type_name: TypeName::Text(type_name), value }
    }

    #[track_caller]
    fn check(text: &str, schema: &str, name: &str, kind: Kind<'_>) {
        let table = TableName { schema: schema.into(), name: name.into() };
        let expected = Message::Change(Change { table, kind, leaves_out_unchanged: false });
        assert_eq!(parse(text.as_bytes(), Lsn(9)).unwrap(), expected);
    }

    #[test]
    fn rows_of_all_kinds() {
        check(
            "table public.t: INSERT: id[integer]:-1 n[numeric]:NaN f[boolean]:true b[bit varying]:B'' t[text]:'it''s' x[text]:null",
            "public",
            "t",
            Kind::Insert {
                new: Some(vec![
                    field("id", "integer", "-1"),
                    field("n", "numeric", "NaN"),
                    field("f", "boolean", "t"),
                    field("b", "bit varying", ""),
                    field("t", "text", "it's"),
                    field("x", "text", "NULL"),
                ]),
            },
        );
        check(
            "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 t[text]:unchanged-toast-datum u[text]:'unchanged-toast-datum'",
            "public",
            "t",
            Kind::Update {
                old: Some(vec![field("id", "integer", "1")]),
                new: Some(vec![
                    field("id", "integer", "2"),
                    field("t", "text", "UNCHANGED"),
                    field("u", "text", "unchanged-toast-datum"),
                ]),
            },
        );
        check(
            "table public.t: UPDATE: a[integer[]]:'{1}'",
            "public",
            "t",
            Kind::Update { old: None, new: Some(vec![field("a", "integer[]", "{1}")]) },
        );
        check("table public.t: DELETE: (no-tuple-data)", "public", "t", Kind::Delete { old: None });
        check("table public.t: DELETE:", "public", "t", Kind::Delete { old: Some(vec![]) });
    }

    #[test]
    fn names_and_values_that_look_like_syntax() {
        check(
            r#"table "S ch"."T: INSERT: x": INSERT: "a[integer]:1 b"[integer]:1 "c""d"[text]:'v' "new-tuple:"["T ]".x[]]:'
 new-tuple: z[text]:''x'''"#,
            "S ch",
            "T: INSERT: x",
            Kind::Insert {
                new: Some(vec![
                    field("a[integer]:1 b", "integer", "1"),
                    field("c\"d", "text", "v"),
                    field("new-tuple:", "\"T ]\".x[]", "\n new-tuple: z[text]:'x'"),
                ]),
            },
        );
    }

    #[test]
    fn transaction_ends_and_truncate() {
        assert_eq!(parse(b"BEGIN 777", Lsn(3)), Ok(Message::Begin(Begin { xid: Xid(777), commit: None })));
        let Ok(Message::Commit(commit)) = parse(b"COMMIT 777 (at 2000-01-01 00:00:01+00)", Lsn(0x100)) else {
            panic!("not a commit")
        };
        assert_eq!((commit.end, commit.commit_lsn), (Position(0x100), Lsn(0xFF)));
        assert_eq!(commit.commit_time.0, 1_000_000);
        let Ok(Message::Truncate { tables, cascade: true, restart_identity: true }) =
            parse(b"table public.a, public.\"B, c\": TRUNCATE: restart_seqs cascade", Lsn(0))
        else {
            panic!("not a truncate")
        };
        assert_eq!(tables.iter().map(ToString::to_string).collect::<Vec<_>>(), ["public.a", "public.B, c"]);
        assert!(parse(b"table public.a: TRUNCATE: (no-flags)", Lsn(0)).is_ok());
    }

    #[test]
    fn messages_keep_every_byte() {
        // Only the second size is that of the rest.
        let text = b"message: transactional: 1 prefix: a, sz: 1 content:, sz: 6 content:x\0, sz";
        let expected = Message::Logical {
            transactional: true,
            lsn: Lsn(7),
            prefix: Cow::Borrowed(b"a, sz: 1 content:"),
            content: Cow::Borrowed(b"x\0, sz"),
        };
        assert_eq!(parse(text, Lsn(7)), Ok(expected));
        assert!(parse(b"message: transactional: 0 prefix: p, sz: 9 content:cut", Lsn(0)).is_err());
    }

    #[test]
    fn cut_text_is_malformed() {
        for text in [
            "",
            "table",
            "table public.t",
            "table public.t: INSERT: a",
            "table public.t: INSERT: a[",
            "table public.t: INSERT: a[integer]",
            "table public.t: INSERT: a[integer]:",
            "table public.t: INSERT: a[text]:'x",
            "table public.t: INSERT: a[text]:'x'b[text]:'y'",
            "table public.t: UPDATE: old-key: a[integer]:1",
            "table public.t: MERGE: a[integer]:1",
            "table \"t: INSERT:",
            "BEGIN",
            "BEGIN x",
            "COMMIT 1",
            "opening a streamed block for transaction TXN 1",
        ] {
            assert!(parse(text.as_bytes(), Lsn(0)).is_err(), "{text}");
        }
    }

    fn quote(text: &str, with: char) -> String {
        let doubled = format!("{with}{with}");
        format!("{with}{}{with}", text.replace(with, &doubled))
    }

    proptest! {
        #[test]
        fn anything_in_quotes_comes_back(names in prop::collection::vec("[^\0]{1,12}", 1..4), values in prop::collection::vec("[^\0]{0,20}", 4)) {
            let mut text = format!("table {}.{}: INSERT:", quote(&names[0], '"'), quote(&names[0], '"'));
            let mut row = Vec::new();
            for (name, value) in names.iter().zip(&values) {
                text.push_str(&format!(" {}[{}[]]:{}", quote(name, '"'), quote(name, '"'), quote(value, '\'')));
                let field_value = FieldValue::Text(Cow::Borrowed(value.as_bytes()));
                row.push((name.clone(), quote(name, '"') + "[]", field_value));
            }
            let parsed = parse(text.as_bytes(), Lsn(0)).unwrap();
            let Message::Change(Change { kind: Kind::Insert { new: Some(new) }, .. }) = parsed else { panic!("no insert") };
            let new: Vec<_> = new.into_iter().map(|field| {
                let TypeName::Text(type_name) = field.type_name else { panic!("no type") };
                (field.name.into_owned(), type_name.to_owned(), field.value)
            }).collect();
            prop_assert_eq!(new, row);
        }

        #[test]
        fn never_panics(head in prop::sample::select(vec!["", "table a.b: INSERT:", "table a.b: UPDATE: old-key:", "message: transactional: 1 prefix: ", "COMMIT 1 (at "]), tail: Vec<u8>, text in "[a-z \"'\\[\\]:,.]{0,40}") {
            for tail in [tail, text.into_bytes()] {
                let _ = parse(&[head.as_bytes(), &tail].concat(), Lsn(0));
            }
        }
    }
}
