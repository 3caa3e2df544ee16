//! A script for psql that does the changes again.

use std::sync::Arc;

use super::change::{Change, Op, Transaction, only_key, shown};
use super::output::{Output, Sink, Written};
use super::{Encoder, Options, base};
use crate::archive::Archive;
use crate::model::{Fault, Relation};
use crate::pgoutput::Truncate;
use crate::transform::{self, RowChange};

const FILE: &str = "export.sql";
/// How large a command of the script becomes.
const BLOCK_BYTES: usize = 256 << 10;

pub(super) struct Sql<'o> {
    output: &'o mut Output,
    sink: Option<Sink>,
    /// Statements of the transaction in hand.
    block: Vec<u8>,
    changes: u64,
}

impl<'o> Sql<'o> {
    pub(super) fn new(
        output: &'o mut Output,
        archive: &Archive,
        options: &Options<'_>,
    ) -> Result<Sql<'o>, Fault> {
        let manifest = archive.manifest();
        let mut sink = output.create(FILE)?;
        let comments = [
            format!(
                "The log of {} (database {}) behind {} up to {}, by pgsluice export.",
                manifest.name, manifest.database, options.part.after, options.part.through
            ),
            "Each statement changes one row that it finds as it was, or the script ends; what was committed before stays."
                .to_owned(),
        ];
        let mut head = transform::session_head(&manifest.server_encoding, &comments);
        if !options.with_triggers {
            head.push_str("SET session_replication_role = 'replica';\n");
        }
        sink.write(head.as_bytes())?;
        if let Some(base) = &options.base {
            base::write(archive, base, options, &mut |bytes| sink.write(bytes))?;
        }
        Ok(Sql { output, sink: Some(sink), block: Vec::new(), changes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.sink.as_mut().map_or(Ok(()), |sink| sink.write(bytes))
    }

    fn end_block(&mut self) -> Result<(), Fault> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        self.write(&transform::block(&block))
    }
}

impl Encoder for Sql<'_> {
    fn begin(&mut self, Transaction { xid, time, end }: &Transaction) -> Result<(), Fault> {
        let what = format!("transaction {}, committed {time}, ends at {end}", xid.0);
        self.write(format!("\n{}BEGIN;\n", transform::comment(&what)).as_bytes())
    }

    fn change(&mut self, transaction: &Transaction, _: u64, change: &Change<'_>) -> Result<(), Fault> {
        let Change { relation, op, before, after } = change;
        let row = |row: &Option<_>| row.clone().unwrap_or_default();
        let again = match op {
            Op::Insert => RowChange::Inserted(row(after)),
            Op::Delete => RowChange::Deleted(row(before)),
            Op::Update => {
                let old = before.clone().unwrap_or_else(|| only_key(relation, row(after)));
                RowChange::Updated { old, new: row(after) }
            }
        };
        let sql = transform::redo(relation, &again).map_err(|lacking| {
            Fault::stop(format!(
                "a change of {} in the transaction that ends at {} can't be said in SQL: {} of the row was not sent",
                shown(relation),
                transaction.end,
                lacking.columns.join(", ")
            ))
            .hint("leave the table out with --exclude; a table wants a key, or REPLICA IDENTITY FULL")
        })?;
        self.changes += 1;
        self.block.extend_from_slice(&sql);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn truncate(
        &mut self,
        _: &Transaction,
        _: u64,
        relations: &[Arc<Relation>],
        truncate: &Truncate,
    ) -> Result<(), Fault> {
        let tables = relations.iter().map(|relation| &**relation);
        self.block.extend_from_slice(&transform::truncate(tables, truncate.restart_identity));
        self.changes += relations.len() as u64;
        Ok(())
    }

    fn defined(&mut self, before: &Relation, relation: &Relation) -> Result<(), Fault> {
        self.end_block()?;
        let what = format!("From here on {} is {} with the columns", shown(before), shown(relation));
        let columns: Vec<_> = relation.columns.iter().map(|column| column.name.as_str()).collect();
        self.write(transform::comment(&format!("{what} {}.", columns.join(", "))).as_bytes())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.end_block()?;
        self.write(b"COMMIT;\n")
    }

    fn finish(&mut self) -> Result<Vec<Written>, Fault> {
        let sink = self.sink.take().map(|sink| self.output.keep(sink, self.changes));
        sink.into_iter().collect()
    }
}
