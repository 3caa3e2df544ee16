//! Parquet files: for each table a row of files, a new one where its definition changes and where one is large enough.

use std::collections::HashMap;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::Encoder;
use super::change::{Change, TRUNCATED, Transaction, shown};
use super::columns::{Field, Line, Rows};
use super::output::{Output, Sink, Written, unwritten};
use super::text::Encoding;
use crate::archive::Manifest;
use crate::model::{Fault, Relation, ReplicaIdentity};
use crate::pgoutput::Truncate;
use crate::transform::{Cell, Row};

/// A folder of its own for each table, whatever is in its name.
fn folder_name(relation: &Relation) -> String {
    let mut name = String::new();
    for byte in shown(relation).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("={other:02X}")),
        }
    }
    name
}

fn fault(name: &str, error: ParquetError) -> Fault {
    if let ParquetError::External(inner) = &error
        && let Some(error) = inner.downcast_ref::<std::io::Error>()
    {
        return unwritten(name, error);
    }
    Fault::stop(format!("writing {name}: {error}"))
}

/// Of the rows of a table, as they are in memory, before they are written.
const GROUP_BYTES: usize = 16 << 20;
/// Of the rows of all tables.
const ROWS_BYTES_MAX: usize = 64 << 20;
/// How large a file becomes, about.
const FILE_BYTES: usize = 64 << 20;
/// So many files are open at a time.
const OPEN_MAX: usize = 64;

pub(super) struct Parquet<'o> {
    output: &'o mut Output,
    encoding: Encoding,
    archive: String,
    /// By OID.
    tables: HashMap<u32, Table>,
    /// Of files so far, by their folder.
    numbers: HashMap<String, u32>,
    written: Vec<Written>,
}

struct Table {
    relation: Arc<Relation>,
    rows: Rows,
    file: Option<Open>,
}

struct Open {
    name: String,
    writer: SerializedFileWriter<Sink>,
    changes: u64,
    /// The number of its last change.
    last: u64,
}

impl<'o> Parquet<'o> {
    pub(super) fn new(output: &'o mut Output, manifest: &Manifest) -> Parquet<'o> {
        Parquet {
            output,
            encoding: Encoding::of(manifest),
            archive: manifest.archive_id.to_string(),
            tables: HashMap::new(),
            numbers: HashMap::new(),
            written: Vec::new(),
        }
    }

    fn push(&mut self, relation: &Arc<Relation>, line: Line<'_>) -> Result<(), Fault> {
        let oid = relation.oid;
        if self
            .tables
            .get(&oid)
            .is_some_and(|table| !Arc::ptr_eq(&table.relation, relation) && table.relation != *relation)
        {
            self.end_table(oid)?;
        }
        let number = line.number;
        let table = match self.tables.entry(oid) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let rows = Rows::new(relation).map_err(|error| fault(&shown(relation), error))?;
                entry.insert(Table { relation: Arc::clone(relation), rows, file: None })
            }
        };
        table.rows.push(relation, line);
        if table.rows.bytes >= GROUP_BYTES {
            return self.write_group(oid, number);
        }
        // Looked at now and then: a row adds little.
        if number.is_multiple_of(256)
            && self.tables.values().map(|table| table.rows.bytes).sum::<usize>() >= ROWS_BYTES_MAX
        {
            let largest = self.tables.iter().max_by_key(|(_, table)| table.rows.bytes).map(|(oid, _)| *oid);
            return largest.map_or(Ok(()), |oid| self.write_group(oid, number));
        }
        Ok(())
    }

    fn fields<'r>(&self, relation: &Relation, row: Option<&'r Row>) -> Result<Vec<Field<'r>>, Fault> {
        let Some(row) = row else { return Ok(relation.columns.iter().map(|_| Field::Absent).collect()) };
        let each = relation.columns.iter().zip(row).map(|(column, cell)| match cell {
            Cell::Text(text) => self.encoding.utf8(text, relation, &column.name).map(Field::Text),
            Cell::Null | Cell::Unknown => Ok(Field::Null),
        });
        each.collect()
    }

    /// Writes what is in memory of a table, and ends its file where that is large enough.
    fn write_group(&mut self, oid: u32, number: u64) -> Result<(), Fault> {
        let Some(mut table) = self.tables.remove(&oid) else { return Ok(()) };
        let rows = Rows::new(&table.relation).map_err(|error| fault(&shown(&table.relation), error))?;
        let rows = std::mem::replace(&mut table.rows, rows);
        let mut file = match table.file.take() {
            Some(file) => file,
            None => self.create(&table.relation, &rows)?,
        };
        rows.write(&mut file.writer).map_err(|error| fault(&file.name, error))?;
        file.changes += rows.len() as u64;
        file.last = number;
        if file.writer.bytes_written() >= FILE_BYTES {
            self.end_file(file)?;
        } else {
            table.file = Some(file);
        }
        self.tables.insert(oid, table);
        self.close_some()
    }

    fn create(&mut self, relation: &Relation, rows: &Rows) -> Result<Open, Fault> {
        let folder = folder_name(relation);
        let number = self.numbers.entry(folder.clone()).or_default();
        *number += 1;
        let name = format!("{folder}/{number:06}.parquet");
        let keys: Vec<&str> =
            relation.columns.iter().filter(|column| column.key).map(|column| column.name.as_str()).collect();
        let identity = match relation.identity {
            ReplicaIdentity::Default => "default",
            ReplicaIdentity::Nothing => "nothing",
            ReplicaIdentity::Full => "full",
            ReplicaIdentity::Index => "index",
        };
        let entries = [
            ("pgsluice.archive", self.archive.clone()),
            ("pgsluice.schema", relation.schema.clone()),
            ("pgsluice.table", relation.name.clone()),
            ("pgsluice.oid", relation.oid.to_string()),
            ("pgsluice.identity", identity.to_owned()),
            ("pgsluice.key", serde_json::json!(keys).to_string()),
        ];
        let entries = entries.map(|(key, value)| KeyValue::new(key.to_owned(), value));
        let level = ZstdLevel::try_new(3).map_err(|error| fault(&name, error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by("pgsluice".into())
            .set_key_value_metadata(Some(entries.into()))
            .build();
        let sink = self.output.create(&name)?;
        let writer = SerializedFileWriter::new(sink, rows.schema(), Arc::new(properties));
        let writer = writer.map_err(|error| fault(&name, error))?;
        Ok(Open { name, writer, changes: 0, last: 0 })
    }

    fn end_file(&mut self, file: Open) -> Result<(), Fault> {
        let sink = file.writer.into_inner().map_err(|error| fault(&file.name, error))?;
        self.written.push(self.output.keep(sink, file.changes)?);
        Ok(())
    }

    /// Ends the files that were left alone for longest, where too many are open.
    fn close_some(&mut self) -> Result<(), Fault> {
        loop {
            let open =
                self.tables.iter_mut().filter_map(|(oid, table)| Some((table.file.as_ref()?.last, *oid)));
            let open: Vec<_> = open.collect();
            if open.len() <= OPEN_MAX {
                return Ok(());
            }
            let oldest = open.iter().min().and_then(|(_, oid)| self.tables.get_mut(oid)?.file.take());
            oldest.map_or(Ok(()), |file| self.end_file(file))?;
        }
    }

    fn end_table(&mut self, oid: u32) -> Result<(), Fault> {
        if self.tables.get(&oid).is_some_and(|table| table.rows.len() > 0) {
            self.write_group(oid, u64::MAX)?;
        }
        match self.tables.remove(&oid).and_then(|table| table.file) {
            Some(file) => self.end_file(file),
            None => Ok(()),
        }
    }
}

impl Encoder for Parquet<'_> {
    fn begin(&mut self, _: &Transaction) -> Result<(), Fault> {
        Ok(())
    }

    fn change(&mut self, transaction: &Transaction, number: u64, change: &Change<'_>) -> Result<(), Fault> {
        let relation = change.relation;
        // Of a deleted row its own columns tell how it was.
        let (row, before) = match (&change.after, &change.before) {
            (None, before) => (before, &None),
            (after, before) => (after, before),
        };
        let line = Line {
            transaction,
            number,
            operation: change.op.letter(),
            unsent: change.unsent().map(str::to_owned).collect(),
            before: self.fields(relation, before.as_ref())?,
            row: self.fields(relation, row.as_ref())?,
        };
        self.push(relation, line)
    }

    fn truncate(
        &mut self,
        transaction: &Transaction,
        number: u64,
        relations: &[Arc<Relation>],
        _: &Truncate,
    ) -> Result<(), Fault> {
        for (relation, number) in relations.iter().zip(number..) {
            let line = Line {
                transaction,
                number,
                operation: TRUNCATED,
                unsent: Vec::new(),
                before: self.fields(relation, None)?,
                row: relation.columns.iter().map(|_| Field::Null).collect(),
            };
            self.push(relation, line)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Written>, Fault> {
        let mut oids: Vec<u32> = self.tables.keys().copied().collect();
        oids.sort_unstable();
        oids.into_iter().try_for_each(|oid| self.end_table(oid))?;
        let mut written = std::mem::take(&mut self.written);
        written.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(written)
    }
}
