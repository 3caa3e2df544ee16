//! Into the log: whole transactions, once, in the order of their commits.

use crate::archive::Writer;
use crate::model::{Fault, Lsn, Position, Xid};
use crate::pgoutput::{Begin, Commit};

use super::join::{Definitions, Join, key};
use super::spool::Spool;

/// Where in the stream of messages of protocol version 1 we are, and what waits for its commit.
pub(super) struct Entry {
    inside: Inside,
    spool: Spool,
    joining: Option<Join>,
    /// Each definition as it was sent last.
    newest: Definitions,
    whole_until: Option<Position>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Kept,
    Known,
}

impl Entry {
    pub(super) fn new(spool: Spool) -> Entry {
        Entry { inside: Inside::Nothing, spool, joining: None, newest: Definitions::new(), whole_until: None }
    }

    pub(super) fn is_between_transactions(&self) -> bool {
        self.inside == Inside::Nothing && self.joining.is_none()
    }

    /// Whether more may be taken in now; else [`Entry::work`] is to be called until it is so.
    pub(super) fn is_ready(&self) -> bool {
        self.joining.is_none() && !self.spool.is_stalled() && self.whole_until.is_none()
    }

    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// A transaction can't be told from its parts: all up to here must be sent again, whole.
    pub(super) fn whole_until(&self) -> Option<Position> {
        self.whole_until
    }

    /// A Begin message of the transaction whose commit record starts at `commit_lsn`.
    pub(super) fn begin(
        &mut self,
        message: &[u8],
        commit_lsn: Lsn,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        self.inside = match writer.received().covers_commit_at(commit_lsn) {
            true => Inside::Known,
            false => Inside::Kept,
        };
        self.content(message, writer)
    }

    /// A transaction begins that is spooled although it comes whole.
    pub(super) fn open(&mut self) {
        self.inside = Inside::Kept;
    }

    /// What stands inside a transaction; at another place the log refuses it.
    pub(super) fn content(&mut self, message: &[u8], writer: &mut Writer) -> Result<(), Fault> {
        match self.inside {
            Inside::Known => Ok(()),
            Inside::Kept | Inside::Nothing => writer.append(message),
        }
    }

    /// A Relation or Type message. It counts even in a transaction that the log has: the source won't repeat it.
    pub(super) fn definition(&mut self, message: &[u8], writer: &mut Writer) -> Result<(), Fault> {
        self.remember(message);
        writer.append(message)
    }

    pub(super) fn commit(&mut self, message: &[u8], writer: &mut Writer) -> Result<(), Fault> {
        self.content(message, writer)?;
        self.inside = Inside::Nothing;
        Ok(())
    }

    /// A logical message outside of transactions, whose record ends at `end`.
    pub(super) fn lone_message(
        &mut self,
        message: &[u8],
        end: Position,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        if end > writer.received() {
            writer.append(message)?;
            writer.progress(end);
        }
        Ok(())
    }

    /// A message, given as its tag and the rest, of the subtransaction `subxid` of `xid`, whose commit may come.
    pub(super) fn spool(&mut self, xid: Xid, subxid: Xid, tag: u8, rest: &[u8]) -> Result<(), Fault> {
        if matches!(tag, b'R' | b'Y') {
            let mut message = Vec::with_capacity(rest.len() + 1);
            message.push(tag);
            message.extend_from_slice(rest);
            self.remember(&message);
        }
        self.spool.append(xid, subxid, tag, rest)
    }

    /// A subtransaction was rolled back; the whole transaction where both are the same.
    pub(super) fn abort(&mut self, xid: Xid, subxid: Xid) {
        self.spool.abort(xid, subxid);
    }

    /// The commit of what was spooled of `begin.xid`. It enters the log by [`Entry::work`].
    pub(super) fn join(&mut self, begin: Begin, commit: Commit, writer: &Writer) {
        self.inside = Inside::Nothing;
        let spooled = self.spool.take(begin.xid);
        let known = writer.received().covers_commit_at(commit.commit_lsn);
        if spooled.is_doubtful() && !known {
            self.whole_until = Some(commit.end);
        } else {
            self.joining = Some(Join::new(spooled, begin, commit, known));
        }
    }

    /// Goes on with what could not be done at once: a bounded part of it. Blocks on the disk.
    pub(super) fn work(&mut self, writer: &mut Writer) -> Result<(), Fault> {
        if let Some(join) = &mut self.joining
            && join.step(&self.newest, writer)?
        {
            self.joining = None;
        }
        if self.spool.is_stalled() {
            self.spool.relieve()?;
        }
        Ok(())
    }

    fn remember(&mut self, definition: &[u8]) {
        key(definition).map(|key| self.newest.insert(key, definition.into()));
    }
}
