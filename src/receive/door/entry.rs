//! Into the log once: a transaction that the log holds already is not appended again.

use crate::archive::Writer;
use crate::model::{Fault, Lsn, Position};

/// Where in the stream of messages of protocol version 1 we are.
#[derive(Default)]
pub(super) struct Entry {
    inside: Inside,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Nothing,
    Kept,
    Known,
}

impl Entry {
    pub(super) fn is_between_transactions(&self) -> bool {
        self.inside == Inside::Nothing
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

    /// What stands inside a transaction; at another place the log refuses it.
    pub(super) fn content(&mut self, message: &[u8], writer: &mut Writer) -> Result<(), Fault> {
        match self.inside {
            Inside::Known => Ok(()),
            Inside::Kept | Inside::Nothing => writer.append(message),
        }
    }

    /// A Relation or Type message. It counts even in a transaction that the log has: the source won't repeat it.
    pub(super) fn definition(&mut self, message: &[u8], writer: &mut Writer) -> Result<(), Fault> {
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
}
