//! What a segment says of its own content: commits, relations, pins, totals, chain. Built record by record while writing, and
//! again from the bytes by recovery and verification, so that both can be compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Position, Timestamp, Xid};

use super::pin::pin_name;
use super::{Chain, Damage, Peek, PinEntry, Records, peek, relation_name, truncated_oids};

/// One transaction, by what its Begin and Commit say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub end: Position,
    pub time: Timestamp,
    pub xid: Xid,
}

/// A relation as this segment knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelationEntry {
    pub oid: u32,
    /// In the source's encoding; of the latest version.
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Of its change messages.
    pub bytes: u64,
    pub versions: Vec<RelationVersion>,
}

/// A Relation message that differs from the one before it in this segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationVersion {
    /// The frame that holds it, counted from zero.
    pub frame: u32,
    /// It holds for the commits that end after this position.
    pub after: Position,
    pub message: Arc<[u8]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub transactions: u64,
    pub changes: u64,
    pub raw_bytes: u64,
    /// The least and the greatest commit time, both zero where there is no transaction; not those of the first and
    /// the last commit, since commit times are not ordered by position.
    pub first_time: Timestamp,
    pub last_time: Timestamp,
}

/// What one frame was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameContent {
    pub transactions: u32,
    pub changes: u32,
    pub has_relations: bool,
    pub starts_in_transaction: bool,
    pub ends_on_commit: bool,
    pub first: Option<Position>,
    pub last: Option<Position>,
}

/// How relations, totals and frames stood.
type Undo = (BTreeMap<u32, RelationEntry>, Totals, u32);

/// The running account of a segment.
#[derive(Clone, Debug)]
pub struct Ledger {
    chain: Chain,
    /// The end of the last commit, or idle progress.
    through: Position,
    xid: Option<Xid>,
    commits: Vec<Commit>,
    pins: Vec<PinEntry>,
    /// Of the transaction in hand.
    pin_names: Vec<String>,
    relations: BTreeMap<u32, RelationEntry>,
    totals: Totals,
    frames: u32,
    /// Before the unfinished transaction's first frame.
    undo: Option<Box<Undo>>,
}

const NESTING: Damage = Damage::Malformed("the order of begin, change and commit");

impl Ledger {
    pub fn new(after: Position, chain: [u8; 32]) -> Ledger {
        Ledger {
            chain: Chain::from_value(chain),
            through: after,
            xid: None,
            commits: Vec::new(),
            pins: Vec::new(),
            pin_names: Vec::new(),
            relations: BTreeMap::new(),
            totals: Totals::default(),
            frames: 0,
            undo: None,
        }
    }

    pub fn through(&self) -> Position {
        self.through
    }

    pub fn chain(&self) -> [u8; 32] {
        self.chain.value()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// In the order of the log.
    pub fn pins(&self) -> &[PinEntry] {
        &self.pins
    }

    /// Ordered by OID.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = &RelationEntry> {
        self.relations.values()
    }

    /// Takes a frame's records in. `through` is where the log stands with it, which idle progress may put beyond the
    /// last commit. After an error the ledger is of no more use.
    pub fn frame(
        &mut self,
        raw: &[u8],
        ends_on_commit: bool,
        through: Position,
    ) -> Result<FrameContent, Damage> {
        if !ends_on_commit && self.undo.is_none() {
            self.undo = Some(Box::new((self.relations.clone(), self.totals, self.frames)));
        }
        let mut content = FrameContent {
            transactions: 0,
            changes: 0,
            has_relations: false,
            starts_in_transaction: self.xid.is_some(),
            ends_on_commit: true,
            first: None,
            last: None,
        };
        for message in Records::new(raw) {
            self.message(message?, &mut content)?;
        }
        content.ends_on_commit = self.xid.is_none();
        if content.ends_on_commit != ends_on_commit || through < self.through {
            return Err(NESTING);
        }
        if ends_on_commit {
            self.through = through;
            self.undo = None;
        } else if content.transactions > 0 || through != self.through {
            return Err(NESTING);
        }
        self.totals.raw_bytes = self.totals.raw_bytes.saturating_add(raw.len() as u64);
        self.frames = self.frames.saturating_add(1);
        Ok(content)
    }

    /// Forgets the frames of the unfinished transaction.
    pub fn discard(&mut self) {
        self.chain.discard();
        self.xid = None;
        self.pin_names.clear();
        if let Some(undo) = self.undo.take() {
            (self.relations, self.totals, self.frames) = *undo;
        }
    }

    fn message(&mut self, message: &[u8], content: &mut FrameContent) -> Result<(), Damage> {
        let kind = peek(message)?;
        if !matches!(kind, Peek::Relation { .. } | Peek::Type { .. }) {
            self.chain.message(message);
        }
        match kind {
            Peek::Insert { relation } => self.change(message, relation, content)?.inserts += 1,
            Peek::Update { relation } => self.change(message, relation, content)?.updates += 1,
            Peek::Delete { relation } => self.change(message, relation, content)?.deletes += 1,
            Peek::Truncate => {
                for relation in truncated_oids(message) {
                    self.relation(relation).truncates += 1;
                }
                self.count_change(content)?;
            }
            Peek::Begin { xid, .. } => {
                if self.xid.replace(xid).is_some() {
                    return Err(NESTING);
                }
            }
            Peek::Commit { end, time } => self.commit(end, time, content)?,
            Peek::Relation { oid } => {
                content.has_relations = true;
                self.describe(oid, message)?;
            }
            Peek::Type { .. } => content.has_relations = true,
            Peek::Message { .. } if self.xid.is_none() => self.chain.commit(),
            Peek::Message { .. } => self.pin_names.extend(pin_name(message)),
            Peek::Origin if self.xid.is_some() => {}
            Peek::Origin => return Err(NESTING),
        }
        Ok(())
    }

    fn relation(&mut self, oid: u32) -> &mut RelationEntry {
        self.relations.entry(oid).or_insert_with(|| RelationEntry { oid, ..RelationEntry::default() })
    }

    fn count_change(&mut self, content: &mut FrameContent) -> Result<(), Damage> {
        if self.xid.is_none() {
            return Err(NESTING);
        }
        content.changes = content.changes.saturating_add(1);
        self.totals.changes = self.totals.changes.saturating_add(1);
        Ok(())
    }

    fn change(
        &mut self,
        message: &[u8],
        relation: u32,
        content: &mut FrameContent,
    ) -> Result<&mut RelationEntry, Damage> {
        self.count_change(content)?;
        let entry = self.relation(relation);
        entry.bytes = entry.bytes.saturating_add(message.len() as u64);
        Ok(entry)
    }

    fn commit(&mut self, end: Position, time: Timestamp, content: &mut FrameContent) -> Result<(), Damage> {
        let xid = self.xid.take().ok_or(NESTING)?;
        if end <= self.through {
            return Err(Damage::Malformed("the order of the commits"));
        }
        self.chain.commit();
        self.through = end;
        self.commits.push(Commit { end, time, xid });
        self.pins.extend(self.pin_names.drain(..).map(|name| PinEntry { name, end }));
        let totals = &mut self.totals;
        if totals.transactions == 0 {
            (totals.first_time, totals.last_time) = (time, time);
        }
        totals.first_time = totals.first_time.min(time);
        totals.last_time = totals.last_time.max(time);
        totals.transactions += 1;
        content.transactions = content.transactions.saturating_add(1);
        content.first = content.first.or(Some(end));
        content.last = Some(end);
        Ok(())
    }

    fn describe(&mut self, oid: u32, message: &[u8]) -> Result<(), Damage> {
        let names = relation_name(message)?;
        let version = RelationVersion { frame: self.frames, after: self.through, message: message.into() };
        let entry = self.relation(oid);
        if entry.versions.last().is_none_or(|last| *last.message != *message) {
            entry.schema = names.schema.into();
            entry.name = names.name.into();
            entry.versions.push(version);
        }
        Ok(())
    }
}
