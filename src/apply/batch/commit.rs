//! The ends of a batch: sent, and committed while the next one is read.

use std::time::Instant;

use crate::faults;
use crate::meter::{METER, observe};
use crate::model::{Fault, Position};

use super::super::lanes;
use super::folded::{CHANGES_MAX, FOLD_BYTES_MAX, FOLD_BYTES_MIN};
use super::snapshot::Snapshot;
use super::{ALONE_MAX, Applier, Flow, Inside, Run};

/// Changed rows from which more than one lane is worth the further commits.
const LANE_ROWS_MIN: usize = 16;

impl Applier<'_> {
    /// Whether the batch should end with the transaction that was just read.
    pub(super) fn is_full(&self, run: &Run) -> bool {
        let changes_max = CHANGES_MAX * self.fold_bytes as u64 / FOLD_BYTES_MAX as u64;
        run.alone >= ALONE_MAX || run.advance.changes >= changes_max || run.fold.bytes() >= self.fold_bytes
    }

    /// After a refusal or a lost connection: the next try should get somewhere.
    pub(super) fn make_batches_smaller(&mut self) {
        self.fold_bytes = (self.fold_bytes / 8).max(FOLD_BYTES_MIN);
    }

    /// Sends the batch in hand, if there is one, once the one before is settled.
    pub(super) async fn send(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        assert!(!matches!(run.inside, Inside::Applying(_)), "would commit a part of a source transaction");
        let flow = self.unfold(run).await?;
        if flow != Flow::On {
            return Ok(flow);
        }
        if !run.is_open && run.lanes.torn().is_some() {
            return self.open(run).await;
        }
        // Transactions without changes for this target leave no mark on it.
        let advance = std::mem::take(&mut run.advance);
        if std::mem::replace(&mut run.is_open, false) {
            run.lanes.send(advance).await?;
            run.sent = Some(advance);
            run.sent_at = Instant::now();
            run.sent_first = run.first.take();
            run.alone = 0;
            self.report(run);
        } else {
            // None of it was for this target.
            run.first = None;
        }
        Ok(Flow::On)
    }

    /// Sends the batch in hand and waits until it is committed.
    pub(super) async fn finish(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        match self.send(run).await? {
            Flow::On => self.settle(run).await,
            other => Ok(other),
        }
    }

    /// Commits the batch that was sent, if there is one.
    pub(super) async fn settle(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        let Some(advance) = run.sent else { return Ok(Flow::On) };
        if let Err(refused) = run.lanes.settle().await {
            return self.refused(run, refused).await;
        }
        if matches!(run.snapshot, Snapshot::Coming(_)) {
            match self.swap(run, advance.end).await? {
                Flow::On => {}
                other => return Ok(other),
            }
        } else if let Err(refused) = run.lanes.commit(advance.end).await {
            return self.refused(run, refused).await;
        }
        run.sent = None;
        run.sent_first = None;
        METER.applied_transactions.inc_by(advance.transactions);
        METER.applied_changes.inc_by(advance.changes);
        METER.batches.inc();
        observe(&METER.batch_seconds, run.sent_at.elapsed());
        METER.batch_transactions.observe(advance.transactions as f64);
        METER.batch_changes.observe(advance.changes as f64);
        self.refusals = 0;
        self.is_fresh = false;
        self.applied.transactions += advance.transactions;
        self.applied.changes += advance.changes;
        self.applied.commit_time = advance.commit_time;
        self.applied.is_live = false;
        match self.careful_until {
            Some(lsn) if advance.end.covers_commit_at(lsn) => self.careful_until = None,
            Some(_) => {}
            None => self.fold_bytes = (2 * self.fold_bytes).min(FOLD_BYTES_MAX),
        }
        self.one_lane_until = self.one_lane_until.filter(|lsn| !advance.end.covers_commit_at(*lsn));
        self.report(run);
        faults::point("apply.between_batches");
        Ok(Flow::On)
    }

    /// Makes sure that the target's transaction has begun, over one connection, on which things happen in their order.
    pub(super) async fn open(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        if let Some(torn) = run.lanes.torn() {
            let message =
                format!("some lanes have committed a batch up to {}, and now it is another one", torn.end);
            return Err(run.at(Fault::person(message)).hint(lanes::TORN_HINT));
        }
        if run.is_open && run.lanes.count() > 1 {
            self.one_lane_until = Some(run.advance_until());
            run.give_up().await?;
            return Ok(Flow::Again);
        }
        self.open_over(run, 1).await
    }

    /// Makes sure that the target's transactions have begun, over so many lanes where none has.
    pub(super) async fn open_over(&mut self, run: &mut Run, lanes: u32) -> Result<Flow, Fault> {
        if run.is_open {
            return Ok(Flow::On);
        }
        let flow = self.settle(run).await?;
        if flow == Flow::On {
            run.is_open = true;
            run.lanes.begin(lanes).await?;
        }
        Ok(flow)
    }

    /// Over how many lanes what was folded shall go. Live, source transactions stay whole on the target.
    pub(super) fn lanes_for(&self, run: &Run) -> u32 {
        let is_plain =
            self.careful_until.is_none() && self.one_lane_until.is_none() && run.captured.is_none();
        let is_worth_it = !self.applied.is_live && run.fold.rows() >= LANE_ROWS_MIN;
        if is_plain && is_worth_it { self.lanes } else { 1 }
    }

    /// Sends what was folded, over one connection: what follows must find it applied.
    pub(super) async fn barrier(&mut self, run: &mut Run) -> Result<Flow, Fault> {
        if !run.is_open && run.fold.is_empty() {
            return Ok(Flow::On);
        }
        match self.open(run).await? {
            Flow::On => self.unfold(run).await,
            other => Ok(other),
        }
    }

    pub(super) fn report(&mut self, run: &Run) {
        let has_more = run.is_open || run.sent.is_some() || !run.fold.is_empty();
        let read = if has_more { Position::ZERO } else { run.read };
        self.applied.position = self.applied.position.max(run.lanes.main.progress()).max(read);
        self.applied.oldest = run.sent_first.or(run.first);
        run.told.send_replace(self.applied);
    }
}
