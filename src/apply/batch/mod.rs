//! The one loop that turns frames of the log into batches on the target.

mod binding;
mod folded;
mod refusal;

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::archive::{Archive, Frame, Reader, Tail};
use crate::ddl::Action;
use crate::model::{Fault, Lsn, Position, Relation, Remedy};
use crate::pg::{self, counterpart};
use crate::pgoutput::{Begin, Message, decode};
use crate::transform::{Fold, Parameters, Planner, Refusal, Step, Way};
use tokio::sync::watch;

use super::ddl::{self, Captured, DdlMode};
use super::session::{Advance, Session, Stream};
use super::{Applied, Control, Target, describe, inside, sequences};
use binding::fault_of;

/// Changes that go one by one after which a batch is committed although the log has more. A longer transaction gains little, and
/// rows that change often can't be pruned inside it.
const ALONE_MAX: u64 = 1000;
/// How often a transaction is tried again that the target refuses for a passing reason (lock, time-out, deadlock).
const REFUSALS_MAX: u32 = 10;

/// What is kept from one connection to the next.
pub(super) struct Applier<'a> {
    archive: &'a Archive,
    tail: Option<Tail>,
    target: &'a Target,
    planner: Planner,
    applied: Applied,
    /// A batch up to the commit at this LSN was refused: until it is passed, one source transaction is a batch, row by row.
    careful_until: Option<Lsn>,
    /// What the planner knows of the target was looked up since the last batch.
    is_fresh: bool,
    /// Names of the tables that changes came for, and of those above them: a pattern that means none may be misspelt.
    seen: BTreeSet<(String, String)>,
    /// Batches refused in a row.
    refusals: u32,
    had_session: bool,
    told_of_ddl: bool,
    /// The newest sample of the source's sequences.
    sequences: Option<sequences::Sample>,
}

/// How the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    /// The batch was given up: read again from the target's progress.
    Again,
    /// Everything up to endpos is applied.
    Reached,
    Stopped,
}

/// The transaction of the log that is being read.
#[derive(Clone, Copy)]
enum Inside {
    Nothing,
    Applying(Begin),
    /// Applied already.
    Known,
}

/// One connection and the batch in hand.
struct Run {
    session: Session,
    /// For looking at the target's catalog while the session is busy.
    catalog: Client,
    /// Whether the target remembers which of its tables took which table's changes. Only pgoutput gives the OIDs for that.
    has_counterparts: bool,
    /// Whether the target's transaction has begun.
    is_open: bool,
    advance: Advance,
    /// A batch that was sent, on which the target works while the next one is read.
    sent: Option<Advance>,
    /// Told how far the target is.
    told: watch::Sender<Applied>,
    /// Changes of the batch that wait, net.
    fold: Fold,
    /// Changes of the batch that went one by one.
    alone: u64,
    inside: Inside,
    /// The DDL of the transaction that is being applied, once some of it was met.
    captured: Option<Captured>,
    /// The log has been read up to here.
    read: Position,
}

impl<'a> Applier<'a> {
    pub(super) fn new(archive: &'a Archive, tail: Option<Tail>, target: &'a Target) -> Applier<'a> {
        Applier {
            archive,
            tail,
            target,
            planner: Planner::default(),
            applied: Applied::default(),
            careful_until: None,
            is_fresh: false,
            seen: BTreeSet::new(),
            refusals: 0,
            had_session: false,
            told_of_ddl: false,
            sequences: None,
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
        self.planner.unbind();
        let manifest = self.archive.manifest();
        let stream = Stream { name: self.target.stream.clone(), archive_id: manifest.archive_id.to_string() };
        let session =
            Session::open(&self.target.conninfo, stream, &manifest.server_encoding, self.had_session).await?;
        self.had_session = true;
        let catalog = pg::control::connect(&self.target.conninfo, "pgsluice apply").await?;
        let has_counterparts = manifest.plugin == "pgoutput" && counterpart::prepare(&catalog).await?;
        let read = session.progress();
        let mut run = Run {
            session,
            catalog,
            has_counterparts,
            is_open: false,
            advance: Advance::default(),
            sent: None,
            told: control.applied.clone(),
            fold: Fold::default(),
            alone: 0,
            inside: Inside::Nothing,
            captured: None,
            read,
        };
        loop {
            run.inside = Inside::Nothing;
            run.read = run.session.progress();
            let reader = Reader::open(self.archive, run.read, self.tail.clone())?;
            let flow = self.read(&mut run, reader, control).await;
            self.applied.is_live = false;
            control.applied.send_replace(self.applied);
            match flow? {
                Flow::On | Flow::Again => {}
                end @ (Flow::Reached | Flow::Stopped) => {
                    run.session.make_durable().await?;
                    if end == Flow::Reached && self.target.sequences {
                        let (tail, sample) = (self.tail.clone(), self.sequences.clone());
                        let progress = run.session.progress();
                        sequences::set(self.archive, tail, &run.catalog, progress, sample, control).await?;
                    }
                    return Ok(end);
                }
            }
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
            let flow = match tokio::task::block_in_place(|| reader.try_next())? {
                Some(frame) => self.frame(run, &frame, control).await?,
                None => self.at_the_end(run, &mut reader, control).await?,
            };
            if flow != Flow::On {
                return Ok(flow);
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
        let flow = self.finish(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        self.applied.is_live = true;
        self.report(run);
        if control.endpos.borrow_and_update().is_some_and(|endpos| run.read >= endpos) {
            return Ok(Flow::Reached);
        }
        tokio::select! {
            () = reader.wait() => {}
            _ = control.endpos.changed() => {}
            _ = control.stop.wait_for(|stop| *stop) => {}
        }
        Ok(Flow::On)
    }

    /// Applies what is in a frame, committing where a batch is full.
    async fn frame(&mut self, run: &mut Run, frame: &Frame, control: &Control) -> Result<Flow, Fault> {
        let mut parameters = Parameters::default();
        for record in frame.records() {
            let bytes = record.map_err(|error| run.unreadable(&error))?;
            let message = decode(bytes).map_err(|error| run.unreadable(&error))?;
            let flow = match &message {
                Message::Begin(begin) => self.begin(run, *begin, control).await?,
                Message::Commit(commit) => match std::mem::replace(&mut run.inside, Inside::Nothing) {
                    Inside::Applying(begin) => {
                        if control.endpos.borrow().is_some_and(|endpos| commit.end > endpos) {
                            return self.overshot(run, begin).await;
                        }
                        run.advance.end = commit.end;
                        run.advance.commit_time = commit.commit_time;
                        run.advance.xid = begin.xid.0;
                        run.advance.transactions += 1;
                        // What the DDL made new can be used only after its commit (a value of an enum).
                        let ends = run.captured.is_some() || self.careful_until.is_some();
                        match ends {
                            true => self.finish(run).await?,
                            false if run.is_full() => self.send(run).await?,
                            false => Flow::On,
                        }
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
                    if ddl::is_captured(prefix) =>
                {
                    self.ddl(run, *lsn, content).await?
                }
                _ if matches!(run.inside, Inside::Applying(_)) => {
                    self.change(run, &message, &mut parameters).await?
                }
                _ => Flow::On,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        run.read = run.read.max(frame.through);
        Ok(Flow::On)
    }

    async fn begin(&mut self, run: &mut Run, begin: Begin, control: &Control) -> Result<Flow, Fault> {
        // The commit ends after it starts, so one that starts at endpos ends behind it.
        if control.endpos.borrow().is_some_and(|endpos| !endpos.covers_commit_at(begin.commit_lsn)) {
            return Ok(match self.finish(run).await? {
                Flow::On => Flow::Reached,
                other => other,
            });
        }
        run.captured = None;
        let progress = run.session.progress();
        run.inside =
            if progress.covers_commit_at(begin.commit_lsn) { Inside::Known } else { Inside::Applying(begin) };
        Ok(Flow::On)
    }

    /// endpos lies inside the commit record of the transaction that was just read: it must not be applied.
    async fn overshot(&mut self, run: &mut Run, begin: Begin) -> Result<Flow, Fault> {
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        let alone = run.advance.transactions == 0;
        run.give_up().await?;
        if alone {
            return Ok(Flow::Reached);
        }
        self.careful_until = Some(begin.commit_lsn);
        Ok(Flow::Again)
    }

    /// Takes note of a definition. What came under the one before, maybe by another table's name, must have gone out.
    async fn define(&mut self, run: &mut Run, relation: &Relation) -> Result<Flow, Fault> {
        if self.planner.relation(relation.oid).is_some_and(|known| known != relation) {
            let flow = self.unfold(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        self.planner.define(relation.clone());
        Ok(Flow::On)
    }

    /// Takes one change in: net with others of its row, or alone.
    async fn change<'m>(
        &mut self,
        run: &mut Run,
        message: &Message<'m>,
        parameters: &mut Parameters<'m>,
    ) -> Result<Flow, Fault> {
        let flow = loop {
            match self.planner.way(message) {
                Err(refusal) => return self.unfit(run, message, refusal).await,
                Ok(Way::Nothing) => return Ok(Flow::On),
                Ok(Way::LookUp(oid)) => {
                    if run.has_altered()
                        && let Err(refused) = run.session.verdict().await
                    {
                        return self.refused(run, refused).await;
                    }
                    self.look_up(run, oid).await?;
                }
                Ok(_) if self.careful_until.is_some() => break Flow::On,
                Ok(Way::Fold(_, key)) if run.fold.take(key, message) => {
                    run.advance.changes += 1;
                    if run.fold.bytes() < folded::PART_BYTES {
                        return Ok(Flow::On);
                    }
                    return self.unfold(run).await;
                }
                Ok(Way::Fold(oid, _)) => break self.unfold_table(run, oid).await?,
                Ok(Way::Alone) => break self.unfold(run).await?,
            }
        };
        if flow != Flow::On {
            return Ok(flow);
        }
        loop {
            match self.planner.plan(message, parameters) {
                Err(refusal) => return self.unfit(run, message, refusal).await,
                Ok(Step::Nothing) => return Ok(Flow::On),
                Ok(Step::LookUp(oid)) => self.look_up(run, oid).await?,
                Ok(Step::Execute(statement)) => {
                    if !run.is_open {
                        match self.open(run).await? {
                            Flow::On => continue,
                            other => return Ok(other),
                        }
                    }
                    run.advance.changes += 1;
                    run.alone += 1;
                    run.session.execute(statement, parameters.values()).await?;
                    return self.go_on(run, message).await;
                }
            }
        }
    }

    /// Ends a batch early that the target has already refused.
    async fn go_on(&mut self, run: &mut Run, message: &Message<'_>) -> Result<Flow, Fault> {
        // Where DDL is between the changes they can't be counted, so each is asked for.
        let alone = self.careful_until.is_some() && run.has_altered();
        if !run.session.is_lost() && !alone {
            return Ok(Flow::On);
        }
        match run.session.verdict().await {
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

    /// Captured DDL: one event of the transaction in hand.
    async fn ddl(&mut self, run: &mut Run, lsn: Lsn, content: &[u8]) -> Result<Flow, Fault> {
        let Inside::Applying(begin) = run.inside else { return Ok(Flow::On) };
        match self.target.ddl.mode {
            DdlMode::Apply if self.target.ddl.skip.contains(&begin.commit_lsn) => {
                tracing::warn!(%lsn, transaction = describe::begun(begin), "ddl skipped, as was asked for");
                return Ok(Flow::On);
            }
            DdlMode::Apply => {}
            DdlMode::Print => {
                ddl::print(content, lsn, begin);
                return Ok(Flow::On);
            }
            DdlMode::Ignore => {
                if !std::mem::replace(&mut self.told_of_ddl, true) {
                    tracing::info!(%lsn, "the log holds ddl, which is not applied (--ddl apply|print)");
                }
                return Ok(Flow::On);
            }
        }
        if run.captured.is_none() {
            let (tail, progress) = (self.tail.clone(), run.session.progress());
            let read = tokio::task::block_in_place(|| Captured::read(self.archive, tail, progress, begin));
            run.captured = Some(read?);
        }
        let Some(captured) = &mut run.captured else { return Ok(Flow::On) };
        let action = captured.next()?;
        let fault = match action {
            Action::Skip(reason) => {
                tracing::debug!(%lsn, reason, "ddl not applied");
                return Ok(Flow::On);
            }
            Action::Stop { reason, .. } => Fault::stop(reason),
            Action::Run(statement) => {
                let flow = self.unfold(run).await?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                let flow = self.open(run).await?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                if let Err(refused) = run.session.verdict().await {
                    return self.refused(run, refused).await;
                }
                // All that was looked up may be otherwise now.
                self.planner.unbind();
                run.session.forget_prepared().await?;
                match run.within(async |client| ddl::run(client, &statement).await).await {
                    Ok(()) => {
                        tracing::info!(%lsn, sql = %statement.sql, "ddl applied");
                        return Ok(Flow::On);
                    }
                    Err(fault) => fault,
                }
            }
        };
        if fault.remedy != Remedy::Stop {
            self.refusals += 1;
            return Err(run.at(fault));
        }
        // What comes before this transaction is kept.
        if run.advance.transactions > 0 {
            return self.go_carefully(run).await;
        }
        Err(match &run.captured {
            Some(captured) => captured.stop(&fault.message, lsn, begin),
            None => fault,
        })
    }

    /// Tells of patterns that matched no table that changes came for.
    pub(super) fn warn_of_unmatched(&self) {
        for pattern in self.target.rules.unmatched(&self.seen) {
            tracing::warn!(%pattern, "no table with changes matched this pattern");
        }
    }

    /// Sends the batch in hand, if there is one, once the one before is settled.
    async fn send(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        assert!(!matches!(run.inside, Inside::Applying(_)), "would commit a part of a source transaction");
        let flow = self.unfold(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        // Transactions without changes for this target leave no mark on it.
        let advance = std::mem::take(&mut run.advance);
        if std::mem::replace(&mut run.is_open, false) {
            run.session.send(advance).await?;
            run.sent = Some(advance);
            run.alone = 0;
        }
        Ok(Flow::On)
    }

    /// Sends the batch in hand and waits until it is committed.
    async fn finish(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        match self.send(run).await? {
            Flow::On => self.settle(run).await,
            other => Ok(other),
        }
    }

    /// Commits the batch that was sent, if there is one.
    async fn settle(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        let Some(advance) = run.sent else { return Ok(Flow::On) };
        if let Err(refused) = run.session.commit(advance.end).await {
            return self.refused(run, refused).await;
        }
        run.sent = None;
        self.refusals = 0;
        self.is_fresh = false;
        self.applied.transactions += advance.transactions;
        self.applied.changes += advance.changes;
        self.applied.commit_time = advance.commit_time;
        self.applied.is_live = false;
        if self.careful_until.is_some_and(|lsn| advance.end.covers_commit_at(lsn)) {
            self.careful_until = None;
        }
        self.report(run);
        Ok(Flow::On)
    }

    /// Makes sure that the target's transaction has begun.
    async fn open(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        if run.is_open {
            return Ok(Flow::On);
        }
        let flow = self.settle(run).await?;
        if flow == Flow::On {
            run.is_open = true;
            run.session.begin().await?;
        }
        Ok(flow)
    }

    fn report(&mut self, run: &Run) {
        let has_more = run.is_open || run.sent.is_some() || !run.fold.is_empty();
        let read = if has_more { Position::ZERO } else { run.read };
        self.applied.position = self.applied.position.max(run.session.progress()).max(read);
        run.told.send_replace(self.applied);
    }
}

impl Run {
    /// Whether the transaction in hand has changed the target's tables themselves.
    fn has_altered(&self) -> bool {
        self.captured.as_ref().is_some_and(|captured| captured.inside.is_some())
    }

    /// Lets a client work inside the transaction in hand.
    async fn within<T>(&mut self, work: impl AsyncFnOnce(&Client) -> Result<T, Fault>) -> Result<T, Fault> {
        let Some(captured) = &mut self.captured else { return Err(Fault::stop("no ddl is under way")) };
        if captured.inside.is_none() {
            captured.inside = Some(inside::Inside::open().await?);
        }
        match &mut captured.inside {
            Some(inside) => self.session.inside(inside, work).await,
            None => Err(Fault::stop("no ddl is under way")),
        }
    }

    /// Whether the batch should end with the transaction that was just read.
    fn is_full(&self) -> bool {
        self.alone >= ALONE_MAX || self.fold.bytes() >= folded::FOLD_BYTES
    }

    async fn give_up(&mut self) -> Result<(), Fault> {
        self.advance = Advance::default();
        self.fold.clear();
        self.alone = 0;
        self.captured = None;
        if self.sent.take().is_some() | std::mem::replace(&mut self.is_open, false) {
            self.session.rollback().await?;
        }
        Ok(())
    }

    /// An LSN that only the commits up to the end of the batch in hand lie before.
    fn advance_until(&self) -> Lsn {
        match self.inside {
            Inside::Applying(begin) => begin.commit_lsn,
            Inside::Known | Inside::Nothing => Lsn(self.advance.end.0.saturating_sub(1)),
        }
    }

    /// Says in which transaction a fault arose.
    fn at(&self, fault: Fault) -> Fault {
        match self.inside {
            Inside::Applying(begin) => fault.context(describe::begun(begin)),
            Inside::Known | Inside::Nothing => fault,
        }
    }

    fn refusal(&self, refusal: Refusal) -> Fault {
        self.at(fault_of(refusal))
    }

    fn unreadable(&self, error: &impl std::fmt::Display) -> Fault {
        self.at(Fault::person(format!("the log after {} can't be read: {error}", self.read)))
    }
}
