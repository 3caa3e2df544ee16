//! Standing at a position for a while, so that somebody can look at the target as it is there.

use crate::model::{Fault, Position};

use super::super::Control;
use super::{Applier, Flow, Run};

/// What is not to be passed: endpos, or where the applier is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) at: Position,
    pub(super) is_hold: bool,
}

impl Limit {
    /// What comes of having applied everything up to it.
    pub(super) fn flow(self) -> Flow {
        if self.is_hold { Flow::Held(self.at) } else { Flow::Reached }
    }
}

impl Applier<'_> {
    /// Says on the target that everything up to `at` is applied, and waits until something else is wanted. The log is then read
    /// anew from there.
    pub(super) async fn stand(
        &mut self,
        run: &mut Run,
        at: Position,
        control: &mut Control,
    ) -> Result<Flow, Fault> {
        assert!(!run.is_open, "would stand inside of a batch");
        if run.lanes.main.progress() < at {
            run.lanes.main.note(at).await?;
        }
        self.report(run);
        tracing::info!(hold = %at, applied = %run.lanes.main.progress(), "held");
        control.endpos.mark_unchanged();
        // The hold may have been another one when this position was decided upon.
        while run.limit(control) == Some(Limit { at, is_hold: true }) {
            tokio::select! {
                _ = control.hold.changed() => {}
                _ = control.endpos.changed() => {}
                _ = control.stop.wait_for(|stop| *stop) => return Ok(Flow::Stopped),
            }
        }
        tracing::info!("no longer held there");
        Ok(Flow::Again)
    }
}
