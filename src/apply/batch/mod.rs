//! The one loop that turns frames of the log into batches on the target.

mod aside;
mod binding;
mod commit;
mod ddl;
mod delay;
mod folded;
mod hold;
mod refusal;
mod retry;
mod run;
mod shaped;
mod snapshot;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::archive::{Archive, Frame, Reader, Tail};
use crate::faults;
use crate::meter::METER;
use crate::model::{Fault, Lsn, Position, Relation, Remedy, Timestamp};
use crate::pg::{self, counterpart, joining};
use crate::pgoutput::{Begin, Message, decode};
use crate::transform::{Fold, Parameters, Planner, StatementKind, Step, Way};

use super::copied::Stitches;
use super::ddl::is_captured;
use super::dead::{Aside, Held};
use super::lanes::Lanes;
use super::session::{Advance, Session, Stream, others_tables};
use super::shaper::Shaper;
use super::{Applied, Control, Target, describe, ruled, sequences};
use aside::Touched;
use hold::Limit;
use run::Run;
use snapshot::Snapshot;

/// Changes that go one by one after which a batch is committed although the log has more. A longer transaction gains little, and
/// rows that change often can't be pruned inside it.
const ALONE_MAX: u64 = 1000;
/// How often a transaction is tried again that the target refuses for a passing reason (lock, time-out, deadlock).
const REFUSALS_MAX: u32 = 10;
/// How often is looked whether tables that are left out have become ours, while nothing is to be applied.
const LOOK: Duration = Duration::from_millis(250);

/// What is kept from one connection to the next.
pub(super) struct Applier<'a> {
    archive: &'a Archive,
    tail: Option<Tail>,
    target: &'a Target,
    planner: Planner,
    shaper: Shaper,
    applied: Applied,
    /// A batch up to the commit at this LSN was refused: until it is passed, one source transaction is a batch, row by row.
    careful_until: Option<Lsn>,
    /// A batch up to the commit at this LSN can't be divided.
    one_lane_until: Option<Lsn>,
    /// Over how many connections a batch may go.
    lanes: u32,
    /// Bytes of net changes that make a batch.
    fold_bytes: usize,
    /// What the planner knows of the target was looked up since the last batch.
    is_fresh: bool,
    /// Names of the tables that changes came for, and of those above them: a pattern that means none may be misspelt.
    seen: BTreeSet<(String, String)>,
    /// Batches refused in a row.
    refusals: u32,
    had_session: bool,
    told_of_ddl: bool,
    told_of_end: bool,
    /// The newest sample of the source's sequences.
    sequences: Option<sequences::Sample>,
    /// The rows of transactions that are set aside, and how many these are.
    held: Held,
    dead: usize,
    /// The log is kept from before the oldest of them.
    pinned: bool,
    /// The next one that is to be.
    aside: Option<Aside>,
}

/// How the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    /// The batch was given up: read again from the target's progress.
    Again,
    /// Everything up to endpos is applied.
    Reached,
    /// Everything up to the position of a hold is applied.
    Held(Position),
    /// What committed at this time is next, and the target is to trail it.
    Early(Timestamp),
    Stopped,
}

/// The transaction of the log that is being read.
#[derive(Clone, Copy)]
enum Inside {
    Nothing,
    Applying(Begin),
    /// Applied already.
    Known,
    /// Being set aside.
    Aside(Begin),
}

impl<'a> Applier<'a> {
    pub(super) fn new(archive: &'a Archive, tail: Option<Tail>, target: &'a Target) -> Applier<'a> {
        Applier {
            archive,
            tail,
            target,
            planner: Planner::default(),
            shaper: Shaper::default(),
            applied: Applied::default(),
            careful_until: None,
            one_lane_until: None,
            lanes: 1,
            fold_bytes: folded::FOLD_BYTES_MAX,
            is_fresh: false,
            seen: BTreeSet::new(),
            refusals: 0,
            had_session: false,
            told_of_ddl: false,
            told_of_end: false,
            sequences: None,
            held: Held::default(),
            dead: 0,
            pinned: false,
            aside: None,
        }
    }

    /// Whether the same batch has been refused so often that a person should look.
    pub(super) fn is_out_of_patience(&self) -> bool {
        self.refusals > REFUSALS_MAX
    }

    pub(super) fn position(&self) -> Position {
        self.applied.position
    }

    /// One connection to the target, from its progress on.
    pub(super) async fn run(&mut self, control: &mut Control) -> Result<Flow, Fault> {
        let mut run = self.connect(control.applied.clone(), control.stop.clone()).await?;
        self.find_dead(&mut run).await?;
        self.connect_lanes(&mut run).await?;
        loop {
            run.inside = Inside::Nothing;
            run.read = run.lanes.main.progress();
            let open = || Reader::open(self.archive, run.read, self.tail.clone());
            // Where a batch is torn, it is to be met again as it was.
            let parts = self.target.parts.clone().filter(|_| run.lanes.torn().is_none());
            let reader = tokio::task::block_in_place(open)?.only(parts);
            let flow = self.read(&mut run, reader, control).await;
            let flow = self.unless_anothers(&mut run, flow).await;
            self.applied.is_live = false;
            control.applied.send_replace(self.applied);
            let flow = match flow? {
                Flow::Held(at) => self.stand(&mut run, at, control).await?,
                Flow::Early(committed) => self.ripen(&mut run, committed, control).await?,
                other => other,
            };
            match flow {
                Flow::On | Flow::Again | Flow::Held(_) | Flow::Early(_) => {}
                end @ (Flow::Reached | Flow::Stopped) => {
                    assert!(!run.is_open, "would commit a part of a batch");
                    run.lanes.main.make_durable().await?;
                    if end == Flow::Reached {
                        self.warn_of_dead();
                    }
                    if end == Flow::Reached && run.stitches.leaves_tables_out() {
                        tracing::warn!(
                            "endpos is reached, but for tables that are left out: pgsluice backfill brings them"
                        );
                    }
                    // A poller has no eye for sequences.
                    let has_sequences = !self.archive.manifest().is_polled();
                    if end == Flow::Reached && self.target.sequences && has_sequences {
                        // The newest that was met is not the log's, where parts of that are passed by.
                        let sample = self.sequences.clone().filter(|_| self.target.parts.is_none());
                        let tail = self.tail.clone();
                        let progress = run.lanes.main.progress();
                        sequences::set(self.archive, tail, &run.catalog, progress, sample, control).await?;
                    }
                    return Ok(end);
                }
            }
        }
    }

    /// Connects, and takes the stream.
    async fn connect(
        &mut self,
        told: watch::Sender<Applied>,
        stop: watch::Receiver<bool>,
    ) -> Result<Run, Fault> {
        // The log tells all definitions again, from where the target stands.
        self.planner = Planner::default();
        let manifest = self.archive.manifest();
        self.shaper = Shaper::new(self.target.shapes.clone(), manifest)?;
        let stream = Stream { name: self.target.stream.clone(), archive_id: manifest.archive_id.to_string() };
        let (main, torn) =
            Session::open(&self.target.conninfo, stream, &manifest.server_encoding, self.had_session).await?;
        if std::mem::replace(&mut self.had_session, true) {
            self.make_batches_smaller();
        }
        let catalog = pg::control::connect(&self.target.conninfo, "pgsluice apply").await?;
        self.refuse_unknown_origins()?;
        ruled::settle(&catalog, self.target).await?;
        let has_counterparts = manifest.plugin == "pgoutput" && counterpart::prepare(&catalog).await?;
        let stitches = Stitches::read(&catalog, self.target).await?;
        let read = main.progress();
        Ok(Run {
            lanes: Lanes::new(main, torn),
            catalog,
            has_counterparts,
            stitches,
            is_foreign: false,
            is_open: false,
            advance: Advance::default(),
            sent: None,
            sent_at: Instant::now(),
            sent_first: None,
            first: None,
            told,
            fold: Fold::default(),
            alone: 0,
            inside: Inside::Nothing,
            captured: None,
            snapshot: Snapshot::Possible,
            stop,
            read,
            looked: Instant::now(),
            committed: None,
            touched: Touched::default(),
        })
    }

    /// Connects the lanes that were asked for; where they are not to be had, one is enough.
    async fn connect_lanes(&mut self, run: &mut Run) -> Result<(), Fault> {
        self.lanes = self.target.lanes;
        if self.lanes == 1 {
            return Ok(());
        }
        let connected = if pg::lane::prepare(&run.catalog).await? {
            let encoding = &self.archive.manifest().server_encoding;
            run.lanes.connect(&self.target.conninfo, encoding, self.lanes).await
        } else {
            Err(Fault::stop("the user of the target may not create pgsluice.lane"))
        };
        match connected {
            Err(fault) if fault.remedy == Remedy::Stop || fault.sqlstate.is_some() => {
                tracing::warn!(error = %fault, "no lanes: everything goes over one connection");
                self.lanes = 1;
                Ok(())
            }
            other => other,
        }
    }

    /// Reads the log until there is a reason not to.
    async fn read(
        &mut self,
        run: &mut Run,
        mut reader: Reader,
        control: &mut Control,
    ) -> Result<Flow, Fault> {
        self.report(run);
        loop {
            self.applied.log = self.applied.log.max(reader.durable());
            let next = match reader.try_next_in_memory()? {
                Some(next) => next,
                // Leaves this thread to the disk, which costs more than most transactions do.
                None => tokio::task::block_in_place(|| reader.try_next())?,
            };
            let flow = match next {
                Some(frame) => self.frame(run, &frame, control).await?,
                None => self.at_the_end(run, &mut reader, control).await?,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
            if *control.stop.borrow() && run.lanes.torn().is_some() {
                run.give_up().await?;
                return Ok(Flow::Stopped);
            }
            if *control.stop.borrow() && matches!(run.inside, Inside::Nothing) {
                return Ok(match self.finish(run).await? {
                    Flow::On => Flow::Stopped,
                    other => other,
                });
            }
        }
    }

    /// The log has no more for now: commits what is in hand and waits.
    async fn at_the_end(
        &mut self,
        run: &mut Run,
        reader: &mut Reader,
        control: &mut Control,
    ) -> Result<Flow, Fault> {
        let end = reader.durable();
        // A torn batch goes on where it went on before.
        if run.lanes.torn().is_none() {
            let flow = self.finish(run).await?;
            // What took long may have left a backlog.
            if flow != Flow::On || reader.durable() > end {
                return Ok(flow);
            }
            self.note_far_read(run).await?;
            if !std::mem::replace(&mut self.applied.is_live, true) {
                faults::point("apply.at_live");
            }
        }
        self.look_for_tables(run).await?;
        self.report(run);
        control.endpos.mark_unchanged();
        control.hold.mark_unchanged();
        if let Some(limit) = run.limit(control)
            && run.read >= limit.at
        {
            return Ok(limit.flow());
        }
        let endpos = run.endpos(control);
        if let Some(endpos) = endpos
            && !self.told_of_end
            // A receiver of an archive with a store may be anywhere.
            && !self.archive.has_store()
            && !self.archive.has_receiver()?
        {
            self.told_of_end = true;
            let log = reader.durable();
            tracing::warn!(%log, %endpos, "the log ends before endpos and nothing receives into it: waiting for pgsluice receive");
        }
        tokio::select! {
            () = reader.wait() => {}
            () = tokio::time::sleep(LOOK), if run.stitches.leaves_tables_out() => {}
            _ = control.endpos.changed() => {}
            _ = control.hold.changed() => {}
            _ = control.stop.wait_for(|stop| *stop) => {}
        }
        Ok(Flow::On)
    }

    /// What stops it may be about a table that is another's since.
    async fn unless_anothers(&self, run: &mut Run, flow: Result<Flow, Fault>) -> Result<Flow, Fault> {
        match flow {
            Err(fault) if fault.remedy == Remedy::Stop => {
                let known = run.lanes.main.joining();
                let now = joining::version(&run.catalog, &self.target.stream).await;
                let changed = now.is_ok_and(|now| now.is_some_and(|now| now != known));
                Err(if changed { others_tables() } else { fault })
            }
            other => other,
        }
    }

    /// Whether tables that were left out are to be applied from now on. A batch would tell; but there may be none, just because they are left out.
    async fn look_for_tables(&mut self, run: &mut Run) -> Result<(), Fault> {
        if !run.stitches.leaves_tables_out() || run.looked.elapsed() < LOOK {
            return Ok(());
        }
        run.looked = Instant::now();
        let now = joining::version(&run.catalog, &self.target.stream).await?;
        match now == Some(run.lanes.main.joining()) {
            true => Ok(()),
            false => Err(others_tables()),
        }
    }

    /// Applies what is in a frame, committing where a batch is full.
    async fn frame(&mut self, run: &mut Run, frame: &Frame, control: &Control) -> Result<Flow, Fault> {
        let mut parameters = Parameters::default();
        if run.lanes.is_answered() {
            let flow = self.settle(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        for record in frame.records() {
            let bytes = record.map_err(|error| run.unreadable(&error))?;
            let message = decode(bytes).map_err(|error| run.unreadable(&error))?;
            let flow = match &message {
                Message::Begin(begin) => self.begin(run, *begin, control).await?,
                Message::Commit(commit) => match std::mem::replace(&mut run.inside, Inside::Nothing) {
                    Inside::Applying(begin) => {
                        // A hold never lies inside of a commit record; what is in hand when one comes is finished.
                        if let Some(at) = run.endpos(control)
                            && commit.end > at
                        {
                            return self.overshot(run, begin, Limit { at, is_hold: false }).await;
                        }
                        run.advance.end = commit.end;
                        if faults::mutated("commit_lsn_is_progress") {
                            run.advance.end = Position(begin.commit_lsn.0);
                        }
                        run.advance.commit_time = commit.commit_time;
                        run.advance.xid = begin.xid.0;
                        run.advance.transactions += 1;
                        run.committed = Some(begin);
                        let snapshot_of = run.snapshot.table();
                        if snapshot_of.is_some() {
                            match self.end_snapshot(run).await? {
                                Flow::On => {}
                                other => return Ok(other),
                            }
                        }
                        // What the DDL made new can be used only after its commit (a value of an enum).
                        let ends =
                            snapshot_of.is_some() || run.captured.is_some() || self.careful_until.is_some();
                        let torn = run.lanes.torn().map(|torn| torn.end);
                        match torn.map_or(ends, |end| commit.end >= end) {
                            true => match (self.finish(run).await?, snapshot_of) {
                                (Flow::On, Some(oid)) => {
                                    self.run_after(run, oid).await;
                                    Flow::On
                                }
                                (flow, _) => flow,
                            },
                            false if torn.is_none() && self.is_full(run) => {
                                METER.full_batches.inc();
                                self.send(run).await?
                            }
                            false => Flow::On,
                        }
                    }
                    Inside::Aside(begin) => {
                        if let Some(at) = run.endpos(control)
                            && commit.end > at
                        {
                            return self.overshot(run, begin, Limit { at, is_hold: false }).await;
                        }
                        run.committed = Some(begin);
                        self.set_aside(run, begin, commit).await?
                    }
                    Inside::Known | Inside::Nothing => Flow::On,
                },
                Message::Relation(relation) => self.define(run, relation).await?,
                Message::Logical { transactional: false, prefix, content, lsn } => {
                    let sample = sequences::sample(prefix, content, *lsn);
                    self.sequences = sample.or_else(|| self.sequences.take());
                    Flow::On
                }
                Message::Type { oid, schema, name } => {
                    self.planner.define_type(*oid, schema, name);
                    Flow::On
                }
                Message::Logical { transactional: true, lsn, prefix, content }
                    if is_captured(prefix) && !run.is_foreign =>
                {
                    if let Inside::Applying(begin) | Inside::Aside(begin) = run.inside {
                        let flow = self.refuse_ddl(run, begin).await?;
                        if flow != Flow::On {
                            return Ok(flow);
                        }
                    }
                    self.ddl(run, *lsn, content).await?
                }
                Message::Origin { .. } => {
                    run.is_foreign = self.target.only_local;
                    Flow::On
                }
                _ if run.is_foreign => Flow::On,
                change => match run.inside {
                    Inside::Applying(begin) => {
                        let mut spare = None;
                        match run.stitches.rest(begin, change, &mut spare) {
                            Some(rest) => {
                                let is_part = !std::ptr::eq(rest, change);
                                if let Some(flow) = self.snapshot(run, begin, rest).await? {
                                    match flow {
                                        Flow::On => continue,
                                        other => return Ok(other),
                                    }
                                }
                                match self.shaper.is_empty() {
                                    true => self.change(run, rest, is_part, &mut parameters).await?,
                                    false => self.change_by_rules(run, begin, rest, is_part).await?,
                                }
                            }
                            None => Flow::On,
                        }
                    }
                    Inside::Aside(begin) => {
                        self.change_aside(run, begin, change).await?;
                        Flow::On
                    }
                    Inside::Known | Inside::Nothing => Flow::On,
                },
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        run.read = run.read.max(frame.through);
        Ok(Flow::On)
    }

    async fn begin(&mut self, run: &mut Run, begin: Begin, control: &Control) -> Result<Flow, Fault> {
        // The commit ends after it starts, so one that starts at the limit ends behind it.
        if let Some(limit) = run.limit(control)
            && !limit.at.covers_commit_at(begin.commit_lsn)
        {
            return Ok(match self.finish(run).await? {
                Flow::On => limit.flow(),
                other => other,
            });
        }
        if self.is_early(run, begin) {
            return Ok(match self.finish(run).await? {
                Flow::On => Flow::Early(begin.commit_time),
                other => other,
            });
        }
        (run.captured, run.is_foreign) = (None, false);
        run.snapshot = Snapshot::Possible;
        let progress = run.lanes.main.progress();
        let touches = faults::mutated("adjacent_is_known") && progress.0 == begin.commit_lsn.0;
        let is_known = progress.covers_commit_at(begin.commit_lsn) || touches;
        run.inside = if is_known { Inside::Known } else { Inside::Applying(begin) };
        if !is_known && run.first.is_none() {
            run.first = Some(begin.commit_time);
            self.report(run);
        }
        if !is_known && self.aside.is_some() {
            return self.begin_aside(run, begin).await;
        }
        Ok(Flow::On)
    }

    /// The limit lies inside the commit record of the transaction that was just read: it must not be applied.
    async fn overshot(&mut self, run: &mut Run, begin: Begin, limit: Limit) -> Result<Flow, Fault> {
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        let alone = run.advance.transactions == 0;
        run.give_up().await?;
        if alone {
            return Ok(limit.flow());
        }
        self.careful_until = Some(begin.commit_lsn);
        Ok(Flow::Again)
    }

    /// Which transactions are the source's own is told by pgoutput alone.
    fn refuse_unknown_origins(&self) -> Result<(), Fault> {
        let plugin = &self.archive.manifest().plugin;
        match self.target.only_local && plugin != "pgoutput" {
            false => Ok(()),
            true => Err(Fault::usage(format!(
                "--origins none: a log by {plugin} does not tell where transactions came from"
            ))
            .hint("a new archive with --plugin pgoutput does")),
        }
    }

    /// Takes note of a definition. What came under the one before, maybe by another table's name, must have gone out.
    async fn define(&mut self, run: &mut Run, relation: &Relation) -> Result<Flow, Fault> {
        let known = self.shaper.source(relation.oid).or_else(|| self.planner.relation(relation.oid));
        if known.is_some_and(|known| known != relation) {
            let flow = self.barrier(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        self.define_table(relation);
        Ok(Flow::On)
    }

    /// Takes one change in: net with others of its row, or alone. `is_part`: what is left of one that others have too.
    async fn change<'m>(
        &mut self,
        run: &mut Run,
        message: &Message<'m>,
        is_part: bool,
        parameters: &mut Parameters<'m>,
    ) -> Result<Flow, Fault> {
        if let Some(by) = self.holder(run, message) {
            return self.hold_back(run, by).await;
        }
        let flow = loop {
            match self.planner.way(message) {
                Err(refusal) => return self.unfit(run, message, refusal).await,
                Ok(Way::Nothing) => return Ok(Flow::On),
                Ok(Way::LookUp(oid)) => match self.look_up_between(run, oid).await? {
                    Flow::On => {}
                    other => return Ok(other),
                },
                Ok(_) if self.careful_until.is_some() => break Flow::On,
                Ok(Way::Fold(_, key)) if run.fold.take(key, message) => {
                    run.advance.changes += 1;
                    if run.fold.bytes() < folded::PART_BYTES {
                        return Ok(Flow::On);
                    }
                    return self.unfold(run).await;
                }
                Ok(Way::Fold(oid, _)) => match self.open(run).await? {
                    Flow::On => break self.unfold_table(run, oid).await?,
                    other => break other,
                },
                Ok(Way::Alone) => break self.barrier(run).await?,
            }
        };
        if flow != Flow::On {
            return Ok(flow);
        }
        loop {
            let planned = match message {
                Message::Truncate(truncate) if is_part => self.planner.plan_rest(truncate, parameters),
                _ => self.planner.plan(message, parameters),
            };
            match planned {
                Err(refusal) => return self.unfit(run, message, refusal).await,
                Ok(Step::Nothing) => return Ok(Flow::On),
                Ok(Step::LookUp(oid)) => match self.look_up_between(run, oid).await? {
                    Flow::On => {}
                    other => return Ok(other),
                },
                Ok(Step::Execute(statement)) => {
                    if !run.is_open || run.lanes.count() > 1 {
                        match self.open(run).await? {
                            Flow::On => continue,
                            other => return Ok(other),
                        }
                    }
                    run.advance.changes += 1;
                    run.alone += 1;
                    run.lanes.main.execute(statement, parameters.values()).await?;
                    if statement.kind == StatementKind::DeleteAll {
                        self.tell_of_delete(message);
                    }
                    return self.go_on(run, message).await;
                }
            }
        }
    }

    /// A TRUNCATE became a DELETE.
    fn tell_of_delete(&self, message: &Message<'_>) {
        let Message::Truncate(truncate) = message else { return };
        let tables = truncate.relations.iter().filter_map(|oid| self.planner.relation(*oid));
        let tables: Vec<_> = tables.map(|table| format!("{}.{}", table.schema, table.name)).collect();
        tracing::warn!(
            tables = tables.join(", "),
            referring = self.planner.referring(truncate).join(", "),
            "TRUNCATE applied as DELETE: it names more tables on the source, and those that refer to these are not emptied here"
        );
    }

    /// Ends a batch early that the target has already refused.
    async fn go_on(&mut self, run: &mut Run, message: &Message<'_>) -> Result<Flow, Fault> {
        faults::point("apply.mid_batch");
        // Where DDL is between the changes they can't be counted, so each is asked for.
        let alone = self.careful_until.is_some() && run.has_altered();
        let session = match run.lanes.lost() {
            Some(lost) => lost,
            None if alone => &mut run.lanes.main,
            None => return Ok(Flow::On),
        };
        match session.verdict().await {
            Ok(()) => Ok(Flow::On),
            Err(mut refused) => {
                if let Inside::Applying(begin) = run.inside
                    && alone
                {
                    refused.fault = refused.fault.context(describe::change(&self.planner, message, begin));
                }
                self.refused(run, refused).await
            }
        }
    }

    /// Tells of patterns that matched no table that changes came for.
    pub(super) fn warn_of_unmatched(&self) {
        for pattern in self.target.rules.unmatched(&self.seen) {
            tracing::warn!(%pattern, "no table with changes matched this pattern");
        }
        for pattern in self.shaper.unmatched() {
            tracing::warn!(%pattern, "no table with changes matched this pattern of the rules");
        }
    }
}
