//! A target that trails on purpose, so that a mistake on the source can be stopped before it arrives.

use std::time::Duration;

use crate::model::{Fault, Timestamp};
use crate::pg::now;
use crate::pgoutput::Begin;

use super::super::Control;
use super::{Applier, Flow, Inside, Run};

/// How often the clock is looked at, which somebody may set.
const GLANCE: Duration = Duration::from_secs(1);
/// How much of the log is read anew without having anything for this target.
const REREAD_BYTES_MAX: u64 = 1 << 20;
/// What becomes due within so long goes together: each time the log is opened anew.
const TOGETHER: Duration = Duration::from_millis(250);

impl Applier<'_> {
    /// Whether a transaction is to be applied later. One of a torn batch is not: others of it are on the target.
    pub(super) fn is_early(&self, run: &Run, begin: Begin) -> bool {
        run.lanes.torn().is_none() && self.left(begin.commit_time) > Duration::ZERO
    }

    /// How long it is until what committed at that time is applied, by this machine's clock.
    fn left(&self, committed: Timestamp) -> Duration {
        if self.target.delay.is_zero() {
            return Duration::ZERO;
        }
        let due = self.target.delay.as_secs_f64() + committed.seconds_since(now());
        Duration::try_from_secs_f64(due.max(0.0)).unwrap_or(Duration::MAX)
    }

    /// Waits until it is time for what committed then, or something else is wanted. The log is then read anew.
    /// What had nothing for this target left no mark on it, and is not to be read again each time.
    pub(super) async fn note_far_read(&self, run: &mut Run) -> Result<(), Fault> {
        let is_between = matches!(run.inside, Inside::Nothing) && !run.is_open && run.lanes.torn().is_none();
        if is_between && run.read.bytes_since(run.lanes.main.progress()) > REREAD_BYTES_MAX {
            run.lanes.main.note(run.read).await?;
        }
        Ok(())
    }

    pub(super) async fn ripen(
        &mut self,
        run: &mut Run,
        committed: Timestamp,
        control: &mut Control,
    ) -> Result<Flow, Fault> {
        assert!(!run.is_open, "would wait inside of a batch");
        // As near as it shall be.
        self.applied.is_live = true;
        run.first = Some(committed);
        self.note_far_read(run).await?;
        self.report(run);
        // What was set while the last batch was ended is looked at when the log is read anew: at once.
        loop {
            let left = self.left(committed);
            tokio::select! {
                () = tokio::time::sleep(left.clamp(TOGETHER, GLANCE)) => {}
                _ = control.hold.changed() => return Ok(Flow::Again),
                _ = control.endpos.changed() => return Ok(Flow::Again),
                _ = control.stop.wait_for(|stop| *stop) => return Ok(Flow::Stopped),
            }
            if left <= GLANCE {
                return Ok(Flow::Again);
            }
            self.look_for_tables(run).await?;
        }
    }
}
