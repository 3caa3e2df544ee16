//! One part of a table, from the source into the target, in one transaction with the note that it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Mutex;

use crate::faults;
use crate::model::{Fault, Remedy, Xid};
use crate::pg::copied::{self, Copied, Moment, Part};
use crate::pg::{Pipeline, Reshape, transfer};
use crate::rules::Shaped;
use crate::transform::equal;

use super::Options;
use super::plan::{self, Blocks, Which};
use super::progress::TableProgress;
use super::reshape;
use super::session::{self, Leader, cell};
use super::survey::Table;

/// A table with parts to be copied.
pub(super) struct Work {
    pub(super) table: Table,
    pub(super) progress: std::sync::Arc<TableProgress>,
    pub(super) parts: u32,
    pub(super) part_blocks: u64,
    pub(super) stage: Stage,
    /// Parts that are not here yet.
    pub(super) left: AtomicU32,
}

/// Who holds the snapshot, while anybody needs it.
pub(super) type Lead = Box<Mutex<Option<Arc<Leader>>>>;

pub(super) enum Stage {
    /// Nothing of it is on the target. Its parts share the snapshot that the first worker takes.
    Fresh(Lead),
    /// An earlier run has copied some of it: what was written from here on is left for `refresh`. Its blocks are where they were only
    /// as long as the source's table has this file.
    Resumed(Xid, u32),
}

/// A worker with its connections, which stay open from part to part.
pub(super) struct Worker<'a> {
    options: &'a Options,
    source: Pipeline,
    target: Pipeline,
}

impl<'a> Worker<'a> {
    pub(super) async fn open(options: &'a Options) -> Result<Worker<'a>, Fault> {
        let encoding = &options.archive.manifest().server_encoding;
        let (source, target) =
            tokio::try_join!(session::source(&options.source), session::target(&options.target, encoding))?;
        Ok(Worker { options, source, target })
    }

    /// Copies a part and commits it.
    pub(super) async fn copy(&mut self, work: &Work, number: u32) -> Result<(), Fault> {
        let doing = |fault: Fault| fault.context(format!("copying {}", work.table.shown()));
        self.try_copy(work, number).await.map_err(doing)
    }

    async fn try_copy(&mut self, work: &Work, number: u32) -> Result<(), Fault> {
        let (table, stream) = (&work.table, &self.options.stream);
        let blocks = Blocks::of_part(number, work.parts, work.part_blocks);
        let (which, leader) = match &work.stage {
            Stage::Fresh(_) if work.parts == 1 => (Which::All(blocks), None),
            Stage::Fresh(leader) => {
                let mut leader = leader.lock().await;
                let leader = match &*leader {
                    Some(leader) => Arc::clone(leader),
                    None => Arc::clone(leader.insert(lead(self.options, &mut self.target, work).await?)),
                };
                (Which::All(blocks), Some(leader))
            }
            Stage::Resumed(horizon, _) => (Which::Before(*horizon, blocks), None),
        };
        let exported = leader.as_ref().map(|leader| leader.exported.as_str());
        let (moment, filenode) = session::begin(&mut self.source, exported, Some(table)).await?;
        if let Stage::Resumed(_, before) = &work.stage
            && filenode != *before
        {
            return Err(Fault::retry("the source's table was written anew meanwhile"));
        }
        simple(&mut self.target, "BEGIN").await?;
        let begins = work.parts == 1 && matches!(work.stage, Stage::Fresh(_));
        let mut frozen = false;
        if begins {
            refuse_rows(&mut self.target, table, stream).await?;
            note(&mut self.target, &note_begin(stream, work, &moment, filenode)).await?;
            frozen = table.unreferenced;
            if frozen {
                simple(&mut self.target, &format!("TRUNCATE ONLY {}", table.there.quoted())).await?;
            }
        }
        let (read, mut write) = (plan::read(table, which), plan::write(table, frozen));
        let taken_in = table.there.taken_in();
        if let Some(waiting) = &taken_in {
            simple(&mut self.target, &waiting.make).await?;
            write = waiting.write.clone();
        }
        let mut reshape = table.there.shaped.as_deref().map(reshape::of);
        let reshape = reshape.as_mut().map(|reshape| reshape as &mut Reshape<'_>);
        let (mut messages, mut bytes) = (0, 0);
        let moved = |rows, more| {
            (messages, bytes) = (messages + rows, bytes + more);
            work.progress.moved(rows, more);
            self.options.pace(table.oid, more)
        };
        work.progress.part_begins();
        let rows = transfer(&mut self.source, &read, &mut self.target, &write, reshape, moved).await?;
        if let Some(waiting) = &taken_in {
            simple(&mut self.target, &waiting.take_in).await?;
        }
        let part = Part { moment, rows, bytes };
        let mut notes = copied::note_part(stream, table.oid, number, &part);
        if begins {
            notes.push(';');
            notes.push_str(&copied::note_whole(stream, table.oid, &part.moment));
        }
        session::settle(&mut self.source, &part.moment).await?;
        note(&mut self.target, &notes).await?;
        faults::point("copy.before_commit");
        simple(&mut self.target, "COMMIT").await?;
        faults::point("copy.after_commit");
        // In binary form there are messages that hold no row.
        work.progress.part_ends(rows, messages);
        if let (Stage::Fresh(leader), 1) = (&work.stage, work.left.fetch_sub(1, Ordering::Relaxed)) {
            // Nobody reads under its snapshot any more.
            leader.lock().await.take();
        }
        Ok(())
    }
}

/// Takes the snapshot under which the first run reads all parts of a table, and notes that the copy begins.
async fn lead(options: &Options, target: &mut Pipeline, work: &Work) -> Result<Arc<Leader>, Fault> {
    refuse_rows(target, &work.table, &options.stream).await?;
    let leader = Leader::open(&options.source, Some(&work.table)).await?;
    note(target, &note_begin(&options.stream, work, &leader.moment, leader.filenode)).await?;
    Ok(Arc::new(leader))
}

fn note_begin(stream: &str, work: &Work, moment: &Moment, filenode: u32) -> String {
    let table = Copied {
        oid: work.table.oid,
        filenode,
        parts: work.parts,
        part_blocks: work.part_blocks,
        first: moment.snapshot.clone(),
        whole: None,
        done: Default::default(),
    };
    copied::note_begin(stream, &work.table.schema, &work.table.name, &table)
}

/// What is in a table that we have not begun to copy is somebody else's, unless it is that of others that go into the same one.
pub(super) async fn refuse_rows(target: &mut Pipeline, table: &Table, stream: &str) -> Result<(), Fault> {
    let (quoted, there) = (table.on_target(), &table.there);
    let marks = there.shaped.as_deref().filter(|_| there.is_shared).map(Shaped::marks).unwrap_or_default();
    let is_contested = there.shaped.as_deref().is_some_and(|shaped| shaped.contest().is_some());
    let strange = match (marks.as_slice(), is_contested) {
        ([], true) => "false".to_owned(),
        ([], false) => {
            let beside = copied::any_of(stream, &there.beside);
            format!("EXISTS (SELECT FROM {quoted}) AND NOT {beside}")
        }
        (marks, _) => format!("EXISTS (SELECT FROM {quoted} WHERE {})", equal(marks).join(" AND ")),
    };
    let rows = target.simple(&format!("SELECT {strange}")).await?;
    match cell(&rows, 0).as_deref() {
        Some("f") => Ok(()),
        _ => {
            Err(Fault::stop(format!("table {} of the target has rows that no clone brought", table.shown()))
                .hint(format!("if they are not needed: TRUNCATE {quoted};")))
        }
    }
}

/// Writes notes of ours. Where they are there already, somebody whose connection was lost has come that far after all.
pub(super) async fn note(target: &mut Pipeline, sql: &str) -> Result<(), Fault> {
    simple(target, sql).await.map_err(|fault| match fault.sqlstate.as_deref() {
        Some("23505") => Fault { remedy: Remedy::Retry, ..fault },
        _ => fault,
    })
}

pub(super) async fn simple(target: &mut Pipeline, sql: &str) -> Result<(), Fault> {
    target.simple(sql).await.map_err(|fault| fault.context("target")).map(drop)
}
