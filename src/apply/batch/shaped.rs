//! Changes that rules make others of, on their way into the batch.

use crate::model::{Fault, Relation};
use crate::pgoutput::{Begin, Message, Truncate};
use crate::rules::Spare;
use crate::transform::{Apart, Parameters, Refusal, Step};

use super::super::describe;
use super::super::shaper::Given;
use super::aside::relations_of;
use super::{Applier, Flow, Inside, Run};

/// A part of what a change is on this target. The flag: it is what is left of one that others have too.
pub(super) enum Piece<'c, 'm, 's> {
    Same(&'c Message<'m>, bool),
    Other(Message<'s>, bool),
    /// A TRUNCATE of this table of the source, by a transaction that began so, where it is none.
    Part(u32, Begin),
}

impl Piece<'_, '_, '_> {
    pub(super) fn table(&self) -> Option<u32> {
        match self {
            Piece::Same(change, _) => describe::table(change),
            Piece::Other(change, _) => describe::table(change),
            Piece::Part(oid, _) => Some(*oid),
        }
    }
}

/// A TRUNCATE of one table.
pub(super) fn truncation(oid: u32) -> Message<'static> {
    Message::Truncate(Truncate { relations: vec![oid], cascade: false, restart_identity: false })
}

impl Applier<'_> {
    /// Takes note of a table, as it is on this target.
    pub(super) fn define_table(&mut self, relation: &Relation) {
        let here = self.shaper.define(relation);
        self.planner.define(here);
    }

    /// What a change is on this target. The tables must have been looked up, since of those that are left out nothing is asked.
    pub(super) fn given<'s>(
        &self,
        change: &Message<'_>,
        begin: Begin,
        spare: &'s mut Spare,
    ) -> Result<Given<'s>, Refusal> {
        self.shaper.change(change, begin, |oid| self.planner.apart(oid) == Apart::LeftOut, spare)
    }

    /// Takes one change in as rules have it. `is_part`: what is left of one that others have too.
    pub(super) async fn change_by_rules(
        &mut self,
        run: &mut Run,
        begin: Begin,
        change: &Message<'_>,
        is_part: bool,
    ) -> Result<Flow, Fault> {
        for oid in relations_of(change) {
            if self.planner.apart(oid) == Apart::NotYet {
                match self.look_up_between(run, oid).await? {
                    Flow::On => {}
                    other => return Ok(other),
                }
            }
        }
        let mut spare = Spare::default();
        let pieces = match self.pieces(change, begin, is_part, &mut spare) {
            Ok(pieces) => pieces,
            Err(refusal) => return self.shapeless(run, change, refusal).await,
        };
        for piece in &pieces {
            let mut parameters = Parameters::default();
            let flow = match piece {
                Piece::Same(change, is_part) => self.change(run, change, *is_part, &mut parameters).await?,
                Piece::Other(change, is_part) => self.change(run, change, *is_part, &mut parameters).await?,
                Piece::Part(oid, begin) => self.empty(run, *oid, *begin).await?,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// What is to be planned for a change, one after the other.
    pub(super) fn pieces<'c, 'm, 's>(
        &self,
        change: &'c Message<'m>,
        begin: Begin,
        is_part: bool,
        spare: &'s mut Spare,
    ) -> Result<Vec<Piece<'c, 'm, 's>>, Refusal> {
        Ok(match self.given(change, begin, spare)? {
            Given::Nothing => Vec::new(),
            Given::Same => vec![Piece::Same(change, is_part)],
            Given::Rows(changes) => {
                changes.into_iter().flatten().map(|change| Piece::Other(change, false)).collect()
            }
            Given::Truncate { rest, parts } => {
                let rest = Some(rest).filter(|rest| !rest.relations.is_empty());
                let rest = rest.map(|rest| Piece::Other(Message::Truncate(rest), true));
                rest.into_iter().chain(parts.into_iter().map(|oid| Piece::Part(oid, begin))).collect()
            }
        })
    }

    pub(super) fn plan_piece<'v>(
        &mut self,
        piece: &Piece<'_, 'v, 'v>,
        parameters: &mut Parameters<'v>,
    ) -> Result<Step<'_>, Refusal> {
        match piece {
            Piece::Part(oid, begin) => {
                *parameters = Parameters::default();
                self.planner.plan_emptying(*oid, &self.shaper.emptying(*oid, *begin))
            }
            Piece::Same(Message::Truncate(truncate), true)
            | Piece::Other(Message::Truncate(truncate), true) => self.planner.plan_rest(truncate, parameters),
            Piece::Same(change, _) => self.planner.plan(change, parameters),
            Piece::Other(change, _) => self.planner.plan(change, parameters),
        }
    }

    /// A change in words, as it is on this target where that is known.
    pub(super) fn in_words(&self, piece: &Piece<'_, '_, '_>, begin: Begin) -> String {
        match piece {
            Piece::Same(change, _) => describe::change(&self.planner, change, begin),
            Piece::Other(change, _) => describe::change(&self.planner, change, begin),
            Piece::Part(..) => format!("TRUNCATE in {}", describe::begun(begin)),
        }
    }

    /// Does what a TRUNCATE of a table is where it is none.
    async fn empty(&mut self, run: &mut Run, oid: u32, begin: Begin) -> Result<Flow, Fault> {
        let all = truncation(oid);
        if let Some(by) = self.holder(run, &all) {
            return self.hold_back(run, by).await;
        }
        let emptying = self.shaper.emptying(oid, begin);
        loop {
            let flow = self.barrier(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
            let flow = self.open(run).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
            match self.planner.plan_emptying(oid, &emptying) {
                Err(refusal) => return self.unfit(run, &all, refusal).await,
                Ok(Step::Nothing) => return Ok(Flow::On),
                Ok(Step::LookUp(oid)) => match self.look_up_between(run, oid).await? {
                    Flow::On => {}
                    other => return Ok(other),
                },
                Ok(Step::Execute(statement)) => {
                    run.advance.changes += 1;
                    run.alone += 1;
                    run.lanes.main.execute(statement, &[]).await?;
                    return self.go_on(run, &all).await;
                }
            }
        }
    }

    /// The rules can't tell what a change is on the target. What comes before its transaction is kept.
    async fn shapeless(
        &mut self,
        run: &mut Run,
        change: &Message<'_>,
        refusal: Refusal,
    ) -> Result<Flow, Fault> {
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        if run.advance.transactions > 0 && run.lanes.torn().is_none() {
            return self.go_carefully(run).await;
        }
        Err(self.untold(run, change, refusal))
    }

    /// Says of which change the rules can't tell what it is; of the row nothing, since it may be masked.
    pub(super) fn untold(&self, run: &Run, change: &Message<'_>, refusal: Refusal) -> Fault {
        let fault = Fault::from(refusal);
        let (Inside::Applying(begin) | Inside::Aside(begin)) = run.inside else { return fault };
        fault.context(describe::of_tables(|oid| self.shaper.source(oid), change, begin))
    }
}
