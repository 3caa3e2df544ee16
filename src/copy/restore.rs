//! A base of the archive into a target, so that the log can be applied behind it. The source is not needed.
//!
//! What is there is noted as it is for a clone: the applier leaves out what the base's snapshots show.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Client;

use crate::archive::{Archive, Base, BaseReader, BaseTable};
use crate::faults;
use crate::model::{Column, Fault, Format, Relation, ReplicaIdentity};
use crate::pg::copied::{self, Copied, Moment, Part};
use crate::pg::pattern::{Pattern, Rename};
use crate::pg::tables::{quoted_name, shown_name};
use crate::pg::{Conninfo, Pipeline, control, load_pieces, quote_ident, sequences};
use crate::rules::{RuleSet, Shaped};

use super::part::{note, refuse_rows, simple};
use super::plan;
use super::progress::{Progress, TableProgress};
use super::reshape;
use super::schema::{Schema, SchemaOptions, dump_file};
use super::session;
use super::survey::{self, Table, There};
use super::{APPLICATION, note_whole};

/// Pieces of rows that wait for the target.
const WAITING: usize = 8;

/// What is brought back, and where to.
#[derive(Clone)]
pub struct RestoreOptions {
    pub archive: Archive,
    pub base: Base,
    pub target: Conninfo,
    /// Names the progress on the target.
    pub stream: String,
    /// Of the base's tables.
    pub tables: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    pub renames: Vec<Rename>,
    /// Parts that are loaded at a time.
    pub jobs: usize,
    pub sequences: bool,
    /// What the rows are on the target.
    pub rules: Option<Arc<RuleSet>>,
    /// Which tables these are, for later runs to say the same.
    pub scope: String,
}

/// A table that is being loaded.
struct Loading {
    table: Table,
    from: BaseTable,
    progress: Arc<TableProgress>,
}

impl RestoreOptions {
    async fn client(&self) -> Result<Client, Fault> {
        control::connect(&self.target, APPLICATION).await.map_err(at_target)
    }

    fn wanted(&self) -> Vec<&BaseTable> {
        wanted(&self.base, &self.tables, &self.exclude)
    }
}

/// The tables of a base that are meant.
pub fn wanted<'b>(base: &'b Base, tables: &[Pattern], exclude: &[Pattern]) -> Vec<&'b BaseTable> {
    let wanted = |table: &&BaseTable| {
        let own = [(table.schema.clone(), table.name.clone())];
        let any = |patterns: &[Pattern]| {
            let mut names = own.iter().chain(&table.above);
            names.any(|(schema, name)| patterns.iter().any(|pattern| pattern.matches(schema, name)))
        };
        (tables.is_empty() || any(tables)) && !any(exclude)
    };
    base.tables.iter().filter(wanted).collect()
}

/// Patterns and renames that mean none of a base's tables. A rename means a table that has rows itself: partitions under one that is renamed would
/// keep their names, and be taken for those that are there.
pub fn unmatched(base: &Base, tables: &[Pattern], renames: &[Rename]) -> Vec<String> {
    let means_nothing = |pattern: &&Pattern| wanted(base, std::slice::from_ref(pattern), &[]).is_empty();
    let has_no_rows =
        |rename: &&Rename| base.tables.iter().all(|table| !rename.is_of(&table.schema, &table.name));
    let patterns = tables.iter().filter(means_nothing).map(ToString::to_string);
    patterns.chain(renames.iter().filter(has_no_rows).map(|rename| rename.from.to_string())).collect()
}

fn at_target(fault: Fault) -> Fault {
    fault.context("target")
}

/// Begins or continues to bring a base back. The progress row is the caller's to make.
pub async fn begin_restore(options: &RestoreOptions) -> Result<(), Fault> {
    let client = options.client().await?;
    copied::prepare(&client).await?;
    let (stream, base) = (&options.stream, &options.base);
    let archive_id = options.archive.manifest().archive_id.to_string();
    copied::begin_restore(&client, stream, &archive_id, base.begin.first_xid, &options.scope).await?;
    let noted = copied::clone(&client, stream).await?.and_then(|clone| clone.scope);
    let noted = noted.ok_or_else(|| {
        Fault::person(format!("stream {stream} of the target was begun by a clone"))
            .hint("choose another --origin, or another target")
    })?;
    copied::refuse_other_scope(stream, &noted, &options.scope)?;
    let moment = Moment { snapshot: base.schema.snapshot.clone(), through: base.schema.through };
    copied::note_schema(&client, stream, &moment).await?;
    // They were dropped before the schema was read.
    copied::note_whole_as_is(&client, stream, copied::ALL_OTHERS, &moment).await
}

/// The schema of the base; only what belongs to the wanted tables that keep their names.
pub async fn restored_schema(options: &RestoreOptions, schema: &SchemaOptions) -> Result<Schema, Fault> {
    let (archive, base) = (options.archive.clone(), options.base.clone());
    let file = dump_file(&options.archive, "schema-of-base", &options.stream);
    let unpacked = file.clone();
    super::base::aside(move || {
        let mut reader = archive.base_reader(&base.begin, 0, 0, &base.schema.file)?;
        unpack(&mut reader, &unpacked)
    })
    .await?;
    let mut exclude = options.exclude.clone();
    exclude.extend(options.renames.iter().map(|rename| rename.from.clone()));
    exclude.extend(options.rules.iter().flat_map(|rules| rules.remade()).cloned());
    let sizes = options.base.tables.iter().map(|table| {
        let bytes: u64 = table.parts.iter().map(|file| file.raw_bytes).sum();
        ((table.schema.clone(), table.name.clone()), bytes / super::BLOCK_BYTES)
    });
    let version = options.archive.origin()?.server_version_num;
    let mut tables = options.tables.clone();
    if !tables.is_empty() {
        let above = options.wanted().into_iter().flat_map(|table| &table.above);
        tables.extend(above.map(|(schema, name)| Pattern::of(schema, name)));
    }
    Schema::of_file(version, file, schema, &tables, &exclude, sizes.collect()).await
}

fn unpack(reader: &mut BaseReader, file: &std::path::Path) -> Result<(), Fault> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fault = |error: std::io::Error| Fault::stop(format!("cannot write {}: {error}", file.display()));
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(file).map_err(fault)?;
    while let Some(block) = reader.block()? {
        out.write_all(&block).map_err(fault)?;
    }
    Ok(())
}

/// Makes tables for those that are renamed, like the ones whose names they had, where they are missing.
pub async fn make_renamed(options: &RestoreOptions) -> Result<(), Fault> {
    let client = options.client().await?;
    for table in options.wanted() {
        let (schema, name) = Rename::place(&options.renames, &table.schema, &table.name);
        if (&schema, &name) == (&table.schema, &table.name) {
            continue;
        }
        let (place, like) = (quoted_name(&schema, &name), quoted_name(&table.schema, &table.name));
        let known = "SELECT to_regclass($1) IS NOT NULL, to_regclass($2) IS NOT NULL";
        let row = client.query_one(known, &[&place, &like]).await;
        let row = row.map_err(|error| at_target(control::fault(&error)))?;
        match (row.get(0), row.get(1)) {
            (true, _) => {}
            (false, true) => {
                let sql = format!(
                    "CREATE SCHEMA IF NOT EXISTS {}; CREATE TABLE {place} (LIKE {like} INCLUDING ALL)",
                    quote_ident(&schema)
                );
                let made = client.batch_execute(&sql).await;
                made.map_err(|error| at_target(control::fault(&error)))?;
                tracing::info!(table = shown_name(&schema, &name), "made like {like}");
            }
            (false, false) => {
                return Err(Fault::stop(format!(
                    "the target has neither {} nor {}, to make it like that",
                    shown_name(&schema, &name),
                    shown_name(&table.schema, &table.name)
                ))
                .hint("make the table by hand, with the columns and the key that it had"));
            }
        }
    }
    Ok(())
}

/// Loads all parts that are not on the target yet.
pub async fn load_rows(options: &RestoreOptions, progress: &Progress) -> Result<(), Fault> {
    let client = options.client().await?;
    let stream = &options.stream;
    let known = copied::tables(&client, stream).await?;
    let mut target = session::target(&options.target, &options.archive.manifest().server_encoding).await?;
    let (mut loadings, mut queue, mut shown) = (Vec::new(), VecDeque::new(), Vec::new());
    for (table, from) in tables(options, &client).await? {
        let copied = known.get(&table.oid);
        let parts = from.parts.len() as u32;
        let done = copied.map(|copied| copied.done.values().collect::<Vec<_>>()).unwrap_or_default();
        let so_far = done.iter().fold((0, 0), |(rows, bytes), part| (rows + part.rows, bytes + part.bytes));
        let name = table.shown();
        let progress = TableProgress::new(name, Some(from.rows), parts, done.len() as u32, so_far);
        let progress = Arc::new(progress);
        shown.push(Arc::clone(&progress));
        if parts > 1 && copied.is_none() {
            refuse_rows(&mut target, &table, &options.stream).await?;
            note(&mut target, &note_begin(stream, &table, &from)).await?;
        }
        let is_missing = |number: &u32| copied.is_none_or(|copied| !copied.done.contains_key(number));
        let missing: Vec<u32> = (0..parts).filter(is_missing).collect();
        queue.extend(missing.iter().map(|number| (loadings.len(), *number)));
        loadings.push(Loading { table, from, progress });
    }
    drop(target);
    progress.set(shown);
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let workers = (0..options.jobs.max(1)).map(|_| async {
        let mut connection = None;
        while let Some((at, number)) = next() {
            let Some(loading) = loadings.get(at) else { break };
            let target = match &mut connection {
                Some(target) => target,
                none => {
                    let encoding = &options.archive.manifest().server_encoding;
                    none.insert(session::target(&options.target, encoding).await?)
                }
            };
            let loaded = loading.load(options, target, number).await;
            loaded.map_err(|fault| fault.context(format!("loading {}", loading.table.shown())))?;
        }
        Ok::<_, Fault>(())
    });
    futures_util::future::try_join_all(workers).await?;
    note_whole(&client, stream).await
}

/// Notes that the changes may come.
pub async fn complete_restore(options: &RestoreOptions) -> Result<(), Fault> {
    copied::complete(&options.client().await?, &options.stream, options.base.through).await
}

/// The wanted tables with their places on the target, the largest first.
async fn tables(options: &RestoreOptions, client: &Client) -> Result<Vec<(Table, BaseTable)>, Fault> {
    let wanted = options.wanted();
    if let Some(rules) = &options.rules {
        let all = options.base.tables.iter().map(|table| (table.schema.as_str(), table.name.as_str()));
        rules.refuse_misspelt(all)?;
    }
    let shaped: Vec<_> = wanted.iter().map(|table| shaped(options, table)).collect::<Result<_, _>>()?;
    let names: Vec<_> = wanted.iter().map(|table| place(options, table)).collect();
    let found = survey::columns(client, &names).await;
    let found = found.map_err(|error| at_target(control::fault(&error)))?;
    let mut tables = Vec::new();
    for ((from, shaped), (schema, name)) in wanted.into_iter().zip(shaped).zip(names) {
        let shown = shown_name(&schema, &name);
        let Some(here) = found.get(&(schema.clone(), name.clone())) else {
            return Err(Fault::stop(format!("table {shown} is missing on the target"))
                .hint("let replay make the schema, or make the table as it was"));
        };
        let there = match shaped {
            Some(shaped) => There::shaped(shaped),
            None => There::same(schema.clone(), name.clone(), from.columns.clone()),
        };
        here.refuse_lacking(&there.columns, &shown)?;
        let table = Table {
            oid: from.oid,
            schema,
            name,
            above: Vec::new(),
            is_root: false,
            filenode: 0,
            shape: String::new(),
            bounds: String::new(),
            blocks: from.parts.iter().map(|file| file.raw_bytes).sum(),
            rows: Some(from.rows),
            columns: from.columns.clone(),
            types: Vec::new(),
            condition: None,
            key: Vec::new(),
            format: Format::Text,
            unreferenced: here.is_unreferenced() && !there.is_shared,
            divided: here.is_partitioned(),
            there,
        };
        tables.push((table, from.clone()));
    }
    let mut places: Vec<_> = tables.iter_mut().map(|(table, _)| table).collect();
    survey::note_beside(&mut places)?;
    tables.sort_by_key(|(table, _)| std::cmp::Reverse(table.blocks));
    Ok(tables)
}

/// What rules make of a table of the base; none where no rule means it. Of its rows alone: which columns identify them does not matter.
fn shaped(options: &RestoreOptions, table: &BaseTable) -> Result<Option<Arc<Shaped>>, Fault> {
    let Some(rules) = options.rules.as_ref().filter(|rules| rules.means(&table.schema, &table.name)) else {
        return Ok(None);
    };
    if table.types.len() != table.columns.len() {
        let shown = shown_name(&table.schema, &table.name);
        return Err(Fault::stop(format!("the base has no types of {shown}'s columns, which rules want"))
            .hint("take a base with this version of pgsluice: pgsluice clone --into-archive"));
    }
    let columns = table.columns.iter().zip(&table.types).map(|(name, (type_oid, type_modifier))| Column {
        name: name.clone(),
        key: true,
        type_oid: *type_oid,
        type_modifier: *type_modifier,
    });
    let (schema, name) = (table.schema.clone(), table.name.clone());
    let identity = ReplicaIdentity::Full;
    let relation = Relation { oid: table.oid, schema, name, identity, columns: columns.collect() };
    Ok(rules.shape_rows(&relation)?.map(Arc::new))
}

fn place(options: &RestoreOptions, table: &BaseTable) -> (String, String) {
    let by_rules = options.rules.as_ref().and_then(|rules| rules.place(&table.schema, &table.name));
    by_rules.unwrap_or_else(|| Rename::place(&options.renames, &table.schema, &table.name))
}

fn note_begin(stream: &str, table: &Table, from: &BaseTable) -> String {
    let copied = Copied {
        oid: table.oid,
        filenode: 0,
        parts: from.parts.len() as u32,
        part_blocks: 0,
        first: from.snapshot.clone(),
        whole: None,
        done: HashMap::new(),
    };
    copied::note_begin(stream, &table.schema, &table.name, &copied)
}

impl Loading {
    /// Loads a part and commits it with its note.
    async fn load(&self, options: &RestoreOptions, target: &mut Pipeline, number: u32) -> Result<(), Fault> {
        let (table, stream) = (&self.table, &options.stream);
        let missing = || Fault::stop(format!("part {number} is not in the base"));
        let file = self.from.parts.get(number as usize).ok_or_else(missing)?.clone();
        let (archive, begin, oid) = (options.archive.clone(), options.base.begin.clone(), table.oid);
        let (pieces, mut waiting) = tokio::sync::mpsc::channel(WAITING);
        let reading = tokio::task::spawn_blocking(move || {
            let read = || {
                let mut reader = archive.base_reader(&begin, oid, number, &file)?;
                while let Some(piece) = reader.block()? {
                    // Else nobody wants them any more.
                    if pieces.blocking_send(Ok(Some(piece))).is_err() {
                        return Ok(());
                    }
                }
                // Only now is it known that all of it is what was written.
                let _ = pieces.blocking_send(Ok(None));
                Ok(())
            };
            if let Err(fault) = read() {
                let _ = pieces.blocking_send(Err(fault));
            }
        });
        let mut next = async || match waiting.recv().await {
            Some(piece) => piece,
            None => Err(Fault::stop("a thread that read the archive has failed")),
        };
        simple(target, "BEGIN").await?;
        let alone = self.from.parts.len() == 1;
        if alone {
            refuse_rows(target, table, &options.stream).await?;
            note(target, &note_begin(stream, table, &self.from)).await?;
            if table.unreferenced {
                simple(target, &format!("TRUNCATE ONLY {}", table.quoted())).await?;
            }
        }
        self.progress.part_begins();
        let mut write = plan::write(table, alone && table.unreferenced);
        let taken_in = table.there.taken_in();
        if let Some(waiting) = &taken_in {
            simple(target, &waiting.make).await?;
            write = waiting.write.clone();
        }
        let mut bytes = 0;
        let moved = |more| {
            bytes += more;
            self.progress.moved(0, more);
        };
        let mut reshaping = table.there.shaped.as_deref().map(reshape::Pieces::new);
        let reshaped = async || match &mut reshaping {
            Some(pieces) => pieces.next(&mut next).await,
            None => next().await,
        };
        let rows = load_pieces(target, &write, reshaped, moved).await?;
        reading.await.map_err(|_| Fault::stop("a thread that read the archive has failed"))?;
        if let Some(waiting) = &taken_in {
            simple(target, &waiting.take_in).await?;
        }
        let moment = Moment { snapshot: self.from.snapshot.clone(), through: self.from.through };
        let part = Part { moment, rows, bytes };
        note(target, &copied::note_part(stream, table.oid, number, &part)).await?;
        faults::point("restore.before_commit");
        simple(target, "COMMIT").await?;
        faults::point("restore.after_commit");
        self.progress.part_ends(rows, 0);
        Ok(())
    }
}

/// Sets the target's sequences as the source's were when the base was whole; at endpos the applier sets them by the log.
pub async fn restored_sequences(options: &RestoreOptions) -> Result<(), Fault> {
    let (true, Some(sample)) = (options.sequences, &options.base.sequences) else { return Ok(()) };
    let client = options.client().await?;
    sequences::set(&client, sample).await.map(drop).map_err(at_target)
}

/// Lets the target's planner know the tables.
pub async fn restored_analyze(options: &RestoreOptions) -> Result<(), Fault> {
    let client = options.client().await?;
    for table in options.wanted() {
        let (schema, name) = place(options, table);
        let analyzed = client.batch_execute(&format!("ANALYZE {}", quoted_name(&schema, &name))).await;
        analyzed.map_err(|error| at_target(control::fault(&error)))?;
    }
    Ok(())
}

/// Notes that what follows the rows is on the target too.
pub async fn finish_restore(options: &RestoreOptions) -> Result<(), Fault> {
    copied::finish(&options.client().await?, &options.stream).await
}
