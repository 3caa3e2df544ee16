//! The log's end, where transactions are made: one at a time, whole, with the state of all polls in each.
//!
//! Positions count the bytes of messages. A transaction's commit is said to start where the one before it ends, since it must be
//! known when the transaction begins, and to end so many bytes later as it has. An archive with a store may lose its open end with this machine, after
//! appliers have seen it; so that nothing else ever takes those places, each run begins there at a place that only time gives.

use tokio::sync::{Mutex, MutexGuard};

use super::state::{State, last_state};
use super::{PREFIX, TableState};
use crate::archive::{Archive, Durability, Durable, Writer, WriterOptions, WriterState};
use crate::faults;
use crate::model::{Fault, Position, Timestamp, Xid};
use crate::pgoutput::{Begin, Commit, Message, Unwritable, encode, encode_begin, encode_commit};

/// There is one timeline.
const TIMELINE: u32 = 1;
/// So many bytes in a second are fewer than a run can write. Seconds since 2000 of that are far from a position's end.
const BYTES_A_SECOND: u64 = 1 << 32;

/// The log and the state that it says.
pub(super) struct Log {
    writer: Writer,
    state: State,
    durability: Durability,
    /// Where the next transaction begins at the earliest.
    floor: Position,
}

impl Log {
    /// Blocks on the disk.
    pub(super) fn open(archive: &Archive, options: WriterOptions, now: Timestamp) -> Result<Log, Fault> {
        let durability = options.durability;
        let writer = Writer::open(archive, TIMELINE, options)?;
        let state = last_state(archive)?.map(|(_, state)| state).unwrap_or_default();
        let seconds = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
        let floor = if archive.has_store() { seconds.saturating_mul(BYTES_A_SECOND) } else { 0 };
        if archive.has_store() {
            // No slot says whose the log is: the archive's lock and the source's do.
            writer.holds_slot();
        }
        Ok(Log { writer, state, durability, floor: Position(floor) })
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Whether nothing can be written any more.
    pub(super) fn has_failed(&self) -> bool {
        let durable = self.writer.durable();
        let state = &durable.borrow().state;
        !matches!(state, WriterState::Running | WriterState::Stalled(_))
    }

    /// Seals what is due by age.
    pub(super) fn tick(&mut self) {
        self.writer.tick();
    }

    pub(super) async fn close(self) -> Result<Position, Fault> {
        self.writer.close().await
    }

    /// Waits until all that was given is durable; with `confirmable`, where the archive's durability wants it.
    async fn settle(&mut self, through: Position, confirmable: bool) -> Result<(), Fault> {
        self.writer.flush();
        if confirmable && self.durability == Durability::Store {
            self.writer.seal();
        }
        let reached = |durable: &Durable| {
            let position = if confirmable { durable.confirmable } else { durable.position };
            position >= through || !matches!(durable.state, WriterState::Running | WriterState::Stalled(_))
        };
        let mut durable = self.writer.durable();
        let settled = durable.wait_for(reached).await;
        let settled = settled.map_err(|_| Fault::stop("the log's thread has ended"))?;
        match &settled.state {
            WriterState::Running | WriterState::Stalled(_) => Ok(()),
            WriterState::Superseded(reason) => Err(Fault::person(reason.to_string())
                .hint("let only one `pgsluice poll` of this archive run; keep this one's spool until the other has gone on")),
            WriterState::Failed(reason) => Err(Fault::stop(format!("the log can't be written: {reason}"))
                .hint("mend the disk, then run the same command again: what is not in the log is read again")),
        }
    }
}

/// A transaction that is being written, and holds the log for it. Dropped before its commit it never was.
pub(super) struct Transaction<'a> {
    log: MutexGuard<'a, Log>,
    begin: Begin,
    /// Bytes of its messages.
    bytes: u64,
    is_open: bool,
}

impl<'a> Transaction<'a> {
    /// Waits for its turn.
    pub(super) async fn begin(log: &'a Mutex<Log>, time: Timestamp) -> Result<Transaction<'a>, Fault> {
        let log = log.lock().await;
        let begin = Begin {
            commit_lsn: log.writer.received().max(log.floor).lsn(),
            commit_time: time,
            xid: Xid(log.state.xid.wrapping_add(1).max(1)),
        };
        let mut transaction = Transaction { log, begin, bytes: 0, is_open: true };
        transaction.append(&encode_begin(&begin)).await?;
        Ok(transaction)
    }

    pub(super) async fn append(&mut self, message: &[u8]) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(message.len() as u64);
        if self.log.writer.is_full() {
            self.log.writer.room().await;
        }
        self.log.writer.append(message)
    }

    /// Writes what has become of a table's state, and the commit; gives its position when it is durable.
    pub(super) async fn commit(
        mut self,
        table: &str,
        state: TableState,
        confirmable: bool,
    ) -> Result<Position, Fault> {
        let mut all = self.log.state.clone();
        all.xid = self.begin.xid.0;
        all.tables.insert(table.to_owned(), state);
        let content = serde_json::to_vec(&all)
            .map_err(|error| Fault::stop(format!("the state of the polls can't be written: {error}")))?;
        let lsn = self.begin.commit_lsn;
        let mut message = Vec::new();
        let logical =
            Message::Logical { transactional: true, lsn, prefix: PREFIX.as_bytes(), content: &content };
        encode(&logical, &mut message).map_err(|error| unwritable(&error))?;
        self.append(&message).await?;
        faults::point("poll.before_commit");
        let Begin { commit_lsn, commit_time, .. } = self.begin;
        let commit = Commit { commit_lsn, end: Position::ZERO, commit_time };
        let bytes = self.bytes.saturating_add(encode_commit(&commit).len() as u64);
        let end = Position(commit_lsn.0.saturating_add(bytes));
        self.append(&encode_commit(&Commit { end, ..commit })).await?;
        self.is_open = false;
        // What is taken is taken, also where nobody waits for it any more.
        self.log.state = all;
        self.log.settle(end, confirmable).await?;
        faults::point("poll.after_commit");
        Ok(end)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.log.writer.discard();
        }
    }
}

pub(super) fn unwritable(error: &Unwritable) -> Fault {
    Fault::stop(error.to_string())
}
