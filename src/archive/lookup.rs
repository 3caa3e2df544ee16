//! Finding transactions: by position, by commit time, by xid. The catalog narrows the search where it can be opened and
//! knows all segments; the answer itself always comes from the segments.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::catalog::Catalog;
use crate::model::{Fault, Position, Timestamp, Xid};
use crate::segment::SegmentName;

use super::inspect::{Contents, contents, steadily};
use super::{Archive, SegmentFile};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The first transaction whose commit ends at or behind it.
    Lsn(Position),
    /// The first, in the order of the log, that committed then or later.
    Time(Timestamp),
    /// All of that xid; there may be several, since xids wrap.
    Xid(Xid),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The end of its commit, which names it.
    pub end_lsn: Position,
    pub time: Timestamp,
    pub xid: u32,
    pub segment: String,
    /// Where in the segment the frame is that holds its commit.
    pub frame_offset: u64,
}

/// Looks a transaction up. Nothing found is no fault.
pub fn find(archive: &Archive, lookup: Lookup) -> Result<Vec<Found>, Fault> {
    steadily(|| {
        let listing = archive.listing()?;
        let mut found = Vec::new();
        for name in candidates(archive, &listing, lookup) {
            if let Lookup::Time(time) = lookup
                && name.through.is_some()
            {
                let Some(mut file) = SegmentFile::open(archive, name)? else { return Ok(None) };
                if file.trailer(name)?.totals.last_time < time {
                    continue;
                }
            }
            let Some(contents) = contents(archive, name)? else { return Ok(None) };
            search(&contents, lookup, &mut found);
            if !found.is_empty() && !matches!(lookup, Lookup::Xid(_)) {
                break;
            }
        }
        Ok(Some(found))
    })
}

/// The segments to look into, in order.
fn candidates(archive: &Archive, listing: &[SegmentName], lookup: Lookup) -> Vec<SegmentName> {
    let known = match lookup {
        Lookup::Lsn(position) => {
            let behind = |name: &&SegmentName| name.through.is_none_or(|through| through >= position);
            return listing.iter().filter(behind).copied().collect();
        }
        Lookup::Time(_) => None,
        Lookup::Xid(xid) => by_catalog(archive, listing, xid),
    };
    let Some(known) = known else { return listing.to_vec() };
    let may = |name: &&SegmentName| name.through.is_none() || known.contains(&name.after);
    listing.iter().filter(may).copied().collect()
}

/// The sealed segments that may hold the xid; `None` where the catalog can't tell of all of them.
fn by_catalog(archive: &Archive, listing: &[SegmentName], xid: Xid) -> Option<BTreeSet<Position>> {
    let catalog = Catalog::open_to_look(&archive.catalog_folder(), archive.manifest().archive_id.0)?;
    let indexed: BTreeSet<_> = catalog.segments().ok()?.iter().map(|row| (row.after, row.through)).collect();
    let sealed = listing.iter().filter_map(|name| Some((name.after, name.through?)));
    if !sealed.into_iter().all(|range| indexed.contains(&range)) {
        return None;
    }
    Some(catalog.frames_of_xid(xid).ok()?.into_iter().map(|frame| frame.segment).collect())
}

fn search(contents: &Contents, lookup: Lookup, found: &mut Vec<Found>) {
    let mut commits = contents.footer.commits.as_slice();
    for frame in &contents.footer.frames {
        let Some((inside, behind)) = commits.split_at_checked(frame.header.transactions as usize) else {
            return;
        };
        commits = behind;
        for commit in inside {
            let hit = match lookup {
                Lookup::Lsn(position) => commit.end >= position,
                Lookup::Time(time) => commit.time >= time,
                Lookup::Xid(xid) => commit.xid == xid,
            };
            if !hit {
                continue;
            }
            found.push(Found {
                end_lsn: commit.end,
                time: commit.time,
                xid: commit.xid.0,
                segment: contents.name.to_string(),
                frame_offset: frame.offset,
            });
            if !matches!(lookup, Lookup::Xid(_)) {
                return;
            }
        }
    }
}
