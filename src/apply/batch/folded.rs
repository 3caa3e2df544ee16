//! Net changes: taken in while the log is read, and sent group by group.

use crate::faults;
use crate::model::{Fault, Format};
use crate::pgoutput::Message;
use crate::transform::{GroupKind, Parameters, Step};

use super::super::session::Session;
use super::{Applier, Flow, Run};

/// Bytes of net changes after which a batch goes out although the log has more: this many, but fewer after a refusal or a lost
/// connection, so that where that happens again and again little is done twice.
pub(super) const FOLD_BYTES_MAX: usize = 16 << 20;
pub(super) const FOLD_BYTES_MIN: usize = 64 << 10;
/// Changes that make a batch, however few their rows: fewer where fewer bytes do.
pub(super) const CHANGES_MAX: u64 = 200_000;
/// A transaction of which this much waits is sent in parts.
pub(super) const PART_BYTES: usize = 2 * FOLD_BYTES_MAX;
/// Inserts into one table from which COPY is worth its start.
const COPY_ROWS: usize = 4;

impl Applier<'_> {
    /// Sends all that was folded, over the connections that the batch has, or should have where it is not open yet.
    pub(super) async fn unfold(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        if run.fold.is_empty() {
            return Ok(Flow::On);
        }
        // Settles the batch before, after which fewer lanes may be wanted.
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        let lanes = self.lanes_for(run);
        tracing::debug!(
            rows = run.fold.rows(),
            bytes = run.fold.bytes(),
            lanes,
            is_live = self.applied.is_live,
            "sending net changes"
        );
        let flow = self.open_over(run, lanes).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        for oid in run.fold.tables() {
            let flow = self.unfold_table(run, oid).await?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        run.fold.clear();
        Ok(Flow::On)
    }

    /// Sends what was folded of one table into the batch, which is open: deletes, updates, inserts.
    pub(super) async fn unfold_table(&mut self, run: &mut Run, oid: u32) -> Result<Flow, Fault> {
        let fold = std::mem::take(&mut run.fold);
        let together = (!self.planner.is_divisible(oid)).then_some(oid);
        let mut parameters = Parameters::default();
        for group in fold.groups(oid) {
            let copies = group.kind == GroupKind::Insert && group.rows.len() >= COPY_ROWS;
            // A row without columns has no form there.
            let copies = copies && self.planner.copy(oid, Format::Text).is_some();
            let dropped = usize::from(faults::mutated("last_row_is_dropped"));
            for row in group.rows.iter().rev().skip(dropped).rev() {
                let lane = run.lanes.lane_of(row, together);
                let Some(message) = row.message(oid) else { continue };
                if !run.lanes.takes(lane, oid, row) {
                    continue;
                }
                let flow = self.send_row(run, lane, &message, &mut parameters, copies).await?;
                if flow != Flow::On {
                    return Ok(flow);
                }
            }
        }
        run.fold = fold;
        run.fold.clear_table(oid);
        // What comes next may be about the same rows.
        run.lanes.end_runs()?;
        Ok(Flow::On)
    }

    /// Sends a change that stands for all those of its row.
    async fn send_row<'m>(
        &mut self,
        run: &mut Run,
        lane: usize,
        message: &Message<'m>,
        parameters: &mut Parameters<'m>,
        copies: bool,
    ) -> Result<Flow, Fault> {
        loop {
            match self.planner.plan(message, parameters) {
                Err(refusal) if run.lanes.torn().is_some() && self.is_fresh => {
                    return Err(run.refusal(refusal));
                }
                // Of which single change this came nobody knows: they are gone through one by one.
                Err(refusal) => {
                    tracing::info!(error = refusal.message, "going through the batch change by change");
                    return self.go_carefully(run).await;
                }
                Ok(Step::Nothing) => return Ok(Flow::On),
                Ok(Step::LookUp(oid)) => match self.look_up_between(run, oid).await? {
                    Flow::On => continue,
                    other => return Ok(other),
                },
                Ok(Step::Execute(_)) if copies => {
                    self.copy(run.lanes.session(lane), message, parameters).await?;
                }
                Ok(Step::Execute(statement)) => {
                    run.lanes.session(lane).execute_in_run(statement, parameters.values()).await?;
                }
            }
            return self.go_on(run, message).await;
        }
    }

    async fn copy(
        &mut self,
        session: &mut Session,
        message: &Message<'_>,
        row: &Parameters<'_>,
    ) -> Result<(), Fault> {
        match *message {
            Message::Insert { relation, .. }
                if let Some(copy) = self.planner.copy(relation, row.format()) =>
            {
                session.copy(copy, row.values()).await
            }
            _ => Err(Fault::stop("a row has no COPY to go by")),
        }
    }
}
