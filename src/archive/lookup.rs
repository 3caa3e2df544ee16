//! Finding transactions: by position, by commit time, by xid, by name. What is known of the segments narrows the search; the answer itself
//! always comes from them.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::model::{Fault, Position, Timestamp, Xid};
use crate::segment::{Commit, FrameEntry, SegmentName};

use super::Archive;
use super::inspect::{Contents, contents, steadily};
use super::known::Known;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The first transaction whose commit ends at or behind it.
    Lsn(Position),
    /// The first, in the order of the log, that committed then or later.
    Time(Timestamp),
    /// All of that xid; there may be several, since xids wrap.
    Xid(Xid),
    /// All that `pgsluice pin` gave that name to; more than one only where two did so at once.
    Pin(String),
}

impl Lookup {
    /// Whether it asks for the first transaction only.
    fn is_for_first(&self) -> bool {
        matches!(self, Lookup::Lsn(_) | Lookup::Time(_))
    }
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

impl Found {
    fn new(contents: &Contents, frame: &FrameEntry, commit: &Commit) -> Found {
        Found {
            end_lsn: commit.end,
            time: commit.time,
            xid: commit.xid.0,
            segment: contents.name.to_string(),
            frame_offset: frame.offset,
        }
    }
}

/// Looks a transaction up. Nothing found is no fault.
pub fn find(archive: &Archive, lookup: Lookup) -> Result<Vec<Found>, Fault> {
    steadily(|| {
        let listing = archive.listing()?;
        let Some(candidates) = candidates(archive, &listing, &lookup)? else { return Ok(None) };
        let mut found = Vec::new();
        for name in candidates {
            let Some(contents) = contents(archive, name)? else { return Ok(None) };
            search(&contents, &lookup, &mut found);
            if !found.is_empty() && lookup.is_for_first() {
                break;
            }
        }
        Ok(Some(found))
    })
}

/// The last transaction whose commit ends before a position.
pub(super) fn last_before(archive: &Archive, position: Position) -> Result<Option<Found>, Fault> {
    steadily(|| {
        let listing = archive.listing()?;
        for name in listing.iter().rev().filter(|name| name.after < position) {
            let Some(contents) = contents(archive, *name)? else { return Ok(None) };
            let mut last = None;
            each_commit(&contents, |frame, commit| {
                let is_before = commit.end < position;
                if is_before {
                    last = Some((*frame, *commit));
                }
                is_before
            });
            if let Some((frame, commit)) = last {
                return Ok(Some(Some(Found::new(&contents, &frame, &commit))));
            }
        }
        Ok(Some(None))
    })
}

/// Ids of the transactions whose commits end there or behind it, in the order of the log.
pub(super) fn xids_from(archive: &Archive, position: Position) -> Result<Vec<Xid>, Fault> {
    steadily(|| {
        let listing = archive.listing()?;
        let mut xids = Vec::new();
        for name in candidates(archive, &listing, &Lookup::Lsn(position))?.unwrap_or_default() {
            let Some(contents) = contents(archive, name)? else { return Ok(None) };
            each_commit(&contents, |_, commit| {
                if commit.end >= position {
                    xids.push(commit.xid);
                }
                true
            });
        }
        Ok(Some(xids))
    })
}

/// The segments to look into, in order. `None` where one went away meanwhile.
fn candidates(
    archive: &Archive,
    listing: &[SegmentName],
    lookup: &Lookup,
) -> Result<Option<Vec<SegmentName>>, Fault> {
    if let Lookup::Lsn(position) = lookup {
        let behind = |name: &&SegmentName| name.through.is_none_or(|through| through >= *position);
        return Ok(Some(listing.iter().filter(behind).copied().collect()));
    }
    let beginning = listing.first().map_or(Position::ZERO, |name| name.after);
    let Some(known) = Known::of(archive, listing, beginning)? else { return Ok(None) };
    let named = match lookup {
        Lookup::Xid(xid) => known.of_xid(*xid)?,
        Lookup::Pin(name) => known.of_pin(name)?,
        Lookup::Time(_) | Lookup::Lsn(_) => BTreeSet::new(),
    };
    let may = |name: &&SegmentName| match (known.segment(**name), lookup) {
        (None, _) => true,
        (Some(row), Lookup::Time(time)) => row.transactions > 0 && row.last_time >= *time,
        (Some(row), _) => named.contains(&row.after),
    };
    Ok(Some(listing.iter().filter(may).copied().collect()))
}

fn search(contents: &Contents, lookup: &Lookup, found: &mut Vec<Found>) {
    let pins = contents.footer.pins.iter().filter(|pin| *lookup == Lookup::Pin(pin.name.clone()));
    let pinned: Vec<_> = pins.map(|pin| pin.end).collect();
    each_commit(contents, |frame, commit| {
        let hit = match lookup {
            Lookup::Lsn(position) => commit.end >= *position,
            Lookup::Time(time) => commit.time >= *time,
            Lookup::Xid(xid) => commit.xid == *xid,
            Lookup::Pin(_) => pinned.contains(&commit.end),
        };
        if hit {
            found.push(Found::new(contents, frame, commit));
        }
        !(hit && lookup.is_for_first())
    });
}

/// Each commit with its frame, in order, as long as `go_on` says so.
fn each_commit(contents: &Contents, mut go_on: impl FnMut(&FrameEntry, &Commit) -> bool) {
    let mut commits = contents.footer.commits.as_slice();
    for frame in &contents.footer.frames {
        let Some((inside, behind)) = commits.split_at_checked(frame.header.transactions as usize) else {
            return;
        };
        commits = behind;
        if !inside.iter().all(|commit| go_on(frame, commit)) {
            return;
        }
    }
}
