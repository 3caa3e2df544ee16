//! What is known of sealed segments without opening them: the rows of the catalog, and what that misses of a second one, `seen/`,
//! which whoever looks fills from footers, several at a time. So the footers of a store are fetched once, and by ranges.
//!
//! The catalog proper is written by the receiver alone, and nobody who looks can come in its way. Both are derived: what does
//! not fit a segment as it is now (another end, another length) is not taken.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Catalog, SegmentRow, SegmentRows, TableRow};
use crate::model::{Fault, Position, Xid};
use crate::segment::{Footer, SegmentName, Trailer};

use super::abreast::abreast;
use super::{Archive, disk, indexer};

const SEEN: &str = "seen";
/// Fewer footers of a folder are not worth to be kept.
const KEPT_MIN: usize = 64;
/// More than that take a while, which a person is told.
const MANY: usize = 2_000;

/// How many segments are looked at side by side.
pub(crate) fn width(archive: &Archive) -> usize {
    if archive.has_store() { 16 } else { 4 }
}

/// Rows of sealed segments.
#[derive(Default)]
pub(super) struct Known {
    catalogs: Vec<Catalog>,
    /// With the number of the catalog that has the rest; without one that is in `learnt`.
    segments: BTreeMap<Position, (SegmentRow, Option<usize>)>,
    learnt: Vec<SegmentRows>,
}

impl Known {
    /// Of segments that follow each other in a log that begins there. `None` where one went away meanwhile.
    pub(super) fn of(
        archive: &Archive,
        names: &[SegmentName],
        beginning: Position,
    ) -> Result<Option<Known>, Fault> {
        let mut known = Known::default();
        let (Some(first), Some(last)) = (names.first(), names.last()) else { return Ok(Some(known)) };
        let id = archive.manifest().archive_id.0;
        let mut there = Vec::new();
        for folder in [archive.catalog_folder(), archive.root().join(SEEN)] {
            let Some(catalog) = Catalog::open_to_look(&folder, id) else { continue };
            // As far as it can be read.
            let rows = catalog.segments_from(first.after).map_while(Result::ok);
            let rows = rows.take_while(|row| row.after <= last.after).map(|row| (row.after, row));
            there.push(rows.collect::<BTreeMap<_, _>>());
            known.catalogs.push(catalog);
        }
        let mut missing = Vec::new();
        for name in names.iter().filter(|name| name.through.is_some()) {
            let Some(bytes) = archive.size_bytes(*name)? else { return Ok(None) };
            let fits = |row: &&SegmentRow| (Some(row.through), row.bytes) == (name.through, bytes);
            let mut rows = there.iter().map(|rows| rows.get(&name.after).filter(fits)).zip(0..);
            match rows.find_map(|(row, number)| Some((*row?, number))) {
                Some((row, number)) => _ = known.segments.insert(name.after, (row, Some(number))),
                None => missing.push(*name),
            }
        }
        Ok(known.learn(archive, &missing, beginning)?.then_some(known))
    }

    /// Reads the footers of what is missing, and keeps what they give, a segment at a time, so that a look that is cut short was not
    /// for nothing. `false` where one is gone.
    fn learn(
        &mut self,
        archive: &Archive,
        missing: &[SegmentName],
        beginning: Position,
    ) -> Result<bool, Fault> {
        if missing.is_empty() {
            return Ok(true);
        }
        if missing.len() > MANY {
            tracing::info!(segments = missing.len(), "reading footers, which is done once");
        }
        let keeper = if archive.has_store() || missing.len() >= KEPT_MIN {
            let opened = Catalog::open_unread(&archive.root().join(SEEN), archive.manifest().archive_id.0);
            // Another may be at it, or the folder is not for us to write: it works without.
            opened.inspect_err(|error| tracing::debug!(%error, "footers are not remembered")).ok()
        } else {
            None
        };
        let number = self.catalogs.len();
        let mut all_there = true;
        let read = |name: &SegmentName| indexer::segment_rows(archive, *name);
        abreast(missing, width(archive), read, |name, rows| {
            let Some(rows) = rows? else {
                all_there = false;
                return Ok(false);
            };
            // It works without what can't be kept.
            let kept = keeper.as_ref().filter(|catalog| renew(catalog, &rows).is_ok());
            let number = kept.map(|_| number);
            self.segments.insert(name.after, (rows.segment, number));
            if number.is_none() {
                self.learnt.push(rows);
            }
            Ok(true)
        })?;
        if let Some(catalog) = keeper {
            if let Err(error) = indexer::forget_before(&catalog, beginning) {
                tracing::debug!(%error, "what was pruned stays among the footers that are remembered");
            }
            self.catalogs.push(catalog);
        }
        Ok(all_there)
    }

    pub(super) fn segment(&self, name: SegmentName) -> Option<&SegmentRow> {
        self.segments.get(&name.after).map(|(row, _)| row).filter(|row| Some(row.through) == name.through)
    }

    /// What happened to tables in these segments.
    pub(super) fn tables(&self, mut each: impl FnMut(&TableRow)) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (self.segments.first_key_value(), self.segments.last_key_value())
        else {
            return Ok(());
        };
        for (catalog, number) in self.catalogs.iter().zip(0..) {
            for row in catalog.tables_from(*first.0) {
                let row = row?;
                if row.segment > *last.0 {
                    break;
                }
                if self.segments.get(&row.segment).is_some_and(|(_, from)| *from == Some(number)) {
                    each(&row);
                }
            }
        }
        self.learnt.iter().flat_map(|rows| &rows.tables).for_each(each);
        Ok(())
    }

    /// Relation messages, also some of segments that are gone.
    pub(super) fn relations(&self, mut each: impl FnMut(u32, &[u8])) -> Result<(), Fault> {
        for catalog in &self.catalogs {
            for relation in catalog.relations() {
                let (oid, message) = relation?;
                each(oid, &message);
            }
        }
        let learnt = self.learnt.iter().flat_map(|rows| &rows.relations);
        learnt.for_each(|relation| each(relation.oid, &relation.message));
        Ok(())
    }

    /// Where the segments begin that may hold a transaction of that xid.
    pub(super) fn of_xid(&self, xid: Xid) -> Result<BTreeSet<Position>, Fault> {
        let mut found = BTreeSet::new();
        for (catalog, number) in self.catalogs.iter().zip(0..) {
            let frames = catalog.frames_of_xid(xid)?.into_iter().map(|frame| frame.segment);
            let is_its = |segment: &Position| {
                self.segments.get(segment).is_some_and(|(_, from)| *from == Some(number))
            };
            found.extend(frames.filter(is_its));
        }
        let learnt = self.learnt.iter().flat_map(|rows| &rows.frames);
        let may = learnt.filter(|frame| (frame.xid_min..=frame.xid_max).contains(&xid.0));
        found.extend(may.map(|frame| frame.segment));
        Ok(found)
    }

    /// Where the segments begin that have a pin of that name.
    pub(super) fn of_pin(&self, name: &str) -> Result<BTreeSet<Position>, Fault> {
        let mut found = BTreeSet::new();
        for (catalog, number) in self.catalogs.iter().zip(0..) {
            for pin in catalog.pins_from(Position::ZERO) {
                let pin = pin?;
                let is_its = |(_, from): &(SegmentRow, Option<usize>)| *from == Some(number);
                if pin.name == name && self.segments.get(&pin.segment).is_some_and(is_its) {
                    found.insert(pin.segment);
                }
            }
        }
        let learnt = self.learnt.iter().flat_map(|rows| &rows.pins);
        found.extend(learnt.filter(|pin| pin.name == name).map(|pin| pin.segment));
        Ok(found)
    }
}

/// Removes what those who looked have kept.
pub(super) fn forget_all(archive: &Archive) -> Result<(), Fault> {
    let folder = archive.root().join(SEEN);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(disk::fault("cannot clear", &folder, &error))
        }
        _ => Ok(()),
    }
}

/// Enters a segment; another form of it is forgotten first.
fn renew(catalog: &Catalog, rows: &SegmentRows) -> Result<(), Fault> {
    if let Some(old) = catalog.segment(rows.segment.after)?
        && old != rows.segment
    {
        catalog.forget(&old)?;
    }
    catalog.index(rows)
}

/// The receiver's catalog, to be held against the segments.
pub(crate) struct Index(Option<Catalog>);

impl Index {
    pub(crate) fn open(archive: &Archive) -> Index {
        Index(Catalog::open_to_look(&archive.catalog_folder(), archive.manifest().archive_id.0))
    }

    /// Whether it says of a segment what that says of itself; `None` where it does not have it as it is now.
    pub(crate) fn agrees(
        &self,
        name: SegmentName,
        (trailer, footer): (&Trailer, &Footer),
        bytes: u64,
    ) -> Option<bool> {
        let catalog = self.0.as_ref()?;
        // What can't be read does not agree.
        catalog.agrees(&indexer::rows(name, trailer, footer, bytes)).unwrap_or(Some(false))
    }
}
