//! Source tables to target tables, in bulk, once, and to be continued after any crash.
//!
//! A table is read in one or several transactions whose snapshots are noted on the target with the rows they brought. A change of the
//! log belongs to the copied rows already if its transaction is visible in the table's snapshot; the applier then leaves it out. So
//! tables need no snapshot in common, and the log may begin at any time before.
//!
//! ```text
//! rows      parts of all tables, several at a time ──► [indexes] ──► refresh   tables whose parts are of different snapshots
//! ```
//!
//! An LSN can't tell what a snapshot shows: a commit is in WAL before it is visible. What was committed when the log began and
//! was still invisible would be neither in the log nor in a snapshot, so the copy begins when all transactions that ran then have ended.

mod backfill;
mod base;
mod begin;
mod define;
mod large_objects;
mod not_brought;
mod part;
mod plan;
mod progress;
mod rate;
mod refresh;
mod reshape;
mod restore;
mod schedule;
mod schema;
mod selected;
mod session;
mod size;
mod survey;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::Client;

use crate::archive::Archive;
use crate::faults;
use crate::model::{Fault, Position};
use crate::pg::copied::{self, Copied, Moment};
use crate::pg::pattern::Pattern;
use crate::pg::{Conninfo, control, sequences};
use crate::rules::RuleSet;

pub use backfill::{empty, from_now, missing};
pub use base::{BaseOptions, drop_base, take_base};
pub use begin::begin;
pub use define::{Definition, Done, define};
pub use large_objects::{LargeObjects, large_objects, refuse_other_large_objects};
pub use not_brought::{NotBrought, large_objects_left, not_brought};
use part::{Lead, Stage, Work, Worker};
pub use progress::{Progress, TableProgress};
pub use rate::Rate;
pub use restore::{
    RestoreOptions, begin_restore, complete_restore, finish_restore, load_rows, make_renamed,
    restored_analyze, restored_schema, restored_sequences, unmatched, wanted,
};
pub use schema::{Schema, SchemaOptions};
pub use selected::{Selection, Written, check_selection, selected};
use size::BLOCK_BYTES;
pub use size::PartSize;
use survey::{Table, Wanted};

const APPLICATION: &str = "pgsluice clone";

/// What is copied, and where to.
#[derive(Clone)]
pub struct Options {
    /// The log whose changes are applied behind the rows.
    pub archive: Archive,
    pub source: Conninfo,
    pub target: Conninfo,
    /// Names the progress on the target.
    pub stream: String,
    pub publication: String,
    pub tables: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
    /// Of those, only these, by the source's OID.
    pub only: Option<HashSet<u32>>,
    /// What the snapshots may not show ends after it.
    pub after: Position,
    /// Parts that are copied at a time.
    pub jobs: usize,
    pub part_size: PartSize,
    /// How fast the source is read, at most.
    pub rate: Option<Arc<Rate>>,
    /// And single tables, by the source's OID, instead.
    pub rates: HashMap<u32, Arc<Rate>>,
    /// Tables that are copied before others, or behind them, the highest first, by the source's OID; 0 where it is not said.
    pub priorities: HashMap<u32, i64>,
    /// Set its sequences too.
    pub sequences: bool,
    /// What the rows are on the target.
    pub rules: Option<Arc<RuleSet>>,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// Every table equals a snapshot. No snapshot shows what was committed from this position on.
    Whole(Position),
    /// Some tables have to be copied anew.
    Again,
}

impl Options {
    /// The tables that are to be copied, in the order in which they are: of the same priority the largest first.
    async fn survey(&self, source: &Client, target: &Client) -> Result<Vec<Table>, Fault> {
        let clone = copied::clone(target, &self.stream).await?;
        let known = clone.map(|clone| clone.tables).unwrap_or_default();
        let mut tables = survey::tables(source, target, &self.wanted(&known)).await?;
        let priority = |table: &Table| self.priorities.get(&table.oid).copied().unwrap_or_default();
        tables.sort_by_key(|table| Reverse(priority(table)));
        Ok(tables)
    }

    /// How long who has read these bytes of a table is to wait before it reads more.
    fn pace(&self, oid: u32, bytes: u64) -> Duration {
        let rate = self.rates.get(&oid).or(self.rate.as_ref());
        rate.map(|rate| rate.takes(bytes)).unwrap_or_default()
    }

    /// The same for some of the tables.
    pub fn only(&self, oids: impl IntoIterator<Item = u32>) -> Options {
        Options { only: Some(oids.into_iter().collect()), ..self.clone() }
    }

    fn wanted<'a>(&'a self, known: &'a [u32]) -> Wanted<'a> {
        Wanted {
            publication: &self.publication,
            tables: &self.tables,
            exclude: &self.exclude,
            only: self.only.as_ref(),
            known,
            rules: self.rules.as_deref(),
        }
    }

    async fn clients(&self) -> Result<(Client, Client), Fault> {
        let source = async {
            control::connect(&self.source, APPLICATION).await.map_err(|fault| fault.context("source"))
        };
        tokio::try_join!(source, self.target())
    }

    async fn target(&self) -> Result<Client, Fault> {
        control::connect(&self.target, APPLICATION).await.map_err(|fault| fault.context("target"))
    }
}

/// Copies all parts that are not on the target yet.
pub async fn rows(options: &Options, progress: &Progress) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    let tables = options.survey(&source, &target).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    copied::note_tables(&target, &options.stream, &oids).await?;
    let mut known = copied::tables(&target, &options.stream).await?;
    let (mut works, mut shown, mut queue) = (Vec::new(), Vec::new(), VecDeque::new());
    for table in tables {
        let copied = match known.remove(&table.oid) {
            Some(copied) if !can_go_on(&table, &copied) => {
                start_anew(&target, options, &table).await?;
                None
            }
            other => other,
        };
        let work = work(options, table, copied.as_ref())?;
        shown.push(Arc::clone(&work.progress));
        let missing = (0..work.parts).filter(|number| {
            copied.as_ref().is_none_or(|copied| copied.whole.is_none() && !copied.done.contains_key(number))
        });
        queue.extend(missing.map(|number| (works.len(), number)));
        works.push(work);
    }
    progress.set(shown);
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let timed_out = Mutex::new(None);
    let workers = (0..options.jobs.max(1)).map(|_| async {
        let mut worker = None;
        while let Some((at, number)) = next() {
            let Some(work) = works.get(at) else { break };
            let worker = match &mut worker {
                Some(worker) => worker,
                none => none.insert(Worker::open(options).await?),
            };
            if let Err(fault) = worker.copy(work, number).await {
                if fault.sqlstate.as_deref() == Some(QUERY_CANCELED) {
                    *timed_out.lock().unwrap_or_else(PoisonError::into_inner) = Some(&work.table);
                }
                return Err(fault);
            }
        }
        Ok::<_, Fault>(())
    });
    let done = futures_util::future::try_join_all(workers).await.map(drop);
    let timed_out = timed_out.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(table) = timed_out {
        make_parts_smaller(&target, options, table).await?;
    }
    done?;
    note_whole(&target, &options.stream).await
}

/// By a time-out, or by somebody (`pg_cancel_backend`).
const QUERY_CANCELED: &str = "57014";

/// Who ends what takes long would end each part again that takes as long. Those that are here are kept.
async fn make_parts_smaller(target: &Client, options: &Options, table: &Table) -> Result<(), Fault> {
    options.part_size.halve();
    copied::halve_parts(target, &options.stream, table.oid, size::PART_BLOCKS_MIN).await?;
    tracing::warn!(
        table = table.shown(),
        "a part was cut off by a time-out, or by somebody: what is left is read in parts of half the size, down to a MiB"
    );
    Ok(())
}

/// Notes of tables whose parts are all here, and of their first snapshot, that they equal it.
async fn note_whole(target: &Client, stream: &str) -> Result<(), Fault> {
    for (oid, table) in copied::tables(target, stream).await? {
        if let Some(moment) = of_one_snapshot(&table) {
            let note = copied::note_whole(stream, oid, &moment);
            target.batch_execute(&note).await.map_err(|error| control::fault(&error).context("target"))?;
        }
    }
    Ok(())
}

fn of_one_snapshot(table: &Copied) -> Option<Moment> {
    let all = table.done.len() as u64 >= u64::from(table.parts);
    let same = table.done.values().all(|part| part.moment.snapshot == table.first);
    if table.whole.is_some() || !all || !same {
        return None;
    }
    let through = table.done.values().map(|part| part.moment.through).max()?;
    Some(Moment { snapshot: table.first.clone(), through })
}

/// Whether the parts that are here are of use: rows can be told by a key, and are where they were. Without any part, what the first snapshot
/// showed may even be gone from the source with a crash.
fn can_go_on(table: &Table, copied: &Copied) -> bool {
    let same = copied.filenode == table.filenode && !table.is_root;
    copied.whole.is_some() || (!copied.done.is_empty() && !table.key.is_empty() && same)
}

/// Empties a table that was copied in part, for its copy to begin anew.
async fn start_anew(target: &Client, options: &Options, table: &Table) -> Result<(), Fault> {
    tracing::info!(
        table = table.shown(),
        "copied in part before, which can't be continued: it is copied anew"
    );
    clear(target, options, table).await
}

/// Removes a table's rows and what is noted of them.
async fn clear(target: &Client, options: &Options, table: &Table) -> Result<(), Fault> {
    if table.there.is_shared {
        let what = format!(
            "{} has rows of other tables too, and can't be emptied of those of",
            table.there.quoted()
        );
        return Err(Fault::stop(format!("{what} {}", table.shown())).hint("begin with an empty target"));
    }
    let empty = match table.unreferenced {
        true => format!("TRUNCATE ONLY {}", table.there.quoted()),
        false => format!("DELETE FROM {}", table.on_target()),
    };
    let forget = copied::forget(&options.stream, table.oid);
    let settings = "SET LOCAL session_replication_role = replica; SET LOCAL row_security = off";
    let sql = format!("BEGIN; {settings}; {empty}; {forget}; COMMIT");
    target.batch_execute(&sql).await.map_err(|error| control::fault(&error).context("target"))
}

fn work(options: &Options, table: Table, copied: Option<&Copied>) -> Result<Work, Fault> {
    let part_blocks = options.part_size.blocks();
    let (parts, part_blocks, stage, done) = match copied {
        Some(copied) => {
            let first = Moment { snapshot: copied.first.clone(), through: Position::ZERO };
            let stage = Stage::Resumed(first.seen()?.min, copied.filenode);
            (copied.parts, copied.part_blocks, stage, copied.done.values().collect())
        }
        None => {
            // What is in a table of others' rows must go with the transaction that brought it.
            let is_one = table.is_root || table.there.is_shared;
            let parts = if is_one { 1 } else { plan::parts(table.blocks, part_blocks) };
            (parts, part_blocks, Stage::Fresh(Lead::default()), Vec::new())
        }
    };
    let (rows, bytes) =
        done.iter().fold((0, 0), |(rows, bytes), part| (rows + part.rows, bytes + part.bytes));
    let progress =
        progress::TableProgress::new(table.shown(), table.rows, parts, done.len() as u32, (rows, bytes));
    let left = AtomicU32::new(parts.saturating_sub(done.len() as u32));
    Ok(Work { table, progress: Arc::new(progress), parts, part_blocks, stage, left })
}

/// Tables that were to be copied and are on the source no more: the log still has what was done to them before, and no row of the target fits it.
async fn leave_out_dropped(source: &Client, target: &Client, options: &Options) -> Result<(), Fault> {
    let Some(clone) = copied::clone(target, &options.stream).await? else { return Ok(()) };
    let known = copied::tables(target, &options.stream).await?;
    let is_whole = |oid: &u32| known.get(oid).is_some_and(|table| table.whole.is_some());
    let missing: Vec<u32> = clone.tables.into_iter().filter(|oid| !is_whole(oid)).collect();
    let there = source.query("SELECT oid FROM pg_class WHERE oid = ANY ($1)", &[&missing]).await;
    let there = there.map_err(|error| control::fault(&error).context("source"))?;
    let there: Vec<u32> = there.iter().map(|row| row.get(0)).collect();
    for oid in missing.iter().filter(|oid| !there.contains(oid)) {
        let mut session = session::source(&options.source).await?;
        let (moment, _) = session::begin(&mut session, None, None).await?;
        session::settle(&mut session, &moment).await?;
        tracing::warn!(
            source_oid = oid,
            "a table was dropped on the source before it was copied: what the log has of it is left out"
        );
        copied::note_whole_as_is(target, &options.stream, *oid, &moment).await?;
    }
    Ok(())
}

/// How far the clone is, if it was begun.
pub async fn standing(options: &Options) -> Result<Option<copied::Clone>, Fault> {
    // The source may be away when a clone is stopped.
    let target = options.target().await?;
    copied::clone(&target, &options.stream).await
}

/// Notes that others than the clone use its log from now on.
pub async fn share(options: &Options) -> Result<(), Fault> {
    let (_, target) = options.clients().await?;
    copied::share(&target, &options.stream).await
}

/// Notes that what follows the rows is on the target too.
pub async fn finish(options: &Options) -> Result<(), Fault> {
    let (_, target) = options.clients().await?;
    copied::finish(&target, &options.stream).await
}

/// Sets the target's sequences as the source's are now, so that they are never far behind the rows; at endpos the applier sets them again.
pub async fn sequences(options: &Options) -> Result<(), Fault> {
    if !options.sequences {
        return Ok(());
    }
    let (source, target) = options.clients().await?;
    let read = sequences::read(&source, &options.publication).await;
    if let Some((sample, _)) = read.map_err(|fault| fault.context("source"))? {
        sequences::set(&target, &sample).await.map_err(|fault| fault.context("target"))?;
    }
    Ok(())
}

/// Lets the target's planner know its tables.
pub async fn analyze(options: &Options) -> Result<(), Fault> {
    let (source, target) = options.clients().await?;
    let tables = options.survey(&source, &target).await?;
    let queue = Mutex::new(tables.iter().collect::<VecDeque<_>>());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let workers = (0..options.jobs.clamp(1, tables.len().max(1))).map(|_| async {
        let at_target = |fault: Fault| fault.context("target");
        let client = control::connect(&options.target, APPLICATION).await.map_err(at_target)?;
        while let Some(table) = next() {
            let analyzed = client.batch_execute(&format!("ANALYZE {}", table.there.quoted())).await;
            analyzed.map_err(|error| at_target(control::fault(&error)))?;
        }
        Ok::<_, Fault>(())
    });
    futures_util::future::try_join_all(workers).await.map(drop)
}

/// Brings tables whose parts are of several snapshots to one, and says how far all are. Wants the indexes of the keys.
pub async fn refresh(options: &Options) -> Result<Refreshed, Fault> {
    let (source, target) = options.clients().await?;
    let tables = options.survey(&source, &target).await?;
    let mut again = false;
    let known = copied::tables(&target, &options.stream).await?;
    for table in tables {
        let Some(copied) = known.get(&table.oid) else {
            // It was published meanwhile.
            again = true;
            continue;
        };
        if copied.whole.is_none() && !refresh::refresh(options, &table, copied).await? {
            start_anew(&target, options, &table).await?;
            again = true;
        }
    }
    if again {
        return Ok(Refreshed::Again);
    }
    leave_out_dropped(&source, &target, options).await?;
    let whole = copied::tables(&target, &options.stream).await?;
    let through = whole.values().filter_map(|table| Some(table.whole.as_ref()?.through)).max();
    let schema = copied::clone(&target, &options.stream).await?.and_then(|clone| clone.schema);
    let through = through.max(schema.map(|moment| moment.through)).unwrap_or(options.after);
    copied::complete(&target, &options.stream, through).await?;
    faults::point("copy.after_complete");
    Ok(Refreshed::Whole(through))
}
