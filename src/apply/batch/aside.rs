//! Transactions that are set aside: one that the target refuses, and those that touch its rows later.
//!
//! Which one it is to be is found out in a batch that is then given up. When it is met again, all before it is committed, its rows are held,
//! and it is noted in the transaction that moves the progress past it. So it is either noted or still to come.

use std::collections::BTreeSet;

use crate::faults;
use crate::meter::METER;
use crate::model::{Fault, Position};
use crate::pg::dead::{self, Note};
use crate::pgoutput::{Begin, Commit, Message, Truncate};
use crate::rules::Spare;
use crate::transform::Apart;

use super::super::ddl::DdlMode;
use super::super::dead::{Aside, Held, Letter, OnError, Reason, Said, is_about_rows, of_tables, pins};
use super::super::describe;
use super::shaped::{Piece, truncation};
use super::{Applier, Flow, Inside, Run};

/// Of what PostgreSQL says, so much is kept.
const ERROR_CHARACTERS_MAX: usize = 4000;

/// What the transaction that is being set aside is about.
#[derive(Default)]
pub(super) struct Touched {
    held: Held,
    /// Tables of the source.
    tables: BTreeSet<u32>,
}

impl Applier<'_> {
    /// Reads which transactions are set aside, and which rows they hold.
    pub(super) async fn find_dead(&mut self, run: &mut Run) -> Result<(), Fault> {
        (self.held, self.aside, self.dead) = (Held::default(), None, 0);
        let quarantines = self.target.on_error == OnError::Quarantine;
        if quarantines {
            dead::prepare(&run.catalog).await?;
        }
        let notes = dead::read(&run.catalog, &self.target.stream).await?;
        if quarantines {
            pins::release(self.archive, &run.catalog, &self.target.conninfo, &self.target.stream).await?;
        }
        for note in &notes {
            let (held, _) = self.rows_of(run, note, &Held::default(), false).await?;
            self.held.add(held, note.lsn);
        }
        self.dead = notes.len();
        self.pinned = quarantines && !notes.is_empty();
        if !notes.is_empty() {
            let (keys, whole_tables) = self.held.count();
            tracing::warn!(transactions = notes.len(), keys, whole_tables, "set aside: {DEAD_HINT}");
        }
        Ok(())
    }

    /// The rows that a transaction holds which was set aside; and that of those `before` which holds one of them. `by_hand`: what becomes
    /// of it is decided now, so all its tables must be known.
    pub(super) async fn rows_of(
        &mut self,
        run: &mut Run,
        note: &Note,
        before: &Held,
        by_hand: bool,
    ) -> Result<(Held, Option<Position>), Fault> {
        let mut holder = None;
        let mut touched = Touched::default();
        let mut letter = self.letter(note)?;
        loop {
            let frame = tokio::task::block_in_place(|| letter.frame())?;
            for record in frame.records() {
                match letter.read(record)? {
                    None => {}
                    Some(Said::Definition(definition)) => self.note_definition(definition),
                    Some(Said::Change(begin, change)) => {
                        let mut spare = None;
                        if let Some(change) = of_tables(&note.tables, &change, &mut spare) {
                            if by_hand {
                                self.refuse_filtered(run, change).await?;
                            }
                            let holds = self.touch(run, &mut touched, begin, change, before).await?;
                            holder = holder.or(holds);
                        }
                    }
                    Some(Said::Commit(_)) => return Ok((touched.held, holder)),
                }
            }
        }
    }

    pub(super) fn letter<'n>(&self, note: &'n Note) -> Result<Letter<'n>, Fault> {
        tokio::task::block_in_place(|| Letter::open(self.archive, self.tail.clone(), note))
    }

    /// Takes note of a table's or a type's definition.
    pub(super) fn note_definition(&mut self, definition: Message<'_>) {
        match definition {
            Message::Relation(relation) => self.define_table(&relation),
            Message::Type { oid, schema, name } => self.planner.define_type(oid, &schema, &name),
            _ => {}
        }
    }

    /// Notes which rows of the target a change is about. Gives that of those `before` which holds one of them.
    async fn touch(
        &mut self,
        run: &mut Run,
        touched: &mut Touched,
        begin: Begin,
        change: &Message<'_>,
        before: &Held,
    ) -> Result<Option<Position>, Fault> {
        for oid in relations_of(change) {
            if self.planner.apart(oid) == Apart::NotYet {
                self.look_up(run, oid).await?;
            }
        }
        let mut spare = Spare::default();
        let pieces = self
            .pieces(change, begin, false, &mut spare)
            .map_err(|refusal| self.untold(run, change, refusal))?;
        let mut holder = None;
        for piece in &pieces {
            let emptied;
            let change = match piece {
                Piece::Same(change, _) => *change,
                Piece::Other(change, _) => change,
                Piece::Part(oid, _) => {
                    emptied = truncation(*oid);
                    &emptied
                }
            };
            for oid in relations_of(change) {
                let key = match self.planner.apart(oid) {
                    Apart::LeftOut => continue,
                    Apart::By(places) => Some(places),
                    Apart::Not | Apart::NotYet => None,
                };
                touched.tables.insert(oid);
                let relation = self.planner.relation(oid).ok_or_else(|| {
                    Fault::stop(format!(
                        "a change names relation {oid}, which the log does not define before it"
                    ))
                })?;
                touched.held.take(relation, key, change);
            }
            holder = holder.or(before.holder(change, |oid| self.planner.relation(oid)));
        }
        Ok(holder)
    }

    /// The transaction set aside of which the change touches a row. A torn batch was looked at when it was made.
    pub(super) fn holder(&self, run: &Run, change: &Message<'_>) -> Option<Position> {
        if self.held.is_empty() || run.lanes.torn().is_some() {
            return None;
        }
        // What is left out now comes behind nothing, whatever it was when rows of it were set aside.
        let is_ours = |oid: &u32| self.planner.apart(*oid) != Apart::LeftOut;
        let rest;
        let change = match change {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. }
                if !is_ours(relation) =>
            {
                return None;
            }
            Message::Truncate(truncate) => {
                let relations = truncate.relations.iter().copied().filter(is_ours).collect();
                rest = Message::Truncate(Truncate { relations, ..truncate.clone() });
                &rest
            }
            change => change,
        };
        self.held.holder(change, |oid| self.planner.relation(oid))
    }

    /// Refuses a change of a table that the filters leave out: what was set aside with it can't be told, nor brought, without it.
    pub(super) async fn refuse_filtered(&mut self, run: &mut Run, change: &Message<'_>) -> Result<(), Fault> {
        for oid in relations_of(change) {
            if self.planner.apart(oid) == Apart::NotYet {
                self.look_up(run, oid).await?;
            }
            if self.planner.apart(oid) == Apart::LeftOut {
                let table = self
                    .planner
                    .relation(oid)
                    .map(|relation| format!("{}.{}", relation.schema, relation.name));
                let message = format!(
                    "table {} is left out by the filters that are given now",
                    table.unwrap_or_default()
                );
                return Err(Fault::usage(message).hint("give those with which it was applied"));
            }
        }
        Ok(())
    }

    /// The transaction in hand touches a row of one that is set aside: it is set aside too.
    pub(super) async fn hold_back(&mut self, run: &mut Run, by: Position) -> Result<Flow, Fault> {
        let flow = self.settle(run).await?;
        let Inside::Applying(begin) = run.inside else { return Ok(flow) };
        if flow != Flow::On {
            return Ok(flow);
        }
        if self.target.on_error == OnError::Stop {
            // What comes before it is kept.
            if run.advance.transactions > 0 {
                return self.go_carefully(run).await;
            }
            let message = format!("it changes rows of the transaction that ends at {by} and was set aside");
            return Err(Fault::stop(message).context(describe::begun(begin)).hint(
                "pgsluice dead retry brings that one, dead skip does without it; --on-error quarantine sets this one aside too",
            ));
        }
        self.aside = Some(Aside { commit_lsn: begin.commit_lsn, reason: Reason::Held(by) });
        run.give_up().await?;
        Ok(Flow::Again)
    }

    /// Whether a transaction that the target has refused by itself is to be set aside. It is met again then.
    pub(super) fn sets_aside(&mut self, refused: Option<Begin>, fault: &Fault, has_ddl: bool) -> bool {
        let Some(begin) = refused else { return false };
        let again = self.aside.as_ref().is_some_and(|aside| aside.commit_lsn == begin.commit_lsn);
        let is_to_be = self.target.on_error == OnError::Quarantine && is_about_rows(fault);
        if !is_to_be || again || has_ddl {
            return false;
        }
        self.aside = Some(Aside { commit_lsn: begin.commit_lsn, reason: Reason::Refused(fault.clone()) });
        true
    }

    /// Whether this is the transaction that is to be set aside. All before it is then committed.
    pub(super) async fn begin_aside(&mut self, run: &mut Run, begin: Begin) -> Result<Flow, Fault> {
        if self.aside.as_ref().is_none_or(|aside| aside.commit_lsn != begin.commit_lsn) {
            return Ok(Flow::On);
        }
        run.inside = Inside::Nothing;
        let flow = self.finish(run).await?;
        if flow == Flow::On {
            run.first = Some(begin.commit_time);
            run.touched = Touched::default();
            run.inside = Inside::Aside(begin);
        }
        Ok(flow)
    }

    /// Takes in a change of the transaction that is being set aside.
    pub(super) async fn change_aside(
        &mut self,
        run: &mut Run,
        begin: Begin,
        change: &Message<'_>,
    ) -> Result<(), Fault> {
        let mut spare = None;
        let Some(rest) = run.stitches.rest(begin, change, &mut spare) else { return Ok(()) };
        let mut touched = std::mem::take(&mut run.touched);
        let done = self.touch(run, &mut touched, begin, rest, &Held::default()).await;
        run.touched = touched;
        done.map(drop)
    }

    /// The target's tables are not as they were when the rows of what is set aside were written, once this has run.
    pub(super) async fn refuse_ddl(&mut self, run: &mut Run, begin: Begin) -> Result<Flow, Fault> {
        let is_aside = matches!(run.inside, Inside::Aside(_));
        let is_run = self.target.ddl.mode == DdlMode::Apply
            && !self.target.ddl.skip.contains(&begin.commit_lsn)
            && !run.stitches.has_ddl(begin);
        if !is_run || (self.held.is_empty() && !is_aside) {
            return Ok(Flow::On);
        }
        // What comes before it is kept.
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        if run.advance.transactions > 0 && run.lanes.torn().is_none() {
            return self.go_carefully(run).await;
        }
        let message = match (&self.aside, is_aside) {
            (Some(Aside { reason: Reason::Refused(fault), .. }), true) => {
                format!("it has ddl, so that it can't be set aside: {}", fault.message)
            }
            (_, true) => "it has ddl, and changes rows of a transaction that is set aside".to_owned(),
            (_, false) => "it has ddl, and transactions before it are set aside".to_owned(),
        };
        Err(Fault::stop(message).context(describe::begun(begin)).hint(DEAD_HINT))
    }

    /// Notes the transaction that was just read as set aside, with the progress behind it.
    pub(super) async fn set_aside(
        &mut self,
        run: &mut Run,
        begin: Begin,
        commit: &Commit,
    ) -> Result<Flow, Fault> {
        let Touched { held, tables } = std::mem::take(&mut run.touched);
        let Some(aside) = self.aside.clone().filter(|_| !tables.is_empty()) else {
            // Nothing of it is for this target any more.
            self.aside = None;
            return Ok(Flow::On);
        };
        if !self.pinned {
            pins::keep(self.archive, &run.catalog, self.target, begin.commit_lsn).await?;
            self.pinned = true;
        }
        run.advance.end = commit.end;
        run.advance.commit_time = commit.commit_time;
        run.advance.xid = begin.xid.0;
        match self.open(run).await? {
            Flow::On => {}
            other => return Ok(other),
        }
        faults::point("apply.dead_before_note");
        let (reason, sqlstate, error, held_by) = match &aside.reason {
            Reason::Refused(fault) => ("refused", fault.sqlstate.clone(), self.sayable(&fault.message), None),
            Reason::Held(by) => {
                let error = format!("changes rows of the transaction that ends at {by} and is set aside");
                ("held", None, error, Some(by.to_string()))
            }
        };
        let tables: Vec<String> = tables.iter().map(u32::to_string).collect();
        let values = [
            Some(self.target.stream.clone()),
            Some(commit.end.to_string()),
            Some(begin.commit_lsn.to_string()),
            Some(begin.xid.0.to_string()),
            Some(commit.commit_time.to_string()),
            Some(reason.to_owned()),
            sqlstate.clone(),
            Some(error),
            held_by,
            Some(format!("{{{}}}", tables.join(","))),
        ];
        run.lanes.main.execute_sql(dead::NOTE, &values).await?;
        match self.finish(run).await? {
            Flow::On => {}
            other => return Ok(other),
        }
        faults::point("apply.dead_after_note");
        self.held.add(held, commit.end);
        (self.aside, self.dead) = (None, self.dead + 1);
        METER.dead.inc();
        // What PostgreSQL said may have values of rows in it.
        let (lsn, xid, sqlstate) = (commit.end, begin.xid.0, sqlstate.unwrap_or_default());
        tracing::warn!(%lsn, xid, reason, sqlstate, "transaction set aside; pgsluice dead list shows why");
        Ok(Flow::On)
    }

    /// The session speaks the source's encoding.
    fn sayable(&self, text: &str) -> String {
        let is_utf8 = self.archive.manifest().server_encoding == "UTF8";
        let plain = |c: char| if c == '\0' || !(is_utf8 || c.is_ascii()) { '?' } else { c };
        text.chars().take(ERROR_CHARACTERS_MAX).map(plain).collect()
    }

    /// At endpos, what is left.
    pub(super) fn warn_of_dead(&self) {
        if self.dead > 0 {
            tracing::warn!(transactions = self.dead, "the target lacks what was set aside: {DEAD_HINT}");
        }
    }
}

/// The tables of the source that a change is about.
pub(super) fn relations_of(change: &Message<'_>) -> Vec<u32> {
    match change {
        Message::Truncate(truncate) => truncate.relations.clone(),
        Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. } => vec![*relation],
        _ => Vec::new(),
    }
}

const DEAD_HINT: &str = "pgsluice dead list shows them; dead retry brings them, dead skip does without them";
