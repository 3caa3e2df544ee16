//! What the writer asks of its thread.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;

use crate::segment::Cut;

pub(super) enum Command {
    Frame(Cut),
    /// Forget the frames of the unfinished transaction.
    Discard,
    Seal,
    /// The segment, which holds nothing yet, and those behind it are of that timeline.
    Timeline(u32),
    /// Seal without beginning another segment, and end.
    Finish,
}

/// The thread's end of the queue. It can look ahead.
pub(super) struct Queue {
    receiver: Receiver<Command>,
    ahead: VecDeque<Command>,
}

impl Queue {
    pub(super) fn new(receiver: Receiver<Command>) -> Queue {
        Queue { receiver, ahead: VecDeque::new() }
    }

    /// Waits for the next command; `None` when the writer is gone.
    pub(super) fn wait(&mut self) -> Option<Command> {
        self.ahead.pop_front().or_else(|| self.receiver.recv().ok())
    }

    /// The next command, if there is one.
    pub(super) fn next(&mut self) -> Option<Command> {
        self.ahead.pop_front().or_else(|| self.receiver.try_recv().ok())
    }

    /// Whether the transaction that is being written is discarded before its end.
    pub(super) fn discards(&mut self) -> bool {
        self.ahead.extend(self.receiver.try_iter());
        let end =
            self.ahead.iter().find(|command| !matches!(command, Command::Frame(cut) if !cut.ends_on_commit));
        matches!(end, Some(Command::Discard))
    }
}
