//! Source tables into the archive: a base, from which the log can be replayed without the source.
//!
//! Each table is read as for a clone, under a snapshot that is noted with it, and the log has everything that the snapshots don't show. A table
//! whose parts were not all read when a run ended is read anew. The schema comes last, so that its tables are those that were read; where one was
//! altered meanwhile, it and the schema are read again.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Client;

use crate::archive::{Archive, ArchiveId, Base, BaseBegin, BaseFile, BaseSchema, BaseTable, BaseWriter, Pin};
use crate::dump::{self, Programs};
use crate::faults;
use crate::model::{Fault, Position, Remedy};
use crate::pg::copied::Moment;
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, Pipeline, control, sequences, unload};

use super::part::Lead;
use super::plan::{self, Blocks, Which};
use super::progress::{Progress, TableProgress};
use super::session::{self, Leader};
use super::survey::{self, Table, Wanted};
use super::{APPLICATION, BLOCK_BYTES, begin};

/// How often tables may be altered while a base is taken.
const ROUNDS: u32 = 10;
/// How often the schema can't be read, one time after the other.
const SCHEMA_TRIES: u32 = 4;
/// Pieces of rows that wait for the disk.
const WAITING: usize = 8;

/// What is taken, and where from.
#[derive(Clone)]
pub struct BaseOptions {
    pub archive: Archive,
    pub source: Conninfo,
    pub publication: String,
    pub tables: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    /// Parts that are read at a time.
    pub jobs: usize,
    /// Of a table of the source, roughly.
    pub part_bytes: u64,
    /// What of the schema is read.
    pub schema: dump::Wanted,
}

/// A table that is being read.
struct Taking {
    table: Table,
    parts: u32,
    part_blocks: u64,
    lead: Lead,
    progress: Arc<TableProgress>,
    done: Mutex<HashMap<u32, (Moment, u64, BaseFile)>>,
    left: AtomicU32,
}

/// The files of a base are written by threads that may wait for the disk and the network.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|_| Fault::stop("a thread that wrote into the archive has failed"))?
}

/// Takes a base, or goes on with one that was not finished. The log must be received meanwhile, or later.
pub async fn take_base(options: &BaseOptions, progress: &Progress) -> Result<Base, Fault> {
    let archive = options.archive.clone();
    let _lock = aside(move || archive.lock_bases()).await?;
    let source = control::connect(&options.source, APPLICATION).await;
    let source = source.map_err(|fault| fault.context("source"))?;
    let begin = started(options, &source).await?;
    begin::wait_for(&source, begin.first_xid).await?;
    let mut failed = 0;
    for _ in 0..ROUNDS {
        let (archive, noted) = (options.archive.clone(), begin.clone());
        let (known, schema) =
            aside(move || Ok((archive.base_tables(&noted)?, archive.base_schema(&noted)?))).await?;
        let tables = survey::of_source(&source, &options.wanted()).await?;
        let is_same = |known: &BaseTable| tables.iter().any(|table| is_of(known, table));
        let (kept, stale): (Vec<_>, Vec<_>) = known.into_iter().partition(is_same);
        for table in &stale {
            tracing::info!(table = table.name, "altered or dropped on the source meanwhile: taken anew");
            let (archive, begin, oid) = (options.archive.clone(), begin.clone(), table.oid);
            aside(move || archive.forget_base_table(&begin, oid)).await?;
        }
        let all = tables.len();
        let missing: Vec<Table> =
            tables.into_iter().filter(|table| kept.iter().all(|known| known.oid != table.oid)).collect();
        if let Some(schema) = schema
            && missing.is_empty()
            && stale.is_empty()
            && kept.len() == all
        {
            return complete(options, &source, begin, schema, kept).await;
        }
        take_rows(options, &begin, missing, &kept, progress).await?;
        // pg_dump fails over a table that is dropped while it looks.
        match take_schema(options, &begin).await {
            Ok(()) => failed = 0,
            Err(fault) if failed + 1 < SCHEMA_TRIES && fault.remedy == Remedy::Stop => {
                failed += 1;
                tracing::warn!(error = %fault, "the schema is read once more");
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::retry("the source's tables change faster than they are read"))
}

/// Whether what was read is what the source has under that name now, with the same bounds on its rows.
fn is_of(known: &BaseTable, table: &Table) -> bool {
    let Table { oid, schema, name, above, columns, .. } = table;
    (known.oid, &known.schema, &known.name) == (*oid, schema, name)
        && (&known.above, &known.columns) == (above, columns)
        && known.shape == shape(table)
}

/// What the schema that is read later must fit.
fn shape(table: &Table) -> String {
    format!("{}; {}", table.shape, table.bounds)
}

impl BaseOptions {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            publication: &self.publication,
            tables: &self.tables,
            exclude: &self.exclude,
            only: None,
            known: &[],
            rules: None,
        }
    }
}

/// The base to go on with, or a new one.
async fn started(options: &BaseOptions, source: &Client) -> Result<BaseBegin, Fault> {
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (tables, exclude) = (texts(&options.tables), texts(&options.exclude));
    let archive = options.archive.clone();
    let (unfinished, beginning) =
        aside(move || Ok((archive.unfinished_bases()?, archive.beginning()?))).await?;
    let usable =
        |begin: &&BaseBegin| begin.tables == tables && begin.exclude == exclude && begin.start >= beginning;
    if let Some(begin) = unfinished.iter().rev().find(usable) {
        tracing::info!(base = %begin.id, begun = begin.begun, "going on with a base that was not finished");
        let (archive, begun) = (options.archive.clone(), begin.clone());
        aside(move || keep_log(&archive, &begun)).await?;
        return Ok(begin.clone());
    }
    let inserted = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
    let inserted = inserted.map_err(|error| control::fault(&error).context("source"))?;
    let start: Option<Position> = inserted.get::<_, String>(0).parse().ok();
    let start = start.ok_or_else(|| Fault::stop("the source's WAL position makes no sense"))?;
    // Asked for behind the position: what committed before it has an id before this one.
    let first_xid = begin::next_xid(source).await?;
    let begin = BaseBegin {
        format: Base::FORMAT,
        id: ArchiveId::random()?,
        start: start.max(options.archive.manifest().start),
        first_xid,
        begun: now(),
        tables,
        exclude,
    };
    let (archive, noted) = (options.archive.clone(), begin.clone());
    aside(move || {
        archive.begin_base(&noted)?;
        keep_log(&archive, &noted)
    })
    .await?;
    Ok(begin)
}

/// The pin that keeps the log that a base needs.
fn pin(begin: &BaseBegin) -> String {
    format!("base-{}", begin.id)
}

/// Pins the log that a base needs, unless that was done.
fn keep_log(archive: &Archive, begin: &BaseBegin) -> Result<(), Fault> {
    let name = pin(begin);
    if archive.pins()?.iter().any(|pin| pin.name == name) {
        return Ok(());
    }
    archive.pin(&Pin { name, lsn: begin.start, created: begin.begun.clone() })
}

fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// Removes a base and its pin.
pub fn drop_base(archive: &Archive, begin: &BaseBegin) -> Result<(), Fault> {
    archive.drop_base(begin)?;
    archive.unpin(&pin(begin)).map(drop)
}

async fn complete(
    options: &BaseOptions,
    source: &Client,
    begin: BaseBegin,
    schema: BaseSchema,
    tables: Vec<BaseTable>,
) -> Result<Base, Fault> {
    if tables.is_empty() && !begin.tables.is_empty() {
        return Err(Fault::usage(format!("no published table is meant by {}", begin.tables.join(", "))));
    }
    let sample = sequences::read(source, &options.publication).await;
    let sequences = sample.map_err(|fault| fault.context("source"))?.map(|(sample, _)| sample);
    let through = tables.iter().map(|table| table.through).chain([schema.through, begin.start]).max();
    let through = through.unwrap_or_default();
    let base = Base { begin, schema, tables, sequences, through, ended: now() };
    let archive = options.archive.clone();
    aside(move || archive.complete_base(base)).await
}

/// Reads tables, several parts at a time, the largest table first.
async fn take_rows(
    options: &BaseOptions,
    begin: &BaseBegin,
    tables: Vec<Table>,
    kept: &[BaseTable],
    progress: &Progress,
) -> Result<(), Fault> {
    let (mut queue, mut takings) = (VecDeque::new(), Vec::new());
    let mut shown: Vec<_> = kept.iter().map(shown).collect();
    for table in tables {
        let part_blocks = (options.part_bytes / BLOCK_BYTES).max(1);
        let parts = if table.is_root { 1 } else { plan::parts(table.blocks, part_blocks) };
        let progress = TableProgress::new(table.shown(), table.rows, parts, 0, (0, 0));
        let progress = Arc::new(progress);
        shown.push(Arc::clone(&progress));
        queue.extend((0..parts).map(|number| (takings.len(), number)));
        let (lead, done) = (Lead::default(), Mutex::default());
        takings.push(Taking { table, parts, part_blocks, lead, progress, done, left: parts.into() });
    }
    progress.set(shown);
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let workers = (0..options.jobs.max(1)).map(|_| async {
        let mut connection = None;
        while let Some((at, number)) = next() {
            let Some(taking) = takings.get(at) else { break };
            let source = match &mut connection {
                Some(source) => source,
                none => none.insert(session::source(&options.source).await?),
            };
            let taken = taking.take(options, begin, source, number).await;
            // Dropped since the tables were listed: they are listed anew.
            let gone = |fault: &Fault| fault.sqlstate.as_deref() == Some("42P01");
            let taken = taken.map_err(|fault| match gone(&fault) {
                true => Fault { remedy: Remedy::Retry, ..fault },
                false => fault,
            });
            taken.map_err(|fault| fault.context(format!("copying {}", taking.table.shown())))?;
        }
        Ok::<_, Fault>(())
    });
    futures_util::future::try_join_all(workers).await.map(drop)
}

/// What an earlier run has read.
fn shown(table: &BaseTable) -> Arc<TableProgress> {
    let parts = table.parts.len() as u32;
    let bytes = table.parts.iter().map(|file| file.raw_bytes).sum();
    let name = crate::pg::tables::shown_name(&table.schema, &table.name);
    Arc::new(TableProgress::new(name, Some(table.rows), parts, parts, (table.rows, bytes)))
}

impl Taking {
    /// Reads a part into a file; with the last one the table is whole, and noted.
    async fn take(
        &self,
        options: &BaseOptions,
        begin: &BaseBegin,
        source: &mut Pipeline,
        number: u32,
    ) -> Result<(), Fault> {
        let leader = match self.parts {
            1 => None,
            _ => {
                let mut lead = self.lead.lock().await;
                Some(match &*lead {
                    Some(leader) => Arc::clone(leader),
                    None => {
                        let leader = Leader::open(&options.source, Some(&self.table)).await?;
                        Arc::clone(lead.insert(Arc::new(leader)))
                    }
                })
            }
        };
        let exported = leader.as_ref().map(|leader| leader.exported.as_str());
        let (moment, _) = session::begin(source, exported, Some(&self.table)).await?;
        let blocks = Blocks::of_part(number, self.parts, self.part_blocks);
        let read = plan::read(&self.table, Which::All(blocks));
        let (archive, base, oid) = (options.archive.clone(), begin.clone(), self.table.oid);
        let mut writer = aside(move || archive.base_writer(&base, oid, number)).await?;
        self.progress.part_begins();
        let (pieces, mut waiting) = tokio::sync::mpsc::channel::<Vec<u8>>(WAITING);
        let writing = aside(move || {
            while let Some(piece) = waiting.blocking_recv() {
                writer.write(&piece)?;
            }
            Ok(writer)
        });
        let mut messages = 0;
        let reading = async {
            // Where nobody takes them any more, the writer says why.
            let hand_on =
                async |piece| pieces.send(piece).await.map_err(|_| Fault::stop("the rows can't be written"));
            let moved = |rows, bytes| {
                messages += rows;
                self.progress.moved(rows, bytes);
            };
            let rows = unload(source, &read, hand_on, moved).await;
            drop(pieces);
            rows
        };
        let (rows, writer) = tokio::join!(reading, writing);
        let (writer, rows) = (writer?, rows?);
        session::settle(source, &moment).await?;
        faults::point("base.before_file");
        let file = aside(move || writer.finish()).await?;
        self.progress.part_ends(rows, messages);
        let done = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(number, (moment, rows, file));
            done.clone()
        };
        if self.left.fetch_sub(1, Ordering::Relaxed) > 1 {
            return Ok(());
        }
        self.lead.lock().await.take();
        let table = self.whole(done)?;
        let (archive, begin) = (options.archive.clone(), begin.clone());
        aside(move || archive.note_base_table(&begin, &table)).await?;
        faults::point("base.after_table");
        Ok(())
    }

    fn whole(&self, mut done: HashMap<u32, (Moment, u64, BaseFile)>) -> Result<BaseTable, Fault> {
        let missing = || Fault::stop(format!("a part of {} is missing", self.table.shown()));
        let parts: Option<Vec<_>> = (0..self.parts).map(|number| done.remove(&number)).collect();
        let parts = parts.ok_or_else(missing)?;
        let (first, ..) = parts.first().ok_or_else(missing)?;
        let snapshot = first.snapshot.clone();
        if parts.iter().any(|(moment, ..)| moment.snapshot != snapshot) {
            return Err(Fault::retry(format!("parts of {} are of different snapshots", self.table.shown())));
        }
        let Table { oid, schema, name, above, columns, types, .. } = &self.table;
        Ok(BaseTable {
            oid: *oid,
            schema: schema.clone(),
            name: name.clone(),
            above: above.clone(),
            columns: columns.clone(),
            types: types.clone(),
            shape: shape(&self.table),
            snapshot,
            through: parts.iter().map(|(moment, ..)| moment.through).max().unwrap_or_default(),
            rows: parts.iter().map(|(_, rows, _)| rows).sum(),
            parts: parts.into_iter().map(|(.., file)| file).collect(),
        })
    }
}

/// Reads the schema into a file of the base.
async fn take_schema(options: &BaseOptions, begin: &BaseBegin) -> Result<(), Fault> {
    let programs = Programs::find(options.archive.origin()?.server_version_num).await?;
    let file = options.archive.root().join(format!("schema-base-{}.dump", begin.id));
    let leader = Leader::open(&options.source, None).await?;
    let dumped = programs.dump(&options.source, &options.schema, Some(&leader.exported), &file).await;
    let Leader { moment, .. } = leader;
    dumped?;
    let mut session = session::source(&options.source).await?;
    session::begin(&mut session, None, None).await?;
    session::settle(&mut session, &moment).await?;
    let (archive, begin) = (options.archive.clone(), begin.clone());
    aside(move || {
        let packed = pack(&file, archive.base_writer(&begin, 0, 0)?);
        let removed = std::fs::remove_file(&file);
        let file = packed?;
        removed.map_err(|error| Fault::stop(format!("cannot remove the dump of the schema: {error}")))?;
        let Moment { snapshot, through } = moment;
        archive.note_base_schema(&begin, &BaseSchema { snapshot, through, file })
    })
    .await
}

fn pack(file: &Path, mut writer: BaseWriter) -> Result<BaseFile, Fault> {
    let dump = std::fs::read(file);
    let dump = dump.map_err(|error| Fault::stop(format!("cannot read the dump of the schema: {error}")))?;
    writer.write(&dump)?;
    writer.finish()
}
