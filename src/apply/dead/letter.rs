//! A transaction that was set aside, read out of the log.

use crate::archive::{Archive, Frame, Reader, Tail};
use crate::model::{Fault, Position};
use crate::pg::dead::Note;
use crate::pgoutput::{Begin, Message, decode};

/// Reads from its begin on to its commit.
pub(in crate::apply) struct Letter<'n> {
    reader: Reader,
    note: &'n Note,
    begin: Option<Begin>,
}

/// What the log says, as far as it matters to the transaction.
pub(in crate::apply) enum Said<'m> {
    /// Of a table, or of a type.
    Definition(Message<'m>),
    Change(Begin, Message<'m>),
    /// Nothing more comes.
    Commit(Begin),
}

impl<'n> Letter<'n> {
    /// Blocks on the disk, as [`Letter::frame`] does.
    pub(in crate::apply) fn open(
        archive: &Archive,
        tail: Option<Tail>,
        note: &'n Note,
    ) -> Result<Letter<'n>, Fault> {
        Ok(Letter { reader: Reader::open(archive, Position(note.commit_lsn.0), tail)?, note, begin: None })
    }

    /// The next records to look at.
    pub(in crate::apply) fn frame(&mut self) -> Result<Frame, Fault> {
        self.reader.try_next()?.ok_or_else(|| self.gone())
    }

    /// What a record of the frame says. [`Fault::person`] where the transaction should have come by now.
    pub(in crate::apply) fn read<'m>(
        &mut self,
        record: Result<&'m [u8], impl std::fmt::Display>,
    ) -> Result<Option<Said<'m>>, Fault> {
        let message = decode(record.map_err(|error| self.unreadable(&error))?);
        let message = message.map_err(|error| self.unreadable(&error))?;
        Ok(match (message, self.begin) {
            (Message::Begin(begin), _) => {
                self.begin = Some(begin).filter(|begin| begin.commit_lsn == self.note.commit_lsn);
                None
            }
            (Message::Commit(_), Some(begin)) => Some(Said::Commit(begin)),
            (Message::Commit(commit), None) if commit.end > self.note.lsn => return Err(self.gone()),
            (definition @ (Message::Relation(_) | Message::Type { .. }), _) => {
                Some(Said::Definition(definition))
            }
            (change, Some(begin)) => Some(Said::Change(begin, change)),
            (_, None) => None,
        })
    }

    fn unreadable(&self, error: &impl std::fmt::Display) -> Fault {
        Fault::person(format!("the log after {} can't be read: {error}", self.note.commit_lsn))
    }

    fn gone(&self) -> Fault {
        let lsn = self.note.lsn;
        Fault::person(format!("the log does not have the transaction that ends at {lsn} and is set aside"))
            .hint("give the archive that belongs to this target; or pgsluice dead skip does without it")
    }
}
