//! What an archive holds: totals, and events table by table, up to its durable end. Reads only, and takes no lock.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;

use crate::archive::{Archive, Mark, SegmentFile};
use crate::model::{Fault, Position};
use crate::segment::{
    FrameEntry, FrameScratch, HEADER_BYTES, Peek, Records, SegmentName, peek, relation_name, truncated_oids,
};

/// Events of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) applied: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) transactions: u64,
    pub(crate) changes: u64,
    /// Transactions that are not applied yet.
    pub(crate) pending: u64,
    pub(crate) tables: BTreeMap<String, Tally>,
}

impl Contents {
    /// `replay` is how far a target is; nothing counts as applied without one.
    pub(crate) fn read(archive: &Archive, replay: Option<Position>) -> Result<Contents, Fault> {
        let replay = replay.unwrap_or(Position::ZERO);
        // A segment that is sealed, and so renamed, between listing and opening is met under its new name.
        for _ in 0..5 {
            if let Some(contents) = Contents::attempt(archive, replay)? {
                return Ok(contents);
            }
        }
        Err(Fault::retry(format!(
            "the segments of {} change faster than they can be listed",
            archive.root().display()
        )))
    }

    fn attempt(archive: &Archive, replay: Position) -> Result<Option<Contents>, Fault> {
        let mark = Mark::read(archive.root()).map_err(|error| {
            Fault::stop(format!("reading the durable mark of {}: {error}", archive.root().display()))
        })?;
        let names = archive.listing()?;
        let start = names.first().map_or(archive.manifest().start, |name| name.after);
        let mut contents = Contents { first: start, last: start, ..Contents::default() };
        for name in names {
            let Some(file) = SegmentFile::open(archive, name)? else { return Ok(None) };
            let counted = match name.through {
                Some(through) => contents.add_sealed(file, name, through, replay)?,
                None => match mark.filter(|mark| mark.segment == name.after) {
                    Some(mark) => contents.add_open(&file, mark, replay)?,
                    None => false,
                },
            };
            contents.segments += u64::from(counted);
        }
        Ok(Some(contents))
    }

    fn add_sealed(
        &mut self,
        mut file: SegmentFile,
        name: SegmentName,
        through: Position,
        replay: Position,
    ) -> Result<bool, Fault> {
        let (trailer, footer) = file.sealed(name)?;
        self.last = through;
        self.bytes += file.size_bytes()?;
        self.raw_bytes += trailer.totals.raw_bytes;
        self.transactions += trailer.totals.transactions;
        self.changes += trailer.totals.changes;
        self.pending += footer.commits.iter().filter(|commit| commit.end > replay).count() as u64;
        let partly = replay > name.after && replay < through;
        let applied = if partly {
            count(&file, &footer.frames, trailer.footer_offset, replay)?.applied
        } else {
            HashMap::new()
        };
        for relation in &footer.relations {
            let events =
                [relation.inserts, relation.updates, relation.deletes, relation.truncates].iter().sum();
            let tally = self.tables.entry(shown(&relation.schema, &relation.name)).or_default();
            tally.received += events;
            tally.bytes += relation.bytes;
            tally.applied +=
                if replay >= through { events } else { applied.get(&relation.oid).copied().unwrap_or(0) };
        }
        Ok(true)
    }

    fn add_open(&mut self, file: &SegmentFile, mark: Mark, replay: Position) -> Result<bool, Fault> {
        let mut frames = Vec::new();
        let mut offset = HEADER_BYTES as u64;
        while offset < mark.offset {
            let header = file.frame_header(offset, mark.offset)?;
            self.raw_bytes += u64::from(header.raw_len);
            self.transactions += u64::from(header.transactions);
            self.changes += u64::from(header.changes);
            frames.push(FrameEntry { offset, header });
            offset = offset.saturating_add(header.len());
        }
        self.last = mark.position;
        self.bytes += mark.offset;
        let all = count(file, &frames, mark.offset, Position(u64::MAX))?;
        let applied = if replay >= mark.position {
            all.applied.clone()
        } else {
            count(file, &frames, mark.offset, replay)?.applied
        };
        self.pending += all.ends.iter().filter(|end| **end > replay).count() as u64;
        for (oid, name) in &all.names {
            let tally = self.tables.entry(name.clone()).or_default();
            tally.received += all.applied.get(oid).copied().unwrap_or(0);
            tally.applied += applied.get(oid).copied().unwrap_or(0);
            tally.bytes += all.bytes.get(oid).copied().unwrap_or(0);
        }
        Ok(true)
    }
}

/// Whether a receiver holds the archive's lock. The lock is shared for an instant to find out, never kept.
pub(crate) fn has_receiver(archive: &Archive) -> Result<bool, Fault> {
    let path = archive.root().join("lock");
    let fault = |error: &std::io::Error| Fault::stop(format!("looking at {}: {error}", path.display()));
    match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(fault(&error)),
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(fault(&error)),
        },
    }
}

/// `schema.table` for people; names are in the source's encoding.
fn shown(schema: &[u8], name: &[u8]) -> String {
    format!("{}.{}", String::from_utf8_lossy(schema), String::from_utf8_lossy(name))
}

/// What the transactions up to a position hold, by the relation's OID.
#[derive(Default)]
struct Counted {
    names: HashMap<u32, String>,
    applied: HashMap<u32, u64>,
    bytes: HashMap<u32, u64>,
    /// Of each transaction, whether covered or not.
    ends: Vec<Position>,
}

fn count(file: &SegmentFile, frames: &[FrameEntry], limit: u64, replay: Position) -> Result<Counted, Fault> {
    let damage = |damage| Fault::person(format!("segment {} is damaged: {damage}", file.name()));
    let mut counted = Counted::default();
    let mut scratch = FrameScratch::default();
    let mut transaction: Vec<(u32, u64)> = Vec::new();
    for frame in frames.iter().take_while(|frame| frame.header.first <= replay) {
        let (_, raw) = file.frame(frame.offset, limit, &mut scratch)?;
        for message in Records::new(&raw) {
            let message = message.map_err(damage)?;
            let size = message.len() as u64;
            match peek(message).map_err(damage)? {
                Peek::Relation { oid } => {
                    let relation = relation_name(message).map_err(damage)?;
                    counted.names.insert(oid, shown(relation.schema, relation.name));
                }
                Peek::Insert { relation } | Peek::Update { relation } | Peek::Delete { relation } => {
                    transaction.push((relation, size));
                }
                Peek::Truncate => transaction.extend(truncated_oids(message).map(|oid| (oid, 0))),
                Peek::Commit { end, .. } => {
                    counted.ends.push(end);
                    let changes = std::mem::take(&mut transaction);
                    for (oid, size) in changes.into_iter().filter(|_| end <= replay) {
                        *counted.applied.entry(oid).or_default() += 1;
                        *counted.bytes.entry(oid).or_default() += size;
                    }
                }
                Peek::Begin { .. } | Peek::Type { .. } | Peek::Origin | Peek::Message { .. } => {}
            }
        }
    }
    Ok(counted)
}
