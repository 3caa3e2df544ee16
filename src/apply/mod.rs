//! Log to target, exactly once.
//!
//! One loop: it reads the log from where the target's progress row stands, in catchup and live alike. A batch is a run of whole
//! source transactions applied as one target transaction; it grows while the log has more to give and is a single source
//! transaction when it has not. What the target refuses is tried again carefully: one source transaction at a time,
//! row by row, so that all before it is kept and the error names the very change. So is a change that the target lacks a table or
//! a column for, after what is known of the target was looked up anew.
//!
//! The target's progress lives in the target, in the transaction that carries the rows.

mod batch;
mod columns;
mod copied;
mod ddl;
pub mod dead;
mod describe;
mod inside;
mod lanes;
mod lookup;
mod origin;
mod referee;
mod register;
mod replies;
mod ruled;
mod rules;
mod run;
mod sequences;
mod session;
mod shaper;
mod snapshot;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::archive::{Archive, Span, Tail};
use crate::meter::METER;
use crate::model::{Fault, Position, Remedy, Timestamp};
use crate::pg::Conninfo;
use crate::rules::RuleSet;

use batch::{Applier, Flow};

pub use ddl::{Ddl, DdlMode};
pub use dead::OnError;
pub use register::{register, registered_name};
pub use ruled::settle as settle_rules;
pub use rules::{OnSchemaChange, Rules};

/// Where the changes go.
#[derive(Clone, Debug)]
pub struct Target {
    pub conninfo: Conninfo,
    /// Names the progress row and the origin.
    pub stream: String,
    /// Set its sequences at endpos.
    pub sequences: bool,
    pub rules: Rules,
    /// What its tables are, where that is not what they are on the source.
    pub shapes: Option<Arc<RuleSet>>,
    /// Other rules than those that it was applied by so far are taken.
    pub accept_rules: bool,
    /// Transactions are left out that came to the source from elsewhere, by replication.
    pub only_local: bool,
    pub ddl: Ddl,
    /// What is run once a view shows a new snapshot.
    pub after: Arc<[After]>,
    /// Connections over which a large batch goes.
    pub lanes: u32,
    /// How long after its commit a transaction is applied at the earliest.
    pub delay: Duration,
    /// What to do with a transaction whose rows it refuses.
    pub on_error: OnError,
    /// Only these tables of the source, by OID.
    pub only: Option<HashSet<u32>>,
    /// The parts of the log that may have something for it, where that is known.
    pub parts: Option<Arc<[Span]>>,
}

/// Commands to be run on the target after each snapshot of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Schema and name on the source.
    pub table: (String, String),
    pub statements: Vec<String>,
}

/// How a running applier is steered, and what it reports.
#[derive(Clone)]
pub struct Control {
    /// Turns true when the applier shall finish the batch in hand and end.
    pub stop: watch::Receiver<bool>,
    pub endpos: watch::Receiver<Option<Position>>,
    /// Where to stand while it says so: what ends at or before it is applied, nothing behind it.
    pub hold: watch::Receiver<Option<Position>>,
    pub applied: watch::Sender<Applied>,
}

/// How far the target is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Applied {
    /// Everything in the log up to here is on the target.
    pub position: Position,
    /// The durable end of the log, as last seen.
    pub log: Position,
    /// Of the last transaction applied by this process.
    pub commit_time: Timestamp,
    /// Commit time of the first transaction that was read and is not applied; none where all is.
    pub oldest: Option<Timestamp>,
    /// Applied by this process.
    pub transactions: u64,
    pub changes: u64,
    /// The applier has met the end of the log and waits for more.
    pub is_live: bool,
}

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything up to endpos is applied.
    Reached,
    Stopped,
}

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a stop waits for the batch in hand, which may itself wait for a lock of somebody on the target.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end waits until the archive knows of it.
const REGISTER_PATIENCE: Duration = Duration::from_secs(5);

/// Applies until stopped or until endpos, across lost connections to the target. The archive is told how far the target is.
pub async fn apply(
    archive: &Archive,
    tail: Option<Tail>,
    target: &Target,
    control: Control,
) -> Result<Outcome, Fault> {
    let (end, ended) = oneshot::channel();
    let (conninfo, stream) = (target.conninfo.clone(), target.stream.clone());
    let mut registrar = tokio::spawn(register::keep(archive.clone(), conninfo, stream, ended));
    let outcome = apply_unregistered(archive, tail, target, control).await;
    drop(end);
    if outcome.is_err() || tokio::time::timeout(REGISTER_PATIENCE, &mut registrar).await.is_err() {
        registrar.abort();
    }
    outcome
}

/// The same, and the archive is not told: who runs it has noted what the archive is to keep.
pub async fn apply_unregistered(
    archive: &Archive,
    tail: Option<Tail>,
    target: &Target,
    mut control: Control,
) -> Result<Outcome, Fault> {
    let mut applier = Applier::new(archive, tail, target);
    let mut backoff = BACKOFF_MIN;
    loop {
        let (before, began) = (applier.position(), Instant::now());
        let mut stop = control.stop.clone();
        let patience = async {
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(STOP_PATIENCE).await;
        };
        let ended = tokio::select! {
            ended = applier.run(&mut control) => ended,
            () = patience => {
                tracing::warn!("the batch in hand takes too long: given up, it is applied by the next run");
                return Ok(Outcome::Stopped);
            }
        };
        let fault = match ended {
            Ok(end) => {
                applier.warn_of_unmatched();
                return Ok(if end == Flow::Reached { Outcome::Reached } else { Outcome::Stopped });
            }
            Err(fault) => fault,
        };
        if !matches!(fault.remedy, Remedy::Retry | Remedy::Reread) || applier.is_out_of_patience() {
            return Err(fault);
        }
        if applier.position() > before || began.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        METER.target_retries.inc();
        tracing::warn!(error = %fault, retry_seconds = backoff.as_secs_f64(), "connection to the target lost, or batch put off");
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = control.stop.wait_for(|stop| *stop) => return Ok(Outcome::Stopped),
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
