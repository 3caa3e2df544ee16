//! DDL that was captured, at its place between the rows.

use super::super::ddl::{self, Captured, DdlMode};
use super::super::describe;
use super::{Applier, Flow, Inside, Run};
use crate::ddl::Action;
use crate::model::{Fault, Lsn, Remedy};

impl Applier<'_> {
    /// Captured DDL: one event of the transaction in hand.
    pub(super) async fn ddl(&mut self, run: &mut Run, lsn: Lsn, content: &[u8]) -> Result<Flow, Fault> {
        let Inside::Applying(begin) = run.inside else { return Ok(Flow::On) };
        if run.stitches.has_ddl(begin) {
            return Ok(Flow::On);
        }
        // A stop keeps all that came before.
        let flow = self.settle(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
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
            let (tail, progress) = (self.tail.clone(), run.lanes.main.progress());
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
            Action::Run(statement) if self.shaper.may_be_about(&statement) => {
                Fault::stop("it is, or may be, about a table that rules make another one here")
            }
            Action::Run(statement) => {
                let flow = self.barrier(run).await?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                let flow = self.open(run).await?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                if let Err(refused) = run.lanes.main.verdict().await {
                    return self.refused(run, refused).await;
                }
                // All that was looked up may be otherwise now.
                self.planner.unbind();
                run.lanes.main.forget_prepared().await?;
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
        if run.advance.transactions > 0 && run.lanes.torn().is_none() {
            return self.go_carefully(run).await;
        }
        Err(match &run.captured {
            Some(captured) => captured.stop(&fault.message, lsn, begin),
            None => fault,
        })
    }
}
