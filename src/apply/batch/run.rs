//! One connection to the target, and what is in hand on it.

use std::time::Instant;

use tokio::sync::watch;
use tokio_postgres::Client;

use crate::model::{Fault, Lsn, Position, Timestamp};
use crate::pgoutput::Begin;
use crate::transform::{Fold, Refusal};

use super::super::copied::Stitches;
use super::super::ddl::Captured;
use super::super::lanes::Lanes;
use super::super::session::Advance;
use super::super::{Applied, Control, describe, inside};
use super::Inside;
use super::aside::Touched;
use super::hold::Limit;
use super::snapshot::Snapshot;

/// One connection and the batch in hand.
pub(super) struct Run {
    pub(super) lanes: Lanes,
    /// For looking at the target's catalog while the session is busy.
    pub(super) catalog: Client,
    /// Whether the target remembers which of its tables took which table's changes. Only pgoutput gives the OIDs for that.
    pub(super) has_counterparts: bool,
    /// What copied rows have of the log already.
    pub(super) stitches: Stitches,
    /// The transaction that is being read came to the source from elsewhere, and is left out.
    pub(super) is_foreign: bool,
    /// Whether the target's transaction has begun.
    pub(super) is_open: bool,
    pub(super) advance: Advance,
    /// A batch that was sent, on which the target works while the next one is read.
    pub(super) sent: Option<Advance>,
    /// When it was.
    pub(super) sent_at: Instant,
    /// Commit time of the first transaction of that batch, and of the one in hand.
    pub(super) sent_first: Option<Timestamp>,
    pub(super) first: Option<Timestamp>,
    /// Told how far the target is.
    pub(super) told: watch::Sender<Applied>,
    /// Changes of the batch that wait, net.
    pub(super) fold: Fold,
    /// Changes of the batch that went one by one.
    pub(super) alone: u64,
    pub(super) inside: Inside,
    /// The DDL of the transaction that is being applied, once some of it was met.
    pub(super) captured: Option<Captured>,
    /// How far a snapshot of a polled table is.
    pub(super) snapshot: Snapshot,
    /// Turns true when the applier shall end.
    pub(super) stop: watch::Receiver<bool>,
    /// The log has been read up to here.
    pub(super) read: Position,
    /// When it was last looked whether other tables are left out.
    pub(super) looked: Instant,
    /// The transaction whose commit was read last.
    pub(super) committed: Option<Begin>,
    /// What the one that is being set aside is about.
    pub(super) touched: Touched,
}

impl Run {
    /// Whether the transaction in hand has changed the target's tables themselves.
    pub(super) fn has_altered(&self) -> bool {
        self.captured.as_ref().is_some_and(|captured| captured.inside.is_some())
    }

    /// Lets a client work inside the transaction in hand.
    pub(super) async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Some(captured) = &mut self.captured else { return Err(Fault::stop("no ddl is under way")) };
        if captured.inside.is_none() {
            captured.inside = Some(inside::Inside::open().await?);
        }
        match &mut captured.inside {
            Some(inside) => self.lanes.main.inside(inside, work).await,
            None => Err(Fault::stop("no ddl is under way")),
        }
    }

    /// Where to end: not before the end of a torn batch.
    pub(super) fn endpos(&self, control: &Control) -> Option<Position> {
        let endpos = *control.endpos.borrow();
        endpos.map(|endpos| self.lanes.torn().map_or(endpos, |torn| endpos.max(torn.end)))
    }

    /// What comes first: endpos, or a hold.
    pub(super) fn limit(&self, control: &Control) -> Option<Limit> {
        let whole = |at: Position| self.lanes.torn().map_or(at, |torn| at.max(torn.end));
        let hold = control.hold.borrow().map(|at| Limit { at: whole(at), is_hold: true });
        let endpos = self.endpos(control).map(|at| Limit { at, is_hold: false });
        [endpos, hold].into_iter().flatten().min_by_key(|limit| limit.at)
    }

    pub(super) async fn give_up(&mut self) -> Result<(), Fault> {
        self.advance = Advance::default();
        self.fold.clear();
        self.alone = 0;
        self.captured = None;
        self.snapshot = Snapshot::Possible;
        // They are still the oldest, until they are read again.
        self.first = self.sent_first.take().or(self.first);
        if self.sent.take().is_some() | std::mem::replace(&mut self.is_open, false) {
            self.lanes.rollback().await?;
        }
        Ok(())
    }

    /// The last transaction of which something was read: the only one of a batch that is gone through carefully.
    pub(super) fn last(&self) -> Option<Begin> {
        match self.inside {
            Inside::Applying(begin) | Inside::Aside(begin) => Some(begin),
            Inside::Known | Inside::Nothing => self.committed,
        }
    }

    /// An LSN that only the commits up to the end of the batch in hand lie before.
    pub(super) fn advance_until(&self) -> Lsn {
        match self.inside {
            Inside::Applying(begin) | Inside::Aside(begin) => begin.commit_lsn,
            Inside::Known | Inside::Nothing => {
                let end = self.advance.end.max(self.sent.map_or(Position::ZERO, |sent| sent.end));
                Lsn(end.0.saturating_sub(1))
            }
        }
    }

    /// Says in which transaction a fault arose.
    pub(super) fn at(&self, fault: Fault) -> Fault {
        match self.inside {
            Inside::Applying(begin) | Inside::Aside(begin) => fault.context(describe::begun(begin)),
            Inside::Known | Inside::Nothing => fault,
        }
    }

    pub(super) fn refusal(&self, refusal: Refusal) -> Fault {
        self.at(Fault::from(refusal))
    }

    pub(super) fn unreadable(&self, error: &impl std::fmt::Display) -> Fault {
        self.at(Fault::person(format!("the log after {} can't be read: {error}", self.read)))
    }
}
