//! JSON lines, one a change.

use std::sync::Arc;

use super::Encoder;
use super::change::{Change, TRUNCATED, Transaction};
use super::output::{Output, Sink, Written};
use super::text::Encoding;
use crate::archive::Manifest;
use crate::model::{Fault, Relation};
use crate::pgoutput::Truncate;
use crate::transform::{Cell, Row};

const FILE: &str = "export.jsonl";

pub(super) struct Json<'o> {
    output: &'o mut Output,
    sink: Option<Sink>,
    encoding: Encoding,
    /// Name and database, which are the same in each line.
    origin: String,
    line: Vec<u8>,
    changes: u64,
}

impl<'o> Json<'o> {
    pub(super) fn new(output: &'o mut Output, manifest: &Manifest) -> Result<Json<'o>, Fault> {
        let sink = output.create(FILE)?;
        let [name, database] = [&manifest.name, &manifest.database].map(|text| string(text));
        Ok(Json {
            output,
            sink: Some(sink),
            encoding: Encoding::of(manifest),
            origin: format!("\"name\":{name},\"db\":{database}"),
            line: Vec::new(),
            changes: 0,
        })
    }

    fn object(&mut self, relation: &Relation, row: Option<&Row>) -> Result<(), Fault> {
        let Some(row) = row else {
            self.line.extend_from_slice(b"null");
            return Ok(());
        };
        self.line.push(b'{');
        let mut separator = "";
        for (column, cell) in relation.columns.iter().zip(row) {
            if *cell == Cell::Unknown {
                continue;
            }
            self.line.extend_from_slice(separator.as_bytes());
            separator = ",";
            self.line.extend_from_slice(string(&column.name).as_bytes());
            self.line.push(b':');
            match cell {
                Cell::Text(text) => {
                    value(&mut self.line, column.type_oid, &self.encoding.utf8(text, relation, &column.name)?)
                }
                Cell::Null | Cell::Unknown => self.line.extend_from_slice(b"null"),
            }
        }
        self.line.push(b'}');
        Ok(())
    }

    /// Writes the line, with what all lines have at their end.
    fn end(
        &mut self,
        transaction: &Transaction,
        number: u64,
        relation: &Relation,
        op: &str,
    ) -> Result<(), Fault> {
        let Transaction { xid, time, end } = transaction;
        let microseconds = time.unix_microseconds();
        let [schema, table] = [&relation.schema, &relation.name].map(|text| string(text));
        let rest = format!(
            ",\"source\":{{{},\"schema\":{schema},\"table\":{table},\"txId\":{},\"lsn\":\"{end}\",\"ts_ms\":{},\"ts_us\":{microseconds},\"number\":{number}}},\"op\":\"{op}\"}}\n",
            self.origin,
            xid.0,
            microseconds.div_euclid(1000)
        );
        self.line.extend_from_slice(rest.as_bytes());
        self.changes += 1;
        let line = std::mem::take(&mut self.line);
        if let Some(sink) = &mut self.sink {
            sink.write(&line)?;
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }
}

impl Encoder for Json<'_> {
    fn begin(&mut self, _: &Transaction) -> Result<(), Fault> {
        Ok(())
    }

    fn change(&mut self, transaction: &Transaction, number: u64, change: &Change<'_>) -> Result<(), Fault> {
        let relation = change.relation;
        self.line.extend_from_slice(b"{\"before\":");
        self.object(relation, change.before.as_ref())?;
        self.line.extend_from_slice(b",\"after\":");
        self.object(relation, change.after.as_ref())?;
        let unsent: Vec<_> = change.unsent().map(string).collect();
        self.line.extend_from_slice(format!(",\"unsent\":[{}]", unsent.join(",")).as_bytes());
        self.end(transaction, number, relation, change.op.letter())
    }

    fn truncate(
        &mut self,
        transaction: &Transaction,
        number: u64,
        relations: &[Arc<Relation>],
        _: &Truncate,
    ) -> Result<(), Fault> {
        for (relation, number) in relations.iter().zip(number..) {
            self.line.extend_from_slice(b"{\"before\":null,\"after\":null,\"unsent\":[]");
            self.end(transaction, number, relation, TRUNCATED)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Written>, Fault> {
        let sink = self.sink.take().map(|sink| self.output.keep(sink, self.changes));
        sink.into_iter().collect()
    }
}

fn string(text: &str) -> String {
    // Of a text that can't fail.
    serde_json::Value::from(text).to_string()
}

/// `bool`, `int2` and `int4` are what JSON has; all else is a string, since who reads JSON may take its numbers for floats.
fn value(line: &mut Vec<u8>, type_oid: u32, text: &str) {
    let plain = match (type_oid, text) {
        (16, "t") => Some("true"),
        (16, "f") => Some("false"),
        (21 | 23, number) if number.parse::<i32>().is_ok_and(|value| value.to_string() == number) => {
            Some(number)
        }
        _ => None,
    };
    match plain {
        Some(plain) => line.extend_from_slice(plain.as_bytes()),
        None => line.extend_from_slice(string(text).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_json_has_is_no_string() {
        let check = |type_oid: u32, text: &str, expected: &str| {
            let mut line = Vec::new();
            value(&mut line, type_oid, text);
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        };
        check(16, "t", "true");
        check(16, "x", "\"x\"");
        check(23, "-2147483648", "-2147483648");
        check(23, "2147483648", "\"2147483648\"");
        check(21, "+1", "\"+1\"");
        check(20, "9007199254740993", "\"9007199254740993\"");
        check(1700, "1.10", "\"1.10\"");
        check(25, "a\"\\\n\u{1}é", "\"a\\\"\\\\\\n\\u0001é\"");
    }
}
