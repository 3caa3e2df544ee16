//! From messages to frames: what goes into the frame in hand, what is written before it, and where it is cut. Pure.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::model::{Fault, Position};
use crate::segment::{Cut, MESSAGE_BYTES_MAX, Peek, peek, push_record, relation_type_oids, truncated_oids};

/// A frame is closed at the first commit from here on.
const FRAME_BYTES: usize = 1 << 20;
/// A transaction is cut when the frame in hand gets as long as this.
const FRAME_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Builder {
    raw: Vec<u8>,
    /// How much of `raw` is of whole transactions.
    committed: usize,
    in_transaction: bool,
    /// Whether frames of the unfinished transaction were given away already.
    spilled: bool,
    through: Position,
    /// How far the frames that were given away go.
    sent: Position,
    /// The last definition of each relation and type, and those that this segment holds already.
    relations: HashMap<u32, Box<[u8]>>,
    types: HashMap<u32, Box<[u8]>>,
    described: HashSet<u32>,
    described_types: HashSet<u32>,
    /// A relation that this segment describes: most changes are of the same one as the change before.
    last_relation: Option<u32>,
}

impl Builder {
    pub(super) fn new(through: Position) -> Builder {
        Builder { through, sent: through, ..Builder::default() }
    }

    pub(super) fn received(&self) -> Position {
        self.through
    }

    /// Bytes up to the last commit in hand.
    pub(super) fn committed(&self) -> usize {
        self.committed
    }

    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Takes one message in. `true` when it completed a transaction.
    pub(super) fn append(&mut self, message: &[u8]) -> Result<bool, Fault> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Fault::stop(format!(
                "a message of {} bytes after {} is too long",
                message.len(),
                self.through
            )));
        }
        let kind = peek(message).map_err(|damage| {
            Fault::stop(format!("a message after {} is not understood: {damage}", self.through))
                .hint("the log takes pgoutput messages of protocol version 1")
        })?;
        match kind {
            Peek::Insert { relation } | Peek::Update { relation } | Peek::Delete { relation } => {
                self.expect_transaction("a change")?;
                if self.last_relation != Some(relation) {
                    self.describe(relation)?;
                    self.last_relation = Some(relation);
                }
            }
            Peek::Begin { .. } => {
                if self.in_transaction {
                    return Err(self.disorder("a begin inside a transaction"));
                }
                self.in_transaction = true;
            }
            Peek::Commit { end, .. } => {
                self.expect_transaction("a commit")?;
                if end <= self.through {
                    return Err(self.disorder(&format!("a commit that ends at {end}")));
                }
                self.in_transaction = false;
                self.spilled = false;
                self.through = end;
                push_record(&mut self.raw, message);
                self.committed = self.raw.len();
                return Ok(true);
            }
            Peek::Relation { oid } => {
                self.relations.insert(oid, message.into());
                self.described.insert(oid);
            }
            Peek::Type { oid } => {
                self.types.insert(oid, message.into());
                self.described_types.insert(oid);
            }
            Peek::Truncate => {
                self.expect_transaction("a truncate")?;
                for relation in truncated_oids(message) {
                    self.describe(relation)?;
                }
            }
            Peek::Origin => self.expect_transaction("an origin")?,
            Peek::Message { .. } if !self.in_transaction => {
                push_record(&mut self.raw, message);
                self.committed = self.raw.len();
                return Ok(false);
            }
            Peek::Message { .. } => {}
        }
        push_record(&mut self.raw, message);
        Ok(false)
    }

    fn expect_transaction(&self, what: &str) -> Result<(), Fault> {
        if self.in_transaction {
            Ok(())
        } else {
            Err(self.disorder(&format!("{what} outside of a transaction")))
        }
    }

    fn disorder(&self, what: &str) -> Fault {
        Fault::stop(format!("the source sent {what}, after {}", self.through))
            .hint("start again: the source repeats what is not yet acknowledged")
    }

    /// Writes a relation's definition, with the types of its columns, where this segment has none yet.
    fn describe(&mut self, oid: u32) -> Result<(), Fault> {
        if self.described.contains(&oid) {
            return Ok(());
        }
        let Some(relation) = self.relations.get(&oid) else {
            return Err(self.disorder(&format!("a change of relation {oid}, which it has not described")));
        };
        for type_oid in relation_type_oids(relation) {
            if let Some(definition) = self.types.get(&type_oid)
                && self.described_types.insert(type_oid)
            {
                push_record(&mut self.raw, definition);
            }
        }
        push_record(&mut self.raw, relation);
        self.described.insert(oid);
        Ok(())
    }

    /// The next frame, when there is enough for one. To be asked again until there is none.
    pub(super) fn due(&mut self) -> Option<Cut> {
        if self.raw.len() < FRAME_BYTES {
            return None;
        }
        if self.committed >= FRAME_BYTES || (self.raw.len() >= FRAME_BYTES_MAX && self.committed > 0) {
            return Some(self.take_committed());
        }
        if self.raw.len() < FRAME_BYTES_MAX || !self.in_transaction {
            return None;
        }
        self.spilled = true;
        let raw = self.take(self.raw.len());
        Some(Cut { raw, ends_on_commit: false, through: self.sent })
    }

    /// All that is whole, or idle progress alone.
    pub(super) fn flush(&mut self) -> Option<Cut> {
        // Behind a part of a transaction nothing is whole, and idle progress is only taken between transactions.
        let fresh = self.committed > 0 || (self.through > self.sent && !self.spilled);
        fresh.then(|| self.take_committed())
    }

    fn take_committed(&mut self) -> Cut {
        let raw = self.take(self.committed);
        self.sent = self.through;
        Cut { raw, ends_on_commit: true, through: self.through }
    }

    /// The first `length` bytes in hand. Small frames are copied, so that they don't keep a large buffer alive.
    fn take(&mut self, length: usize) -> Bytes {
        self.committed = 0;
        let head = self.raw.get(..length).unwrap_or_default();
        if length < self.raw.capacity() / 2 {
            let head = Bytes::copy_from_slice(head);
            self.raw.drain(..length);
            return head;
        }
        let rest = self.raw.split_off(length);
        let mut fresh = Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 8);
        fresh.extend_from_slice(&rest);
        Bytes::from(std::mem::replace(&mut self.raw, fresh))
    }

    /// Idle progress: nothing before `through` is pending. Ignored inside a transaction.
    pub(super) fn progress(&mut self, through: Position) {
        if !self.in_transaction {
            self.through = self.through.max(through);
        }
    }

    /// Forgets the unfinished transaction. `true` when frames of it were given away.
    pub(super) fn discard(&mut self) -> bool {
        self.raw.truncate(self.committed);
        self.in_transaction = false;
        // Definitions may have gone with it; those that are repeated needlessly cost little.
        self.start_segment();
        std::mem::take(&mut self.spilled)
    }

    /// From here on records go to another segment, which describes its relations itself. Only between transactions,
    /// with nothing in hand but definitions, which are repeated when they are used.
    pub(super) fn start_segment(&mut self) {
        self.raw.truncate(self.committed);
        self.described.clear();
        self.described_types.clear();
        self.last_relation = None;
    }
}
