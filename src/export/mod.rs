//! The log written out for others: as SQL, as JSON lines, as Parquet files.
//!
//! Hides the three formats (`docs/EXPORT.md`) and where the output goes. What is written is the log of changes, transaction by transaction, each
//! change once; nothing is folded. Only those parts of the log are read in which something happened to the tables, and no transaction is held in
//! memory as a whole. What goes into a folder or a bucket gets its name when it is whole.
//!
//! Deliberately absent: DDL, sequences, and what tables held before the log began, but for the SQL that begins with a base of the archive.

mod base;
mod change;
mod columns;
mod json;
mod output;
mod parquet;
mod sql;
mod text;
mod typed;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

pub use output::{Destination, Output, READER_GONE};

use crate::archive::{Archive, ArchiveId, Base, Covered, Lookup, Said, Span, find, read_tables, whereabouts};
use crate::model::{Fault, Position, Relation};
use crate::pgoutput::{Begin, Truncate};
use change::{Change, Transaction};
use json::Json;
use output::Written;
use parquet::Parquet;
use sql::Sql;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Sql,
    Json,
    Parquet,
}

pub struct Options<'a> {
    pub format: Format,
    pub part: Span,
    /// By schema and name, as a table is called when it is changed.
    pub is_wanted: &'a dyn Fn(&str, &str) -> bool,
    /// The SQL lets triggers fire.
    pub with_triggers: bool,
    /// The SQL begins with the rows of this base, where the part begins.
    pub base: Option<Base>,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub format: Format,
    pub archive: String,
    pub database: String,
    /// The part of the log: what comes behind the one, up to the other.
    pub after: Position,
    pub through: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ArchiveId>,
    /// Those that changed one of the tables.
    pub transactions: u64,
    /// Changes of rows, and tables that were truncated.
    pub changes: u64,
    pub tables: BTreeMap<String, u64>,
    pub files: Vec<Written>,
}

/// What makes a format of changes, in the order of the log. Each transaction begins, has at least one change, and is committed.
trait Encoder {
    fn begin(&mut self, transaction: &Transaction) -> Result<(), Fault>;

    fn change(&mut self, transaction: &Transaction, number: u64, change: &Change<'_>) -> Result<(), Fault>;

    /// Numbered from `number` on, one for each table.
    fn truncate(
        &mut self,
        transaction: &Transaction,
        number: u64,
        relations: &[Arc<Relation>],
        truncate: &Truncate,
    ) -> Result<(), Fault>;

    /// A table has another definition from here on.
    fn defined(&mut self, _before: &Relation, _relation: &Relation) -> Result<(), Fault> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault>;

    fn finish(&mut self) -> Result<Vec<Written>, Fault>;
}

/// Names of tables as the log has them, each once.
pub fn tables(archive: &Archive, part: Span) -> Result<Vec<(String, String)>, Fault> {
    let names = std::cell::RefCell::new(std::collections::BTreeSet::new());
    whereabouts(archive, part, |_, schema, name| {
        names.borrow_mut().insert((schema.to_owned(), name.to_owned()));
        false
    })?;
    Ok(names.into_inner().into_iter().collect())
}

/// Writes a part of the log; `tell` hears how far that is.
pub fn export(
    archive: &Archive,
    options: &Options<'_>,
    mut output: Output,
    tell: &dyn Fn(Position),
) -> Result<Report, Fault> {
    let manifest = archive.manifest();
    let mut report = Report {
        format: options.format,
        archive: manifest.name.clone(),
        database: manifest.database.clone(),
        after: options.part.after,
        through: options.part.through,
        base: options.base.as_ref().map(|base| base.begin.id),
        transactions: 0,
        changes: 0,
        tables: BTreeMap::new(),
        files: Vec::new(),
    };
    let mut encoder: Box<dyn Encoder + '_> = match options.format {
        Format::Sql => Box::new(Sql::new(&mut output, archive, options)?),
        Format::Json => Box::new(Json::new(&mut output, manifest)?),
        Format::Parquet => Box::new(Parquet::new(&mut output, manifest)),
    };
    read(archive, options, &mut *encoder, &mut report, tell)?;
    report.files = encoder.finish()?;
    drop(encoder);
    let json = serde_json::to_vec_pretty(&report);
    output.complete(&json.map_err(|error| Fault::stop(format!("writing JSON: {error}")))?)?;
    Ok(report)
}

fn read(
    archive: &Archive,
    options: &Options<'_>,
    encoder: &mut dyn Encoder,
    report: &mut Report,
    tell: &dyn Fn(Position),
) -> Result<(), Fault> {
    let places = whereabouts(archive, options.part, |_, schema, name| (options.is_wanted)(schema, name))?;
    let is_wanted = |relation: &Relation| (options.is_wanted)(&relation.schema, &relation.name);
    let covered = options.base.as_ref().map(|base| Covered::by(base, |_| true)).transpose()?;
    let mut begun: Option<(Begin, Option<Position>)> = None;
    // Begun for the encoder too.
    let mut transaction: Option<Transaction> = None;
    read_tables(archive, &places.spans, &is_wanted, |said| {
        let is_covered = |relation: &Relation| {
            covered
                .as_ref()
                .zip(begun.as_ref())
                .is_some_and(|(covered, (begin, _))| covered.has(relation.oid, begin))
        };
        match said {
            Said::Begin { begin, end } => begun = Some((begin, end)),
            Said::Commit(end) => {
                if transaction.take().is_some() {
                    encoder.commit()?;
                }
                tell(end);
            }
            Said::Defined { before, relation } => encoder.defined(before, relation)?,
            Said::Changed { relation, .. } if is_covered(relation) => {}
            Said::Changed { relation, message } => {
                let transaction = begin(archive, &begun, &mut transaction, encoder, report)?;
                let change = Change::of(relation, message)?;
                report.count(relation);
                encoder.change(transaction, report.changes, &change)?;
            }
            Said::Truncated { relations, truncate } => {
                let relations: Vec<_> =
                    relations.iter().filter(|relation| !is_covered(relation)).cloned().collect();
                if relations.is_empty() {
                    return Ok(());
                }
                let transaction = begin(archive, &begun, &mut transaction, encoder, report)?;
                let number = report.changes + 1;
                relations.iter().for_each(|relation| report.count(relation));
                encoder.truncate(transaction, number, &relations, truncate)?;
            }
        }
        Ok(())
    })
}

/// The transaction in hand, which begins with its first change that is wanted.
fn begin<'t>(
    archive: &Archive,
    begun: &Option<(Begin, Option<Position>)>,
    transaction: &'t mut Option<Transaction>,
    encoder: &mut dyn Encoder,
    report: &mut Report,
) -> Result<&'t Transaction, Fault> {
    if let Some(transaction) = transaction {
        return Ok(transaction);
    }
    let Some((begin, end)) = begun else {
        return Err(Fault::person("the log has a change outside of a transaction"));
    };
    let end = end.map_or_else(|| end_of(archive, begin), Ok)?;
    let begun = Transaction { xid: begin.xid, time: begin.commit_time, end };
    encoder.begin(&begun)?;
    report.transactions += 1;
    Ok(transaction.insert(begun))
}

/// Where a transaction ends that is too large to tell when it begins. No commit ends between its start and its end.
fn end_of(archive: &Archive, begin: &Begin) -> Result<Position, Fault> {
    let behind = Position(begin.commit_lsn.0.saturating_add(1));
    let found = find(archive, Lookup::Lsn(behind))?.pop().filter(|found| found.xid == begin.xid.0);
    found.map(|found| found.end_lsn).ok_or_else(|| {
        Fault::person(format!(
            "the end of transaction {}, which commits at {}, is not in the log",
            begin.xid.0, begin.commit_lsn
        ))
    })
}

impl Report {
    fn count(&mut self, relation: &Relation) {
        self.changes += 1;
        *self.tables.entry(format!("{}.{}", relation.schema, relation.name)).or_default() += 1;
    }
}
