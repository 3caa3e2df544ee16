//! What the source is told. The server believes any flush position, so this is the one place where it is made.

use crate::model::Position;
use crate::pg::Status;

/// The three positions of a status update, each only ever moving forward.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledge {
    received: Position,
    durable: Position,
    applied: Position,
}

impl Acknowledge {
    /// The next status. A position that went back keeps its highest value; what is not durable is never confirmed.
    pub(super) fn status(&mut self, received: Position, durable: Position, applied: Position) -> Status {
        self.received = self.received.max(received).max(durable);
        self.durable = self.durable.max(durable);
        self.applied = self.applied.max(applied.min(durable));
        assert!(self.durable <= self.received, "would confirm what was never received");
        assert!(self.applied <= self.durable, "would report as applied what is not durable");
        Status {
            written: self.received,
            flushed: self.durable,
            applied: self.applied,
            reply_requested: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn never_confirms_beyond_durable(reports in proptest::collection::vec((0u64..9, 0u64..9, 0u64..9), 1..50)) {
            let mut acknowledge = Acknowledge::default();
            let mut durable_max = 0;
            let mut last = Status { written: Position(0), flushed: Position(0), applied: Position(0), reply_requested: false };
            for (received, durable, applied) in reports {
                durable_max = durable_max.max(durable);
                let status = acknowledge.status(Position(received), Position(durable), Position(applied));
                assert!(status.flushed.0 <= durable_max);
                assert!(status.flushed >= last.flushed && status.applied >= last.applied);
                assert!(status.applied <= status.flushed && status.flushed <= status.written);
                last = status;
            }
        }
    }
}
