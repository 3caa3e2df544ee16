//! pgoutput: its messages are the log's. Only what bounds transactions is looked at.
//!
//! With streaming (version 2) large transactions come in blocks while they are under way. They are spooled, without the
//! xids that their messages carry, and join the log at their commit. One thing differs then from a transaction that came
//! whole: its Origin message, if it has one, has no LSN, since the source does not know it yet when it sends it.
//!
//! Their definitions stay among their changes, and those of subtransactions that were rolled back go with these. That is
//! what the source takes us to do (pgoutput.c): a streamed transaction describes every relation itself, again after each
//! abort of one of its subtransactions (`cleanup_rel_sync_cache`), and what its own DDL changed in the source's cache is
//! dropped at the end of each block, so other transactions describe anew what they use (reorderbuffer.c,
//! `ReorderBufferProcessTXN`). A change that stays can't rely on a definition that goes: while both are sent, its
//! subtransaction is inside the other one and is rolled back with it.

use crate::archive::Writer;
use crate::model::{Fault, Format, Lsn, Position, Timestamp, Xid, is_portable};
use crate::pgoutput::{Begin, Message, StreamMessage, decode, decode_stream, split_streamed};

use super::Arrival;
use super::entry::Entry;

pub(super) struct Blocks {
    /// The transaction of the block that is being sent.
    current: Option<Xid>,
    format: Format,
    /// A column of which values would come that mean nothing elsewhere.
    unportable: Option<String>,
}

impl Blocks {
    pub(super) fn new(format: Format) -> Blocks {
        Blocks { current: None, format, unportable: None }
    }

    pub(super) fn unportable(&self) -> Option<&str> {
        self.unportable.as_deref()
    }

    /// Takes a look at a definition before the first change that follows it.
    fn look(&mut self, definition: &[u8], start: Lsn) -> Result<(), Fault> {
        if self.format == Format::Binary {
            let Ok(Message::Relation(relation)) = decode(definition) else { return Err(malformed(start)) };
            let column = relation.columns.iter().find(|column| !is_portable(column.type_oid));
            self.unportable =
                column.map(|column| format!("{}.{}.{}", relation.schema, relation.name, column.name));
        }
        Ok(())
    }

    /// Takes one message in. Gives the time of a transaction's commit when it was its last one.
    pub(super) fn take(
        &mut self,
        arrival: Arrival<'_>,
        entry: &mut Entry,
        writer: &mut Writer,
    ) -> Result<Option<Timestamp>, Fault> {
        let Arrival { start, message, .. } = arrival;
        if let Some(stream) = decode_stream(message).map_err(|_| malformed(start))? {
            return self.bound(stream, start, entry, writer);
        }
        let Some(xid) = self.current else {
            if message.first() == Some(&b'R') {
                self.look(message, start)?;
            }
            return if self.unportable.is_some() { Ok(None) } else { whole(arrival, entry, writer) };
        };
        let (subxid, tag, rest) = match message.split_first() {
            // Where the transaction came from to the source; it has no xid, and comes first.
            Some((b'O', rest)) => (xid, b'O', rest),
            _ => split_streamed(message).map_err(|_| malformed(start))?,
        };
        if tag == b'R' {
            self.look(&[&[tag], rest].concat(), start)?;
        }
        entry.spool(xid, subxid, tag, rest)?;
        Ok(None)
    }

    /// The start or end of a block, or of what was sent in blocks.
    fn bound(
        &mut self,
        message: StreamMessage,
        start: Lsn,
        entry: &mut Entry,
        writer: &Writer,
    ) -> Result<Option<Timestamp>, Fault> {
        let is_outside = self.current.is_none() && entry.is_between_transactions();
        match message {
            StreamMessage::Start { xid } if is_outside => self.current = Some(xid),
            StreamMessage::Stop if self.current.is_some() => self.current = None,
            StreamMessage::Abort { xid, subxid } if is_outside => entry.abort(xid, subxid),
            StreamMessage::Commit { xid, commit } if is_outside => {
                let begin = Begin { commit_lsn: commit.commit_lsn, commit_time: commit.commit_time, xid };
                entry.join(begin, commit, writer);
                return Ok(Some(commit.commit_time));
            }
            _ => return Err(malformed(start)),
        }
        Ok(None)
    }
}

/// A message outside of blocks: as in version 1.
fn whole(arrival: Arrival<'_>, entry: &mut Entry, writer: &mut Writer) -> Result<Option<Timestamp>, Fault> {
    let Arrival { start, message, .. } = arrival;
    match message.first() {
        Some(b'B') => {
            let Ok(Message::Begin(begin)) = decode(message) else { return Err(malformed(start)) };
            entry.begin(message, begin.commit_lsn, writer)?;
        }
        Some(b'C') => {
            let Ok(Message::Commit(commit)) = decode(message) else { return Err(malformed(start)) };
            entry.commit(message, writer)?;
            return Ok(Some(commit.commit_time));
        }
        Some(b'M') if entry.is_between_transactions() => {
            let Ok(Message::Logical { lsn, .. }) = decode(message) else { return Err(malformed(start)) };
            // Its LSN is the end of its record.
            entry.lone_message(message, Position(lsn.0), writer)?;
        }
        Some(b'R' | b'Y') => entry.definition(message, writer)?,
        _ => entry.content(message, writer)?,
    }
    Ok(None)
}

fn malformed(start: Lsn) -> Fault {
    Fault::stop(format!("the source sent bytes at {start} that are no pgoutput message, or one out of place")).hint(
        "check that the slot's plugin is pgoutput and that nothing but the source answers at this address",
    )
}
