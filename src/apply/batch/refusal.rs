//! What the target refuses: tried again carefully, and then told with its place in the log.

use crate::archive::Reader;
use crate::meter::METER;
use crate::model::{Fault, Remedy, quote_ident};
use crate::pgoutput::{Message, decode};
use crate::rules::Spare;
use crate::transform::{Apart, Parameters, Step};

use super::super::dead::OnError;
use super::super::describe;
use super::super::session::{FIRST_CHANGE, Refused};
use super::aside::relations_of;
use super::snapshot::Snapshot;
use super::{Applier, Flow, Run};

/// A change of the log, in words, and its table.
struct Place {
    change: String,
    table: Option<u32>,
}

impl Applier<'_> {
    /// Gives the batch up: what is known of the target is looked up anew, and each source transaction up to here is a batch.
    pub(super) async fn go_carefully(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        // A torn batch can only be repeated as it was.
        self.careful_until = run.lanes.torn().is_none().then(|| run.advance_until());
        self.make_batches_smaller();
        run.give_up().await?;
        self.planner.unbind();
        self.is_fresh = true;
        Ok(Flow::Again)
    }

    /// The target refused the batch. Unless it was a single transaction, row by row, that is tried next.
    pub(super) async fn refused(&mut self, run: &mut Run, refused: Refused) -> Result<Flow, Fault> {
        let Refused { statement, fault } = refused;
        if fault.sqlstate.is_none() && statement.is_none() {
            return Err(fault);
        }
        self.refusals += 1;
        METER.refused_batches.inc();
        if fault.remedy == Remedy::Reread {
            return Err(fault);
        }
        if let Snapshot::Coming(coming) = &run.snapshot {
            let fault = coming.explain(fault);
            run.give_up().await?;
            return Err(fault);
        }
        if run.lanes.torn().is_some() && (self.is_fresh || fault.remedy != Remedy::Stop) {
            run.give_up().await?;
            return Err(fault.context("ending a batch that other lanes have committed"));
        }
        if (self.careful_until.is_none() && run.lanes.torn().is_none()) || !self.is_fresh {
            // Where that is nothing unusual, what PostgreSQL said is kept on the target: it may have values of rows in it.
            let error = match (self.target.on_error, &fault.sqlstate) {
                (OnError::Quarantine, Some(sqlstate)) => format!("SQLSTATE {sqlstate}"),
                _ => fault.to_string(),
            };
            tracing::info!(error, "batch refused, going through it transaction by transaction");
            return self.go_carefully(run).await;
        }
        let has_altered = run.has_altered();
        let (last, has_ddl) = (run.last(), run.captured.is_some());
        run.give_up().await?;
        if self.sets_aside(last, &fault, has_ddl) {
            return Ok(Flow::Again);
        }
        // After DDL the place was told with the change.
        if has_altered || matches!(fault.remedy, Remedy::Retry) {
            return Err(fault);
        }
        Err(match self.locate(run, statement).await {
            Some(place) => self.explain(fault, place.table).context(place.change),
            None => fault,
        })
    }

    /// Adds what to do about a row that the target's table does not take.
    fn explain(&self, fault: Fault, table: Option<u32>) -> Fault {
        const NOT_NULL_VIOLATION: &str = "23502";
        let state = fault.sqlstate.clone().unwrap_or_default();
        let Some((oid, relation)) = table.and_then(|oid| Some((oid, self.planner.relation(oid)?))) else {
            return fault;
        };
        let table = format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name));
        match self.planner.unsent(oid).first().filter(|_| state == NOT_NULL_VIOLATION) {
            Some(column) => {
                let column = quote_ident(column);
                fault.hint(format!(
                    "the source has no column {column}; on the target: ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL; \
                     or, if it was dropped on the source: ALTER TABLE {table} DROP COLUMN {column}; then run the same command again"
                ))
            }
            // Data exceptions and violated constraints.
            None if fault.hint.is_none() && (state.starts_with("22") || state.starts_with("23")) => fault.hint(format!(
                "compare types and constraints of {table} with those of the source, mend the target, then run the same command again"
            )),
            None => fault,
        }
    }

    /// Which change was number `statement` of the first transaction after the target's progress that has any for it.
    async fn locate(&mut self, run: &mut Run, statement: Option<u64>) -> Option<Place> {
        let progress = run.lanes.main.progress();
        let open = || Reader::open(self.archive, progress, self.tail.clone());
        let mut reader = tokio::task::block_in_place(open).ok()?;
        let (mut begun, mut is_empty) = (None, true);
        let mut remaining = statement?.checked_sub(FIRST_CHANGE);
        loop {
            let frame = tokio::task::block_in_place(|| reader.try_next()).ok()??;
            for record in frame.records() {
                let message = decode(record.ok()?).ok()?;
                match (&message, begun) {
                    (Message::Begin(begin), _) if !progress.covers_commit_at(begin.commit_lsn) => {
                        begun = Some(*begin);
                        is_empty = true;
                    }
                    // Nothing of it was for this target.
                    (Message::Commit(_), Some(_)) if is_empty => begun = None,
                    (Message::Commit(commit), Some(begin)) => {
                        return Some(Place { change: describe::transaction(begin, commit.end), table: None });
                    }
                    (Message::Relation(relation), _) => self.define_table(relation),
                    (Message::Origin { .. }, Some(_)) if self.target.only_local => begun = None,
                    (change, Some(begin)) => {
                        let mut spare = None;
                        let Some(message) = run.stitches.rest(begin, change, &mut spare) else { continue };
                        for oid in relations_of(message) {
                            if self.planner.apart(oid) == Apart::NotYet {
                                self.look_up(run, oid).await.ok()?;
                            }
                        }
                        let is_part = !std::ptr::eq(message, change);
                        let mut spare = Spare::default();
                        for piece in self.pieces(message, begin, is_part, &mut spare).ok()? {
                            match self.plan_piece(&piece, &mut Parameters::default()).ok()? {
                                Step::Execute(_) if remaining == Some(0) => {
                                    let change = self.in_words(&piece, begin);
                                    return Some(Place { change, table: piece.table() });
                                }
                                Step::Execute(_) => {
                                    is_empty = false;
                                    remaining = remaining.map(|remaining| remaining - 1);
                                }
                                Step::Nothing | Step::LookUp(_) => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
