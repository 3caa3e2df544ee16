//! Samples of the source's sequences, written into its WAL beside the stream that is being received.
//!
//! Every ten seconds in which the source has committed something, where a sequence has moved; and at the end of a run, so
//! that the last sample is not older than the last commit. An idle source stays idle. Nothing waits for it but the end of a run, and that for a
//! bounded time; a connection that fails costs a warning.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Source;
use crate::model::{Fault, Position};
use crate::pg::control;
use crate::pg::sequences::{self, Sequence};

const INTERVAL: Duration = Duration::from_secs(10);
/// How long the end of a run waits for its last sample to come back through the slot.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What is kept from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    sequences: Vec<Sequence>,
    unreadable: Vec<String>,
    told_standby: bool,
}

/// One connection's samples.
pub(super) struct Sampler {
    source: Source,
    sampled: Arc<Mutex<Sampled>>,
    /// Something was committed since the last sample was asked for, or since one was written.
    is_due: bool,
    is_stale: bool,
    asked: Instant,
    work: Option<JoinHandle<Result<Option<Position>, Fault>>>,
    last: Option<Last>,
}

/// The sample at the end of a run.
struct Last {
    deadline: Instant,
    /// Where it comes in the stream, once that is known; none where it has nothing to tell.
    position: Option<Option<Position>>,
}

impl Sampler {
    /// None where sequences are left alone.
    pub(super) fn new(source: &Source, sampled: &Arc<Mutex<Sampled>>) -> Option<Sampler> {
        source.sequences.then(|| Sampler {
            source: source.clone(),
            sampled: Arc::clone(sampled),
            is_due: true,
            is_stale: true,
            asked: Instant::now(),
            work: None,
            last: None,
        })
    }

    /// `committed`: the source has committed something since the last call.
    pub(super) fn tick(&mut self, committed: bool) {
        self.committed(committed);
        if self.is_due && self.last.is_none() && self.work.is_none() && self.asked.elapsed() >= INTERVAL {
            self.ask();
        }
    }

    fn committed(&mut self, committed: bool) {
        self.is_due |= committed;
        self.is_stale |= committed;
    }

    fn ask(&mut self) {
        let unchanged_too = self.last.is_some();
        self.is_due = false;
        self.asked = Instant::now();
        let (source, sampled) = (self.source.clone(), Arc::clone(&self.sampled));
        self.work = Some(tokio::spawn(async move { sample(&source, &sampled, unchanged_too).await }));
    }

    /// Goes on with the last sample of the run; true when there is nothing to wait for any more. `seen`: how far the source
    /// has sent everything.
    pub(super) fn has_finished(&mut self, seen: Position, committed: bool) -> bool {
        self.committed(committed);
        if self.last.is_none() {
            // One under way may have looked too early.
            if let Some(work) = self.work.take() {
                work.abort();
            } else if !self.is_stale {
                return true;
            }
            self.last = Some(Last { deadline: Instant::now() + LAST_PATIENCE, position: None });
            self.ask();
        }
        let Some(last) = &self.last else { return true };
        match last.position {
            Some(None) => true,
            Some(Some(position)) if seen >= position => true,
            _ if Instant::now() >= last.deadline => {
                tracing::warn!("the last sample of the sequences did not arrive in time");
                true
            }
            _ => false,
        }
    }

    /// The run goes on after all.
    pub(super) fn go_on(&mut self) {
        self.last = None;
    }

    /// Waits for the sample under way, for ever where there is none. Cancel-safe.
    pub(super) async fn done(&mut self) {
        let Some(work) = &mut self.work else { return std::future::pending().await };
        let outcome = work.await.unwrap_or_else(|_| Err(Fault::retry("the task was ended")));
        self.work = None;
        let position = outcome.unwrap_or_else(|fault| {
            tracing::warn!(error = %fault, "the sequences are not in the log for now");
            self.is_due = true;
            None
        });
        self.is_stale &= position.is_none();
        if let Some(last) = &mut self.last {
            last.position = Some(position);
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.abort();
        }
    }
}

/// Reads the sequences, and writes them where one has moved, or else too; gives where the message comes in the stream.
async fn sample(
    source: &Source,
    sampled: &Mutex<Sampled>,
    unchanged_too: bool,
) -> Result<Option<Position>, Fault> {
    let client = control::connect(&source.conninfo, "pgsluice sequences").await?;
    let found = sequences::read(&client, &source.publication).await?;
    {
        let mut sampled = sampled.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((sample, unreadable)) = &found else {
            if !std::mem::replace(&mut sampled.told_standby, true) {
                tracing::warn!("the source is a standby, where sequences can't be written into the log");
            }
            return Ok(None);
        };
        if sampled.unreadable != *unreadable {
            sampled.unreadable.clone_from(unreadable);
            tracing::warn!(
                sequences = %unreadable.join(", "),
                "may not be read, so they will not be set on the target; GRANT SELECT on them"
            );
        }
        if sample.sequences.is_empty() || sampled.sequences == sample.sequences && !unchanged_too {
            return Ok(None);
        }
    }
    let Some((sample, _)) = found else { return Ok(None) };
    let position = sequences::emit(&client, &sample).await?;
    sampled.lock().unwrap_or_else(PoisonError::into_inner).sequences = sample.sequences;
    tracing::debug!(%position, as_of = %sample.as_of, "sequences sampled");
    Ok(Some(position))
}
