//! What of an archive a target has still to apply, table by table. Reads only, takes no lock, and opens only the segments
//! that reach beyond the target's position.

use std::collections::{BTreeMap, HashMap};

use crate::archive::{self, Archive, Mark, SegmentFile};
use crate::model::{Fault, Position};
use crate::segment::{
    FrameScratch, HEADER_BYTES, Peek, Records, SegmentName, peek, relation_name, truncated_oids,
};

/// Transactions that end after a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub transactions: u64,
    /// Events by `schema.table`.
    pub tables: BTreeMap<String, u64>,
}

impl Pending {
    pub fn read(archive: &Archive, replay: Position) -> Result<Pending, Fault> {
        // A segment that is sealed, and so renamed, between listing and opening is met under its new name.
        for _ in 0..10 {
            if let Some(pending) = Pending::attempt(archive, replay)? {
                return Ok(pending);
            }
        }
        Err(Fault::retry(format!(
            "segments of {} come and go while they are listed",
            archive.root().display()
        )))
    }

    fn attempt(archive: &Archive, replay: Position) -> Result<Option<Pending>, Fault> {
        let listing = archive.listing()?;
        let is_whole = |name: &&SegmentName| name.after >= replay && name.through.is_some();
        let whole: Vec<_> = listing.iter().filter(is_whole).copied().collect();
        let Some((transactions, tables)) = archive::events(archive, &whole)? else { return Ok(None) };
        let mut pending = Pending { transactions, tables };
        for name in listing {
            if is_whole(&&name) || name.through.is_some_and(|through| through <= replay) {
                continue;
            }
            let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
            if name.through.is_none() {
                let mark = Mark::read(archive.root()).map_err(|error| {
                    Fault::stop(format!("reading the durable mark of {}: {error}", archive.root().display()))
                })?;
                match mark {
                    Some(mark) if mark.segment == name.after => pending.count(&file, mark.offset, replay)?,
                    Some(mark) if mark.segment > name.after => return Ok(None),
                    _ => {}
                }
                continue;
            }
            let (trailer, _) = file.sealed(name)?;
            pending.count(&file, trailer.footer_offset, replay)?;
        }
        Ok(Some(pending))
    }

    fn table(&mut self, name: String) -> &mut u64 {
        self.tables.entry(name).or_default()
    }

    /// Goes through the frames up to `limit` and counts what ends after `replay`.
    fn count(&mut self, file: &SegmentFile, limit: u64, replay: Position) -> Result<(), Fault> {
        let damage = |damage| Fault::person(format!("segment {} is damaged: {damage}", file.name()));
        let mut names: HashMap<u32, String> = HashMap::new();
        let mut scratch = FrameScratch::default();
        let mut transaction: Vec<u32> = Vec::new();
        let mut offset = HEADER_BYTES as u64;
        while offset < limit {
            let header = file.frame_header(offset, limit)?;
            let start = offset;
            offset = offset.saturating_add(header.len());
            // Whole transactions that are applied, and nothing that explains later ones.
            let whole = header.ends_on_commit && !header.starts_in_transaction && !header.has_relations;
            if whole && header.through <= replay {
                continue;
            }
            let (_, raw) = file.frame(start, limit, &mut scratch)?;
            for message in Records::new(&raw) {
                let message = message.map_err(damage)?;
                match peek(message).map_err(damage)? {
                    Peek::Relation { oid } => {
                        let relation = relation_name(message).map_err(damage)?;
                        names.insert(oid, shown(relation.schema, relation.name));
                    }
                    Peek::Insert { relation } | Peek::Update { relation } | Peek::Delete { relation } => {
                        transaction.push(relation);
                    }
                    Peek::Truncate => transaction.extend(truncated_oids(message)),
                    Peek::Commit { end, .. } => {
                        let events = std::mem::take(&mut transaction);
                        if end > replay {
                            self.transactions += 1;
                            let named = events.iter().filter_map(|oid| names.get(oid));
                            named.for_each(|name| *self.table(name.clone()) += 1);
                        }
                    }
                    Peek::Begin { .. } | Peek::Type { .. } | Peek::Origin | Peek::Message { .. } => {}
                }
            }
        }
        Ok(())
    }
}

/// As the archive's own totals name tables; in the source's encoding.
fn shown(schema: &[u8], name: &[u8]) -> String {
    format!("{}.{}", String::from_utf8_lossy(schema), String::from_utf8_lossy(name))
}
