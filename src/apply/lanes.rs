//! The connections that take a batch: one, or several that each take a share of its rows.
//!
//! A row's lane follows from its key alone, so all changes of a row go the same way, also when a batch is repeated. Each lane but
//! the first notes in its own row of `pgsluice.lane` what it has committed, in the transaction that carries its share. Only when
//! every lane has its verdict do they commit, the first one last, and with it the stream's progress. What ends the applier in
//! between leaves a torn batch: some lanes have committed it, the progress has not moved. It is read again up to its end, and
//! what was committed is left out, once the share that the log gives now was found to be the one that was noted.

use tokio::task::AbortHandle;

use super::referee;
use super::session::{Advance, Refused, Session, Share};
use crate::faults;
use crate::model::{Fault, Position, Remedy};
use crate::pg::Conninfo;
use crate::transform::NetRow;

/// What makes a torn batch whole.
pub(super) const TORN_HINT: &str = "run once with the options and filters, and with the target's tables, columns and indexes, that it was applied \
     with, and change them afterwards; if somebody has set the progress row back, delete the stream's rows of pgsluice.lane";

/// A batch that only some lanes have committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// Its last commit.
    pub(super) end: Position,
    lanes: u32,
    /// The lanes that have committed it, and the digests of their shares.
    committed: Vec<(u32, u32)>,
}

impl Torn {
    /// Finds it in what the lanes of a stream have committed.
    pub(super) fn of(progress: Position, lanes: Vec<(u32, Position, Share)>) -> Result<Option<Torn>, String> {
        let mut torn: Option<Torn> = None;
        for (lane, end, share) in lanes.into_iter().filter(|(_, end, _)| *end > progress) {
            let torn = torn.get_or_insert(Torn { end, lanes: share.lanes, committed: Vec::new() });
            if torn.end != end || torn.lanes != share.lanes || lane == 0 || lane >= share.lanes {
                return Err(format!(
                    "lane {lane} of {} is at {end}, another of {} at {}",
                    share.lanes, torn.lanes, torn.end
                ));
            }
            torn.committed.push((lane, share.digest));
        }
        Ok(torn)
    }
}

/// All connections of an applier, and how the batch in hand goes over them.
pub(super) struct Lanes {
    /// The first lane. All that is not a share of a batch goes over it.
    pub(super) main: Session,
    others: Vec<Session>,
    referee: Option<AbortHandle>,
    /// Digests of the shares of the batch in hand. One where a single lane takes it whole.
    digests: Vec<u32>,
    torn: Option<Torn>,
}

impl Lanes {
    pub(super) fn new(main: Session, torn: Option<Torn>) -> Lanes {
        if let Some(torn) = &torn {
            let (end, lanes, committed) = (torn.end, torn.lanes, torn.committed.len());
            tracing::info!(%end, lanes, committed, "a batch was committed by some of its lanes: going on with the others");
        }
        Lanes { main, others: Vec::new(), referee: None, digests: vec![0], torn }
    }

    /// The batch that is to be ended before anything else.
    pub(super) fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Over how many lanes the batch in hand goes.
    pub(super) fn count(&self) -> u32 {
        self.digests.len() as u32
    }

    /// Connects up to `count` lanes.
    pub(super) async fn connect(
        &mut self,
        target: &Conninfo,
        client_encoding: &str,
        count: u32,
    ) -> Result<(), Fault> {
        while (self.others.len() as u32) + 1 < count {
            let lane = self.others.len() as u32 + 1;
            self.others.push(self.main.open_lane(target, client_encoding, lane).await?);
        }
        if self.referee.is_none() {
            let pids = self.sessions().filter_map(|session| session.backend_pid().parse().ok()).collect();
            self.referee = Some(tokio::spawn(referee::watch(target.clone(), pids)).abort_handle());
        }
        Ok(())
    }

    /// Opens a batch that goes over this many lanes; a torn one over as many as it did before.
    pub(super) async fn begin(&mut self, count: u32) -> Result<(), Fault> {
        let count = self.torn.as_ref().map_or(count, |torn| torn.lanes);
        self.digests = vec![0; count as usize];
        for session in self.in_use() {
            session.begin().await?;
        }
        Ok(())
    }

    /// The lane of a row; `together` where all rows of its table must be in one, as this number says.
    pub(super) fn lane_of(&self, row: &NetRow<'_>, together: Option<u32>) -> usize {
        let count = self.count();
        if count == 1 { 0 } else { (together.unwrap_or_else(|| row.block()) % count) as usize }
    }

    /// Notes a row of a lane's share. False where the lane has committed it.
    pub(super) fn takes(&mut self, lane: usize, relation: u32, row: &NetRow<'_>) -> bool {
        if self.digests.len() > 1
            && let Some(digest) = self.digests.get_mut(lane)
        {
            *digest = row.digest(relation, *digest);
        }
        let torn = self.torn.iter().flat_map(|torn| &torn.committed);
        !torn.into_iter().any(|(committed, _)| *committed as usize == lane)
    }

    /// The connection that a lane's rows go over: all over the first where a torn batch is ended.
    pub(super) fn session(&mut self, lane: usize) -> &mut Session {
        let others = if self.torn.is_some() { &mut [] } else { self.others.as_mut_slice() };
        match lane.checked_sub(1).and_then(|at| others.get_mut(at)) {
            Some(other) => other,
            None => &mut self.main,
        }
    }

    fn sessions(&self) -> impl Iterator<Item = &Session> {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// The sessions of the batch in hand, the first lane last.
    fn in_use(&mut self) -> impl Iterator<Item = &mut Session> {
        let others = self.other_count();
        self.others.iter_mut().take(others).chain([&mut self.main])
    }

    /// How many lanes beside the first the batch in hand goes over.
    fn other_count(&self) -> usize {
        if self.torn.is_some() { 0 } else { self.digests.len() - 1 }
    }

    /// Sends rows that are held back.
    pub(super) fn end_runs(&mut self) -> Result<(), Fault> {
        self.in_use().try_for_each(Session::end_run)
    }

    /// A lane whose share the target has refused already.
    pub(super) fn lost(&mut self) -> Option<&mut Session> {
        self.in_use().find(|session| session.is_lost())
    }

    /// Whether all answers are there to a batch that was sent.
    pub(super) fn is_answered(&mut self) -> bool {
        self.in_use().all(|session| session.is_answered())
    }

    /// Sends the last of a batch: [`Lanes::settle`] is to follow.
    pub(super) async fn send(&mut self, advance: Advance) -> Result<(), Fault> {
        if let Some(torn) = &self.torn {
            let differs = |(lane, digest): &&(u32, u32)| self.digests.get(*lane as usize) != Some(digest);
            if torn.end != advance.end || torn.committed.iter().any(|committed| differs(&committed)) {
                return Err(Fault::person(format!(
                    "some lanes have committed a batch up to {} with other rows than it has now",
                    torn.end
                ))
                .hint(TORN_HINT));
            }
        }
        let lanes = self.count();
        let digests = self.digests.clone();
        let shares = digests.into_iter().skip(1).chain([0]);
        for (session, digest) in self.in_use().zip(shares) {
            session.send(advance, Share { lanes, digest }).await?;
        }
        Ok(())
    }

    /// Waits for all verdicts on a batch that was sent.
    pub(super) async fn settle(&mut self) -> Result<(), Refused> {
        for session in self.in_use() {
            session.settle().await?;
        }
        Ok(())
    }

    /// Commits a batch that is settled, the first lane last. An error of more than one lane leaves the batch torn.
    pub(super) async fn commit(&mut self, end: Position) -> Result<(), Refused> {
        let count = self.other_count();
        let mut others: Vec<_> = self.others.iter_mut().take(count).collect();
        let torn = |refused: Refused| Refused {
            statement: None,
            fault: Fault { remedy: Remedy::Reread, ..refused.fault },
        };
        for session in &mut others {
            session.commit().await?;
        }
        for session in &mut others {
            session.committed(end).await.map_err(torn)?;
        }
        let alone = others.is_empty();
        if !alone {
            faults::point("apply.before_first_lane");
        }
        self.main.commit().await?;
        self.main.committed(end).await.map_err(|refused| if alone { refused } else { torn(refused) })?;
        self.torn = None;
        Ok(())
    }

    /// Gives the batch in hand up.
    pub(super) async fn rollback(&mut self) -> Result<(), Fault> {
        for session in self.in_use() {
            session.rollback().await?;
        }
        self.digests = vec![0];
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        if let Some(referee) = &self.referee {
            referee.abort();
        }
    }
}
