//! Tables that were copied beside a stream go over to the stream's own applier.
//!
//! An applier of their own brings them up to where the stream's is. Then that one is held, by the lock on its progress row which each of its
//! batches takes first; the own one covers what is left; and in the transaction that has the lock the tables change hands. So each change
//! is applied by one of the two, and whatever ends in between lets the lock go.
//!
//! ```text
//! stream's   ──── leaves them out ────────────► M ║ held ║ ── applies them behind X ──►
//! own        snapshots ─► applies only them ──────────► X ≥ M   gone
//! ```

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Client;

use crate::apply::{self, Applied, Control, Outcome, Target};
use crate::archive::Archive;
use crate::faults;
use crate::model::{Fault, Position};
use crate::pg::{joining, progress};

/// For how long the stream's applier is held the first time; twice as long each further time.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);
/// Between two attempts to find the stream's applier between two batches.
const PAUSE: Duration = Duration::from_millis(20);
/// How often those who are waited for are named.
const TELL: Duration = Duration::from_secs(10);

/// What goes over.
pub struct Handover<'a> {
    pub archive: &'a Archive,
    /// The tables, with their own progress.
    pub target: &'a Target,
    /// Whose they are to be.
    pub stream: &'a str,
    /// No snapshot shows what was committed from here on.
    pub least: Position,
}

/// Brings them up to the stream's applier, and hands them over. Says where.
pub async fn hand_over(handover: &Handover<'_>, client: &Client) -> Result<Position, Fault> {
    let (_stop, stop) = watch::channel(false);
    let (hold, held) = watch::channel(Some(handover.least));
    let (_endpos, endpos) = watch::channel(None);
    let (applied, _) = watch::channel(Applied::default());
    let control = Control { stop, endpos, hold: held, applied: applied.clone() };
    let ended = |outcome: Result<Outcome, Fault>| {
        outcome.err().unwrap_or_else(|| Fault::retry("the tables' own applier has ended"))
    };
    tokio::select! {
        outcome = apply::apply_unregistered(handover.archive, None, handover.target, control) => Err(ended(outcome)),
        through = handover.hand(client, &hold, &applied) => through,
    }
}

impl Handover<'_> {
    async fn hand(
        &self,
        client: &Client,
        hold: &watch::Sender<Option<Position>>,
        applied: &watch::Sender<Applied>,
    ) -> Result<Position, Fault> {
        let mut patience = PATIENCE_MIN;
        let mut told = Instant::now();
        loop {
            let main = progress::read(client, self.stream).await?.map(|row| row.lsn).unwrap_or_default();
            self.comes_to(main.max(self.least), hold, applied).await;
            let Some(held) = joining::hold(client, self.stream).await? else {
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    tracing::warn!(
                        "waiting for the applier: a batch of its goes over several lanes, or was cut off between them (then run it)"
                    );
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let since = Instant::now();
            hold.send_if_modified(|hold| {
                let further = hold.is_none_or(|at| at < held.lsn);
                if further {
                    *hold = Some(held.lsn);
                }
                further
            });
            let reached = loop {
                if held.own_progress().await?.is_some_and(|own| own >= held.lsn.max(self.least)) {
                    break true;
                }
                if since.elapsed() >= patience {
                    break false;
                }
                tokio::time::sleep(POLL).await;
            };
            if reached {
                faults::point("backfill.before_handover");
                let through = held.hand_over().await?;
                faults::point("backfill.after_handover");
                let held_seconds = since.elapsed().as_secs_f64();
                tracing::info!(%through, held_seconds, "the stream's applier has the tables from here on");
                return Ok(through);
            }
            held.release().await?;
            tracing::info!(
                held_seconds = since.elapsed().as_secs_f64(),
                "the stream's applier was let go again: the tables are not as far yet"
            );
            patience = (patience * 2).min(PATIENCE_MAX);
        }
    }

    /// Waits until the own applier is as far.
    async fn comes_to(
        &self,
        goal: Position,
        hold: &watch::Sender<Option<Position>>,
        applied: &watch::Sender<Applied>,
    ) {
        hold.send_if_modified(|hold| {
            let further = hold.is_none_or(|at| at < goal);
            if further {
                *hold = Some(goal);
            }
            further
        });
        let mut listening = applied.subscribe();
        loop {
            let arrives = listening.wait_for(|applied| applied.position >= goal);
            if tokio::time::timeout(TELL, arrives).await.is_ok() {
                return;
            }
            let Applied { position, log, .. } = *applied.borrow();
            if log < goal {
                tracing::warn!(%goal, %log, "waiting for the log: pgsluice follow or receive must run");
            } else {
                tracing::info!(%goal, applied = %position, "bringing the tables up to the others");
            }
        }
    }
}
