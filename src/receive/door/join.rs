//! A transaction that was spooled enters the log at its commit, in the form of one that came whole.

use std::collections::HashMap;

use crate::archive::Writer;
use crate::model::Fault;
use crate::pgoutput::{Begin, Commit, encode_begin, encode_commit};

use super::spool::{Entries, Spooled};

/// Bytes that are handed on at most before the pump looks up.
const STEP_BYTES: usize = 1 << 20;

/// Relation and Type messages by their tag and OID.
pub(super) type Definitions = HashMap<[u8; 5], Box<[u8]>>;

/// The tag and OID of a Relation or Type message.
pub(super) fn key(definition: &[u8]) -> Option<[u8; 5]> {
    definition.first_chunk().copied()
}

pub(super) struct Join {
    entries: Entries,
    begin: Begin,
    commit: Commit,
    /// The log has the transaction already.
    known: bool,
    begun: bool,
    /// Sent before all changes, but to be written behind the Begin message.
    origin: Option<Vec<u8>>,
    /// The last definitions that were handed on.
    described: Definitions,
}

impl Join {
    pub(super) fn new(spooled: Spooled, begin: Begin, commit: Commit, known: bool) -> Join {
        Join {
            entries: spooled.entries(),
            begin,
            commit,
            known,
            begun: false,
            origin: None,
            described: Definitions::new(),
        }
    }

    /// Hands on as much as the log takes now. `true` when all of it is there. `newest` are the definitions that were sent
    /// last, by whichever transaction.
    pub(super) fn step(&mut self, newest: &Definitions, writer: &mut Writer) -> Result<bool, Fault> {
        let mut bytes = 0;
        while bytes < STEP_BYTES && !writer.is_full() {
            let Some(message) = self.entries.next()? else {
                self.finish(newest, writer)?;
                return Ok(true);
            };
            bytes += message.len();
            match message.first() {
                // They count even where the log has the transaction: the source won't repeat them.
                Some(b'R' | b'Y') => {
                    writer.append(message)?;
                    key(message).map(|key| self.described.insert(key, message.into()));
                }
                _ if self.known => {}
                Some(b'O') => self.origin = Some(message.to_vec()),
                _ => {
                    // Only now: the source does not send transactions whole that have no changes.
                    if !std::mem::replace(&mut self.begun, true) {
                        writer.append(&encode_begin(&self.begin))?;
                        if let Some(origin) = self.origin.take() {
                            writer.append(&origin)?;
                        }
                    }
                    writer.append(message)?;
                }
            }
        }
        Ok(false)
    }

    fn finish(&mut self, newest: &Definitions, writer: &mut Writer) -> Result<(), Fault> {
        if self.begun {
            writer.append(&encode_commit(&self.commit))?;
        }
        // A definition of this transaction may be older than one that another transaction brought meanwhile, which the
        // source takes to be in force and does not repeat.
        for (key, described) in self.described.drain() {
            if let Some(newest) = newest.get(&key)
                && *newest != described
            {
                writer.append(newest)?;
            }
        }
        Ok(())
    }
}
